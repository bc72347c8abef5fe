/* SPDX-License-Identifier: Apache-2.0
 *
 * What is sent arrives: round trips of every message, old and new peers, sizes at the maxima.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"
#include "tests/unit/io/alloc_fault.h"
#include "tests/unit/proto/messages.h"

static struct messages_room room;

/* Encodes into memory of exactly that size, so that a sanitizer sees a read past it. */
static uint8_t *encode(struct smoe_wire *wire, const struct smoe_message *m, size_t *ret_bytes)
{
    const uint8_t *body;
    int rc = smoe_wire_encode(wire, m, &body, ret_bytes);
    cr_assert_eq(rc, 0, "%s: %d", smoe_message_name((uint16_t)m->type), rc);
    uint8_t *copy = malloc(*ret_bytes + (*ret_bytes == 0));
    memcpy(copy, body, *ret_bytes);
    return copy;
}

static struct smoe_wire *new_wire(void)
{
    struct smoe_wire *wire;
    cr_assert_eq(smoe_wire_new(&wire), 0);
    return wire;
}

Test(wire, every_message_arrives_as_it_was_sent)
{
    struct smoe_wire *sender = new_wire(), *receiver = new_wire();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 21, 0);
    for (size_t t = 0; t < messages_n_types; t++) {
        for (int round = 0; round < 300; round++) {
            struct smoe_message in, out;
            struct smoe_why why = {""};
            size_t bytes;
            messages_random(&rng, messages_types[t], &room, &in);
            uint8_t *body = encode(sender, &in, &bytes);
            int rc = smoe_wire_decode(receiver, messages_types[t], body, bytes, &out, &why);
            cr_assert_eq(rc, 0, "%s", why.text);
            const char *difference = messages_difference(&in, &out);
            cr_assert_null(difference, "%s", difference);
            free(body);
        }
    }
    smoe_wire_free(sender);
    smoe_wire_free(receiver);
}

Test(wire, a_decode_changes_the_generation_and_an_encode_does_not)
{
    struct smoe_wire *wire = new_wire();
    struct smoe_message m = {.type = SMOE_MSG_PING}, out;
    struct smoe_why why;
    size_t bytes;
    uint64_t before = smoe_wire_generation(wire);
    uint8_t *body = encode(wire, &m, &bytes);
    cr_assert_eq(smoe_wire_generation(wire), before);
    cr_assert_eq(smoe_wire_decode(wire, SMOE_MSG_PING, body, bytes, &out, &why), 0);
    cr_assert_neq(smoe_wire_generation(wire), before);
    free(body);
    smoe_wire_free(wire);
}

/* A later version may add fields of any kind; today's peers read past them. */
Test(wire, unknown_fields_are_ignored)
{
    static const uint8_t unknown[] = {
        0xc0, 0xbb, 0x01, 0x05,                                        /* 3000: varint */
        0xc1, 0xbb, 0x01, 1,    2,    3,    4,    5,    6,    7,    8, /* fixed64 */
        0xc5, 0xbb, 0x01, 1,    2,    3,    4,                         /* fixed32 */
        0xc2, 0xbb, 0x01, 0x03, 'n',  'e',  'w',                       /* bytes */
        0xc0, 0xbb, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    };
    struct smoe_wire *wire = new_wire();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 22, 0);
    for (size_t t = 0; t < messages_n_types; t++) {
        struct smoe_message in, out;
        struct smoe_why why = {""};
        size_t bytes;
        messages_random(&rng, messages_types[t], &room, &in);
        uint8_t *body = encode(wire, &in, &bytes);
        uint8_t *longer = malloc(bytes + sizeof unknown);
        memcpy(longer, body, bytes);
        memcpy(longer + bytes, unknown, sizeof unknown);
        cr_assert_eq(
            smoe_wire_decode(wire, messages_types[t], longer, bytes + sizeof unknown, &out, &why),
            0, "%s", why.text);
        cr_assert_null(messages_difference(&in, &out));
        free(body);
        free(longer);
    }
    smoe_wire_free(wire);
}

Test(wire, a_type_nobody_knows_is_neither_encoded_nor_decoded)
{
    struct smoe_wire *wire = new_wire();
    struct smoe_message m = {.type = (enum smoe_message_type)79}, out;
    struct smoe_why why = {""};
    const uint8_t *body;
    size_t bytes;
    cr_assert_eq(smoe_wire_encode(wire, &m, &body, &bytes), SMOE_EUNKNOWN);
    cr_assert_eq(smoe_wire_decode(wire, 79, NULL, 0, &out, &why), SMOE_EMALFORMED);
    cr_assert_str_eq(why.text, "frame: unknown message type 79");
    cr_assert_null(smoe_message_name(0));
    smoe_wire_free(wire);
}

Test(wire, without_memory_there_is_no_wire)
{
    struct smoe_wire *wire = NULL;
    unsigned n = 1;
    for (;; n++) {
        smoe_alloc_fail_at(n);
        int rc = smoe_wire_new(&wire);
        if (!smoe_alloc_failed())
            break;
        cr_assert(rc == SMOE_ENOMEMORY && !wire);
    }
    cr_assert_eq(n, 4, "the wire and its two arenas");
    smoe_wire_free(wire);
    smoe_wire_free(NULL);
}

/* ---- sizes ---- */

static void fill_shape(struct smoe_layer_shape *shape)
{
    *shape = (struct smoe_layer_shape){1024,           65536,
                                       65536,          3,
                                       SMOE_DTYPE_F64, 2,
                                       UINT64_MAX,     true,
                                       SMOE_WIRE_BF16, SMOE_STALENESS_MAX};
}

static void fill_name(char *name)
{
    memset(name, 'n', SMOE_NAME_MAX);
    name[SMOE_NAME_MAX] = 0;
}

static struct smoe_pieces largest_pieces(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        room.offsets[i] = SMOE_PARAMETERS_MAX - 1;
        room.lengths[i] = SMOE_PARAMETERS_MAX;
    }
    return (struct smoe_pieces){room.offsets, room.lengths, n};
}

static void largest_inventory(struct smoe_msg_inventory *m)
{
    m->layers = room.layers;
    m->n_layers = SMOE_LAYERS_MAX;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_inventory_layer *layer = &room.layers[l];
        *layer = (struct smoe_inventory_layer){.run = 1,
                                               .step = UINT64_MAX,
                                               .staged_step = UINT64_MAX,
                                               .staged_attempt = UINT64_MAX,
                                               .attempt = UINT64_MAX};
        fill_name(layer->name);
        fill_shape(&layer->shape);
        layer->n_experts = SMOE_WORKER_EXPERTS_MAX / SMOE_LAYERS_MAX;
        layer->pieces = largest_pieces(SMOE_WORKER_PIECES_MAX / SMOE_LAYERS_MAX);
        layer->experts = room.indices + l * layer->n_experts;
    }
    for (uint32_t i = 0; i < SMOE_WORKER_EXPERTS_MAX; i++) /* two bytes each */
        room.indices[i] = 128 + i % (SMOE_WORKER_EXPERTS_MAX / SMOE_LAYERS_MAX);
}

static void largest_norms(struct smoe_msg_step_norm *m)
{
    struct smoe_msg_inventory inventory;
    largest_inventory(&inventory);
    *m = (struct smoe_msg_step_norm){UINT64_MAX,      UINT64_MAX, room.layer_norms,
                                     SMOE_LAYERS_MAX, UINT32_MAX, 1e300};
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        room.layer_norms[l] = (struct smoe_layer_norms){l, room.layers[l].experts,
                                                        room.norms + l * room.layers[l].n_experts,
                                                        room.layers[l].n_experts};
    for (uint32_t i = 0; i < SMOE_WORKER_EXPERTS_MAX; i++)
        room.norms[i] = 1e300;
}

static void largest_host(struct smoe_msg_host *m)
{
    *m = (struct smoe_msg_host){.layer = 63,
                                .run = UINT64_MAX,
                                .experts = room.indices,
                                .n_experts = SMOE_EXPERTS_MAX / 2,
                                .copies = room.indices + SMOE_EXPERTS_MAX / 2,
                                .n_copies = SMOE_EXPERTS_MAX / 2,
                                .step = UINT64_MAX,
                                .attempt = UINT64_MAX,
                                .fresh = true};
    fill_name(m->name);
    fill_shape(&m->shape);
    for (uint32_t e = 0; e < SMOE_EXPERTS_MAX; e++)
        room.indices[e] = e;
}

static void largest_sharded_host(struct smoe_msg_host *m)
{
    largest_host(m);
    m->n_experts = SMOE_EXPERTS_MAX;
    m->n_copies = 0;
    m->sharded = true;
    m->pieces = largest_pieces(SMOE_WORKER_PIECES_MAX);
    m->pieces_owned = m->pieces_followed = SMOE_WORKER_PIECES_MAX / 2;
    m->replicas = SMOE_LAYER_REPLICAS_MAX;
}

static void largest_prepare(struct smoe_msg_step_prepare *m)
{
    static uint32_t layers[SMOE_LAYERS_MAX];
    struct smoe_msg_inventory inventory;
    largest_inventory(&inventory);
    *m = (struct smoe_msg_step_prepare){UINT64_MAX,
                                        UINT64_MAX,
                                        layers,
                                        SMOE_LAYERS_MAX,
                                        1,
                                        {2, 1, 0.5, 0.5, 0.5, 1, 1},
                                        UINT32_MAX,
                                        room.layer_experts,
                                        SMOE_LAYERS_MAX,
                                        room.layer_hosts,
                                        SMOE_LAYERS_MAX};
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        layers[l] = l;
        room.layer_experts[l] =
            (struct smoe_layer_experts){l, room.layers[l].experts, room.layers[l].n_experts};
        size_t n = SMOE_WORKER_EXPERTS_MAX / SMOE_LAYERS_MAX;
        room.layer_hosts[l] = (struct smoe_layer_hosts){l, room.hosts + l * n, n};
        for (size_t e = 0; e < n; e++)
            room.hosts[l * n + e] = SMOE_EXPERTS_MAX;
    }
}

static void largest_decision(struct smoe_msg_decision *m)
{
    *m = (struct smoe_msg_decision){UINT64_MAX, UINT64_MAX, 1000000000, room.parcels,
                                    SMOE_DECISION_PARCELS_MAX};
    for (uint32_t i = 0; i < SMOE_DECISION_PARCELS_MAX; i++)
        room.parcels[i] = (struct smoe_parcel_head){
            UINT64_MAX, 63, 1023, SMOE_PARCEL_ROWS_MAX, true, true, UINT64_MAX};
}

static void largest_step(struct smoe_msg_step *m)
{
    *m = (struct smoe_msg_step){
        UINT64_MAX, UINT64_MAX, room.numbers, SMOE_STEP_BATCHES_MAX, {2, 1, 0.5, 0.5, 0.5, 1, 1}, 1,
        1,          1};
    for (uint32_t i = 0; i < SMOE_STEP_BATCHES_MAX; i++)
        room.numbers[i] = SMOE_BATCH_ID_MAX;
}

/* Every message at its maxima fits a control frame, and what fits can be decoded. */
Test(wire, the_largest_control_messages_fit_64_kib)
{
    static const uint16_t types[] = {SMOE_MSG_INVENTORY, SMOE_MSG_STEP_NORM, SMOE_MSG_HOST,
                                     SMOE_MSG_DECISION,  SMOE_MSG_STEP,      SMOE_MSG_STEP_PREPARE};
    struct smoe_wire *wire = new_wire();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct smoe_message in = {.type = (enum smoe_message_type)types[i]}, out;
        struct smoe_why why = {""};
        size_t bytes;
        switch (types[i]) {
        case SMOE_MSG_INVENTORY:
            largest_inventory(&in.inventory);
            break;
        case SMOE_MSG_STEP_NORM:
            largest_norms(&in.step_norm);
            break;
        case SMOE_MSG_HOST:
            largest_host(&in.host);
            break;
        case SMOE_MSG_DECISION:
            largest_decision(&in.decision);
            break;
        case SMOE_MSG_STEP_PREPARE:
            largest_prepare(&in.step_prepare);
            break;
        default:
            largest_step(&in.step);
            break;
        }
        uint8_t *body = encode(wire, &in, &bytes);
        cr_assert_eq(smoe_wire_decode(wire, types[i], body, bytes, &out, &why), 0, "%s", why.text);
        cr_assert_null(messages_difference(&in, &out));
        free(body);
    }
    smoe_wire_free(wire);
}

Test(wire, a_placement_at_its_maxima_fits_64_kib)
{
    struct smoe_wire *wire = new_wire();
    struct smoe_message in = {.type = SMOE_MSG_PLACEMENT}, out;
    struct smoe_why why = {""};
    size_t bytes;
    in.placement = (struct smoe_msg_placement){
        UINT64_MAX,
        SMOE_LAYERS_MAX - 1,
        {"highest-averages", 1000000, SMOE_PLACEMENT_WORKERS_MAX, SMOE_LAYER_REPLICAS_MAX,
         SMOE_EXPERTS_MAX, room.workers, room.hosts, room.indices, room.shares, -1e4, 1e4,
         UINT64_MAX - 1, UINT64_MAX}};
    for (uint32_t w = 0; w < SMOE_PLACEMENT_WORKERS_MAX; w++) {
        memset(room.names[w], 'w', SMOE_NAME_MAX);
        snprintf(room.names[w] + SMOE_NAME_MAX - 3, 4, "%03u", w);
        room.workers[w] = room.names[w];
        room.hosts[w] = SMOE_LAYER_REPLICAS_MAX / SMOE_PLACEMENT_WORKERS_MAX;
    }
    for (uint32_t q = 0; q < SMOE_LAYER_REPLICAS_MAX; q++)
        room.indices[q] = SMOE_EXPERTS_MAX - 1 - q % SMOE_EXPERTS_MAX;
    for (uint32_t e = 0; e < SMOE_EXPERTS_MAX; e++)
        room.shares[e] = 1.0 / SMOE_EXPERTS_MAX;
    uint8_t *body = encode(wire, &in, &bytes);
    cr_assert_eq(smoe_wire_decode(wire, SMOE_MSG_PLACEMENT, body, bytes, &out, &why), 0, "%s",
                 why.text);
    cr_assert_null(messages_difference(&in, &out));
    free(body);
    smoe_wire_free(wire);
}

Test(wire, a_sharded_host_at_its_maxima_fits_64_kib)
{
    struct smoe_wire *wire = new_wire();
    struct smoe_message in = {.type = SMOE_MSG_HOST}, out;
    struct smoe_why why = {""};
    size_t bytes;
    largest_sharded_host(&in.host);
    uint8_t *body = encode(wire, &in, &bytes);
    cr_assert_eq(smoe_wire_decode(wire, SMOE_MSG_HOST, body, bytes, &out, &why), 0, "%s", why.text);
    cr_assert_null(messages_difference(&in, &out));
    free(body);
    smoe_wire_free(wire);
}

Test(wire, a_hello_at_its_maxima_fits_the_kilobyte_before_hello)
{
    struct smoe_wire *wire = new_wire();
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    size_t bytes;
    m.hello = (struct smoe_msg_hello){.protocol_min = UINT32_MAX,
                                      .protocol_max = UINT32_MAX,
                                      .role = SMOE_ROLE_WORKER,
                                      .incarnation = UINT64_MAX,
                                      .freq_max_hz = 1e12,
                                      .inbox_bytes_max = UINT64_C(1) << 50,
                                      .lanes = 256,
                                      .busy_watts = 1e6,
                                      .budget_watts = 1e6,
                                      .cap_watts = 1e6,
                                      .memory_bytes = UINT64_C(1) << 50,
                                      .expert_slots = SMOE_EXPERTS_MAX};
    fill_name(m.hello.name);
    fill_name(m.hello.software);
    fill_name(m.hello.freq_driver);
    uint8_t *body = encode(wire, &m, &bytes);
    cr_assert_leq(bytes, SMOE_PREHELLO_BYTES_MAX);
    free(body);
    smoe_wire_free(wire);
}

/* The sender is trusted with values, not with sizes: what would not fit a frame is an error. */
Test(wire, a_message_beyond_64_kib_is_refused_by_the_encoder)
{
    struct smoe_wire *wire = new_wire();
    struct smoe_message m = {.type = SMOE_MSG_STEP};
    static uint64_t batches[8000];
    const uint8_t *body;
    size_t bytes;
    largest_step(&m.step);
    for (size_t i = 0; i < 8000; i++)
        batches[i] = UINT64_MAX; /* ten bytes each */
    m.step.batches = batches;
    m.step.n_batches = 8000;
    cr_assert_eq(smoe_wire_encode(wire, &m, &body, &bytes), SMOE_ETOOBIG);
    m.step.n_batches = 6500;
    cr_assert_eq(smoe_wire_encode(wire, &m, &body, &bytes), 0);
    smoe_wire_free(wire);
}
