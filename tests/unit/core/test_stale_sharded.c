/* SPDX-License-Identifier: Apache-2.0
 *
 * A sharded layer with staleness 1: what is ahead of a commit goes on in the slots that had its experts, which workers
 * are told to leave as they are, and its sums are taken from there. Four workers of two slots, four experts; the third
 * one drains, so that its slots go elsewhere at the first commit.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/linked.h"

enum { WORKERS = 4, EXPERTS = 4, LEAVES = 2, TOKENS = 16 };

static struct linked l;
static struct scene *const s = &l.scene;
static uint32_t asks[4], older;  /* ShardAsks by kind; those for the weights before */
static uint64_t summed[WORKERS]; /* bit r: of some expert it was asked for the sum of rank r */

static void begin(void)
{
    struct smoe_core_options options = linked_options(WORKERS);
    struct smoe_layer_shape shape = scene_shape(EXPERTS);
    options.settings.workers_min = 2;
    shape.staleness = 1;
    linked_begin(&l, &options, WORKERS, NULL);
    l.layer = scene_layer(s, l.trainer, "moe", &shape);
    scene_work_all(s);
}

static void end(void)
{
    linked_end(&l);
}

TestSuite(stale_sharded, .init = begin, .fini = end);

/* One letter that the exchange is about, answered as workers do; false: it is not. */
static bool exchange(const struct letter *letter)
{
    uint32_t worker = letter->session;
    if (letter->m.type == SMOE_MSG_SHARD_PART) {
        linked_taken(&l, linked_number(&l, worker), letter->m.shard_part.number);
        return true;
    }
    if (letter->m.type != SMOE_MSG_SHARD_ASK)
        return false;
    struct smoe_msg_shard_ask ask = letter->m.shard_ask; /* letters move when there are more */
    uint32_t from = linked_number(&l, worker);
    asks[ask.kind]++;
    older += ask.older && ask.kind == SMOE_SHARD_WEIGHTS;
    if (ask.kind == SMOE_SHARD_GRADIENT)
        summed[from] |= UINT64_C(1) << ask.rank;
    linked_send(&l, from, &ask);
    return true;
}

/* Until nobody has anything to say any more. */
static void work(void)
{
    for (bool more = true; more;) {
        more = false;
        scene_work_all(s);
        for (; l.heard < s->mail.n; l.heard++)
            more |= exchange(&s->mail.letters[l.heard]);
    }
}

static int submit(uint64_t batch, bool ahead, uint64_t base)
{
    struct scene_submit o = {.batch = batch,
                             .layer = l.layer,
                             .tokens = TOKENS,
                             .top_k = 2,
                             .ahead = ahead,
                             .base = base};
    return (int)scene_submit(s, l.trainer, &o).kind;
}

static void step(uint64_t number)
{
    scene_step(s, l.trainer, number, &number, 1);
}

static void give(uint64_t batch)
{
    cr_assert_eq(scene_gradient(s, l.trainer, batch).kind, SMOE_TAKE);
}

static size_t done(void)
{
    return mail_count(&s->mail, l.trainer, SMOE_MSG_STEP_DONE);
}

/* The last Host to the worker. */
static const struct smoe_msg_host *host_of(uint32_t worker)
{
    return &mail_last(&s->mail, l.sessions[worker], SMOE_MSG_HOST)->m.host;
}

/* Step 1, during which batch 2 is computed forwards, and the third worker begins to drain. */
static void commit_with_a_batch_ahead(void)
{
    cr_assert_eq(submit(1, false, 0), (int)SMOE_TAKE);
    work();
    give(1);
    work();
    step(1);
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    scene_tick(s, 20 * MS);
    for (uint32_t w = 0; w < WORKERS; w++)
        scene_answer(s, l.sessions[w], SMOE_MSG_DECISION);
    scene_drain(s, "w2", true);
    memset(summed, 0, sizeof summed);
    work();
    cr_assert_eq(done(), 1);
}

Test(stale_sharded, slots_that_go_elsewhere_are_left_with_the_visits_they_have)
{
    uint64_t attempt = scene_attempt(s, l.trainer);
    commit_with_a_batch_ahead();
    cr_assert_eq(scene_attempt(s, l.trainer), attempt, "nothing was taken back");
    cr_assert_eq(host_of(LEAVES)->n_experts, 0);
    cr_assert_eq(host_of(LEAVES)->n_copies, 2);
    size_t backprops = mail_count(&s->mail, l.sessions[LEAVES], SMOE_MSG_BACKPROP);
    give(2);
    cr_assert_gt(mail_count(&s->mail, l.sessions[LEAVES], SMOE_MSG_BACKPROP), backprops,
                 "where they went forward, they go back");
    work();
    memset(summed, 0, sizeof summed);
    step(2);
    work();
    cr_assert_eq(done(), 2);
    cr_assert_neq(summed[LEAVES], 0, "its sums are in the step");
    for (uint32_t w = 0; w < WORKERS; w++)
        cr_assert_lt(summed[w], 4, "eight slots gave a sum, two of each expert, not more");
    cr_assert_eq(host_of(LEAVES)->n_experts + host_of(LEAVES)->n_copies, 0, "it is free");
    cr_assert_eq(older, 0);
}

Test(stale_sharded, what_is_submitted_after_the_commit_goes_to_the_weights_that_it_names)
{
    commit_with_a_batch_ahead();
    scene_drain(s, "w2", false); /* it may be given visits again, of which it has the weights */
    work();
    uint32_t before = scene_visits(s, l.sessions[LEAVES]);
    cr_assert_eq(submit(3, true, 0), (int)SMOE_TAKE, "its trainer has not heard of the commit");
    scene_tick(s, 20 * MS);
    cr_assert_gt(scene_visits(s, l.sessions[LEAVES]), before);
    before = scene_visits(s, l.sessions[LEAVES]);
    cr_assert_eq(submit(4, false, 0), (int)SMOE_TAKE);
    scene_tick(s, 20 * MS);
    cr_assert_eq(scene_visits(s, l.sessions[LEAVES]), before);
    work();
    for (uint64_t batch = 2; batch < 5; batch++)
        give(batch);
    work();
    memset(summed, 0, sizeof summed);
    const uint64_t all[] = {2, 3, 4};
    scene_step(s, l.trainer, 2, all, 3);
    work();
    cr_assert_eq(done(), 2);
    uint64_t ranks = 0;
    for (uint32_t w = 0; w < WORKERS; w++)
        ranks |= summed[w];
    cr_assert(ranks & 4, "some expert has hosts in both placements");
    cr_assert_eq(scene_totals(s).account.now[SMOE_VISIT_COMMITTED], 4 * TOKENS * 2);
}

Test(stale_sharded, a_lost_worker_ends_the_placement_before_and_its_weights_come_again)
{
    commit_with_a_batch_ahead();
    cr_assert_eq(older, 0);
    scene_close(s, l.sessions[LEAVES]);
    cr_assert_eq(mail_count(&s->mail, l.trainer, SMOE_MSG_NEED), 1);
    work();
    cr_assert_eq(older, 0, "nobody asks for them");
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    work();
    cr_assert_gt(older, 0);
    const struct letter *d = mail_last(&s->mail, l.sessions[0], SMOE_MSG_DECISION);
    cr_assert(d->m.decision.n_parcels && d->m.decision.parcels[0].older);
    give(2);
    work();
    step(2);
    work();
    cr_assert_eq(done(), 2);
    cr_assert_eq(scene_totals(s).account.now[SMOE_VISIT_COMMITTED], 2 * TOKENS * 2);
}

/* Nothing is out, and no step may ever come: who drains is let go all the same. */
Test(stale_sharded, at_rest_nobody_is_kept_for_the_placement_before)
{
    cr_assert_eq(submit(1, false, 0), (int)SMOE_TAKE);
    work();
    give(1);
    work();
    step(1);
    work();
    cr_assert_eq(done(), 1);
    cr_assert_gt(host_of(LEAVES)->n_experts, 0);
    scene_drain(s, "w2", true);
    work();
    cr_assert_eq(host_of(LEAVES)->n_experts + host_of(LEAVES)->n_copies, 0);
    cr_assert(smoe_core_drained(s->core, scene_index(s, "w2")));
}
