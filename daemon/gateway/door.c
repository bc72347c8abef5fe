/* SPDX-License-Identifier: Apache-2.0
 *
 * The door: who has come and not yet said who it is, and whether it may be that.
 *
 * Strangers are few: SMOE_GATE_STRANGERS_MAX in all, and SMOE_GATE_STRANGERS_OF_ONE of one origin. Whoever is let
 * in has GRACE_NS to say something, whatever crowd comes behind it; afterwards the oldest makes room. While nobody
 * can: who comes when all places are taken waits outside, and who comes when its origin's are is sent away again,
 * for where it comes from is known only once it is inside. An origin of IPv6 is a whole network (/64), so the
 * neighbours of somebody hostile share its places: those who get one keep it long enough, and the others try again.
 *
 * After hello a session may send what the table of proto/wire.h gives its role, and name what is its own
 * (daemon/core); there is no second table here that could disagree.
 */
#include "daemon/gateway/gateway_state.h"

#include <stdio.h>
#include <string.h>

#include "common/base/assert.h"

#define GRACE_NS UINT64_C(20000000)

void smoe_gate_leave_hellos(struct smoe_gateway *gw, struct smoe_gate_session *s)
{
    if (s->state != SMOE_GATE_HELLO)
        return;
    smoe_list_remove(&s->hello_link);
    gw->n_hellos--;
}

static struct smoe_gate_session *oldest_hello(const struct smoe_gateway *gw)
{
    struct smoe_list *first = smoe_list_first(&gw->hellos);
    return first ? smoe_container_of(first, struct smoe_gate_session, hello_link) : NULL;
}

static bool has_had_its_time(const struct smoe_gate_session *s, uint64_t now_ns)
{
    return now_ns >= s->opened_ns + GRACE_NS;
}

static void crowd_out(struct smoe_gateway *gw, struct smoe_gate_session *s)
{
    gw->crowded_out++;
    smoe_gate_doom(gw, s, "its place was needed before it said hello");
}

static void begin(struct smoe_gateway *gw, struct smoe_gate_session *s, uint64_t now_ns)
{
    memset(s, 0, sizeof *s);
    smoe_list_init(&s->dirty_link);
    smoe_list_init(&s->unburied_link);
    smoe_channel_init(&s->channel, gw->wire, &gw->budget, SMOE_BY_PEER,
                      gw->options.outbox_bytes_max);
    s->state = SMOE_GATE_HELLO;
    s->opened_ns = now_ns;
    smoe_list_push_back(&gw->hellos, &s->hello_link);
    gw->n_hellos++;
    gw->in_use++;
}

int smoe_gateway_opened(struct smoe_gateway *gw, uint64_t now_ns, uint32_t *ret_session)
{
    struct smoe_gate_session *oldest = oldest_hello(gw);
    if (oldest && gw->n_hellos >= SMOE_GATE_STRANGERS_MAX) {
        if (!has_had_its_time(oldest, now_ns))
            return SMOE_ELIMIT;
        crowd_out(gw, oldest);
    }
    for (uint32_t i = 0; i < gw->n_sessions; i++) {
        if (i < gw->reached && gw->sessions[i].state != SMOE_GATE_FREE)
            continue;
        begin(gw, &gw->sessions[i], now_ns);
        gw->reached += i == gw->reached;
        *ret_session = i;
        return 0;
    }
    return SMOE_ELIMIT;
}

void smoe_gateway_came_from(struct smoe_gateway *gw, uint32_t session, uint64_t origin,
                            uint64_t now_ns)
{
    struct smoe_gate_session *newest = &gw->sessions[session], *oldest = NULL;
    unsigned n = 0;
    smoe_assert(newest->state == SMOE_GATE_HELLO);
    newest->origin = origin;
    smoe_list_for_each (it, &gw->hellos) {
        struct smoe_gate_session *s = smoe_container_of(it, struct smoe_gate_session, hello_link);
        if (s->origin != origin)
            continue;
        oldest = oldest ? oldest : s;
        n++;
    }
    if (origin && n > SMOE_GATE_STRANGERS_OF_ONE)
        crowd_out(gw, has_had_its_time(oldest, now_ns) ? oldest : newest);
}

void smoe_gate_expire_hellos(struct smoe_gateway *gw, uint64_t now_ns)
{
    struct smoe_gate_session *s;
    while ((s = oldest_hello(gw)) && now_ns >= s->opened_ns + gw->options.hello_timeout_ns) {
        gw->hello_timeouts++;
        smoe_gate_doom(gw, s, "said no hello in time");
    }
}

uint64_t smoe_gateway_wake_ns(const struct smoe_gateway *gw)
{
    const struct smoe_gate_session *s = oldest_hello(gw);
    uint64_t due_ns = s ? s->opened_ns + gw->options.hello_timeout_ns : UINT64_MAX;
    return due_ns < gw->wake_ns ? due_ns : gw->wake_ns;
}

void smoe_gate_make_room(struct smoe_gateway *gw)
{
    size_t free = gw->budget.max_bytes - gw->budget.used_bytes;
    struct smoe_gate_session *most = NULL;
    if (free >= gw->budget.max_bytes / 2 || gw->cut_off)
        return;
    for (uint32_t i = 0; i < smoe_core_n_trainers(gw->core); i++) {
        struct smoe_trainer_view t = smoe_core_trainer(gw->core, i);
        struct smoe_gate_session *s = t.live && t.connected ? &gw->sessions[t.session] : NULL;
        if (s && s->channel.out.bytes > (most ? most->channel.out.bytes : free))
            most = s;
    }
    if (!most || most->state != SMOE_GATE_OPEN)
        return;
    gw->cut_off = most;
    gw->slow_peers++;
    smoe_gate_doom(gw, most, SMOE_GATE_DEAF);
}

/* ---- who it is ---- */

static const char *role_name(enum smoe_role role)
{
    return role == SMOE_ROLE_WORKER ? "worker" : "trainer";
}

void smoe_gateway_identify(struct smoe_gateway *gw, uint32_t session, enum smoe_role role,
                           const char *name)
{
    struct smoe_gate_session *s = &gw->sessions[session];
    s->key_role = role;
    snprintf(s->key_name, sizeof s->key_name, "%s", name);
}

int smoe_gateway_administered(struct smoe_gateway *gw, uint32_t session)
{
    struct smoe_gate_session *s = &gw->sessions[session];
    if (s->state != SMOE_GATE_HELLO)
        return SMOE_ECLOSED; /* its place was needed while it shook hands */
    snprintf(s->peer, sizeof s->peer, "admin %s", s->key_name);
    if (gw->n_admins >= SMOE_GATE_ADMINS_MAX) {
        smoe_gate_doom(gw, s, "there are as many administrators as may be");
        return SMOE_ELIMIT;
    }
    smoe_gate_leave_hellos(gw, s);
    s->state = SMOE_GATE_ADMIN;
    gw->n_admins++;
    return 0;
}

int smoe_gate_may_be(const struct smoe_gate_session *s, const struct smoe_msg_hello *hello,
                     struct smoe_why *why)
{
    if (!*s->key_name)
        return 0;
    const char *key_role = role_name(s->key_role), *role = role_name(hello->role);
    if (hello->role != s->key_role)
        return smoe_fail(why, SMOE_EROLE, "HELLO: the key of %s %s is not for a %s", key_role,
                         s->key_name, role);
    if (strcmp(hello->name, s->key_name) != 0)
        return smoe_fail(why, SMOE_EROLE, "HELLO: the key of %s %s is not for %s %s", key_role,
                         s->key_name, role, hello->name);
    return 0;
}

void smoe_gateway_dismiss(struct smoe_gateway *gw, uint32_t session, int code, const char *sentence,
                          uint64_t now_ns)
{
    struct smoe_gate_session *s = &gw->sessions[session];
    struct smoe_event tick = {.type = SMOE_EVENT_TICK, .now_ns = now_ns};
    if (s->state == SMOE_GATE_OPEN)
        smoe_channel_send_error(&s->channel, code, sentence, true, 0, 0);
    smoe_gate_doom(gw, s, sentence);
    smoe_gate_step(gw, &tick, NULL);
}
