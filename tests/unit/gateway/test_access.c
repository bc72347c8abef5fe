/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may send what, written down a second time: the table of proto/wire.h decides it for gateway, worker and
 * trainer alike, and a row that is added or changed there must be meant.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proto/wire.h"

static const char by_worker[] =
    " HELLO ERROR PING PONG BYE EXPERT_STATE EXPERT_STORED INVENTORY HOSTED OUTPUT "
    "PARCEL_GRADIENT REPORT STEP_NORM STEP_STAGED STEP_GRADIENT EVICTED ROUTER_QUERY "
    "SHARD_PART SHARD_TAKEN SHARD_SENT LINK_STATE ";
static const char by_trainer[] =
    " HELLO ERROR PING PONG BYE LAYER_DECLARE SUBMIT GRADIENT STEP DISCARD RESTORE "
    "INPUTS EXPERT_FETCH EXPERT_STORE FREEZE ROUTER_QUERY "
    "ROUTING_REPORT PLACEMENT_FETCH PLACEMENT ";

static bool may(unsigned side, uint16_t type)
{
    struct smoe_why why = {""};
    bool refused = smoe_message_admit(type, 0, 0, side, SMOE_CONTROL_BYTES_MAX,
                                      SMOE_TENSOR_BYTES_MAX, &why) == SMOE_EROLE;
    cr_assert(!refused || strstr(why.text, smoe_message_name(type)), "it names no message: %s",
              why.text);
    return !refused;
}

static bool listed(const char *list, const char *name)
{
    char word[64];
    snprintf(word, sizeof word, " %s ", name);
    return strstr(list, word) != NULL;
}

Test(access, each_role_sends_what_it_is_for_and_nothing_else)
{
#define X(symbol, number, field, pb, senders, raw)                                                \
    cr_assert_eq(may(SMOE_BY_WORKER, number), listed(by_worker, #symbol), "worker, %s", #symbol); \
    cr_assert_eq(may(SMOE_BY_TRAINER, number), listed(by_trainer, #symbol), "trainer, %s", #symbol);
    SMOE_MESSAGE_MAP(X)
#undef X
}
