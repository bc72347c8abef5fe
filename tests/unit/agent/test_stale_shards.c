/* SPDX-License-Identifier: Apache-2.0
 *
 * A sharded layer with staleness 1: slots that are left at a commit, weights before that come again, and state that
 * takes them along. What must come of it is what another worker computes that has every expert whole.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "tests/unit/agent/crew.h"

enum { ROWS = 6, ATTEMPT = 4 };

static const uint32_t all[] = {0, 1, 2};
static const uint64_t ends[] = {0, CREW_PARAMS / 2, CREW_PARAMS};
static struct member m, other;
static uint64_t numbers;

/* Of a Host: the first expert's slot is in force, was left, or is not there. */
enum first { IN_FORCE, LEFT, GONE };

/* All of the state in so many pieces, and slots of all experts but, perhaps, the first. `to_fill`: it comes yet. */
static int host(struct member *w, enum first first, uint64_t step, size_t pieces, bool to_fill)
{
    const uint64_t lengths[] = {pieces == 1 ? CREW_PARAMS : ends[1], ends[2] - ends[1]};
    struct smoe_message message = {.type = SMOE_MSG_HOST};
    message.host = (struct smoe_msg_host){.layer = CREW_LAYER,
                                          .name = "moe",
                                          .run = 9,
                                          .shape = crew_shape(),
                                          .experts = first == IN_FORCE ? all : all + 1,
                                          .n_experts = first == IN_FORCE ? 3 : 2,
                                          .copies = all,
                                          .n_copies = first == LEFT,
                                          .step = step,
                                          .attempt = step ? ATTEMPT : 0,
                                          .fresh = !step,
                                          .sharded = true,
                                          .replicas = CREW_EXPERTS,
                                          .pieces = {ends, lengths, pieces},
                                          .pieces_owned = to_fill ? 0 : 1,
                                          .pieces_followed = to_fill ? 0 : (uint32_t)pieces - 1};
    message.host.shape.staleness = 1;
    cr_assert_eq(member_say(w, &message, NULL, 0), 0, "%s", w->why.text);
    member_make(w);
    return member_last(w, SMOE_MSG_HOSTED)->m.hosted.code;
}

static void host_whole(struct member *w)
{
    struct smoe_message message = {.type = SMOE_MSG_HOST};
    message.host = (struct smoe_msg_host){.layer = CREW_LAYER,
                                          .name = "moe",
                                          .run = 9,
                                          .shape = crew_shape(),
                                          .experts = all,
                                          .n_experts = CREW_EXPERTS,
                                          .fresh = true};
    message.host.shape.staleness = 1;
    cr_assert_eq(member_say(w, &message, NULL, 0), 0, "%s", w->why.text);
    member_make(w);
}

static void begin(void)
{
    struct smoe_agent_options o = crew_options();
    member_begin(&m, &o);
    member_begin(&other, &o);
    cr_assert_eq(host(&m, IN_FORCE, 0, 1, false), 0, "%s",
                 member_last(&m, SMOE_MSG_HOSTED)->m.hosted.message);
    host_whole(&other);
}

static void end(void)
{
    member_end(&m);
    member_end(&other);
}

TestSuite(stale_shards, .init = begin, .fini = end);

/* Elements of an expert, asked of the worker: it takes them itself, or sends them. */
static const struct letter *ask(struct member *w, struct smoe_msg_shard_ask a)
{
    struct smoe_message message = {.type = SMOE_MSG_SHARD_ASK};
    a.number = ++numbers;
    a.layer = CREW_LAYER;
    a.length = a.length ? a.length : CREW_PARAMS;
    a.attempt = ATTEMPT;
    message.shard_ask = a;
    cr_assert_eq(member_say(w, &message, NULL, 0), 0, "%s", w->why.text);
    return a.send ? member_last(w, SMOE_MSG_SHARD_PART) : NULL;
}

static void fill(struct member *w, uint32_t expert, uint64_t step, bool older)
{
    ask(w, (struct smoe_msg_shard_ask){.kind = SMOE_SHARD_WEIGHTS,
                                       .expert = expert,
                                       .step = step,
                                       .fill = numbers + 1,
                                       .older = older});
}

static void both_forward(uint64_t parcel, uint64_t step, bool older)
{
    struct member *both[] = {&m, &other};
    for (int b = 0; b < 2; b++) {
        cr_assert_eq(member_decide_of(both[b], parcel, ROWS, step, older), 0, "%s",
                     both[b]->why.text);
        member_run(both[b]);
    }
}

static void both_backward(uint64_t parcel)
{
    struct member *both[] = {&m, &other};
    for (int b = 0; b < 2; b++) {
        cr_assert_eq(member_backprop(both[b], parcel, ROWS), 0, "%s", both[b]->why.text);
        member_run(both[b]);
    }
}

/* The same bytes in both workers' last message of the type. */
static bool same(enum smoe_message_type type)
{
    const struct letter *a = member_last(&m, type), *b = member_last(&other, type);
    return a->raw_bytes == b->raw_bytes && memcmp(a->raw, b->raw, a->raw_bytes) == 0;
}

static void prepare(uint64_t step)
{
    static const uint32_t hosts[] = {1, 1, 1};
    struct smoe_layer_hosts list = {CREW_LAYER, hosts, CREW_EXPERTS};
    cr_assert_eq(member_prepare(&other, step, ATTEMPT, NULL, 0), 0);
    cr_assert_eq(member_prepare_shared(&m, step, ATTEMPT, &list), 0, "%s", m.why.text);
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        ask(&m,
            (struct smoe_msg_shard_ask){.kind = SMOE_SHARD_GRADIENT, .expert = e, .step = step});
}

static void finish(uint64_t step)
{
    struct member *both[] = {&m, &other};
    for (int b = 0; b < 2; b++) {
        member_run(both[b]);
        cr_assert_eq(member_stage(both[b], step, ATTEMPT, 0.5), 0, "%s", both[b]->why.text);
        member_run(both[b]);
        cr_assert_eq(member_last(both[b], SMOE_MSG_STEP_STAGED)->m.step_staged.step, step);
        cr_assert_eq(member_commit(both[b], step, ATTEMPT), 0);
    }
}

/* Step 1, and parcels of step 2: one is done when it is committed, one half done. */
static void make_a_step(void)
{
    both_forward(1, 1, false);
    both_backward(1);
    prepare(1);
    both_forward(9, 2, false);
    both_backward(9);
    both_forward(2, 2, false);
    finish(1);
}

static bool same_state(void)
{
    struct crew_state whole = member_state(&other, 0);
    const struct letter *part = ask(
        &m,
        (struct smoe_msg_shard_ask){.kind = SMOE_SHARD_STATE, .step = whole.step, .send = true});
    return part->raw_bytes == sizeof whole.values &&
           memcmp(part->raw, whole.values, sizeof whole.values) == 0;
}

static const struct smoe_held_expert *slot_of(uint32_t expert)
{
    uint32_t number = smoe_experts_find(&m.agent->experts, CREW_LAYER, expert);
    cr_assert_neq(number, SMOE_NO_EXPERT);
    return &m.agent->experts.experts[number];
}

Test(stale_shards, a_slot_that_was_left_goes_on_with_its_weights_and_gives_its_sum)
{
    make_a_step();
    cr_assert_eq(host(&m, LEFT, 1, 1, false), 0);
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        fill(&m, e, 1, false); /* of the first expert for others: its slot here keeps what it has */
    cr_assert_eq(slot_of(0)->state_step, 0);
    cr_assert_eq(slot_of(1)->state_step, 1);
    both_forward(3, 2, true);
    cr_assert(same(SMOE_MSG_OUTPUT));
    both_backward(2);
    both_backward(3);
    cr_assert(same(SMOE_MSG_PARCEL_GRADIENT));
    cr_assert(same_state());
    prepare(2);
    finish(2);
    cr_assert(same_state(), "the sum of what was left is in the step");
}

Test(stale_shards, a_slot_that_was_left_is_given_nothing_of_the_present_weights)
{
    make_a_step();
    cr_assert_eq(host(&m, LEFT, 1, 1, false), 0);
    cr_assert_eq(member_decide_of(&m, 3, ROWS, 2, false), SMOE_EUNKNOWN);
}

Test(stale_shards, a_slot_that_stays_has_both_versions_and_keeps_them_when_filled_twice)
{
    make_a_step();
    cr_assert_eq(host(&m, IN_FORCE, 1, 1, false), 0);
    for (int times = 0; times < 2; times++)
        for (uint32_t e = 0; e < CREW_EXPERTS; e++)
            fill(&m, e, 1, false);
    both_forward(3, 2, true);
    cr_assert(same(SMOE_MSG_OUTPUT), "those before");
    both_forward(4, 2, false);
    cr_assert(same(SMOE_MSG_OUTPUT), "the present ones");
    both_backward(2);
    cr_assert(same(SMOE_MSG_PARCEL_GRADIENT), "begun before the step");
}

Test(stale_shards, a_slot_that_is_in_force_again_has_no_weights_of_the_step_that_it_missed)
{
    make_a_step();
    cr_assert_eq(host(&m, LEFT, 1, 1, false), 0);
    both_backward(2);
    prepare(2);
    finish(2);
    cr_assert_eq(host(&m, IN_FORCE, 2, 1, false), 0);
    fill(&m, 0, 2, false);
    both_forward(3, 3, false);
    cr_assert(same(SMOE_MSG_OUTPUT));
    cr_assert_eq(member_decide_of(&m, 4, ROWS, 3, true), SMOE_EUNKNOWN);
}

Test(stale_shards, weights_before_come_again_to_a_slot_that_never_had_them)
{
    make_a_step();
    cr_assert_eq(host(&m, GONE, 1, 1, false), 0);
    cr_assert_eq(host(&m, IN_FORCE, 1, 1, false), 0);
    fill(&m, 0, 1, false);
    both_forward(3, 2, false);
    cr_assert(same(SMOE_MSG_OUTPUT));
    fill(&m, 0, 1, true);
    both_forward(4, 2, true);
    cr_assert(same(SMOE_MSG_OUTPUT));
    member_disconnect(&m);
    member_connect(&m);
    cr_assert_eq(host(&m, GONE, 1, 1, false), 0);
    cr_assert_eq(host(&m, IN_FORCE, 1, 1, false), 0);
    fill(&m, 0, 1, false);
    cr_assert_eq(member_decide_of(&m, 5, ROWS, 2, true), SMOE_EUNKNOWN, "it has lost them");
}

Test(stale_shards, new_weights_come_while_a_visit_is_computed_by_those_before)
{
    uint8_t raw[CREW_PARAMS * sizeof(smoe_real)];
    make_a_step();
    cr_assert_eq(host(&m, IN_FORCE, 1, 1, false), 0);
    const struct letter *part = ask(
        &m,
        (struct smoe_msg_shard_ask){
            .kind = SMOE_SHARD_WEIGHTS, .step = 1, .fill = ++numbers, .send = true, .keep = true});
    struct smoe_message come = part->m;
    cr_assert_eq(part->raw_bytes, sizeof raw);
    memcpy(raw, part->raw, sizeof raw);
    cr_assert_eq(member_decide_of(&m, 3, ROWS, 2, true), 0, "%s", m.why.text);
    struct smoe_task *task = member_start(&m);
    size_t taken = member_count(&m, SMOE_MSG_SHARD_TAKEN);
    cr_assert_eq(member_say(&m, &come, raw, sizeof raw), 0, "%s", m.why.text);
    cr_assert_eq(member_count(&m, SMOE_MSG_SHARD_TAKEN), taken + 1, "nobody waits for the task");
    member_finish(&m, task);
    cr_assert_eq(member_decide_of(&other, 3, ROWS, 2, true), 0, "%s", other.why.text);
    member_run(&other);
    cr_assert(same(SMOE_MSG_OUTPUT));
    both_forward(4, 2, false);
    cr_assert(same(SMOE_MSG_OUTPUT));
}

/* A shard and the slot of its expert are two, and either may have a task when both are needed. */
Test(stale_shards, weights_before_wait_for_the_tasks_of_the_shard_and_of_the_slot)
{
    struct smoe_agent_options o = crew_options();
    member_end(&m);
    o.lanes = 2;
    member_begin(&m, &o);
    cr_assert_eq(host(&m, IN_FORCE, 0, 1, false), 0);
    make_a_step();
    cr_assert_eq(host(&m, IN_FORCE, 1, 1, false), 0);
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        fill(&m, e, 1, false);
    prepare(2);
    struct smoe_task *norm = member_start(&m);
    cr_assert_eq(norm->kind, SMOE_TASK_NORM);
    for (int i = 0; i < 2; i++)
        member_finish(&m, member_start(&m));
    size_t taken = member_count(&m, SMOE_MSG_SHARD_TAKEN);
    uint32_t shard = m.agent->experts.experts[norm->expert].index;
    cr_assert_eq(shard, 0);
    fill(&m, shard, 1, true);
    cr_assert_eq(member_decide_of(&m, 3, ROWS, 2, true), 0, "%s", m.why.text);
    struct smoe_task *forward = member_start(&m);
    cr_assert_eq(forward->kind, SMOE_TASK_FORWARD);
    member_finish(&m, norm);
    cr_assert_eq(member_count(&m, SMOE_MSG_SHARD_TAKEN), taken, "the slot computes with them");
    member_finish(&m, forward);
    cr_assert_eq(member_count(&m, SMOE_MSG_SHARD_TAKEN), taken + 1);
}

/* What the worker gives of the weights before of an expert. */
static const struct letter *before(struct member *w, size_t offset, size_t n)
{
    return ask(w, (struct smoe_msg_shard_ask){.kind = SMOE_SHARD_WEIGHTS,
                                              .expert = 0,
                                              .offset = offset,
                                              .length = n,
                                              .step = 1,
                                              .fill = ++numbers,
                                              .send = true,
                                              .keep = true,
                                              .older = true});
}

Test(stale_shards, a_state_brings_the_weights_before_along_and_a_new_cut_keeps_them)
{
    struct member heir;
    struct smoe_agent_options o = crew_options();
    smoe_real had[CREW_PARAMS];
    make_a_step();
    const struct letter *was = before(&m, 0, CREW_PARAMS);
    cr_assert_eq(was->raw_bytes, sizeof had);
    memcpy(had, was->raw, sizeof had);
    const struct letter *state =
        ask(&m, (struct smoe_msg_shard_ask){
                    .kind = SMOE_SHARD_STATE, .step = 1, .send = true, .older = true});
    cr_assert_eq(state->raw_bytes, 4 * sizeof had);
    member_begin(&heir, &o);
    cr_assert_eq(host(&heir, GONE, 1, 1, true), 0);
    cr_assert_eq(member_say(&heir, &state->m, state->raw, state->raw_bytes), 0, "%s",
                 heir.why.text);
    cr_assert_eq(host(&heir, GONE, 1, 2, false), 0, "it holds them now, in two pieces");
    for (size_t i = 0; i < 2; i++) {
        const struct letter *has = before(&heir, ends[i], ends[i + 1] - ends[i]);
        cr_assert_eq(memcmp(has->raw, had + ends[i], has->raw_bytes), 0, "piece %zu", i);
    }
    member_end(&heir);
}

Test(stale_shards, a_trainers_state_has_no_weights_before_it)
{
    static const smoe_real values[3 * CREW_PARAMS] = {7};
    make_a_step();
    struct smoe_message store = {.type = SMOE_MSG_SHARD_PART};
    store.shard_part = (struct smoe_msg_shard_part){.number = ++numbers,
                                                    .kind = SMOE_SHARD_STATE,
                                                    .layer = CREW_LAYER,
                                                    .length = CREW_PARAMS,
                                                    .step = 1,
                                                    .attempt = ATTEMPT};
    cr_assert_eq(member_say(&m, &store, values, sizeof values), 0, "%s", m.why.text);
    const struct letter *has = before(&m, 0, CREW_PARAMS);
    cr_assert_eq(memcmp(has->raw, values, CREW_PARAMS * sizeof *values), 0);
}

static int prepare_for(uint32_t each)
{
    const uint32_t hosts[] = {each, each, each};
    struct smoe_layer_hosts list = {CREW_LAYER, hosts, CREW_EXPERTS};
    return member_prepare_shared(&m, 1, ATTEMPT, &list);
}

Test(stale_shards, room_for_the_sums_of_two_placements_is_made_when_a_step_has_both)
{
    uint64_t sum = CREW_PARAMS * sizeof(smoe_real) + sizeof(size_t);
    uint64_t bytes = smoe_agent_experts(m.agent)->bytes;
    cr_assert_eq(bytes, (3 * 5 + 3 * 8) * CREW_PARAMS * sizeof(smoe_real) + 3 * sum,
                 "slots with 5 vectors, shards with 8");
    cr_assert_eq(prepare_for(2), 0, "%s", m.why.text);
    cr_assert_eq(smoe_agent_experts(m.agent)->bytes, bytes + 3 * sum);
    for (uint32_t e = 0; e < CREW_EXPERTS; e++)
        for (uint32_t rank = 0; rank < 2; rank++)
            ask(&m, (struct smoe_msg_shard_ask){
                        .kind = SMOE_SHARD_GRADIENT, .expert = e, .rank = rank, .step = 1});
    member_run(&m);
    cr_assert_eq(member_count(&m, SMOE_MSG_STEP_NORM), 1);
}

Test(stale_shards, without_that_room_the_connection_ends_with_a_sentence)
{
    struct smoe_agent_options o = crew_options();
    uint64_t bytes = smoe_agent_experts(m.agent)->bytes;
    member_end(&m);
    o.experts_bytes_max =
        bytes + 8 * CREW_PARAMS * sizeof(smoe_real); /* a shard more, while it is cut */
    member_begin(&m, &o);
    cr_assert_eq(host(&m, IN_FORCE, 0, 1, false), 0);
    cr_assert_eq(prepare_for(3), SMOE_ENOMEMORY);
    cr_assert_not_null(strstr(m.why.text, "bytes more"), "%s", m.why.text);
}
