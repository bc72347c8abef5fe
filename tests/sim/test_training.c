/* SPDX-License-Identifier: Apache-2.0
 *
 * Training in virtual time (sim/training.c) on images that are made here: a class is a direction, an image
 * its class's direction and noise.
 */
#include <criterion/criterion.h>

#include "common/base/rng.h"
#include "sim/training.h"

enum { PIXELS = 24, CLASSES = 6 };

static uint8_t image(void *context, bool test, uint64_t i, smoe_real *ret_x)
{
    struct smoe_rng rng;
    uint64_t class = (i + *(const uint64_t *)context) % CLASSES;
    smoe_rng_init(&rng, i, test);
    for (int p = 0; p < PIXELS; p++)
        ret_x[p] = (smoe_real)(smoe_rng_normal(&rng) + (p / 4 == (int)class ? 1.2 : 0));
    return (uint8_t) class;
}

static struct smoe_training_result train(enum smoe_policy policy, enum smoe_sim_freq_rule rule,
                                         uint64_t slots)
{
    uint64_t offset = 1;
    struct smoe_training_data data = {&offset, image, 6000, 600, PIXELS, CLASSES};
    struct smoe_slotted_options o = {
        .policy = policy, .freq_rule = rule, .slots = slots, .seed = 2};
    struct smoe_scenario s;
    struct smoe_why why;
    struct smoe_training_result r;
    cr_assert_eq(smoe_scenario_init(&s, smoe_scenario_find("paper"), &why), 0);
    cr_assert_eq(smoe_training_run(&s, &o, &data, &r), 0);
    smoe_scenario_release(&s);
    return r;
}

Test(training, a_model_learns_from_the_tokens_that_complete)
{
    struct smoe_training_result r = train(SMOE_POLICY_LYAPUNOV, SMOE_FREQ_SUSTAINABLE, 45);
    cr_assert_gt(r.budget[1], 0.78, "%g", r.budget[1]);
    cr_assert_eq(r.budget[2], -1); /* the run was shorter */
    cr_assert_eq(r.steps, 45);
    cr_assert_eq(r.glances, 45 / SMOE_TRAINING_EVERY);
    cr_assert_lt(r.glance[0], r.glance[r.glances - 1]);
    uint64_t slots = smoe_training_slots_to(&r, 0.5);
    cr_assert(slots > 0 && slots <= 45);
    cr_assert_eq(smoe_training_slots_to(&r, 1.01), 0);
    smoe_training_release(&r);
}

Test(training, tokens_that_wait_do_not_teach)
{
    struct smoe_training_result l = train(SMOE_POLICY_LYAPUNOV, SMOE_FREQ_FULL, 20);
    struct smoe_training_result t = train(SMOE_POLICY_TOPK, SMOE_FREQ_FULL, 20);
    cr_assert_gt(l.fleet.complete, 2 * t.fleet.complete);
    cr_assert_gt(l.budget[0], t.budget[0]);
    smoe_training_release(&l), smoe_training_release(&t);
}

Test(training, the_same_seed_gives_the_same_model)
{
    struct smoe_training_result a = train(SMOE_POLICY_QUEUE, SMOE_FREQ_SUSTAINABLE, 20);
    struct smoe_training_result b = train(SMOE_POLICY_QUEUE, SMOE_FREQ_SUSTAINABLE, 20);
    cr_assert_eq(a.budget[0], b.budget[0]);
    cr_assert_eq(a.fleet.gate_mass, b.fleet.gate_mass);
    smoe_training_release(&a), smoe_training_release(&b);
}
