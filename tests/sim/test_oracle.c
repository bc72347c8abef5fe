/* SPDX-License-Identifier: Apache-2.0
 *
 * The oracle must notice what it is there for.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/rng.h"
#include "sim/oracle.h"

enum { D = 3, TOKENS = 5, TOP_K = 2, EXPERTS = 4, VISITS = TOKENS * TOP_K };

static const struct smoe_layer_shape SHAPE = {
    .experts = EXPERTS, .d_model = D, .d_ff = 6, .activation = SMOE_RELU, .optimizer = SMOE_SGD};
static const uint16_t EXPERTS_OF[VISITS] = {0, 1, 1, 2, 3, 0, 2, 3, 0, 2};

static smoe_real x[TOKENS * D], dy[VISITS * D];

static struct smoe_oracle_batch some_batch(uint64_t seed)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, seed, 0);
    for (int i = 0; i < TOKENS * D; i++)
        x[i] = (smoe_real)smoe_rng_below(&rng, SMOE_SIM_PRIME);
    for (int i = 0; i < VISITS * D; i++)
        dy[i] = (smoe_real)smoe_rng_below(&rng, SMOE_SIM_PRIME);
    return (struct smoe_oracle_batch){TOKENS, TOP_K, x, dy, EXPERTS_OF, false, 0};
}

static void prepare(struct smoe_oracle *o)
{
    smoe_oracle_init(o, SMOE_SIM_EXACT, &SHAPE, TOP_K, TOKENS);
}

Test(oracle, a_batch_that_counts_twice_is_infinitely_wrong)
{
    struct smoe_oracle once, twice;
    struct smoe_oracle_batch batch = some_batch(1);
    struct smoe_optimizer unused = {.kind = SMOE_SGD};
    prepare(&once), prepare(&twice);
    smoe_oracle_add(&once, &batch, NULL);
    smoe_oracle_add(&twice, &batch, NULL);
    smoe_oracle_add(&twice, &batch, NULL);
    smoe_oracle_step(&once, &unused);
    smoe_oracle_step(&twice, &unused);
    cr_assert_eq(smoe_oracle_expert_error(&once, 0, once.params), 0);
    cr_assert(isinf(smoe_oracle_expert_error(&once, 0, twice.params)));
    cr_assert_neq(smoe_oracle_digest(&once), smoe_oracle_digest(&twice));
    smoe_oracle_release(&once), smoe_oracle_release(&twice);
}

Test(oracle, the_order_of_batches_and_rows_does_not_matter)
{
    struct smoe_oracle forwards, backwards;
    struct smoe_optimizer unused = {.kind = SMOE_SGD};
    prepare(&forwards), prepare(&backwards);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct smoe_oracle_batch batch = some_batch(seed);
        smoe_oracle_add(&forwards, &batch, NULL);
        batch = some_batch(4 - seed);
        smoe_oracle_add(&backwards, &batch, NULL);
    }
    smoe_oracle_step(&forwards, &unused);
    smoe_oracle_step(&backwards, &unused);
    cr_assert_eq(smoe_oracle_digest(&forwards), smoe_oracle_digest(&backwards));
    smoe_oracle_release(&forwards), smoe_oracle_release(&backwards);
}

Test(oracle, one_wrong_number_in_a_result_is_noticed)
{
    struct smoe_oracle o;
    struct smoe_oracle_batch batch = some_batch(1);
    smoe_real y[VISITS * D];
    prepare(&o);
    smoe_oracle_forward_error(&o, &batch, dy); /* to have the right ones */
    for (int i = 0; i < VISITS * D; i++)
        y[i] = o.y[i];
    cr_assert_eq(smoe_oracle_forward_error(&o, &batch, y), 0);
    y[7] += 1;
    cr_assert(isinf(smoe_oracle_forward_error(&o, &batch, y)));
    smoe_oracle_release(&o);
}
