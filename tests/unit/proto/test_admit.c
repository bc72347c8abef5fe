/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "proto/wire.h"

/* Who may send what, and with which raw part, as docs/protocol.md has it: w worker, t trainer to the
 * daemon; W, T the daemon to them; l worker to worker. */
static const struct {
    const char *name;
    uint16_t type;
    const char *senders;
    enum smoe_raw_part raw;
} table[] = {
    {"HELLO", 1, "wt", SMOE_RAW_NONE},
    {"WELCOME", 2, "WT", SMOE_RAW_NONE},
    {"ERROR", 3, "wtWT", SMOE_RAW_NONE},
    {"PING", 4, "wtWT", SMOE_RAW_NONE},
    {"PONG", 5, "wtWT", SMOE_RAW_NONE},
    {"BYE", 6, "wtWT", SMOE_RAW_NONE},
    {"LAYER_DECLARE", 16, "t", SMOE_RAW_NONE},
    {"LAYER_READY", 17, "T", SMOE_RAW_NONE},
    {"SUBMIT", 18, "t", SMOE_RAW_MUST},
    {"RESULT", 19, "T", SMOE_RAW_MUST},
    {"GRADIENT", 20, "t", SMOE_RAW_MUST},
    {"INPUT_GRADIENT", 21, "T", SMOE_RAW_MUST},
    {"STEP", 22, "t", SMOE_RAW_NONE},
    {"STEP_DONE", 23, "T", SMOE_RAW_NONE},
    {"DISCARD", 24, "t", SMOE_RAW_NONE},
    {"CREDIT", 25, "T", SMOE_RAW_NONE},
    {"NEED", 26, "T", SMOE_RAW_NONE},
    {"RESTORE", 27, "t", SMOE_RAW_NONE},
    {"NEED_INPUTS", 28, "T", SMOE_RAW_NONE},
    {"INPUTS", 29, "t", SMOE_RAW_MUST},
    {"EXPERT_FETCH", 32, "tW", SMOE_RAW_NONE},
    {"EXPERT_STATE", 33, "wT", SMOE_RAW_MUST},
    {"EXPERT_STORE", 34, "tW", SMOE_RAW_MUST},
    {"EXPERT_STORED", 35, "wT", SMOE_RAW_NONE},
    {"INVENTORY", 48, "w", SMOE_RAW_NONE},
    {"HOST", 49, "W", SMOE_RAW_NONE},
    {"HOSTED", 50, "w", SMOE_RAW_NONE},
    {"DECISION", 51, "W", SMOE_RAW_OPTIONAL},
    {"OUTPUT", 52, "w", SMOE_RAW_MUST},
    {"BACKPROP", 53, "W", SMOE_RAW_MUST},
    {"PARCEL_GRADIENT", 54, "w", SMOE_RAW_MUST},
    {"RESET", 55, "W", SMOE_RAW_NONE},
    {"REPORT", 56, "w", SMOE_RAW_NONE},
    {"STEP_PREPARE", 57, "W", SMOE_RAW_NONE},
    {"STEP_NORM", 58, "w", SMOE_RAW_NONE},
    {"STEP_STAGE", 59, "W", SMOE_RAW_NONE},
    {"STEP_STAGED", 60, "w", SMOE_RAW_NONE},
    {"STEP_COMMIT", 61, "W", SMOE_RAW_NONE},
    {"FORGET", 62, "W", SMOE_RAW_NONE},
    {"STEP_GRADIENT", 63, "wW", SMOE_RAW_MUST},
    {"EVICTED", 64, "w", SMOE_RAW_NONE},
    {"PARCEL_INPUTS", 65, "W", SMOE_RAW_MUST},
    {"SHARD_ASK", 66, "W", SMOE_RAW_NONE},
    {"SHARD_PART", 67, "wW", SMOE_RAW_MUST},
    {"SHARD_TAKEN", 68, "w", SMOE_RAW_NONE},
    {"FREEZE", 80, "t", SMOE_RAW_MUST},
    {"ROUTER_QUERY", 81, "wt", SMOE_RAW_NONE},
    {"ROUTER_STATE", 82, "WT", SMOE_RAW_NONE},
    {"ROUTING_REPORT", 83, "t", SMOE_RAW_NONE},
    {"PEER", 110, "W", SMOE_RAW_NONE},
    {"LINK_STATE", 111, "w", SMOE_RAW_NONE},
    {"SHARD_DUE", 112, "W", SMOE_RAW_NONE},
    {"SHARD_SENT", 113, "w", SMOE_RAW_NONE},
    {"LINK_HELLO", 114, "l", SMOE_RAW_NONE},
    {"LINK_PART", 115, "l", SMOE_RAW_MUST},
    {"LINK_TAKEN", 116, "l", SMOE_RAW_NONE},
    {"PLACEMENT_FETCH", 125, "t", SMOE_RAW_NONE},
    {"PLACEMENT", 126, "tT", SMOE_RAW_NONE},
};
enum { ROWS = sizeof table / sizeof *table };

static const struct {
    char letter;
    unsigned side;
} sides[] = {{'w', SMOE_BY_WORKER},
             {'t', SMOE_BY_TRAINER},
             {'W', SMOE_TO_WORKER},
             {'T', SMOE_TO_TRAINER},
             {'l', SMOE_BY_LINK}};

static int admit(uint16_t type, uint32_t body, uint32_t tensor, unsigned side, struct smoe_why *why)
{
    *why = (struct smoe_why){""};
    return smoe_message_admit(type, body, tensor, side, 1000, 2000, why);
}

Test(admit, each_message_is_for_the_sides_that_the_table_says)
{
    for (int i = 0; i < ROWS; i++) {
        uint32_t tensor = table[i].raw == SMOE_RAW_MUST;
        cr_assert_str_eq(smoe_message_name(table[i].type), table[i].name);
        for (size_t s = 0; s < sizeof sides / sizeof *sides; s++) {
            struct smoe_why why;
            bool may = strchr(table[i].senders, sides[s].letter);
            int rc = admit(table[i].type, 0, tensor, sides[s].side, &why);
            cr_assert_eq(rc, may ? 0 : SMOE_EROLE, "%s %c", table[i].name, sides[s].letter);
            if (!may)
                cr_assert(strstr(why.text, table[i].name));
        }
    }
}

Test(admit, a_raw_part_stands_where_it_belongs)
{
    for (int i = 0; i < ROWS; i++) {
        struct smoe_why why;
        int without = admit(table[i].type, 0, 0, SMOE_ANY_SIDE | SMOE_BY_LINK, &why);
        int with = admit(table[i].type, 0, 1, SMOE_ANY_SIDE | SMOE_BY_LINK, &why);
        cr_assert_eq(without, table[i].raw == SMOE_RAW_MUST ? SMOE_EMALFORMED : 0);
        cr_assert_eq(with, table[i].raw == SMOE_RAW_NONE ? SMOE_EMALFORMED : 0);
    }
}

Test(admit, sizes_hold_at_their_limits)
{
    struct smoe_why why;
    cr_assert_eq(admit(SMOE_MSG_SUBMIT, 1000, 2000, SMOE_BY_TRAINER, &why), 0);
    cr_assert_eq(admit(SMOE_MSG_SUBMIT, 999, 1999, SMOE_BY_TRAINER, &why), 0);
    cr_assert_eq(admit(SMOE_MSG_SUBMIT, 1001, 2000, SMOE_BY_TRAINER, &why), SMOE_ETOOBIG);
    cr_assert_str_eq(why.text, "SUBMIT: protobuf part of 1001 bytes, at most 1000 now");
    cr_assert_eq(admit(SMOE_MSG_SUBMIT, 1000, 2001, SMOE_BY_TRAINER, &why), SMOE_ETOOBIG);
    cr_assert_str_eq(why.text, "SUBMIT: raw part of 2001 bytes, at most 2000");
}

Test(admit, every_number_that_is_not_in_the_table_is_unknown)
{
    for (uint32_t type = 0; type <= UINT16_MAX; type++) {
        struct smoe_why why;
        bool known = false;
        for (int i = 0; i < ROWS; i++)
            known |= table[i].type == type;
        if (known)
            continue;
        cr_assert_eq(admit((uint16_t)type, 0, 0, SMOE_ANY_SIDE | SMOE_BY_LINK, &why),
                     SMOE_EMALFORMED);
        cr_assert_null(smoe_message_name((uint16_t)type));
    }
}
