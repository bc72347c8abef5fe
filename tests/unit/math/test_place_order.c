/* SPDX-License-Identifier: Apache-2.0
 *
 * Sorting and the contest of `place`, against looking at everybody, with many keys that are equal.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "common/base/rng.h"
#include "daemon/core/place_internal.h"

#define MOST 300u

static struct smoe_place_scratch *new_scratch(void)
{
    struct smoe_place_scratch *scratch;
    cr_assert(smoe_place_scratch_new(MOST, MOST, MOST, &scratch) == 0);
    return scratch;
}

/* One of few, both zeros among them. */
static double draw_key(struct smoe_rng *rng)
{
    double key = 0.5 * (double)smoe_rng_below(rng, 9) - 2;
    return key == 0 && smoe_rng_below(rng, 2) ? -0.0 : key;
}

Test(place_order, sorting_is_by_key_and_then_by_index)
{
    static struct smoe_place_key items[MOST];
    struct smoe_place_scratch *scratch = new_scratch();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, 0);
    for (uint32_t n = 0; n <= MOST; n++) {
        uint32_t seen[MOST] = {0};
        for (uint32_t i = 0; i < n; i++)
            items[i] = (struct smoe_place_key){draw_key(&rng), n - 1 - i};
        smoe_place_sort(scratch, items, n);
        for (uint32_t i = 0; i < n; i++)
            cr_assert(seen[items[i].index]++ == 0);
        for (uint32_t i = 1; i < n; i++)
            cr_assert(items[i - 1].key > items[i].key ||
                          (items[i - 1].key == items[i].key && items[i - 1].index < items[i].index),
                      "%u of %u", i, n);
    }
    smoe_place_scratch_free(scratch);
}

static uint32_t greatest(const double *keys, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (keys[i] > keys[best])
            best = i;
    return best;
}

Test(place_order, the_winner_is_the_greatest_and_of_equals_the_lowest)
{
    struct smoe_place_scratch *scratch = new_scratch();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 2, 0);
    for (uint32_t n = 1; n <= MOST; n += 1 + n / 7) {
        double keys[MOST];
        smoe_place_contest_open(&scratch->contest, n);
        for (uint32_t i = 0; i < n; i++) {
            keys[i] = i % 5 ? draw_key(&rng) : SMOE_PLACE_OUT;
            if (i % 5)
                smoe_place_contest_enter(&scratch->contest, i, keys[i]);
        }
        smoe_place_contest_begin(&scratch->contest);
        for (uint32_t change = 0; change < 3 * n; change++) {
            uint32_t best = greatest(keys, n), i = (uint32_t)smoe_rng_below(&rng, n);
            cr_assert(smoe_place_winning_key(&scratch->contest) == keys[best]);
            if (keys[best] > SMOE_PLACE_OUT)
                cr_assert(smoe_place_winner(&scratch->contest) == best);
            keys[i] = smoe_rng_below(&rng, 4) ? draw_key(&rng) : SMOE_PLACE_OUT;
            smoe_place_contest_change(&scratch->contest, i, keys[i]);
        }
    }
    smoe_place_scratch_free(scratch);
}
