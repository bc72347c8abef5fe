/* SPDX-License-Identifier: Apache-2.0
 *
 * Which workers have a direct link. Two have one while both are here, both have said where they take links, and a
 * sharded layer has both among its participants. Each pair gets an identity and a key of its own (the key is drawn
 * by the gateway when the two messages pass it, one right after the other: the core knows no secrets). Who dials
 * follows from the two alone: the one on the gateway's own machine, whom others could not reach there, else the
 * one with the lower number.
 *
 *     none --wanted--> told to both --no longer wanted, or one has left--> taken back from both --> none
 *
 * A link is used once both ends have said that it is up, and until one of them has said that it is not: an
 * end that sees no more of the other need not wait until that notices, too.
 *
 * Nothing happens while nobody comes, goes, or takes part in another layer: links are of membership, not of
 * iterations. A large change is told in parts, so that an update is bounded; nobody waits for it, for what
 * cannot go over a link goes through the daemon.
 *
 * Invariants: a worker has a link to another if and only if the other has the same one to it; only workers that
 * are here have links that are not `gone`.
 */
#include "daemon/core/links.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/sharded.h"

/* ---- memory ---- */

int smoe_links_init(struct smoe_links *s, uint32_t workers_max)
{
    *s = (struct smoe_links){.n_max = workers_max};
    s->ends = calloc((size_t)workers_max * SMOE_WORKER_LINKS_MAX, sizeof *s->ends);
    s->n = calloc(workers_max, sizeof *s->n);
    s->parts = calloc(workers_max, sizeof *s->parts);
    s->members = calloc(workers_max / 64 + 1, sizeof *s->members);
    s->counted = calloc(workers_max, sizeof *s->counted);
    return s->ends && s->n && s->parts && s->members && s->counted ? 0 : SMOE_ENOMEMORY;
}

void smoe_links_release(struct smoe_links *s)
{
    free(s->ends);
    free(s->n);
    free(s->parts);
    free(s->members);
    free(s->counted);
    *s = (struct smoe_links){0};
}

/* ---- lists of peers ---- */

bool smoe_peers_have(const struct smoe_peer_list *list, uint32_t worker)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->peers[i] == worker)
            return true;
    return false;
}

bool smoe_peers_drop(struct smoe_peer_list *list, uint32_t worker)
{
    for (uint32_t i = 0; i < list->n; i++) {
        if (list->peers[i] != worker)
            continue;
        list->n--;
        memmove(&list->peers[i], &list->peers[i + 1], (list->n - i) * sizeof *list->peers);
        list->peers[list->n] = 0;
        return true;
    }
    return false;
}

static void add_rising(struct smoe_peer_list *list, uint32_t worker)
{
    uint32_t at = list->n;
    for (; at > 0 && list->peers[at - 1] > worker; at--)
        list->peers[at] = list->peers[at - 1];
    list->peers[at] = worker;
    list->n++;
}

/* ---- ends ---- */

static struct smoe_link_end *end_of(const struct smoe_links *s, uint32_t worker, uint32_t peer)
{
    struct smoe_link_end *ends = s->ends + (size_t)worker * SMOE_WORKER_LINKS_MAX;
    for (uint32_t i = 0; i < s->n[worker]; i++)
        if (ends[i].peer == peer)
            return &ends[i];
    return NULL;
}

static void add_end(struct smoe_links *s, uint32_t worker, uint32_t peer)
{
    struct smoe_link_end *ends = s->ends + (size_t)worker * SMOE_WORKER_LINKS_MAX;
    ends[s->n[worker]++] = (struct smoe_link_end){.peer = peer, .link = s->serial};
}

static void drop_end(struct smoe_links *s, uint32_t worker, uint32_t peer)
{
    struct smoe_link_end *end = end_of(s, worker, peer);
    smoe_assert(end != NULL);
    *end = s->ends[(size_t)worker * SMOE_WORKER_LINKS_MAX + --s->n[worker]];
}

/* ---- who needs whom ---- */

static bool on_own_machine(const struct smoe_worker *w)
{
    return strncmp(w->peer_address, "127.", 4) == 0 || strncmp(w->peer_address, "[::1]", 5) == 0;
}

/* Those who take part in the layer, and whoever is given a part in it. */
static void find_members(struct smoe_core *c, const struct smoe_sharded *sharded)
{
    uint64_t *members = c->sharding->links.members;
    memset(members, 0, (c->fleet.n_used / 64 + 1) * sizeof *members);
    smoe_sharded_participants(sharded, members);
    if (sharded->filling.length)
        members[sharded->filling.to / 64] |= UINT64_C(1) << sharded->filling.to % 64;
}

static void find_parts(struct smoe_core *c)
{
    struct smoe_links *s = &c->sharding->links;
    memset(s->parts, 0, c->fleet.n_used * sizeof *s->parts);
    for (uint64_t left = c->layers_used; left; left &= left - 1) {
        const struct smoe_layer *layer = &c->layers[__builtin_ctzll(left)];
        if (!layer->sharded)
            continue;
        find_members(c, layer->sharded);
        for (uint32_t w = 0; w < c->fleet.n_used; w++)
            if (s->members[w / 64] >> w % 64 & 1)
                s->parts[w] |= left & -left;
    }
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (!smoe_standing_usable(c, w) || !*c->fleet.workers[w].peer_address)
            s->parts[w] = 0;
}

/* ---- telling ---- */

/* What `to` is told of `peer`; the gateway adds the key. */
static void tell(struct smoe_core *c, uint32_t to, uint32_t peer, uint64_t link, bool dial)
{
    const struct smoe_worker *p = &c->fleet.workers[peer];
    struct smoe_msg_peer *m = &smoe_core_send(c, c->fleet.workers[to].session, SMOE_MSG_PEER)->peer;
    m->peer = peer;
    memcpy(m->name, p->id, sizeof m->name);
    m->link = link;
    m->dial = dial;
    if (link)
        memcpy(m->address, p->peer_address, sizeof m->address);
}

/* A worker that left and is back has forgotten its links by itself: what it does not have it will not miss. */
static void take_back(struct smoe_core *c, uint32_t a, uint32_t b)
{
    struct smoe_links *s = &c->sharding->links;
    drop_end(s, a, b);
    drop_end(s, b, a);
    if (smoe_standing_usable(c, a))
        tell(c, a, b, 0, false);
    if (smoe_standing_usable(c, b))
        tell(c, b, a, 0, false);
}

static void make(struct smoe_core *c, uint32_t a, uint32_t b)
{
    struct smoe_links *s = &c->sharding->links;
    const struct smoe_worker *workers = c->fleet.workers;
    bool a_dials = on_own_machine(&workers[a]) || !on_own_machine(&workers[b]);
    s->serial++;
    add_end(s, a, b);
    add_end(s, b, a);
    tell(c, a, b, s->serial, a_dials);
    tell(c, b, a, s->serial, !a_dials);
}

/* False: there is more to be told than now may be. */
static bool take_back_all(struct smoe_core *c, uint32_t *room)
{
    struct smoe_links *s = &c->sharding->links;
    for (uint32_t a = 0; a < c->fleet.n_used; a++) {
        struct smoe_link_end *ends = s->ends + (size_t)a * SMOE_WORKER_LINKS_MAX;
        for (uint32_t i = s->n[a]; i-- > 0;) {
            if (!ends[i].gone && (s->parts[a] & s->parts[ends[i].peer]))
                continue;
            if (!*room)
                return false;
            --*room;
            take_back(c, a, ends[i].peer); /* the last one is in its place now: it was seen */
        }
    }
    return true;
}

static bool make_all(struct smoe_core *c, uint32_t *room)
{
    struct smoe_links *s = &c->sharding->links;
    for (uint32_t a = 0; a < c->fleet.n_used; a++)
        for (uint32_t b = a + 1; s->parts[a] && b < c->fleet.n_used; b++) {
            if (!(s->parts[a] & s->parts[b]) || s->n[a] >= SMOE_WORKER_LINKS_MAX ||
                s->n[b] >= SMOE_WORKER_LINKS_MAX || end_of(s, a, b))
                continue;
            if (!*room)
                return false;
            --*room;
            make(c, a, b);
        }
    return true;
}

void smoe_links_advance(struct smoe_core *c)
{
    uint32_t room = SMOE_LINKS_AT_ONCE;
    if (!c->sharding || !c->sharding->links.due)
        return;
    find_parts(c);
    bool all = take_back_all(c, &room) && make_all(c, &room);
    c->sharding->links.due = !all;
}

uint64_t smoe_links_wake_ns(const struct smoe_core *c)
{
    return c->sharding && c->sharding->links.due ? c->now_ns : c->slot_deadline_ns;
}

void smoe_links_changed(struct smoe_core *c)
{
    c->sharding->links.due = c->sharding->links.n_max > 0;
}

void smoe_links_lost(struct smoe_core *c, uint32_t worker)
{
    if (!c->sharding || !c->sharding->links.n_max)
        return;
    struct smoe_links *s = &c->sharding->links;
    struct smoe_link_end *ends = s->ends + (size_t)worker * SMOE_WORKER_LINKS_MAX;
    for (uint32_t i = 0; i < s->n[worker]; i++) {
        struct smoe_link_end *other = end_of(s, ends[i].peer, worker);
        smoe_assert(other != NULL);
        ends[i].gone = other->gone = true;
    }
    s->due = true;
}

/* ---- questions ---- */

/* As `a` said last, of its end. */
static bool is_up(const struct smoe_core *c, uint32_t a, uint32_t b)
{
    const struct smoe_link_end *end =
        c->sharding && c->sharding->links.n_max ? end_of(&c->sharding->links, a, b) : NULL;
    return end && !end->gone && end->up;
}

void smoe_links_reach(const struct smoe_core *c, uint32_t from, const uint32_t *takers, uint32_t n,
                      struct smoe_peer_list *ret)
{
    *ret = (struct smoe_peer_list){0};
    for (uint32_t i = 0; i < n && ret->n < SMOE_TRANSFER_PEERS_MAX; i++)
        if (is_up(c, from, takers[i]) && is_up(c, takers[i], from))
            add_rising(ret, takers[i]);
}

void smoe_links_state(struct smoe_core *c, uint32_t worker, const struct smoe_msg_link_state *m)
{
    if (!c->sharding || !c->sharding->links.n_max)
        return;
    struct smoe_link_end *end = end_of(&c->sharding->links, worker, m->peer);
    if (end && end->link == m->link)
        end->up = m->up;
}

void smoe_links_count(struct smoe_core *c, uint32_t worker, uint64_t direct, uint64_t relayed)
{
    if (!c->sharding->links.n_max)
        return;
    c->sharding->links.counted[worker].direct_bytes += direct;
    c->sharding->links.counted[worker].relayed_bytes += relayed;
}

struct smoe_links_view smoe_core_links(const struct smoe_core *c, uint32_t worker)
{
    if (!c->sharding || !c->sharding->links.n_max)
        return (struct smoe_links_view){0};
    const struct smoe_links *s = &c->sharding->links;
    struct smoe_links_view view = s->counted[worker];
    for (uint32_t i = 0; i < s->n[worker]; i++) {
        const struct smoe_link_end *end = &s->ends[(size_t)worker * SMOE_WORKER_LINKS_MAX + i];
        view.up += end->up && !end->gone;
        view.relayed += !end->up && !end->gone;
    }
    return view;
}

void smoe_links_check(const struct smoe_core *c)
{
    const struct smoe_links *s = &c->sharding->links;
    for (uint32_t w = 0; s->n_max && w < c->fleet.n_used; w++) {
        smoe_assert(s->n[w] <= SMOE_WORKER_LINKS_MAX);
        for (uint32_t i = 0; i < s->n[w]; i++) {
            const struct smoe_link_end *end = &s->ends[(size_t)w * SMOE_WORKER_LINKS_MAX + i];
            const struct smoe_link_end *other = end_of(s, end->peer, w);
            smoe_assert(end->peer != w && other && other->link == end->link &&
                        other->gone == end->gone);
            smoe_assert(end->gone || smoe_standing_usable(c, w));
        }
    }
}
