/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes that no encoder of ours would make: truncated, doubled, missing, bombs. The decoder is total:
 * it answers with a code and a sentence, within its arena.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
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

TestSuite(wire_hostile, .init = setup, .fini = teardown);

/* Protobuf written by hand. */
struct raw {
    uint8_t bytes[SMOE_CONTROL_BYTES_MAX];
    size_t n;
};

static void put_varint(struct raw *r, uint64_t v)
{
    for (; v >= 128; v >>= 7)
        r->bytes[r->n++] = (uint8_t)(v | 128);
    r->bytes[r->n++] = (uint8_t)v;
}

static void put_number(struct raw *r, uint32_t field, uint64_t v)
{
    put_varint(r, field << 3);
    put_varint(r, v);
}

static void put_fixed64(struct raw *r, uint32_t field, uint64_t v)
{
    put_varint(r, field << 3 | 1);
    for (int i = 0; i < 8; i++)
        r->bytes[r->n++] = (uint8_t)(v >> (8 * i));
}

static void put_bytes(struct raw *r, uint32_t field, const void *data, size_t n)
{
    put_varint(r, field << 3 | 2);
    put_varint(r, n);
    memcpy(r->bytes + r->n, data, n);
    r->n += n;
}

/* Decodes from memory of exactly that size. */
static int decode(uint16_t type, const uint8_t *bytes, size_t n, struct smoe_message *ret,
                  struct smoe_why *why)
{
    uint8_t *exact = malloc(n + (n == 0));
    memcpy(exact, bytes, n);
    *why = (struct smoe_why){""};
    int rc = smoe_wire_decode(wire, type, exact, n, ret, why);
    free(exact);
    return rc;
}

static void expect(uint16_t type, const struct raw *r, int code, const char *says)
{
    struct smoe_message out;
    struct smoe_why why;
    int rc = decode(type, r->bytes, r->n, &out, &why);
    cr_assert_eq(rc, code, "%d: %s", rc, why.text);
    cr_assert_str_eq(why.text, says);
}

#define UNPACKS_TO_TOO_MUCH(name) \
    name ": protobuf part is malformed or unpacks to more than 512 KiB"

static bool is_refusal(int rc, const struct smoe_why *why)
{
    return (rc == SMOE_EMALFORMED || rc == SMOE_EFIELD || rc == SMOE_ENOTFINITE) && why->text[0];
}

Test(wire_hostile, a_message_cut_off_at_any_byte_is_decoded_or_refused)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 41, 0);
    size_t refused = 0;
    for (size_t t = 0; t < messages_n_types; t++) {
        struct smoe_message in, out;
        struct smoe_why why;
        const uint8_t *body;
        static uint8_t copy[SMOE_CONTROL_BYTES_MAX];
        size_t bytes;
        messages_random(&rng, messages_types[t], &room, &in);
        cr_assert_eq(smoe_wire_encode(wire, &in, &body, &bytes), 0);
        memcpy(copy, body, bytes);
        size_t stride = 1 + bytes / 700; /* long lists are the same all along */
        for (size_t n = 0; n < bytes; n += stride) {
            int rc = decode(messages_types[t], copy, n, &out, &why);
            cr_assert(rc == 0 || is_refusal(rc, &why), "%s", why.text);
            refused += rc != 0;
        }
    }
    cr_assert_gt(refused, 500);
}

Test(wire_hostile, random_bytes_are_decoded_or_refused)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 42, 0);
    for (int i = 0; i < 20000; i++) {
        struct smoe_message out;
        struct smoe_why why;
        uint8_t bytes[64];
        size_t n = smoe_rng_below(&rng, sizeof bytes);
        for (size_t j = 0; j < n; j++)
            bytes[j] = (uint8_t)(smoe_rng_u64(&rng) >> smoe_rng_below(&rng, 8));
        int rc =
            decode(messages_types[smoe_rng_below(&rng, messages_n_types)], bytes, n, &out, &why);
        cr_assert(rc == 0 || is_refusal(rc, &why));
    }
}

Test(wire_hostile, an_empty_body_is_refused_where_a_field_must_be_there)
{
    static const uint16_t may_be_empty[] = {
        SMOE_MSG_PING,           SMOE_MSG_PONG,          SMOE_MSG_BYE,
        SMOE_MSG_CREDIT,         SMOE_MSG_NEED,          SMOE_MSG_RESTORE,
        SMOE_MSG_INVENTORY,      SMOE_MSG_HOSTED,        SMOE_MSG_STEP_NORM,
        SMOE_MSG_STEP_STAGE,     SMOE_MSG_STEP_STAGED,   SMOE_MSG_STEP_COMMIT,
        SMOE_MSG_EXPERT_STORED,  SMOE_MSG_STEP_GRADIENT, SMOE_MSG_ROUTER_QUERY,
        SMOE_MSG_ROUTER_STATE,   SMOE_MSG_SHARD_TAKEN,   SMOE_MSG_LINK_STATE,
        SMOE_MSG_SHARD_SENT,     SMOE_MSG_LINK_PART,     SMOE_MSG_LINK_TAKEN,
        SMOE_MSG_PLACEMENT_FETCH};
    for (size_t t = 0; t < messages_n_types; t++) {
        struct smoe_message out;
        struct smoe_why why;
        bool allowed = false;
        for (size_t i = 0; i < sizeof may_be_empty / sizeof *may_be_empty; i++)
            allowed |= may_be_empty[i] == messages_types[t];
        int rc = decode(messages_types[t], (const uint8_t *)"", 0, &out, &why);
        cr_assert_eq(rc == 0, allowed, "%s: %d", smoe_message_name(messages_types[t]), rc);
    }
}

Test(wire_hostile, missing_parts_are_named)
{
    struct raw r = {.n = 0};
    put_number(&r, 1, 1);
    put_number(&r, 2, 1);
    put_number(&r, 3, SMOE_ROLE_WORKER);
    put_bytes(&r, 4, "pi", 2);
    put_fixed64(&r, 5, 9);
    expect(SMOE_MSG_HELLO, &r, SMOE_EFIELD, "HELLO.worker: missing for role worker");
    r.n = 0;
    put_bytes(&r, 2, "ffn", 3);
    put_fixed64(&r, 3, 9);
    expect(SMOE_MSG_LAYER_DECLARE, &r, SMOE_EFIELD, "LAYER_DECLARE.shape: missing");
    r.n = 0;
    expect(SMOE_MSG_LAYER_READY, &r, SMOE_EFIELD, "LAYER_READY.shape: missing");
    put_number(&r, 1, 1);
    expect(SMOE_MSG_STEP, &r, SMOE_EFIELD, "STEP.optimizer: missing");
}

Test(wire_hostile, a_welcome_without_credit_grants_none)
{
    struct smoe_message out;
    struct smoe_why why;
    struct raw r = {.n = 0};
    put_number(&r, 1, 1);
    put_number(&r, 3, 20000);
    put_number(&r, 4, 1 << 20);
    put_number(&r, 5, 1000);
    cr_assert_eq(decode(SMOE_MSG_WELCOME, r.bytes, r.n, &out, &why), 0, "%s", why.text);
    cr_assert(out.welcome.credit.bytes_total == 0 && out.welcome.credit.visits_total == 0);
}

Test(wire_hostile, names_that_are_too_long_are_refused_and_texts_are_cut)
{
    char name[300];
    struct smoe_message out;
    struct smoe_why why;
    struct raw r = {.n = 0};
    memset(name, 'x', sizeof name);
    put_number(&r, 1, 1);
    put_number(&r, 2, 1);
    put_number(&r, 3, SMOE_ROLE_TRAINER);
    put_fixed64(&r, 5, 9);
    put_bytes(&r, 6, name, sizeof name); /* software: text */
    size_t without_name = r.n;
    put_bytes(&r, 4, name, 64);
    expect(SMOE_MSG_HELLO, &r, SMOE_EFIELD, "HELLO.name: must be 1..63 of [A-Za-z0-9._-]");
    r.n = without_name;
    put_bytes(&r, 4, name, 63);
    cr_assert_eq(decode(SMOE_MSG_HELLO, r.bytes, r.n, &out, &why), 0, "%s", why.text);
    cr_assert_eq(strlen(out.hello.software), 63);
    cr_assert_eq(strlen(out.hello.name), 63);
}

/* protobuf-c keeps no length of a string: what follows a NUL is not seen by anybody. */
Test(wire_hostile, a_string_ends_at_its_first_nul)
{
    struct smoe_message out;
    struct smoe_why why;
    struct raw r = {.n = 0};
    put_number(&r, 1, 1);
    put_number(&r, 2, 1);
    put_number(&r, 3, SMOE_ROLE_TRAINER);
    put_bytes(&r, 4, "pi\0\x1b[2J", 7);
    put_fixed64(&r, 5, 9);
    cr_assert_eq(decode(SMOE_MSG_HELLO, r.bytes, r.n, &out, &why), 0, "%s", why.text);
    cr_assert_str_eq(out.hello.name, "pi");
    r.n = 0;
    put_number(&r, 1, 1);
    put_number(&r, 2, 1);
    put_number(&r, 3, SMOE_ROLE_TRAINER);
    put_bytes(&r, 4, "\0pi", 3);
    put_fixed64(&r, 5, 9);
    expect(SMOE_MSG_HELLO, &r, SMOE_EFIELD, "HELLO.name: must be 1..63 of [A-Za-z0-9._-]");
}

Test(wire_hostile, of_a_field_sent_twice_the_last_counts)
{
    struct smoe_message out;
    struct smoe_why why;
    struct raw r = {.n = 0};
    put_bytes(&r, 1, "first", 5);
    put_bytes(&r, 1, "second", 6);
    cr_assert_eq(decode(SMOE_MSG_BYE, r.bytes, r.n, &out, &why), 0);
    cr_assert_str_eq(out.bye.reason, "second");
}

Test(wire_hostile, unlike_lists_of_experts_and_norms_are_refused)
{
    struct raw layer = {.n = 0}, r = {.n = 0};
    static const uint8_t experts[] = {0, 1, 2}, norms[16];
    put_bytes(&layer, 2, experts, 3);
    put_bytes(&layer, 3, norms, 16);
    put_bytes(&r, 3, layer.bytes, layer.n);
    expect(SMOE_MSG_STEP_NORM, &r, SMOE_EFIELD, "STEP_NORM.layers.square_norms 2: not in 3..3");
}

Test(wire_hostile, an_enumeration_nobody_knows_is_refused)
{
    struct raw r = {.n = 0};
    put_number(&r, 1, 1);
    put_number(&r, 2, 1);
    put_number(&r, 3, UINT64_MAX); /* -1, as a ten-byte varint */
    put_bytes(&r, 4, "pi", 2);
    put_fixed64(&r, 5, 9);
    struct smoe_message out;
    struct smoe_why why;
    cr_assert_eq(decode(SMOE_MSG_HELLO, r.bytes, r.n, &out, &why), SMOE_EFIELD);
}

/* A StepPrepare of layer 0 that is right but for the one entry of `gradients`. */
static void expect_gradients(const struct raw *entry, const char *says)
{
    struct raw r = {.n = 0}, optimizer = {.n = 0};
    static const uint8_t layers[] = {0};
    put_bytes(&r, 3, layers, 1);
    put_varint(&r, 4 << 3 | 1);
    memcpy(r.bytes + r.n, &(double){1}, sizeof(double));
    r.n += sizeof(double);
    put_number(&optimizer, 1, 1);
    put_bytes(&r, 5, optimizer.bytes, optimizer.n);
    put_bytes(&r, 7, entry->bytes, entry->n);
    expect(SMOE_MSG_STEP_PREPARE, &r, SMOE_EFIELD, says);
}

Test(wire_hostile, gradients_of_no_layer_or_no_expert_are_refused)
{
    struct raw r = {.n = 0};
    static const uint8_t falling[] = {5, 4}, beyond[] = {0x80, 0x08};
    put_number(&r, 1, 64);
    expect_gradients(&r, "STEP_PREPARE.gradients.layer 64: not in 0..63");
    r.n = 0;
    put_bytes(&r, 2, falling, 2);
    expect_gradients(&r, "STEP_PREPARE.gradients.experts[1] = 4: must rise and stay below 1024");
    r.n = 0;
    put_bytes(&r, 2, beyond, 2);
    expect_gradients(&r, "STEP_PREPARE.gradients.experts[0] = 1024: must rise and stay below 1024");
}

/* ---- bombs ---- */

Test(wire_hostile, a_claim_of_a_mebibyte_is_refused_by_the_header)
{
    struct smoe_why why = {""};
    for (size_t t = 0; t < messages_n_types; t++) {
        int rc = smoe_message_admit(messages_types[t], 1 << 20, 0, SMOE_ANY_SIDE | SMOE_BY_LINK,
                                    SMOE_CONTROL_BYTES_MAX, SMOE_TENSOR_BYTES_MAX, &why);
        cr_assert_eq(rc, SMOE_ETOOBIG, "%s", why.text);
    }
}

/* 32,768 empty submessages in 64 KiB: 2.7 MiB if protobuf-c had its way. */
Test(wire_hostile, submessages_without_content_are_refused_by_the_arena)
{
    static struct raw r;
    static const struct {
        uint16_t type;
        uint8_t tag;
        const char *says;
    } cases[] = {
        {SMOE_MSG_DECISION, 4 << 3 | 2, UNPACKS_TO_TOO_MUCH("DECISION")},
        {SMOE_MSG_INVENTORY, 1 << 3 | 2, UNPACKS_TO_TOO_MUCH("INVENTORY")},
        {SMOE_MSG_STEP_NORM, 3 << 3 | 2, UNPACKS_TO_TOO_MUCH("STEP_NORM")},
        {SMOE_MSG_STEP_PREPARE, 7 << 3 | 2, UNPACKS_TO_TOO_MUCH("STEP_PREPARE")},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        r.n = sizeof r.bytes;
        for (size_t at = 0; at < r.n; at += 2) {
            r.bytes[at] = cases[i].tag;
            r.bytes[at + 1] = 0;
        }
        expect(cases[i].type, &r, SMOE_EMALFORMED, cases[i].says);
    }
}

/* protobuf-c keeps what it does not know; a flat message's unpack passes it over. */
Test(wire_hostile, unknown_fields_without_end_are_refused_by_the_arena)
{
    static struct raw r = {.n = SMOE_CONTROL_BYTES_MAX};
    struct smoe_message out;
    struct smoe_why why;
    for (size_t at = 0; at < r.n; at += 2) {
        r.bytes[at] = 15 << 3;
        r.bytes[at + 1] = 1;
    }
    expect(SMOE_MSG_HOSTED, &r, SMOE_EMALFORMED, UNPACKS_TO_TOO_MUCH("HOSTED"));
    cr_assert_eq(decode(SMOE_MSG_PING, r.bytes, r.n, &out, &why), 0, "%s", why.text);
}

/* A list of one-byte numbers is the most that 64 KiB unpack into and are not refused for. */
Test(wire_hostile, a_long_list_is_unpacked_and_then_refused_by_its_limit)
{
    static struct raw r;
    static uint8_t zeros[65000];
    put_number(&r, 1, 1);
    put_bytes(&r, 3, zeros, sizeof zeros);
    expect(SMOE_MSG_STEP, &r, SMOE_EFIELD, "STEP.batches 65000: not in 0..1024");
}

/* No message contains itself, so nesting has an end; groups are not ours. */
Test(wire_hostile, nested_groups_are_malformed)
{
    static struct raw r = {.n = 1000};
    memset(r.bytes, 15 << 3 | 3, r.n);
    expect(SMOE_MSG_PING, &r, SMOE_EMALFORMED, UNPACKS_TO_TOO_MUCH("PING"));
}
