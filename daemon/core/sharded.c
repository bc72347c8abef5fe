/* SPDX-License-Identifier: Apache-2.0
 *
 * Who holds what of a sharded layer, who is told of it, and what becomes of it when workers come and go.
 *
 *     no workers --cut, plan--> placed --every slot and piece taken in--> complete (the layer is READY)
 *                                 ^                                           |
 *                                 |      commit: a new plan, old weights      |
 *                                 +-------------- WEIGHTS <-------------------+
 *
 * A worker that is lost loses its copies wherever another one is left; where it had the only copy its return is
 * awaited for its lease. Its slots are planned elsewhere at once. What was counted of an uncommitted step
 * comes again with the trainer's next attempt, as with any loss.
 *
 * Invariants (smoe_sharded_check): the map covers every element, with holders that are distinct; each expert
 * of a plan has a host; hosts of an expert are distinct and rise; an exchange has the transfers that name it.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/exchange_lanes.h"

#define REFUSALS_MAX 4 /* of workers whose part nobody else can take, between two commits */

/* ---- beginning and end ---- */

void smoe_sharded_begin(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = &c->sharding->layers[l];
    smoe_assert(s->exchange.kind == SMOE_EXCHANGE_NONE);
    s->map.n_pieces = 0;
    s->plan.n_workers = 0;
    s->plan_due = false;
    s->step_ns = s->iterations = 0;
    s->refusals = 0;
    s->ending = s->left = s->given = false;
    s->n_before = 0;
    s->part = SMOE_PART_COMPUTING;
    s->part_since_ns = 0;
    memset(s->part_ns, 0, sizeof s->part_ns);
    memset(s->part_ns_now, 0, sizeof s->part_ns_now);
    memset(s->traffic, 0, c->options.limits.workers_max * sizeof *s->traffic);
    memset(s->traffic_now, 0, c->options.limits.workers_max * sizeof *s->traffic_now);
    s->filling.length = 0;
    memset(s->replica_first, 0, (SMOE_EXPERTS_MAX + 1) * sizeof *s->replica_first);
    memset(s->popularity, 0, SMOE_EXPERTS_MAX * sizeof *s->popularity);
    smoe_place_planner_reset(s->planner, &c->sharding->rule, layer->shape.experts);
    layer->sharded = s;
}

void smoe_sharded_end(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    smoe_exchange_void(c, l);
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (smoe_sharded_on_worker(layer->sharded, w) && smoe_standing_usable(c, w))
            smoe_standing_drop(c, w, layer->name, layer->run, &layer->shape);
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        c->fleet.workers[w].host_due &= ~(UINT64_C(1) << l);
    smoe_links_changed(c);
    layer->sharded = NULL;
}

/* ---- who ---- */

static bool is_among(const uint32_t *first, const uint32_t *workers, uint32_t expert,
                     uint32_t worker)
{
    for (uint32_t r = first[expert]; r < first[expert + 1]; r++)
        if (workers[r] == worker)
            return true;
    return false;
}

bool smoe_sharded_hosts(const struct smoe_sharded *s, uint32_t worker, uint32_t expert)
{
    return is_among(s->replica_first, s->replica_worker, expert, worker);
}

bool smoe_sharded_hosted_before(const struct smoe_sharded *s, uint32_t worker, uint32_t expert)
{
    return s->n_before && is_among(s->before_first, s->before_worker, expert, worker);
}

bool smoe_sharded_has_weights(const struct smoe_sharded *s, uint32_t expert, uint32_t worker)
{
    for (uint32_t r = s->replica_first[expert]; r < s->replica_first[expert + 1]; r++)
        if (s->replica_worker[r] == worker)
            return !s->stale[r];
    return false;
}

static uint32_t n_replicas(const struct smoe_sharded *s)
{
    return s->plan.n_workers ? s->replica_first[s->plan.n_experts] : 0;
}

bool smoe_sharded_on_worker(const struct smoe_sharded *s, uint32_t worker)
{
    for (uint32_t r = 0; r < n_replicas(s); r++)
        if (s->replica_worker[r] == worker)
            return true;
    for (uint32_t r = 0; r < s->n_before; r++)
        if (s->before_worker[r] == worker)
            return true;
    return smoe_shard_holds(&s->map, worker) || (s->filling.length && s->filling.to == worker);
}

static void set_bit(uint64_t *bits, uint32_t worker)
{
    bits[worker / 64] |= UINT64_C(1) << worker % 64;
}

void smoe_sharded_participants(const struct smoe_sharded *s, uint64_t *bits)
{
    for (uint32_t r = 0; r < n_replicas(s); r++)
        set_bit(bits, s->replica_worker[r]);
    for (uint32_t r = 0; r < s->n_before; r++)
        set_bit(bits, s->before_worker[r]);
    for (uint32_t i = 0; i < s->map.n_pieces; i++) {
        if (s->map.pieces[i].owner != SMOE_SHARD_NONE)
            set_bit(bits, s->map.pieces[i].owner);
        if (s->map.pieces[i].follower != SMOE_SHARD_NONE)
            set_bit(bits, s->map.pieces[i].follower);
    }
}

bool smoe_sharded_has_taken_in(const struct smoe_core *c, uint32_t l, uint32_t worker)
{
    return smoe_standing_usable(c, worker) && (c->fleet.workers[worker].hosted_layers >> l & 1) &&
           !(c->fleet.workers[worker].host_due >> l & 1);
}

/* All that an exchange needs are there and hold what they shall. */
static bool all_there(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    if (!s->plan.n_workers || !s->map.n_pieces ||
        (s->filling.length && !smoe_sharded_has_taken_in(c, l, s->filling.to)))
        return false;
    for (uint32_t r = 0; r < n_replicas(s); r++)
        if (!smoe_sharded_has_taken_in(c, l, s->replica_worker[r]))
            return false;
    for (uint32_t i = 0; i < s->map.n_pieces; i++)
        if (!smoe_sharded_has_taken_in(c, l, s->map.pieces[i].owner) ||
            (s->map.pieces[i].follower != SMOE_SHARD_NONE &&
             !smoe_sharded_has_taken_in(c, l, s->map.pieces[i].follower)))
            return false;
    return true;
}

static bool any_stale(const struct smoe_sharded *s)
{
    for (uint32_t r = 0; r < n_replicas(s); r++)
        if (s->stale[r])
            return true;
    return false;
}

bool smoe_sharded_complete(const struct smoe_core *c, uint32_t l)
{
    return all_there(c, l) && !any_stale(c->layers[l].sharded);
}

/* ---- telling workers ---- */

/* Does the visit end where it is? In the slot of an expert that is in force, if its gradient is summed there, or of one
 * that was left: there those of batches that belong to the weights before, or that have no gradients. */
static bool ends_here(const struct smoe_core *c, const struct smoe_parcel *p)
{
    const struct smoe_sharded *s = c->layers[p->layer].sharded;
    const struct smoe_batch *b = &c->batches[p->batch];
    bool before = smoe_sharded_is_before(c, b);
    return (!before && smoe_sharded_hosts(s, p->worker, p->expert)) ||
           ((before || !b->training) && smoe_sharded_hosted_before(s, p->worker, p->expert));
}

/* Has it visits of the trainer that it is about to drop? */
static bool drops_visits(const struct smoe_core *c, uint32_t l, uint32_t worker, uint32_t trainer)
{
    smoe_list_for_each (it, &c->worker_parcels[worker]) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, worker_link);
        if (p->layer == l && c->batches[p->batch].trainer == trainer && !ends_here(c, p))
            return true;
    }
    return false;
}

/* Adds the pieces in which the worker has that role. */
static uint32_t add_pieces(const struct smoe_shard_map *map, uint32_t worker, bool owned,
                           uint64_t *offsets, uint64_t *lengths, size_t *n)
{
    uint32_t before = (uint32_t)*n;
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        if ((owned ? p->owner : p->follower) != worker)
            continue;
        offsets[*n] = p->offset;
        lengths[(*n)++] = p->length;
    }
    return (uint32_t)*n - before;
}

static void list_pieces(struct smoe_core *c, const struct smoe_sharded *s, uint32_t worker,
                        struct smoe_msg_host *m)
{
    size_t most = s->map.n_pieces + 1, n = 0;
    uint64_t *offsets = smoe_core_list(c, most * sizeof *offsets);
    uint64_t *lengths = smoe_core_list(c, most * sizeof *lengths);
    m->pieces_owned = add_pieces(&s->map, worker, true, offsets, lengths, &n);
    m->pieces_followed = add_pieces(&s->map, worker, false, offsets, lengths, &n);
    if (s->filling.length && s->filling.to == worker) {
        offsets[n] = s->filling.offset;
        lengths[n++] = s->filling.length;
    }
    m->pieces = (struct smoe_pieces){offsets, lengths, n};
}

/* Slots of the placement in force, or those of the one before that were left. */
static size_t list_slots(struct smoe_core *c, uint32_t l, uint32_t worker, bool left,
                         const uint32_t **ret)
{
    const struct smoe_layer *layer = &c->layers[l];
    const struct smoe_sharded *s = layer->sharded;
    uint32_t *experts = smoe_core_list(c, layer->shape.experts * sizeof *experts);
    size_t n = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        bool hosts = smoe_sharded_hosts(s, worker, e);
        if (left ? !hosts && smoe_sharded_hosted_before(s, worker, e) : hosts)
            experts[n++] = e;
    }
    smoe_core_list_trim(c, experts, n * sizeof *experts);
    *ret = experts;
    return n;
}

static void send_host(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    const struct smoe_layer *layer = &c->layers[l];
    const struct smoe_sharded *s = layer->sharded;
    struct smoe_worker *w = &c->fleet.workers[worker];
    w->host_due &= ~(UINT64_C(1) << l);
    if (!smoe_standing_usable(c, worker))
        return;
    w->hosted_layers &= ~(UINT64_C(1) << l);
    smoe_links_changed(c);
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (drops_visits(c, l, worker, t))
            smoe_trainer_reset(c, t, "an expert has moved"); /* its visits come up elsewhere */
    if (!smoe_sharded_on_worker(s, worker)) {
        smoe_standing_drop(c, worker, layer->name, layer->run, &layer->shape);
        return;
    }
    struct smoe_msg_host m = {.layer = l, .run = layer->run, .shape = layer->shape};
    memcpy(m.name, layer->name, sizeof m.name);
    m.step = layer->step;
    m.attempt = layer->attempt;
    m.fresh = !layer->learned;
    m.sharded = true;
    m.replicas = s->plan.n_workers ? s->plan.slot_first[s->plan.n_workers] : 0;
    m.n_experts = list_slots(c, l, worker, false, &m.experts);
    m.n_copies = list_slots(c, l, worker, true, &m.copies);
    list_pieces(c, s, worker, &m);
    w->reference_flops = layer->forward_flops;
    smoe_slot_consider(c, worker);
    m.number = w->host_number[l] = ++w->hosts_sent;
    smoe_core_send(c, w->session, SMOE_MSG_HOST)->host = m;
}

void smoe_sharded_tell(struct smoe_core *c, uint32_t l)
{
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (c->fleet.workers[w].host_due >> l & 1)
            send_host(c, l, w);
}

size_t smoe_sharded_hosts_of(struct smoe_core *c, uint64_t layers, uint32_t worker,
                             const struct smoe_layer_hosts **ret)
{
    struct smoe_layer_hosts *lists = smoe_core_list(c, SMOE_LAYERS_MAX * sizeof *lists);
    size_t n = 0;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_layer *layer = &c->layers[l];
        const struct smoe_sharded *s = layer->sharded;
        if (!(layers >> l & 1) || !s || !smoe_sharded_on_worker(s, worker))
            continue;
        uint32_t *hosts = smoe_core_list(c, layer->shape.experts * sizeof *hosts);
        for (uint32_t e = 0; e < layer->shape.experts; e++)
            hosts[e] = s->sum_first[e + 1] - s->sum_first[e];
        lists[n++] = (struct smoe_layer_hosts){l, hosts, layer->shape.experts};
    }
    *ret = lists;
    return n;
}

/* ---- going on ---- */

/* Exchanges that are due begin when all whom they need are there: weights first, for visits wait for them. */
static void exchange(struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    if (s->exchange.kind != SMOE_EXCHANGE_NONE || !all_there(c, l) || smoe_sharded_storing(c, l))
        return;
    if (s->ending)
        smoe_traffic_turn(c, l, SMOE_PART_WEIGHTS);
    if (any_stale(s))
        smoe_exchange_begin(c, l, SMOE_EXCHANGE_WEIGHTS);
    else if (smoe_sharded_before_wanted(c, l))
        smoe_exchange_begin(c, l, SMOE_EXCHANGE_OLDER);
    else if (s->filling.length)
        smoe_exchange_begin(c, l, SMOE_EXCHANGE_STATES);
}

bool smoe_sharded_advance(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    struct smoe_why why;
    if (!c->settle_ns && smoe_sharded_lost(c, l) && !smoe_sharded_hopes(c, l)) {
        smoe_fail(&why, SMOE_ELOST,
                  "layer %s: no worker has some part of its optimizer state of step %llu any more: "
                  "resume from a checkpoint",
                  layer->name, (unsigned long long)layer->step);
        smoe_layer_lose(c, l, SMOE_ELOST, why.text);
        return false;
    }
    if (smoe_sharded_awaits(c, l) || smoe_sharded_lost(c, l) || !smoe_standing_quiet(c, layer))
        return true;
    smoe_sharded_leave_absent(c, l);
    if ((!layer->learned || !s->map.n_pieces) && !smoe_sharded_cut(c, l))
        return true;
    smoe_sharded_release_before(c, l);
    smoe_sharded_replan(c, l);
    if (layer->learned)
        smoe_sharded_rearrange(c, l);
    smoe_sharded_tell(c, l);
    exchange(c, l);
    return true;
}

void smoe_sharded_committed(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    s->plan_due = s->ending = true;
    s->left = false;
    s->step_ns = c->now_ns;
    s->refusals = 0;
    smoe_traffic_turn(c, l, SMOE_PART_PLACING);
    smoe_sharded_pass(c, l);
    s->given = false;
    memset(s->stale, 1, n_replicas(s) * sizeof *s->stale);
    smoe_sharded_interrupt_fetches(c, l);
}

/* ---- workers that come, go, or refuse ---- */

/* What is under way of the layer begins again without the worker. */
static void leave(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    struct smoe_why why;
    uint64_t bit = UINT64_C(1) << l;
    bool half_stored = smoe_sharded_storing(c, l);
    if (!smoe_sharded_on_worker(s, worker))
        return;
    smoe_exchange_void(c, l);
    smoe_sharded_leave_before(c, l, worker);
    smoe_sharded_interrupt_fetches(c, l);
    smoe_sharded_fail_stores(c, l);
    if (s->filling.length && (s->filling.to == worker || s->filling.from == worker)) {
        s->filling.length = 0;
        c->fleet.workers[s->filling.to].host_due |= bit;
    }
    for (uint32_t i = 0; i < s->map.n_pieces; i++) /* who owns from now on must hear of it */
        if (s->map.pieces[i].owner == worker && s->map.pieces[i].follower != SMOE_SHARD_NONE)
            c->fleet.workers[s->map.pieces[i].follower].host_due |= bit;
    s->left |= smoe_shard_holds(&s->map, worker);
    smoe_shard_leave(&s->map, worker);
    c->journal_due |= bit;
    if (half_stored && smoe_sharded_reachable(c, l, &why) == 0)
        smoe_sharded_begin_attempt(c, l);
}

void smoe_sharded_worker_lost(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    leave(c, l, worker);
}

void smoe_sharded_worker_forgotten(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    leave(c, l, worker);
    smoe_traffic_forget(c, l, worker);
    for (uint32_t i = 0; i < s->map.n_pieces && c->layers[l].learned; i++)
        if (s->map.pieces[i].owner == worker)
            s->map.pieces[i].owner = SMOE_SHARD_NONE;
    if (smoe_shard_holds(&s->map, worker))
        s->map.n_pieces = 0; /* the seed has it */
    for (uint32_t r = 0; r < n_replicas(s); r++) {
        if (s->replica_worker[r] != worker)
            continue;
        s->plan.n_workers = 0; /* nobody was there to take its place */
        memset(s->replica_first, 0, (SMOE_EXPERTS_MAX + 1) * sizeof *s->replica_first);
    }
}

/* Nobody else can take its part. It may have been short of memory for a moment: it tries again with another session,
 * and what it held it brings along. Not for ever, for its trainer must hear of a machine that is too small. */
static void refused_alone(struct smoe_core *c, uint32_t l, uint32_t worker,
                          const struct smoe_msg_hosted *m)
{
    struct smoe_layer *layer = &c->layers[l];
    const struct smoe_worker *w = &c->fleet.workers[worker];
    struct smoe_why why;
    smoe_fail(&why, m->code, "layer %s: worker %s cannot hold its part: %s", layer->name, w->id,
              m->message);
    if (m->code == SMOE_ENOMEMORY && layer->sharded->refusals++ < REFUSALS_MAX)
        smoe_session_end(c, w->session, SMOE_ENOMEMORY, why.text);
    else if (layer->state != SMOE_LAYER_LOST)
        smoe_layer_lose(c, l, m->code, why.text);
}

void smoe_sharded_refused(struct smoe_core *c, uint32_t l, uint32_t worker,
                          const struct smoe_msg_hosted *m)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    struct smoe_worker *w = &c->fleet.workers[worker];
    uint64_t bit = UINT64_C(1) << l;
    bool again = w->refused_copies & bit;
    w->refused_copies |= bit; /* it gets nothing more, and gives its pieces away */
    if (again || !smoe_sharded_count_willing(c, l)) {
        refused_alone(c, l, worker, m);
        return;
    }
    w->host_due |= bit;
    if (s->filling.length && s->filling.to == worker)
        s->filling.length = 0;
    smoe_exchange_void(c, l);
}

/* ---- invariants ---- */

void smoe_sharded_check(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    smoe_assert(!s->map.n_pieces || smoe_shard_valid(&s->map, c->fleet.n_used));
    for (uint32_t e = 0; s->plan.n_workers && e < s->plan.n_experts; e++) {
        smoe_assert(s->replica_first[e + 1] > s->replica_first[e]);
        for (uint32_t r = s->replica_first[e] + 1; r < s->replica_first[e + 1]; r++)
            smoe_assert(s->replica_worker[r] > s->replica_worker[r - 1]);
    }
    for (uint32_t e = 0; s->n_before && e < c->layers[l].shape.experts; e++)
        smoe_assert(s->before_first[e + 1] > s->before_first[e]);
}

void smoe_sharding_check(const struct smoe_core *c)
{
    const struct smoe_sharding *all = c->sharding;
    uint32_t n_out[SMOE_LAYERS_MAX], found = 0;
    uint64_t bytes = 0, in = 0, relayed = 0, exchanging = 0;
    uint64_t meant = c->layers_used | all->exchanging;
    for (uint64_t left = meant; left; left &= left - 1)
        n_out[__builtin_ctzll(left)] = 0;
    for (uint32_t i = 0; i < SMOE_TRANSFERS_MAX && found < all->n_transfers; i++) {
        const struct smoe_transfer *t = &all->transfers[i];
        if (!t->used)
            continue;
        smoe_assert(meant >> t->ask.layer & 1);
        n_out[t->ask.layer]++;
        bytes += t->bytes;
        relayed += t->ask.others ? t->bytes : 0;
        for (uint64_t flows = t->flows; flows; flows &= flows - 1)
            in += t->bytes;
        found++;
    }
    smoe_assert(found == all->n_transfers && bytes == all->bytes_out);
    smoe_flow_check(c, in, relayed);
    if (!all->exchanging && !found)
        return;
    for (uint64_t left = meant; left; left &= left - 1) {
        uint32_t l = (uint32_t)__builtin_ctzll(left);
        const struct smoe_sharded *s = &all->layers[l];
        smoe_assert(n_out[l] == s->exchange.n_out);
        exchanging |= (uint64_t)(s->exchange.kind != SMOE_EXCHANGE_NONE) << l;
    }
    smoe_assert(exchanging == all->exchanging);
}
