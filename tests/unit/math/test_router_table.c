/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/rng.h"
#include "daemon/core/router_table.h"

enum { CODES = 50, N = 300, MOST = CODES * 64 };

static float scores[MOST];
static uint32_t codes[N];

/* Scores with many ties. */
static struct smoe_router_table table_new(uint32_t experts)
{
    struct smoe_router_table table;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, experts);
    for (size_t i = 0; i < CODES * experts; i++)
        scores[i] = (float)smoe_rng_below(&rng, 20) - 10;
    for (size_t i = 0; i < N; i++)
        codes[i] = (uint32_t)smoe_rng_below(&rng, CODES);
    cr_assert_eq(smoe_router_table_init(&table, CODES, experts, scores), 0);
    return table;
}

/* Expert `e` comes before expert `f` in a row. */
static bool before(const float *row, size_t e, size_t f)
{
    return row[e] > row[f] || (row[e] == row[f] && e < f);
}

static void check_top(uint32_t experts, uint32_t top_k)
{
    struct smoe_router_table table = table_new(experts);
    uint16_t expert[N * 8];
    float score[N * 8];
    smoe_router_table_top(&table, N, codes, top_k, expert, score);
    for (size_t i = 0; i < N; i++) {
        const float *row = scores + codes[i] * experts;
        for (size_t k = 0; k < top_k; k++) {
            size_t e = expert[i * top_k + k], ahead = 0;
            for (size_t f = 0; f < experts; f++)
                ahead += before(row, f, e);
            cr_assert_eq(ahead, k, "E=%u K=%u", experts, top_k);
            cr_assert_eq(score[i * top_k + k], row[e]);
        }
    }
    smoe_router_table_release(&table);
    smoe_router_table_release(&table);
}

Test(router_table, the_kth_expert_has_k_others_before_it_ties_to_the_lowest_index)
{
    static const uint32_t experts[] = {1, 2, 7, 8, 9, 64};
    for (size_t i = 0; i < sizeof experts / sizeof *experts; i++)
        for (uint32_t k = 1; k <= 8 && k <= experts[i]; k++)
            check_top(experts[i], k);
}

Test(router_table, scores_are_rows_of_what_it_was_made_from_and_its_own)
{
    enum { E = 9 };
    struct smoe_router_table table = table_new(E);
    static float got[N * E], kept[MOST];
    memcpy(kept, scores, sizeof kept);
    memset(scores, 0, sizeof scores);
    smoe_router_table_scores(&table, N, codes, got);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(memcmp(got + i * E, kept + codes[i] * E, E * sizeof *got), 0);
    smoe_router_table_release(&table);
}

Test(router_table, the_first_code_that_is_not_there_is_named)
{
    struct smoe_router_table table = table_new(2);
    cr_assert_eq(smoe_router_table_unknown(&table, N, codes), N);
    cr_assert_eq(smoe_router_table_unknown(&table, 0, codes), 0);
    codes[200] = CODES;
    codes[201] = UINT32_MAX;
    cr_assert_eq(smoe_router_table_unknown(&table, N, codes), 200);
    codes[0] = UINT32_MAX;
    cr_assert_eq(smoe_router_table_unknown(&table, N, codes), 0);
    cr_assert_eq(smoe_router_table_unknown(&table, 1, codes), 0);
    smoe_router_table_release(&table);
}

Test(router_table, the_last_of_a_million_codes_may_be_there)
{
    struct smoe_router_table table;
    const uint32_t last = SMOE_ROUTER_CODES_MAX - 1;
    uint16_t expert;
    float score, *many = calloc(SMOE_ROUTER_CODES_MAX, sizeof *many);
    many[last] = 3;
    cr_assert_eq(smoe_router_table_init(&table, SMOE_ROUTER_CODES_MAX, 1, many), 0);
    cr_assert_eq(smoe_router_table_unknown(&table, 1, &last), 1);
    smoe_router_table_top(&table, 1, &last, 1, &expert, &score);
    cr_assert(expert == 0 && score == 3);
    smoe_router_table_release(&table);
    free(many);
}

Test(router_table, scores_that_are_no_numbers_are_refused)
{
    struct smoe_router_table table;
    float values[4] = {0, 1, 2, 3};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        values[3] = bad[i];
        cr_assert_eq(smoe_router_table_init(&table, 2, 2, values), SMOE_EFIELD);
    }
}
