/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/detmath.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "daemon/core/router_frozen.h"

enum { TOKENS = 40, INPUTS_MAX = 37, EXPERTS_MAX = 67 };

static float values[INPUTS_MAX * EXPERTS_MAX];
static float features[TOKENS * INPUTS_MAX];
static uint32_t codes[TOKENS];

static void draw(uint32_t inputs, uint32_t experts)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, inputs, experts);
    for (size_t i = 0; i < (size_t)inputs * experts; i++)
        values[i] = (float)smoe_rng_normal(&rng);
    for (size_t i = 0; i < (size_t)TOKENS * inputs; i++)
        features[i] = (float)smoe_rng_normal(&rng);
    for (size_t i = 0; i < TOKENS; i++)
        codes[i] = (uint32_t)smoe_rng_below(&rng, inputs);
}

/* The definition, one number after another. */
static void reference(uint32_t inputs, uint32_t experts, const float *x, float *ret)
{
    double logits[EXPERTS_MAX], most = -HUGE_VAL, sum = 0;
    for (size_t e = 0; e < experts; e++) {
        logits[e] = 0;
        for (size_t i = 0; i < inputs; i++)
            logits[e] += (double)values[e * inputs + i] * (double)x[i];
        most = fmax(most, logits[e]);
    }
    for (size_t e = 0; e < experts; e++)
        sum += logits[e] = smoe_exp(logits[e] - most);
    for (size_t e = 0; e < experts; e++)
        ret[e] = (float)(logits[e] / sum);
}

Test(router_frozen, a_linear_map_gives_the_bits_of_its_definition_whatever_the_lanes)
{
    static const uint32_t experts[] = {1, 7, 8, 9, 64, 67};
    for (size_t k = 0; k < sizeof experts / sizeof *experts; k++)
        for (uint32_t inputs = 1; inputs <= INPUTS_MAX; inputs += 12) {
            struct smoe_frozen f;
            float got[TOKENS * EXPERTS_MAX], want[EXPERTS_MAX];
            draw(inputs, experts[k]);
            cr_assert_eq(smoe_frozen_init(&f, SMOE_FROZEN_LINEAR, inputs, experts[k], values), 0);
            smoe_frozen_score_features(&f, TOKENS, features, got);
            for (size_t t = 0; t < TOKENS; t++) {
                reference(inputs, experts[k], features + t * inputs, want);
                cr_assert_eq(memcmp(got + t * experts[k], want, experts[k] * sizeof *want), 0);
            }
            smoe_frozen_release(&f);
        }
}

Test(router_frozen, a_table_gives_the_rows_that_were_frozen)
{
    struct smoe_frozen f;
    static float got[TOKENS * 9], kept[sizeof values / sizeof *values];
    draw(INPUTS_MAX, 9);
    cr_assert_eq(smoe_frozen_init(&f, SMOE_FROZEN_TABLE, INPUTS_MAX, 9, values), 0);
    memcpy(kept, values, sizeof kept);
    memset(values, 0, sizeof values);
    smoe_frozen_score_codes(&f, TOKENS, codes, got);
    for (size_t t = 0; t < TOKENS; t++)
        cr_assert_eq(memcmp(got + t * 9, kept + codes[t] * 9, 9 * sizeof *got), 0);
    cr_assert_eq(smoe_frozen_bad_code(&f, TOKENS, codes), TOKENS);
    codes[7] = INPUTS_MAX;
    cr_assert_eq(smoe_frozen_bad_code(&f, TOKENS, codes), 7);
    smoe_frozen_release(&f);
    smoe_frozen_release(&f);
}

/* The numbers are the format: what was frozen by one version is found by the next. */
Test(router_frozen, the_digest_is_that_of_the_documented_function)
{
    static const float some[6] = {0, 1, -2.5f, 3e-9f, 0.25f, 7};
    cr_expect_eq(smoe_frozen_digest(SMOE_FROZEN_TABLE, 3, 2, some), UINT64_C(0xff2f26bfa6a39dc8));
    cr_expect_eq(smoe_frozen_digest(SMOE_FROZEN_LINEAR, 3, 2, some), UINT64_C(0x570fd69ae4b80843));
}

Test(router_frozen, the_digest_tells_every_bit_kind_and_shape)
{
    float some[30] = {0};
    uint64_t blank = smoe_frozen_digest(SMOE_FROZEN_TABLE, 6, 5, some);
    cr_assert_neq(blank, smoe_frozen_digest(SMOE_FROZEN_TABLE, 5, 6, some));
    cr_assert_neq(blank, smoe_frozen_digest(SMOE_FROZEN_LINEAR, 6, 5, some));
    for (size_t i = 0; i < 30; i++) {
        some[i] = -0.0f;
        cr_assert_neq(smoe_frozen_digest(SMOE_FROZEN_TABLE, 6, 5, some), blank, "%zu", i);
        some[i] = 0;
    }
    cr_assert_eq(smoe_frozen_digest(SMOE_FROZEN_TABLE, 6, 5, some), blank);
}

Test(router_frozen, a_shape_is_refused_one_above_its_limits)
{
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_TABLE, 1, 1), 0);
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_LINEAR, 1, SMOE_EXPERTS_MAX), 0);
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_TABLE, SMOE_FROZEN_INPUTS_MAX, 16), 0);
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_TABLE, SMOE_FROZEN_INPUTS_MAX, 17), SMOE_EFIELD);
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_TABLE, SMOE_FROZEN_INPUTS_MAX + 1, 1), SMOE_EFIELD);
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_TABLE, 1, SMOE_EXPERTS_MAX + 1), SMOE_EFIELD);
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_TABLE, 0, 1), SMOE_EFIELD);
    cr_assert_eq(smoe_frozen_shape(SMOE_FROZEN_TABLE, 1, 0), SMOE_EFIELD);
    cr_assert_eq(smoe_frozen_shape(0, 1, 1), SMOE_EFIELD);
    cr_assert_eq(smoe_frozen_shape(3, 1, 1), SMOE_EFIELD);
}

Test(router_frozen, values_and_features_that_are_no_numbers_are_found)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float some[6] = {0, 1, 2, 3, 4, 5}, x[4] = {1, 2, 3, 4};
    struct smoe_frozen f;
    for (size_t i = 0; i < 3; i++) {
        some[5] = bad[i];
        cr_assert_eq(smoe_frozen_init(&f, SMOE_FROZEN_TABLE, 2, 3, some), SMOE_ENOTFINITE);
        cr_assert_eq(smoe_frozen_init(&f, SMOE_FROZEN_LINEAR, 2, 3, some), SMOE_ENOTFINITE);
    }
    some[5] = 5;
    cr_assert_eq(smoe_frozen_init(&f, SMOE_FROZEN_LINEAR, 2, 3, some), 0);
    cr_assert_eq(smoe_frozen_bad_features(&f, 2, x), 2);
    x[3] = NAN;
    cr_assert_eq(smoe_frozen_bad_features(&f, 2, x), 1);
    cr_assert_eq(smoe_frozen_bad_features(&f, 1, x), 1);
    smoe_frozen_release(&f);
}

/* The largest numbers there are give a distribution, not a NaN. */
Test(router_frozen, extreme_numbers_still_give_probabilities)
{
    float most[4] = {3.4e38f, -3.4e38f, 3.4e38f, 1}, x[2] = {3.4e38f, 3.4e38f}, scores[2];
    struct smoe_frozen f;
    cr_assert_eq(smoe_frozen_init(&f, SMOE_FROZEN_LINEAR, 2, 2, most), 0);
    smoe_frozen_score_features(&f, 1, x, scores);
    cr_assert(scores[0] >= 0 && scores[1] >= 0 && scores[0] + scores[1] == 1);
    smoe_frozen_release(&f);
}

Test(router_frozen, as_many_tokens_are_scored_at_a_time_as_are_no_more_than_so_many_products)
{
    struct smoe_frozen_head map = {1, SMOE_FROZEN_LINEAR, 1 << 14, 0};
    struct smoe_frozen_head table = {1, SMOE_FROZEN_TABLE, 1 << 14, 0};
    cr_assert(smoe_frozen_bearable(&map, 64, SMOE_FROZEN_WORK_MAX >> 20));
    cr_assert_not(smoe_frozen_bearable(&map, 64, (SMOE_FROZEN_WORK_MAX >> 20) + 1));
    cr_assert(smoe_frozen_bearable(&table, 64, SMOE_BATCH_TOKENS_MAX)); /* is not computed */
}

Test(router_frozen, the_first_token_with_a_feature_that_is_no_number_is_found_wherever_it_is)
{
    struct smoe_frozen f;
    draw(3, 2);
    cr_assert_eq(smoe_frozen_init(&f, SMOE_FROZEN_LINEAR, 3, 2, values), 0);
    for (size_t i = 0; i < 9; i++) {
        float tokens[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
        tokens[i] = i % 2 ? (float)INFINITY : (float)NAN;
        cr_assert_eq(smoe_frozen_bad_features(&f, 3, tokens), i / 3);
    }
    smoe_frozen_release(&f);
}
