/* SPDX-License-Identifier: Apache-2.0
 *
 * A first cut is a change from nothing: workers get intervals in proportion to memory, and the second copy of
 * each is an orphan that somebody else must take. Who owns and who follows is dealt at the very end.
 *
 * **Giving orphans away** (smoe_shard_assign). Orphans are grouped by who holds the other copy, since that
 * worker may not have this one too. With o_j the orphans of group j, d_j what worker j lacks, D what all
 * lack, a way exists as long as
 *
 *     o_j + d_j <= D   for every j with orphans                                                   MODEL.md (30)
 *
 * (D - d_j is what the others can take). Each step gives from the group with the greatest o_j + d_j, to the
 * worker with the greatest that lacks anything, and stops short of breaking the law for any other group; so
 * it holds to the end, and each step but two empties a group or fills a worker. Pieces that have lost both
 * copies come first: whoever takes one copy changes an o_j and a d_j by as much, and the law does not notice.
 */
#include "daemon/core/shard.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/cutter.h"
#include "daemon/core/shard_internal.h"
#include "stablemoe/error.h"

/* Memory is compared to so many parts of the whole, so that products with elements fit into 64 bits. */
#define MEMORY_PARTS (UINT64_C(1) << 24)

static void lay_out(void *head, struct smoe_cutter *cutter)
{
    struct smoe_shard_scratch *s = head;
    size_t n = s->workers_max;
    s->work = smoe_cut(cutter, s->work_max, sizeof *s->work);
    s->target = smoe_cut(cutter, n, sizeof *s->target);
    s->owned = smoe_cut(cutter, n, sizeof *s->owned);
    s->followed = smoe_cut(cutter, n, sizeof *s->followed);
    s->lacking = smoe_cut(cutter, n, sizeof *s->lacking);
    s->orphaned = smoe_cut(cutter, n + 1, sizeof *s->orphaned);
    s->head = smoe_cut(cutter, n + 1, sizeof *s->head);
}

int smoe_shard_scratch_new(uint32_t workers_max, uint32_t grains_max,
                           struct smoe_shard_scratch **ret)
{
    struct smoe_shard_scratch head = {.workers_max = workers_max, .work_max = grains_max};
    *ret = smoe_cut_block(&head, sizeof head, lay_out);
    return *ret ? 0 : SMOE_ENOMEMORY;
}

void smoe_shard_scratch_free(struct smoe_shard_scratch *scratch)
{
    free(scratch);
}

/* ---- how much ---- */

/* Memory in parts of the whole; not 0 unless it is. */
static uint64_t parts(uint64_t memory, unsigned shift)
{
    uint64_t p = memory >> shift;
    return memory && !p ? 1 : p;
}

static unsigned shift_for(uint32_t n_workers, const uint64_t *memory)
{
    unsigned shift = 0;
    uint64_t most = 0;
    for (uint32_t j = 0; j < n_workers; j++)
        most = memory[j] > most ? memory[j] : most;
    while (most >> shift > MEMORY_PARTS / n_workers)
        shift++;
    return shift;
}

/* Shares of `elements` in proportion to memory but for worker `except`: differences of rounded sums, so that
 * they sum to `elements` and each is within one of its due. */
static void share(uint64_t elements, uint32_t n_workers, const uint64_t *memory, uint32_t except,
                  uint64_t *ret)
{
    unsigned shift = shift_for(n_workers, memory);
    uint64_t sum = 0, so_far = 0;
    for (uint32_t j = 0; j < n_workers; j++)
        sum += j == except ? 0 : parts(memory[j], shift);
    for (uint32_t j = 0; j < n_workers; j++) {
        if (j == except)
            continue;
        uint64_t before = sum ? elements * so_far / sum : 0;
        so_far += parts(memory[j], shift);
        ret[j] = sum ? elements * so_far / sum - before : 0;
    }
}

static uint32_t count_live(uint32_t n_workers, const uint64_t *memory)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < n_workers; j++)
        n += memory[j] > 0;
    return n;
}

void smoe_shard_targets(uint64_t elements, uint32_t n_workers, const uint64_t *memory,
                        uint64_t *ret)
{
    uint64_t copies = count_live(n_workers, memory) > 1 ? 2 : 1;
    share(copies * elements, n_workers, memory, SMOE_SHARD_NONE, ret);
    for (uint32_t j = 0; j < n_workers; j++)
        if (ret[j] > elements) { /* only one can have more than half of the memory */
            ret[j] = elements;
            share(elements, n_workers, memory, j, ret);
            return;
        }
}

/* ---- orphans ---- */

void smoe_shard_orphan(struct smoe_shard_job *job, uint32_t w)
{
    struct smoe_shard_work *work = &job->s->work[w];
    uint32_t other = work->owner == SMOE_SHARD_NONE ? work->follower : work->owner;
    uint32_t list = other == SMOE_SHARD_NONE ? job->n_workers : other;
    work->next = job->s->head[list];
    job->s->head[list] = w;
    job->s->orphaned[list] += work->length;
}

uint32_t smoe_shard_split(struct smoe_shard_job *job, uint32_t w, uint64_t length)
{
    if (job->n_work == job->s->work_max)
        return SMOE_SHARD_NONE;
    struct smoe_shard_work *work = &job->s->work[w], *rest = &job->s->work[job->n_work];
    *rest = *work;
    rest->offset += length;
    rest->length -= length;
    work->length = length;
    return job->n_work++;
}

/* Where a grain begins. */
static uint64_t element_of(const struct smoe_shard_job *job, uint64_t grain)
{
    return job->elements * grain / job->grains;
}

static int add_move(struct smoe_shard_job *job, const struct smoe_shard_work *w, uint32_t from,
                    uint32_t to)
{
    if (!job->moves || from == SMOE_SHARD_NONE || from == to) /* it keeps what it was to give up */
        return 0;
    if (job->moves->n == job->moves->max)
        return SMOE_ELIMIT;
    uint64_t begin = element_of(job, w->offset), end = element_of(job, w->offset + w->length);
    job->moves->moves[job->moves->n++] =
        (struct smoe_shard_move){.offset = begin, .length = end - begin, .from = from, .to = to};
    return 0;
}

/* The worker takes the first orphan of the list, at most so many elements of it. */
static int take_one(struct smoe_shard_job *job, uint32_t list, uint32_t worker, uint64_t most)
{
    struct smoe_shard_scratch *s = job->s;
    uint32_t w = s->head[list];
    if (s->work[w].length > most) {
        uint32_t rest = smoe_shard_split(job, w, most);
        if (rest == SMOE_SHARD_NONE)
            return SMOE_ELIMIT;
        s->head[list] = rest; /* it has w's successor */
    } else {
        s->head[list] = s->work[w].next;
    }
    struct smoe_shard_work *work = &s->work[w];
    bool owns = work->owner == SMOE_SHARD_NONE;
    int rc = add_move(job, work, owns ? work->owner_from : work->follower_from, worker);
    if (owns)
        work->owner = worker;
    else
        work->follower = worker;
    s->orphaned[list] -= work->length;
    s->lacking[worker] -= work->length;
    if (list == job->n_workers && job->copies == 2)
        smoe_shard_orphan(job, w);
    return rc;
}

static int take(struct smoe_shard_job *job, uint32_t list, uint32_t worker, uint64_t amount)
{
    int rc = 0;
    while (amount && !rc) {
        uint64_t before = job->s->lacking[worker];
        rc = take_one(job, list, worker, amount);
        amount -= before - job->s->lacking[worker];
    }
    return rc;
}

/* o_j + d_j */
static uint64_t strain(const struct smoe_shard_scratch *s, uint32_t worker)
{
    return s->orphaned[worker] + s->lacking[worker];
}

/* The worker other than `except` with the greatest strain, of those with anything in `having`. */
static uint32_t most_strained(const struct smoe_shard_job *job, const uint64_t *having,
                              uint32_t except)
{
    uint32_t best = SMOE_SHARD_NONE;
    for (uint32_t j = 0; j < job->n_workers; j++)
        if (j != except && having[j] &&
            (best == SMOE_SHARD_NONE || strain(job->s, j) > strain(job->s, best)))
            best = j;
    return best;
}

/* The greatest strain of any group of orphans but these two. */
static uint64_t strain_of_others(const struct smoe_shard_job *job, uint32_t a, uint32_t b)
{
    uint64_t most = 0;
    for (uint32_t j = 0; j < job->n_workers; j++)
        if (j != a && j != b && job->s->orphaned[j] && strain(job->s, j) > most)
            most = strain(job->s, j);
    return most;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Pieces that nobody holds: one copy of each, to whoever lacks most. */
static int assign_unheld(struct smoe_shard_job *job)
{
    struct smoe_shard_scratch *s = job->s;
    while (s->orphaned[job->n_workers]) {
        uint32_t worker = 0;
        for (uint32_t j = 1; j < job->n_workers; j++)
            worker = s->lacking[j] > s->lacking[worker] ? j : worker;
        uint64_t amount = least(s->orphaned[job->n_workers], s->lacking[worker]);
        int rc = amount ? take(job, job->n_workers, worker, amount) : SMOE_ELIMIT;
        if (rc)
            return rc;
    }
    return 0;
}

int smoe_shard_assign(struct smoe_shard_job *job)
{
    struct smoe_shard_scratch *s = job->s;
    uint64_t room = 0; /* D */
    uint32_t from;
    int rc = assign_unheld(job);
    for (uint32_t j = 0; j < job->n_workers; j++)
        room += s->lacking[j];
    while (!rc && (from = most_strained(job, s->orphaned, SMOE_SHARD_NONE)) != SMOE_SHARD_NONE) {
        uint32_t to = most_strained(job, s->lacking, from);
        if (to == SMOE_SHARD_NONE)
            return SMOE_ELIMIT;
        uint64_t others = strain_of_others(job, from, to);
        uint64_t amount = least(s->orphaned[from], s->lacking[to]);
        amount = room > others ? least(amount, room - others) : 0;
        rc = amount ? take(job, from, to, amount) : SMOE_ELIMIT;
        room -= amount;
    }
    return rc;
}

/* ---- the map ---- */

/* By offset; Shell's sort, since qsort may allocate. */
static void sort_work(struct smoe_shard_work *work, uint32_t n)
{
    uint32_t gap = 1;
    while (gap < n / 3)
        gap = 3 * gap + 1;
    for (; gap; gap /= 3)
        for (uint32_t i = gap; i < n; i++) {
            struct smoe_shard_work item = work[i];
            uint32_t at = i;
            for (; at >= gap && work[at - gap].offset > item.offset; at -= gap)
                work[at] = work[at - gap];
            work[at] = item;
        }
}

static bool same_holders(const struct smoe_shard_work *a, const struct smoe_shard_work *b)
{
    return (a->owner == b->owner && a->follower == b->follower) ||
           (a->owner == b->follower && a->follower == b->owner);
}

/* What lies together on the same two workers becomes one; returns how many are left. */
static uint32_t merge(struct smoe_shard_work *work, uint32_t n_work)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_work; i++)
        if (n && same_holders(&work[n - 1], &work[i]))
            work[n - 1].length += work[i].length;
        else
            work[n++] = work[i];
    return n;
}

static void add_piece(const struct smoe_shard_job *job, struct smoe_shard_map *map, uint64_t grain,
                      uint64_t length, uint32_t owner, uint32_t follower)
{
    uint64_t begin = element_of(job, grain), end = element_of(job, grain + length);
    if (length)
        map->pieces[map->n_pieces++] =
            (struct smoe_shard_piece){begin, end - begin, owner, follower};
}

/* Of what two workers hold each owns half: both copies are equal, so roles may be dealt as one likes, and everybody
 * owns half of what it holds. Pairs that a change leaves alone keep theirs. */
int smoe_shard_finish(struct smoe_shard_job *job, struct smoe_shard_map *map)
{
    struct smoe_shard_work *work = job->s->work;
    sort_work(work, job->n_work);
    uint32_t n = merge(work, job->n_work);
    if ((2 * n < job->grains ? 2 * n : job->grains) > map->pieces_max)
        return SMOE_ELIMIT;
    map->elements = job->elements;
    map->grains = (uint32_t)job->grains;
    map->n_pieces = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t a = work[i].owner, b = work[i].follower; /* the lower index owns the first half */
        uint64_t half = b == SMOE_SHARD_NONE ? work[i].length : work[i].length / 2;
        add_piece(job, map, work[i].offset, half, a < b ? a : b, a < b ? b : a);
        add_piece(job, map, work[i].offset + half, work[i].length - half, a < b ? b : a,
                  a < b ? a : b);
    }
    return 0;
}

int smoe_shard_cut(uint64_t elements, uint32_t grains, uint32_t n_workers, const uint64_t *memory,
                   struct smoe_shard_scratch *scratch, struct smoe_shard_map *map)
{
    struct smoe_shard_job job = {.s = scratch,
                                 .n_workers = n_workers,
                                 .elements = elements,
                                 .grains = grains < elements ? grains : elements};
    uint32_t live = count_live(n_workers, memory);
    uint64_t offset = 0, targets = 0;
    smoe_assert(n_workers <= scratch->workers_max && job.grains > 0);
    smoe_assert(elements <= UINT64_MAX / job.grains);
    smoe_assert(job.grains <= scratch->work_max);
    if (live == 0)
        return SMOE_ENOWORKERS;
    job.copies = live > 1 ? 2 : 1;
    smoe_shard_targets(job.grains, n_workers, memory, scratch->target);
    memset(scratch->orphaned, 0, (n_workers + 1) * sizeof *scratch->orphaned);
    memset(scratch->head, 0xff, (n_workers + 1) * sizeof *scratch->head);
    for (uint32_t j = 0; j < n_workers; j++) {
        targets += scratch->target[j];
        scratch->owned[j] = targets / job.copies - offset; /* rounded sums once more */
        scratch->lacking[j] = scratch->target[j] - scratch->owned[j];
        if (scratch->owned[j] == 0)
            continue;
        scratch->work[job.n_work] = (struct smoe_shard_work){.offset = offset,
                                                             .length = scratch->owned[j],
                                                             .owner = j,
                                                             .follower = SMOE_SHARD_NONE,
                                                             .owner_from = SMOE_SHARD_NONE,
                                                             .follower_from = SMOE_SHARD_NONE};
        offset += scratch->owned[j];
        if (job.copies == 2)
            smoe_shard_orphan(&job, job.n_work);
        job.n_work++;
    }
    int rc = smoe_shard_assign(&job);
    return rc ? rc : smoe_shard_finish(&job, map);
}

/* ---- what it says ---- */

void smoe_shard_held(const struct smoe_shard_map *map, uint32_t n_workers, uint64_t *ret_owned,
                     uint64_t *ret_followed)
{
    memset(ret_owned, 0, n_workers * sizeof *ret_owned);
    memset(ret_followed, 0, n_workers * sizeof *ret_followed);
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        ret_owned[p->owner] += p->length;
        if (p->follower != SMOE_SHARD_NONE)
            ret_followed[p->follower] += p->length;
    }
}

bool smoe_shard_valid(const struct smoe_shard_map *map, uint32_t n_workers)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        bool nobody = p->owner == SMOE_SHARD_NONE && p->follower == SMOE_SHARD_NONE;
        if (p->offset != at || p->length == 0)
            return false;
        if (!nobody && (p->owner >= n_workers || p->owner == p->follower ||
                        (p->follower != SMOE_SHARD_NONE && p->follower >= n_workers)))
            return false;
        at += p->length;
    }
    return at == map->elements;
}
