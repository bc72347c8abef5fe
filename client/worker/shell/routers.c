/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/shell/routers.h"

#include <inttypes.h>
#include <stdio.h>

static void say(struct smoe_log *log, const char *layer, const struct smoe_frozen_head *head)
{
    char digest[24];
    snprintf(digest, sizeof digest, "%016" PRIx64, head->digest);
    smoe_log(log, SMOE_LOG_NOTICE, smoe_msg("router in force"), smoe_text_field("layer", layer),
             smoe_u64_field("version", head->version),
             smoe_text_field("kind", head->kind == SMOE_FROZEN_TABLE ? "table" : "linear"),
             smoe_u64_field("inputs", head->inputs), smoe_text_field("digest", digest));
}

void smoe_router_watch(struct smoe_router_watch *watch, struct smoe_agent *agent,
                       struct smoe_log *log, uint64_t now_ns)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_frozen_head head = {.version = 0}, *said = &watch->said[l];
        const char *layer = smoe_agent_router(agent, l, &head);
        if (head.version == said->version && head.digest == said->digest)
            continue;
        if (head.version)
            say(log, layer, &head);
        *said = head;
    }
    if (watch->asked_ns && now_ns - watch->asked_ns < SMOE_ROUTERS_ASK_MS * UINT64_C(1000000))
        return;
    watch->asked_ns = now_ns;
    smoe_agent_ask_routers(agent);
}
