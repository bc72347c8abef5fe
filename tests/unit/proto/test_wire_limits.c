/* SPDX-License-Identifier: Apache-2.0
 *
 * Every limit of every field, at, one below and one above, from the table in messages.c.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/wire.h"
#include "tests/unit/proto/messages.h"

static struct messages_room room;
static struct smoe_wire *wire;

static void setup(void)
{
    cr_assert_eq(smoe_wire_new(&wire), 0);
}

static void teardown(void)
{
    smoe_wire_free(wire);
}

TestSuite(wire_limits, .init = setup, .fini = teardown);

/* A valid message in which every field counts and none stands in the way of another's limits. */
static void base_message(enum smoe_message_type type, struct smoe_message *ret)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 31, type);
    messages_random(&rng, (uint16_t)type, &room, ret);
    if (type == SMOE_MSG_HELLO) {
        ret->hello.role = SMOE_ROLE_WORKER;
        ret->hello.protocol_min = 1;
        ret->hello.protocol_max = UINT32_MAX;
    } else if (type == SMOE_MSG_LAYER_DECLARE) {
        ret->layer_declare.evaluate_only = false;
    } else if (type == SMOE_MSG_HOST) {
        ret->host.n_experts = ret->host.n_copies = ret->host.pieces.n = 0;
        ret->host.pieces_owned = ret->host.pieces_followed = ret->host.replicas = 0;
    } else if (type == SMOE_MSG_SUBMIT) {
        ret->submit.routed = false;
        ret->submit.router_version = 0;
    } else if (type == SMOE_MSG_LAYER_READY) {
        ret->layer_ready.router.version = 1;
    } else if (type == SMOE_MSG_ROUTER_STATE) {
        ret->router_state.router.version = 1;
    } else if (type == SMOE_MSG_STEP) {
        ret->step.optimizer.kind = 2;
    } else if (type == SMOE_MSG_STEP_PREPARE) {
        ret->step_prepare.optimizer.kind = 2;
    }
}

/* Decodes what was encoded; the code, and the sentence in ret_why. */
static int there_and_back(const struct smoe_message *m, struct smoe_message *ret,
                          struct smoe_why *ret_why)
{
    const uint8_t *body;
    size_t bytes;
    *ret_why = (struct smoe_why){""};
    cr_assert_eq(smoe_wire_encode(wire, m, &body, &bytes), 0);
    return smoe_wire_decode(wire, (uint16_t)m->type, body, bytes, ret, ret_why);
}

/* The sentence names the message and the field. */
static bool names_field(const char *sentence, const struct messages_field *f)
{
    char start[64];
    snprintf(start, sizeof start, "%s.", smoe_message_name((uint16_t)f->type));
    return strncmp(sentence, start, strlen(start)) == 0 &&
           strstr(sentence, strrchr(f->name, '.') + 1);
}

/* The value may have the width of the field or be a smaller part of it (little-endian). */
static void expect_value(const struct messages_field *f, const void *value, size_t bytes, int code)
{
    struct smoe_message m, out;
    struct smoe_why why;
    base_message(f->type, &m);
    memcpy((uint8_t *)&m + f->offset, value, bytes);
    int rc = there_and_back(&m, &out, &why);
    cr_assert_eq(rc, code, "%s: %d, expected %d: %s", f->name, rc, code, why.text);
    if (code)
        cr_assert(names_field(why.text, f), "%s: %s", f->name, why.text);
}

static void expect_u32(const struct messages_field *f, uint64_t value, int code)
{
    uint32_t v = (uint32_t)value;
    expect_value(f, &v, sizeof v, code);
}

static void expect_real(const struct messages_field *f, double value, int code)
{
    expect_value(f, &value, sizeof value, code);
}

static void try_integer(const struct messages_field *f, uint64_t value, int code)
{
    if (f->kind == MESSAGES_U64)
        expect_value(f, &value, sizeof value, code);
    else
        expect_u32(f, value, code);
}

static void try_real(const struct messages_field *f)
{
    bool open = f->kind == MESSAGES_FRACTION;
    double last = open ? nextafter(1, 0) : f->real_to;
    expect_real(f, f->real_from, 0);
    expect_real(f, last, 0);
    expect_real(f, nextafter(f->real_from, -(double)INFINITY), SMOE_EFIELD);
    expect_real(f, nextafter(last, (double)INFINITY), SMOE_EFIELD);
    expect_real(f, (double)NAN, SMOE_ENOTFINITE);
    expect_real(f, (double)INFINITY, SMOE_ENOTFINITE);
    expect_real(f, -(double)INFINITY, SMOE_ENOTFINITE);
}

static void try_limits(const struct messages_field *f)
{
    uint64_t most = f->kind == MESSAGES_U64 ? UINT64_MAX : UINT32_MAX;
    switch (f->kind) {
    case MESSAGES_U32:
    case MESSAGES_U64:
    case MESSAGES_ENUM:
        try_integer(f, f->from, 0);
        try_integer(f, f->to, 0);
        if (f->from > 0)
            try_integer(f, f->from - 1, SMOE_EFIELD);
        if (f->to < most)
            try_integer(f, f->to + 1, SMOE_EFIELD);
        if (f->to < most)
            try_integer(f, most, SMOE_EFIELD);
        break;
    case MESSAGES_I32:
        expect_u32(f, (uint64_t)INT64_C(-0x80000000), 0);
        expect_u32(f, f->to - 1, 0);
        expect_u32(f, f->to, SMOE_EFIELD);
        expect_u32(f, INT32_MAX, SMOE_EFIELD);
        break;
    case MESSAGES_F64:
    case MESSAGES_FRACTION:
        try_real(f);
        break;
    case MESSAGES_BOOL:
    case MESSAGES_NAME:
    case MESSAGES_TEXT:
        break; /* below */
    }
}

Test(wire_limits, every_number_holds_at_its_limits_and_is_refused_beyond)
{
    for (size_t i = 0; i < messages_n_fields; i++)
        try_limits(&messages_fields[i]);
}

Test(wire_limits, every_name_is_1_to_63_of_its_characters)
{
    static const char *const good[] = {"a", "Z", "0", "_", "a.b-c_D9", "a..b"};
    static const char *const bad[] = {"", "-a", ".a", "a b", "a/b", "a\x01", "a\xc3\xa9", "a\n"};
    char longest[SMOE_NAME_MAX + 1] = {0};
    memset(longest, 'x', SMOE_NAME_MAX);
    size_t tried = 0;
    for (size_t i = 0; i < messages_n_fields; i++) {
        const struct messages_field *f = &messages_fields[i];
        if (f->kind != MESSAGES_NAME)
            continue;
        expect_value(f, longest, sizeof longest, 0);
        for (size_t j = 0; j < sizeof good / sizeof *good; j++)
            expect_value(f, good[j], strlen(good[j]) + 1, 0);
        for (size_t j = 0; j < sizeof bad / sizeof *bad; j++)
            expect_value(f, bad[j], strlen(bad[j]) + 1, SMOE_EFIELD);
        tried++;
    }
    cr_assert_eq(tried, 6);
}

/* Text for people is never refused: it is cut and made printable. */
Test(wire_limits, text_is_made_printable)
{
    char hostile[16] = "a\x01\x1b[2J\x7f\xc3\xa9\n\xff~ ";
    for (size_t i = 0; i < messages_n_fields; i++) {
        const struct messages_field *f = &messages_fields[i];
        struct smoe_message m, out;
        struct smoe_why why;
        if (f->kind != MESSAGES_TEXT)
            continue;
        base_message(f->type, &m);
        memcpy((uint8_t *)&m + f->offset, hostile, sizeof hostile);
        cr_assert_eq(there_and_back(&m, &out, &why), 0, "%s", why.text);
        cr_assert_str_eq((char *)&out + f->offset, "a??[2J?????~ ");
    }
}

/* ---- lists ---- */

static void expect_code(const struct smoe_message *m, int code, const char *says)
{
    struct smoe_message out;
    struct smoe_why why;
    int rc = there_and_back(m, &out, &why);
    cr_assert_eq(rc, code, "%d: %s", rc, why.text);
    if (code)
        cr_assert_str_eq(why.text, says);
}

Test(wire_limits, a_step_names_at_most_1024_batches)
{
    static uint64_t batches[1025];
    struct smoe_message m;
    base_message(SMOE_MSG_STEP, &m);
    m.step.batches = batches;
    m.step.n_batches = 1024;
    expect_code(&m, 0, "");
    m.step.n_batches = 0;
    expect_code(&m, 0, "");
    m.step.n_batches = 1025;
    expect_code(&m, SMOE_EFIELD, "STEP.batches 1025: not in 0..1024");
}

Test(wire_limits, lists_of_parcels_have_1_to_1024)
{
    static const uint16_t types[] = {SMOE_MSG_BACKPROP, SMOE_MSG_FORGET, SMOE_MSG_EVICTED,
                                     SMOE_MSG_PARCEL_INPUTS};
    static uint64_t parcels[1025];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        static const size_t sizes[] = {1, 2, 1024, 0, 1025};
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
            struct smoe_message m;
            char says[80];
            size_t n = sizes[j];
            base_message((enum smoe_message_type)types[i], &m);
            if (types[i] == SMOE_MSG_BACKPROP)
                m.backprop = (struct smoe_msg_backprop){parcels, n, 1};
            else if (types[i] == SMOE_MSG_FORGET)
                m.forget = (struct smoe_msg_forget){parcels, n};
            else if (types[i] == SMOE_MSG_EVICTED)
                m.evicted = (struct smoe_msg_evicted){parcels, n};
            else
                m.parcel_inputs = (struct smoe_msg_parcel_inputs){parcels, n};
            snprintf(says, sizeof says, "%s.parcels %zu: not in 1..1024",
                     smoe_message_name(types[i]), n);
            expect_code(&m, n && n <= 1024 ? 0 : SMOE_EFIELD, says);
        }
    }
}

Test(wire_limits, a_decision_has_at_most_1024_parcels_each_within_its_limits)
{
    static struct smoe_parcel_head parcels[1025];
    struct smoe_message m;
    for (int i = 0; i < 1025; i++)
        parcels[i] = (struct smoe_parcel_head){1, 0, 0, 1, false, false, 0};
    base_message(SMOE_MSG_DECISION, &m);
    m.decision.parcels = parcels;
    m.decision.n_parcels = 1024;
    expect_code(&m, 0, "");
    m.decision.n_parcels = 1025;
    expect_code(&m, SMOE_EFIELD, "DECISION.parcels 1025: not in 0..1024");
    m.decision.n_parcels = 2;
    parcels[1] = (struct smoe_parcel_head){UINT64_MAX, 63, 1023, 4096, true, false, 0};
    expect_code(&m, 0, "");
    parcels[1] = (struct smoe_parcel_head){0, 0, 0, 1, false, false, 0};
    expect_code(&m, SMOE_EFIELD, "DECISION.parcels.id 0: not in 1..18446744073709551615");
    parcels[1] = (struct smoe_parcel_head){1, 64, 0, 1, false, false, 0};
    expect_code(&m, SMOE_EFIELD, "DECISION.parcels.layer 64: not in 0..63");
    parcels[1] = (struct smoe_parcel_head){1, 0, 1024, 1, false, false, 0};
    expect_code(&m, SMOE_EFIELD, "DECISION.parcels.expert 1024: not in 0..1023");
    parcels[1] = (struct smoe_parcel_head){1, 0, 0, 0, false, false, 0};
    expect_code(&m, SMOE_EFIELD, "DECISION.parcels.rows 0: not in 1..4096");
    parcels[1] = (struct smoe_parcel_head){1, 0, 0, 4097, false, false, 0};
    expect_code(&m, SMOE_EFIELD, "DECISION.parcels.rows 4097: not in 1..4096");
}

Test(wire_limits, lists_of_layers_rise_and_stay_below_64)
{
    uint32_t layers[65];
    struct smoe_message r, p;
    for (uint32_t l = 0; l < 65; l++)
        layers[l] = l;
    base_message(SMOE_MSG_RESET, &r);
    base_message(SMOE_MSG_STEP_PREPARE, &p);
    r.reset.layers = p.step_prepare.layers = layers;
    r.reset.n_layers = p.step_prepare.n_layers = 64;
    expect_code(&r, 0, "");
    expect_code(&p, 0, "");
    r.reset.n_layers = p.step_prepare.n_layers = 65;
    expect_code(&r, SMOE_EFIELD, "RESET.layers 65: not in 1..64");
    expect_code(&p, SMOE_EFIELD, "STEP_PREPARE.layers 65: not in 1..64");
    r.reset.n_layers = p.step_prepare.n_layers = 0;
    expect_code(&r, SMOE_EFIELD, "RESET.layers 0: not in 1..64");
    expect_code(&p, SMOE_EFIELD, "STEP_PREPARE.layers 0: not in 1..64");
    r.reset.n_layers = p.step_prepare.n_layers = 2;
    layers[1] = 64;
    expect_code(&r, SMOE_EFIELD, "RESET.layers[1] = 64: must rise and stay below 64");
    layers[1] = 0;
    expect_code(&p, SMOE_EFIELD, "STEP_PREPARE.layers[1] = 0: must rise and stay below 64");
}

Test(wire_limits, a_hosts_experts_rise_and_stay_below_the_layers)
{
    uint32_t experts[4] = {0, 5, 6, 7};
    struct smoe_message m;
    base_message(SMOE_MSG_HOST, &m);
    m.host.shape.experts = 8;
    m.host.experts = experts;
    m.host.n_experts = 4;
    expect_code(&m, 0, "");
    experts[3] = 8;
    expect_code(&m, SMOE_EFIELD, "HOST.experts[3] = 8: must rise and stay below 8");
    experts[3] = 6;
    expect_code(&m, SMOE_EFIELD, "HOST.experts[3] = 6: must rise and stay below 8");
}

Test(wire_limits, a_sharded_layer_has_slots_that_were_left_with_staleness_only)
{
    uint32_t experts[3] = {1, 3, 6}, copies[1] = {0};
    struct smoe_message m;
    base_message(SMOE_MSG_HOST, &m);
    m.host.sharded = true;
    m.host.shape.experts = 8;
    m.host.shape.staleness = 1;
    m.host.experts = experts;
    m.host.n_experts = 3;
    m.host.copies = copies;
    m.host.n_copies = 1;
    expect_code(&m, 0, "");
    m.host.shape.staleness = 0;
    expect_code(&m, SMOE_EFIELD, "HOST.copies: count 1: not in 0..0");
}

Test(wire_limits, a_hosts_copies_rise_stay_below_the_layers_and_are_no_experts_of_its)
{
    uint32_t experts[3] = {1, 3, 6}, copies[4] = {0, 2, 4, 7};
    struct smoe_message m;
    base_message(SMOE_MSG_HOST, &m);
    m.host.sharded = false;
    m.host.shape.experts = 8;
    m.host.experts = experts;
    m.host.n_experts = 3;
    m.host.copies = copies;
    m.host.n_copies = 4;
    expect_code(&m, 0, "");
    copies[3] = 8;
    expect_code(&m, SMOE_EFIELD, "HOST.copies[3] = 8: must rise and stay below 8");
    copies[3] = 4;
    expect_code(&m, SMOE_EFIELD, "HOST.copies[3] = 4: must rise and stay below 8");
    copies[3] = 6;
    expect_code(&m, SMOE_EFIELD, "HOST.copies[3] = 6: is in experts too");
    copies[0] = 1;
    expect_code(&m, SMOE_EFIELD, "HOST.copies[0] = 1: is in experts too");
    m.host.n_experts = 0;
    expect_code(&m, 0, "");
}

/* A worker's experts over all its layers, as StepPrepare lists those whose gradients are wanted. */
static void spread_gradients(size_t total, struct smoe_msg_step_prepare *m)
{
    static uint32_t layer = 0;
    m->layers = &layer;
    m->n_layers = 1;
    m->gradients = room.layer_experts;
    m->n_gradients = 5;
    for (uint32_t e = 0; e < 1024; e++)
        room.indices[e] = e;
    for (uint32_t l = 0; l < 5; l++) {
        size_t n = total < 1024 ? total : 1024;
        room.layer_experts[l] = (struct smoe_layer_experts){l, room.indices, n};
        total -= n;
    }
}

Test(wire_limits, a_step_asks_for_the_gradients_of_at_most_64_layers_and_4096_experts)
{
    static struct smoe_layer_experts lists[65];
    struct smoe_message m;
    base_message(SMOE_MSG_STEP_PREPARE, &m);
    spread_gradients(4096, &m.step_prepare);
    expect_code(&m, 0, "");
    spread_gradients(4097, &m.step_prepare);
    expect_code(&m, SMOE_EFIELD, "STEP_PREPARE.layers.experts 4097: not in 0..4096");
    spread_gradients(3, &m.step_prepare);
    room.layer_experts[4].layer = 64;
    expect_code(&m, SMOE_EFIELD, "STEP_PREPARE.gradients.layer 64: not in 0..63");
    m.step_prepare.gradients = lists;
    m.step_prepare.n_gradients = 64;
    expect_code(&m, 0, "");
    m.step_prepare.n_gradients = 65;
    expect_code(&m, SMOE_EFIELD, "STEP_PREPARE.gradients 65: not in 0..64");
}

/* The same as Inventory and StepNorm list them. */
static void spread_experts(size_t total, struct smoe_msg_inventory *inventory,
                           struct smoe_msg_step_norm *norms)
{
    inventory->layers = room.layers;
    norms->layers = room.layer_norms;
    inventory->n_layers = norms->n_layers = 5;
    for (uint32_t e = 0; e < 1024; e++) {
        room.indices[e] = e;
        room.norms[e] = -1;
    }
    for (uint32_t l = 0; l < 5; l++) {
        size_t n = total < 1024 ? total : 1024;
        room.layers[l] = (struct smoe_inventory_layer){.name = "n",
                                                       .run = 1,
                                                       .shape = {.experts = 1024,
                                                                 .d_model = 1,
                                                                 .d_ff = 1,
                                                                 .activation = 1,
                                                                 .dtype = SMOE_DTYPE_F32,
                                                                 .optimizer = 1},
                                                       .experts = room.indices,
                                                       .n_experts = n};
        room.layer_norms[l] = (struct smoe_layer_norms){l, room.indices, room.norms, n};
        total -= n;
    }
}

Test(wire_limits, a_worker_has_at_most_4096_experts)
{
    struct smoe_message i, n;
    base_message(SMOE_MSG_INVENTORY, &i);
    base_message(SMOE_MSG_STEP_NORM, &n);
    spread_experts(4096, &i.inventory, &n.step_norm);
    expect_code(&i, 0, "");
    expect_code(&n, 0, "");
    spread_experts(4095, &i.inventory, &n.step_norm);
    expect_code(&i, 0, "");
    expect_code(&n, 0, "");
    spread_experts(4097, &i.inventory, &n.step_norm);
    expect_code(&i, SMOE_EFIELD, "INVENTORY.layers.experts 4097: not in 0..4096");
    expect_code(&n, SMOE_EFIELD, "STEP_NORM.layers.experts 4097: not in 0..4096");
}

Test(wire_limits, inventory_and_norms_have_at_most_64_layers)
{
    static struct smoe_inventory_layer layers[65];
    static struct smoe_layer_norms norms[65];
    struct smoe_message i, n;
    base_message(SMOE_MSG_INVENTORY, &i);
    base_message(SMOE_MSG_STEP_NORM, &n);
    spread_experts(0, &i.inventory, &n.step_norm);
    for (int l = 0; l < 65; l++)
        layers[l] = room.layers[0];
    i.inventory.layers = layers;
    n.step_norm.layers = norms;
    i.inventory.n_layers = n.step_norm.n_layers = 64;
    expect_code(&i, 0, "");
    expect_code(&n, 0, "");
    i.inventory.n_layers = n.step_norm.n_layers = 65;
    expect_code(&i, SMOE_EFIELD, "INVENTORY.layers 65: not in 0..64");
    expect_code(&n, SMOE_EFIELD, "STEP_NORM.layers 65: not in 0..64");
}

Test(wire_limits, every_layer_of_an_inventory_is_checked)
{
    struct smoe_message m;
    struct smoe_msg_step_norm unused;
    base_message(SMOE_MSG_INVENTORY, &m);
    spread_experts(10, &m.inventory, &unused);
    struct smoe_inventory_layer *l = &room.layers[4], good = *l;
    l->name[0] = 0;
    expect_code(&m, SMOE_EFIELD, "INVENTORY.layers.name: must be 1..63 of [A-Za-z0-9._-]");
    *l = good;
    l->run = 0;
    expect_code(&m, SMOE_EFIELD, "INVENTORY.layers.run 0: not in 1..18446744073709551615");
    *l = good;
    l->shape.d_ff = 0;
    expect_code(&m, SMOE_EFIELD, "INVENTORY.shape.d_ff 0: not in 1..65536");
    *l = good;
    l->n_experts = 2;
    l->shape.experts = 1;
    expect_code(&m, SMOE_EFIELD, "INVENTORY.layers.experts[1] = 1: must rise and stay below 1");
}

Test(wire_limits, a_square_norm_is_minus_one_or_more_and_finite)
{
    struct smoe_message m;
    struct smoe_msg_inventory unused;
    base_message(SMOE_MSG_STEP_NORM, &m);
    spread_experts(3, &unused, &m.step_norm);
    room.norms[2] = 1e300;
    expect_code(&m, 0, "");
    room.norms[2] = nextafter(1e300, (double)INFINITY);
    expect_code(&m, SMOE_EFIELD, "STEP_NORM.layers.square_norms 1e+300: not in -1..1e+300");
    room.norms[2] = nextafter(-1, -2);
    expect_code(&m, SMOE_EFIELD, "STEP_NORM.layers.square_norms -1: not in -1..1e+300");
    room.norms[2] = (double)NAN;
    expect_code(&m, SMOE_ENOTFINITE, "STEP_NORM.layers.square_norms: not a finite number");
    room.norms[2] = 1;
    room.layer_norms[1].layer = 64;
    expect_code(&m, SMOE_EFIELD, "STEP_NORM.layers.layer 64: not in 0..63");
}

/* ---- what depends on another field ---- */

Test(wire_limits, a_trainer_needs_no_worker_part_and_an_evaluator_no_shape)
{
    struct smoe_message m, out;
    struct smoe_why why;
    base_message(SMOE_MSG_HELLO, &m);
    m.hello.role = SMOE_ROLE_TRAINER;
    m.hello.lanes = 0;
    cr_assert_eq(there_and_back(&m, &out, &why), 0, "%s", why.text);
    base_message(SMOE_MSG_LAYER_DECLARE, &m);
    m.layer_declare.evaluate_only = true;
    m.layer_declare.run = 0;
    m.layer_declare.shape.experts = 0;
    cr_assert_eq(there_and_back(&m, &out, &why), 0, "%s", why.text);
}

Test(wire_limits, protocol_max_is_not_below_protocol_min)
{
    struct smoe_message m;
    base_message(SMOE_MSG_HELLO, &m);
    m.hello.protocol_min = m.hello.protocol_max = 7;
    expect_code(&m, 0, "");
    m.hello.protocol_max = 6;
    expect_code(&m, SMOE_EFIELD, "HELLO.protocol_max 6: not in 7..4294967295");
}

Test(wire_limits, epsilon_may_be_zero_for_sgd_only)
{
    struct smoe_message m;
    base_message(SMOE_MSG_STEP, &m);
    m.step.optimizer.epsilon = 0;
    expect_code(&m, SMOE_EFIELD, "STEP.optimizer.epsilon 0: not in 1e-300..1");
    m.step.optimizer.kind = 1;
    expect_code(&m, 0, "");
}

Test(wire_limits, experts_that_are_given_leave_a_router_nothing_to_choose)
{
    struct smoe_message m, out;
    struct smoe_why why;
    base_message(SMOE_MSG_SUBMIT, &m);
    m.submit.router_version = 1;
    cr_assert_eq(there_and_back(&m, &out, &why), 0);
    m.submit.routed = true;
    cr_assert_eq(there_and_back(&m, &out, &why), SMOE_EFIELD);
    cr_assert(strstr(why.text, "router_version"), "%s", why.text);
}
