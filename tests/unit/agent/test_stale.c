/* SPDX-License-Identifier: Apache-2.0
 *
 * A layer with staleness 1: visits of the next step come while one is being made. What must come of them is what
 * another worker computes that knows nothing of the step, or nothing of them.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/agent/crew.h"

static const uint32_t zero[] = {0};
enum { ROWS = 6, WITH_OLDER = SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS | SMOE_STATE_OLDER };

static struct member m, other;

static void host(struct member *w, bool copy, bool fresh, uint64_t step)
{
    struct smoe_message message = {.type = SMOE_MSG_HOST};
    message.host = (struct smoe_msg_host){.layer = CREW_LAYER,
                                          .name = "moe",
                                          .run = 9,
                                          .shape = crew_shape(),
                                          .experts = zero,
                                          .n_experts = !copy,
                                          .copies = zero,
                                          .n_copies = copy,
                                          .step = step,
                                          .attempt = step ? 4 : 0,
                                          .fresh = fresh};
    message.host.shape.staleness = 1;
    cr_assert_eq(member_say(w, &message, NULL, 0), 0, "%s", w->why.text);
    member_make(w);
    cr_assert_eq(member_last(w, SMOE_MSG_HOSTED)->m.hosted.code, 0);
}

static void begin(void)
{
    struct smoe_agent_options o = crew_options();
    member_begin(&m, &o);
    member_begin(&other, &o);
    host(&m, false, true, 0);
    host(&other, false, true, 0);
}

static void end(void)
{
    member_end(&m);
    member_end(&other);
}

static void forward(struct member *w, uint64_t parcel, uint64_t step, bool older)
{
    cr_assert_eq(member_decide_of(w, parcel, ROWS, step, older), 0, "%s", w->why.text);
    member_run(w);
    cr_assert_eq(member_last(w, SMOE_MSG_OUTPUT)->m.output.parcel, parcel);
}

static void backward(struct member *w, uint64_t parcel)
{
    cr_assert_eq(member_backprop(w, parcel, ROWS), 0, "%s", w->why.text);
    member_run(w);
    cr_assert_eq(member_last(w, SMOE_MSG_PARCEL_GRADIENT)->m.parcel_gradient.parcel, parcel);
}

static void prepare(struct member *w, uint64_t step)
{
    cr_assert_eq(member_prepare(w, step, 4, NULL, 0), 0, "%s", w->why.text);
    member_run(w);
}

static void finish_step(struct member *w, uint64_t step)
{
    cr_assert_eq(member_stage(w, step, 4, 0.5), 0, "%s", w->why.text);
    member_run(w);
    cr_assert_eq(member_commit(w, step, 4), 0);
}

/* The same bytes in the workers' last message of the type. */
static bool same_as(const struct member *w, enum smoe_message_type type)
{
    const struct letter *a = member_last(&m, type), *b = member_last(w, type);
    return a->raw_bytes == b->raw_bytes && memcmp(a->raw, b->raw, a->raw_bytes) == 0;
}

static bool same(enum smoe_message_type type)
{
    return same_as(&other, type);
}

/* The gradient that the next step would commit. */
static void fetch(struct member *w, uint32_t parts)
{
    struct smoe_message message = {.type = SMOE_MSG_EXPERT_FETCH};
    message.expert_fetch = (struct smoe_msg_expert_fetch){1, CREW_LAYER, 0, parts};
    cr_assert_eq(member_say(w, &message, NULL, 0), 0, "%s", w->why.text);
}

static bool same_state(void)
{
    struct crew_state a = member_state(&m, 0), b = member_state(&other, 0);
    return a.step == b.step && memcmp(a.values, b.values, sizeof a.values) == 0;
}

Test(stale, visits_ahead_keep_the_weights_before_the_step_over_its_commit, .init = begin,
     .fini = end)
{
    forward(&m, 1, 1, false);
    backward(&m, 1);
    prepare(&m, 1);
    forward(&m, 2, 2, false); /* the step is under way */
    forward(&m, 3, 2, false);
    backward(&m, 3);
    finish_step(&m, 1);
    forward(&other, 2, 2, false); /* it knows of no step */
    forward(&other, 3, 2, false);
    backward(&other, 3);
    cr_assert(same(SMOE_MSG_OUTPUT));
    backward(&m, 2);
    backward(&other, 2);
    cr_assert(same(SMOE_MSG_PARCEL_GRADIENT), "the step was committed between its two halves");
    fetch(&m, SMOE_STATE_GRADIENT);
    cr_assert_eq(member_commit(&other, 1, 4), 0, "which is nothing to it");
    cr_assert_eq(smoe_agent_experts(m.agent)->layers[0].step, 1);
    fetch(&other, SMOE_STATE_WEIGHTS);
    cr_assert_not(same(SMOE_MSG_EXPERT_STATE));
}

Test(stale, visits_that_come_after_the_commit_are_of_either_version, .init = begin, .fini = end)
{
    forward(&m, 1, 1, false);
    backward(&m, 1);
    prepare(&m, 1);
    finish_step(&m, 1);
    forward(&other, 2, 2, false);
    forward(&m, 2, 2, true);
    cr_assert(same(SMOE_MSG_OUTPUT), "by the weights before");
    backward(&m, 2);
    backward(&other, 2);
    cr_assert(same(SMOE_MSG_PARCEL_GRADIENT));
    forward(&other, 3, 2, false);
    forward(&m, 3, 2, false);
    cr_assert_not(same(SMOE_MSG_OUTPUT), "by those in force");
}

Test(stale, a_step_is_made_of_its_own_gradients_alone, .init = begin, .fini = end)
{
    for (uint64_t step = 1; step <= 4; step++) {
        if (step == 1)
            forward(&m, 10, 1, false);
        backward(&m, 10 * step);
        forward(&m, 10 * (step + 1), step + 1, false); /* of the next one, before it is asked for */
        prepare(&m, step);
        forward(&m, 500 + step, step + 1, false);
        backward(&m, 500 + step);
        finish_step(&m, step);
    }
    /* The other is told each visit in the step that it belongs to, by the weights that it had. */
    for (uint64_t step = 1; step <= 4; step++) {
        forward(&other, 10 * step, step, step > 1);
        backward(&other, 10 * step);
        if (step > 1) {
            forward(&other, 500 + step - 1, step, true);
            backward(&other, 500 + step - 1);
        }
        prepare(&other, step);
        finish_step(&other, step);
        cr_assert_eq(member_state(&other, 0).step, step);
    }
    struct crew_state a = member_state(&m, 0), b = member_state(&other, 0);
    for (size_t i = 0; i < 3 * CREW_PARAMS; i++) /* sums in another order */
        cr_assert_float_eq((double)a.values[i], (double)b.values[i], 1e-5, "%zu", i);
}

Test(stale, a_reset_forgets_both_sums, .init = begin, .fini = end)
{
    forward(&m, 1, 1, false);
    backward(&m, 1);
    prepare(&m, 1);
    forward(&m, 2, 2, false);
    backward(&m, 2);
    cr_assert_eq(member_reset(&m, 5), 0);
    struct member *both[] = {&m, &other};
    for (int i = 0; i < 2; i++) {
        forward(both[i], 3, 1, false);
        backward(both[i], 3);
        prepare(both[i], 1);
        forward(both[i], 4, 2, false);
        backward(both[i], 4);
        finish_step(both[i], 1);
        prepare(both[i], 2);
        finish_step(both[i], 2);
    }
    cr_assert(same_state(), "only what came after it counts");
}

Test(stale, what_was_staged_and_thrown_away_leaves_both_versions, .init = begin, .fini = end)
{
    struct member *both[] = {&m, &other};
    for (int i = 0; i < 2; i++) {
        forward(both[i], 1, 1, false);
        backward(both[i], 1);
        prepare(both[i], 1);
        finish_step(both[i], 1);
    }
    forward(&m, 2, 2, true);
    backward(&m, 2);
    prepare(&m, 2);
    cr_assert_eq(member_stage(&m, 2, 4, 0.5), 0);
    member_run(&m);
    cr_assert_eq(member_reset(&m, 5), 0);
    forward(&m, 3, 2, true); /* sent again, by the weights it had */
    forward(&other, 3, 2, true);
    cr_assert(same(SMOE_MSG_OUTPUT));
    forward(&m, 4, 3, false);
    forward(&other, 4, 3, false);
    cr_assert(same(SMOE_MSG_OUTPUT));
}

Test(stale, a_copy_is_filled_with_both_versions, .init = begin, .fini = end)
{
    forward(&m, 1, 1, false);
    backward(&m, 1);
    prepare(&m, 1);
    finish_step(&m, 1);
    struct member copy;
    struct smoe_agent_options o = crew_options();
    member_begin(&copy, &o);
    host(&copy, true, false, 1);
    fetch(&m, WITH_OLDER);
    const struct letter *state = member_last(&m, SMOE_MSG_EXPERT_STATE);
    cr_assert_eq(state->raw_bytes, 4 * CREW_PARAMS * sizeof(smoe_real));
    struct smoe_message store = {.type = SMOE_MSG_EXPERT_STORE};
    store.expert_store = (struct smoe_msg_expert_store){2, CREW_LAYER, 0, WITH_OLDER, 1, 4};
    cr_assert_eq(member_say(&copy, &store, state->raw, state->raw_bytes), 0, "%s", copy.why.text);
    host(&copy, false, false, 1); /* its host is lost, and it serves */
    for (uint64_t parcel = 2; parcel < 4; parcel++) {
        forward(&m, parcel, 2, parcel == 2);
        forward(&copy, parcel, 2, parcel == 2);
        cr_assert(same_as(&copy, SMOE_MSG_OUTPUT), "parcel %d", (int)parcel);
    }
    member_end(&copy);
}

Test(stale, takes_the_room_of_two_more_vectors)
{
    struct smoe_agent_options o = crew_options();
    member_begin(&m, &o);
    host(&m, false, true, 0);
    cr_assert_eq(smoe_agent_experts(m.agent)->bytes, 9 * CREW_PARAMS * sizeof(smoe_real));
    member_end(&m);
}
