/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "common/base/map.h"
#include "common/base/rng.h"

Test(map, what_was_put_is_found_until_it_is_removed)
{
    struct smoe_map map;
    cr_assert_eq(smoe_map_init(&map, 100, 7), 0);
    uint32_t v = 0;
    cr_assert_not(smoe_map_get(&map, 5, &v));
    cr_assert(smoe_map_put(&map, 5, 50));
    cr_assert(smoe_map_put(&map, 5, 51));
    cr_assert(smoe_map_get(&map, 5, &v));
    cr_assert_eq(v, 51);
    cr_assert(smoe_map_remove(&map, 5));
    cr_assert_not(smoe_map_remove(&map, 5));
    cr_assert_not(smoe_map_get(&map, 5, &v));
    smoe_map_release(&map);
    smoe_map_release(&map);
}

Test(map, a_put_beyond_the_capacity_is_refused_and_an_update_is_not)
{
    struct smoe_map map;
    cr_assert_eq(smoe_map_init(&map, 10, 1), 0);
    for (uint64_t k = 0; k < 10; k++)
        cr_assert(smoe_map_put(&map, k * 1000, (uint32_t)k));
    cr_assert_not(smoe_map_put(&map, 77, 0));
    cr_assert(smoe_map_put(&map, 3000, 99));
    cr_assert(smoe_map_remove(&map, 0));
    cr_assert(smoe_map_put(&map, 77, 0));
    smoe_map_release(&map);
}

/* Removal closes gaps in probe chains; a plain array is the oracle. */
Test(map, random_puts_and_removes_agree_with_an_array)
{
    enum { KEYS = 64 };
    uint32_t oracle[KEYS];
    bool there[KEYS] = {false};
    struct smoe_map map;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 3, 0);
    cr_assert_eq(smoe_map_init(&map, KEYS, 9), 0);
    for (int i = 0; i < 100000; i++) {
        uint64_t key = smoe_rng_below(&rng, KEYS);
        if (smoe_rng_below(&rng, 2)) {
            oracle[key] = (uint32_t)i;
            there[key] = true;
            cr_assert(smoe_map_put(&map, key, (uint32_t)i));
        } else {
            cr_assert_eq(smoe_map_remove(&map, key), there[key]);
            there[key] = false;
        }
        uint64_t probe = smoe_rng_below(&rng, KEYS);
        uint32_t v = 0;
        cr_assert_eq(smoe_map_get(&map, probe, &v), there[probe]);
        if (there[probe])
            cr_assert_eq(v, oracle[probe]);
    }
    smoe_map_release(&map);
}
