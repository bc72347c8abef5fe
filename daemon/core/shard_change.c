/* SPDX-License-Identifier: Apache-2.0
 *
 * A change of the fleet. Copies of workers that leave become orphans; so do copies that a worker has beyond
 * its new target, where others are below theirs. Orphans are then given away (shard.c). So what moves is what
 * is lost and what a newcomer's share is, and no element that could have stayed.
 *
 * Of two holders who both have too much, the one with less choice left gives its copy up; and copies whose other
 * holder lacks nothing go before others, because that other holder could not take them.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/shard_internal.h"
#include "stablemoe/error.h"

struct change {
    struct smoe_shard_job job;
    const uint64_t *memory;
    const bool *gone;
    uint64_t *held;  /* [N] grains that stay, both roles */
    uint64_t *pairs; /* [N] of them, those of which both copies stay */
};

static bool stays(const struct change *c, uint32_t worker)
{
    return worker != SMOE_SHARD_NONE && c->memory[worker] > 0;
}

/* Who can be asked for the copy that `worker` has and gives up; `other` holds the second. */
static uint32_t source(const struct change *c, uint32_t worker, uint32_t other)
{
    if (worker != SMOE_SHARD_NONE && !c->gone[worker])
        return worker;
    return other != SMOE_SHARD_NONE && !c->gone[other] ? other : SMOE_SHARD_NONE;
}

/* The grain that begins at the element: offsets are rounded down from grains. */
static uint64_t grain_of(const struct smoe_shard_job *job, uint64_t element)
{
    return (element * job->grains + job->elements - 1) / job->elements;
}

/* The old map as work: holders that stay are kept, the others' copies need a new one. */
static int take_apart(struct change *c, const struct smoe_shard_map *map, uint64_t *ret_lost)
{
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        struct smoe_shard_work w = {.offset = grain_of(&c->job, p->offset)};
        w.length = grain_of(&c->job, p->offset + p->length) - w.offset;
        w.owner_from = source(c, p->owner, p->follower);
        w.follower_from = source(c, p->follower, p->owner);
        if (w.owner_from == SMOE_SHARD_NONE) {
            *ret_lost = p->offset;
            return SMOE_ELOST;
        }
        w.owner = stays(c, p->owner) ? p->owner : SMOE_SHARD_NONE;
        w.follower = stays(c, p->follower) ? p->follower : SMOE_SHARD_NONE;
        if (w.owner == SMOE_SHARD_NONE && w.follower != SMOE_SHARD_NONE) { /* it is the owner now */
            w.owner = w.follower;
            w.follower = SMOE_SHARD_NONE;
            w.follower_from = w.owner_from;
        }
        if (c->job.copies == 1)
            w.follower = SMOE_SHARD_NONE;
        if (w.owner != SMOE_SHARD_NONE)
            c->held[w.owner] += w.length;
        if (w.follower != SMOE_SHARD_NONE)
            c->held[w.follower] += w.length;
        if (c->job.n_work == c->job.s->work_max)
            return SMOE_ELIMIT;
        c->job.s->work[c->job.n_work++] = w;
    }
    return 0;
}

/* ---- copies beyond a target ---- */

static uint64_t beyond(const struct change *c, uint32_t worker)
{
    uint64_t target = c->job.s->target[worker];
    return c->held[worker] > target ? c->held[worker] - target : 0;
}

static bool lacks(const struct change *c, uint32_t worker)
{
    return c->held[worker] < c->job.s->target[worker];
}

static bool has_both(const struct smoe_shard_work *work)
{
    return work->owner != SMOE_SHARD_NONE && work->follower != SMOE_SHARD_NONE;
}

/* Takes one copy off its holder, of at most so many grains of the piece. */
static int release(struct change *c, uint32_t w, bool followers, uint64_t most)
{
    struct smoe_shard_work *work = &c->job.s->work[w];
    uint32_t holder = followers ? work->follower : work->owner;
    if (work->length > most && smoe_shard_split(&c->job, w, most) == SMOE_SHARD_NONE)
        return SMOE_ELIMIT;
    c->held[holder] -= work->length;
    if (!followers) /* the other copy's holder owns it from now on */
        work->owner = work->follower;
    work->follower = SMOE_SHARD_NONE;
    work->follower_from = holder;
    return 0;
}

/* May the holder's copy of the piece go? `any`: though the other holder is one who lacks something. */
static bool may_go(const struct change *c, uint32_t holder, uint32_t other, bool any)
{
    return beyond(c, holder) > 0 && (any || !lacks(c, other));
}

/* What part of what the worker could still give up it must. */
static double urgency(const struct change *c, uint32_t worker)
{
    return (double)beyond(c, worker) / (double)c->pairs[worker];
}

/* Of each piece with two copies at most one goes, that of the holder who has less choice left, and not so much that the
 * other could no longer give up what it must. Splits append the rest, which is met later. */
static int release_some(struct change *c, bool any)
{
    memset(c->pairs, 0, c->job.n_workers * sizeof *c->pairs);
    for (uint32_t w = 0; w < c->job.n_work; w++)
        if (has_both(&c->job.s->work[w])) {
            c->pairs[c->job.s->work[w].owner] += c->job.s->work[w].length;
            c->pairs[c->job.s->work[w].follower] += c->job.s->work[w].length;
        }
    for (uint32_t w = 0; w < c->job.n_work; w++) {
        const struct smoe_shard_work *work = &c->job.s->work[w];
        if (!has_both(work))
            continue;
        uint32_t owner = work->owner, follower = work->follower;
        bool owners = may_go(c, owner, follower, any), followers = may_go(c, follower, owner, any);
        if (!owners && !followers)
            continue;
        bool second = followers && (!owners || urgency(c, follower) >= urgency(c, owner));
        uint32_t holder = second ? follower : owner, other = second ? owner : follower;
        uint64_t most = beyond(c, holder), choice = c->pairs[other] - beyond(c, other);
        int rc =
            release(c, w, second, owners && followers && choice && choice < most ? choice : most);
        if (rc)
            return rc;
        c->pairs[owner] -= c->job.s->work[w].length;
        c->pairs[follower] -= c->job.s->work[w].length;
    }
    return 0;
}

/* ---- who could not take what is there ---- */

/* A worker that holds the other copy of most of what is to be given away, and lacks something itself: what others hold
 * without it is released for it, and they take what it cannot. */
static int ease(struct change *c)
{
    struct smoe_shard_scratch *s = c->job.s;
    uint64_t law = 0; /* D of MODEL.md (30) */
    for (uint32_t j = 0; j < c->job.n_workers; j++)
        law += s->lacking[j];
    for (uint32_t j = 0; j < c->job.n_workers; j++)
        for (uint32_t w = 0; w < c->job.n_work; w++) {
            uint64_t strain = s->orphaned[j] + s->lacking[j];
            if (strain <= law || !s->orphaned[j])
                break;
            struct smoe_shard_work *work = &s->work[w];
            if (!has_both(work) || work->owner == j || work->follower == j)
                continue;
            uint32_t follower = work->follower;
            int rc = release(c, w, true, strain - law);
            if (rc)
                return rc;
            s->lacking[follower] += work->length;
            law += work->length;
            smoe_shard_orphan(&c->job, w);
        }
    return 0;
}

/* ---- the change ---- */

static bool is_orphan(const struct change *c, const struct smoe_shard_work *w)
{
    return w->owner == SMOE_SHARD_NONE || (c->job.copies == 2 && w->follower == SMOE_SHARD_NONE);
}

static int rearrange(struct change *c, const struct smoe_shard_map *map, uint64_t *ret_lost)
{
    struct smoe_shard_job *job = &c->job;
    int rc = take_apart(c, map, ret_lost);
    for (int any = 0; any < 2 && rc == 0 && job->copies == 2; any++)
        rc = release_some(c, any);
    if (rc)
        return rc;
    for (uint32_t j = 0; j < job->n_workers; j++)
        job->s->lacking[j] = lacks(c, j) ? job->s->target[j] - c->held[j] : 0;
    for (uint32_t w = 0; w < job->n_work; w++)
        if (is_orphan(c, &job->s->work[w]))
            smoe_shard_orphan(job, w);
    rc = ease(c);
    if (rc == 0)
        rc = smoe_shard_assign(job);
    return rc;
}

int smoe_shard_change(uint32_t n_workers, const uint64_t *memory, const bool *gone,
                      struct smoe_shard_scratch *scratch, struct smoe_shard_map *map,
                      struct smoe_shard_moves *ret_moves, uint64_t *ret_lost)
{
    struct change c = {.job = {.s = scratch,
                               .n_workers = n_workers,
                               .elements = map->elements,
                               .grains = map->grains,
                               .moves = ret_moves},
                       .memory = memory,
                       .gone = gone,
                       .held = scratch->owned,
                       .pairs = scratch->followed};
    uint32_t live = 0;
    smoe_assert(n_workers <= scratch->workers_max && map->grains <= scratch->work_max);
    for (uint32_t j = 0; j < n_workers; j++) {
        smoe_assert(!memory[j] || !gone[j]);
        live += memory[j] > 0;
    }
    if (live == 0)
        return SMOE_ENOWORKERS;
    c.job.copies = live > 1 ? 2 : 1;
    ret_moves->n = 0;
    smoe_shard_targets(map->grains, n_workers, memory, scratch->target);
    memset(c.held, 0, n_workers * sizeof *c.held);
    memset(scratch->orphaned, 0, (n_workers + 1) * sizeof *scratch->orphaned);
    memset(scratch->head, 0xff, (n_workers + 1) * sizeof *scratch->head);
    int rc = rearrange(&c, map, ret_lost);
    return rc ? rc : smoe_shard_finish(&c.job, map);
}
