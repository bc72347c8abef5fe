/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/place_bytes.h"

enum { EXPERTS = 6, WORKERS = 5, SLOTS = 3 };

struct plan {
    struct smoe_place_plan p;
    uint32_t slot_first[WORKERS + 1];
    uint16_t expert[WORKERS * SLOTS];
};

static void draw(struct smoe_rng *rng, struct plan *p)
{
    p->p = (struct smoe_place_plan){EXPERTS, WORKERS, p->slot_first, p->expert};
    for (uint32_t j = 0; j <= WORKERS; j++)
        p->slot_first[j] = j * SLOTS;
    for (uint32_t q = 0; q < WORKERS * SLOTS; q++)
        p->expert[q] = (uint16_t)(q < EXPERTS ? q : smoe_rng_below(rng, EXPERTS));
}

static bool holds(const struct plan *p, uint32_t worker, uint32_t expert)
{
    bool any = false;
    for (uint32_t q = worker * SLOTS; q < (worker + 1) * SLOTS; q++)
        any |= p->expert[q] == expert;
    return any;
}

/* Message by message. */
static void count(const struct plan *before, const struct plan *after,
                  const struct smoe_place_wire *wire, struct smoe_place_bytes *ret)
{
    memset(ret, 0, WORKERS * sizeof *ret);
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t a = 0; a < WORKERS; a++)
            for (uint32_t b = 0; b < WORKERS; b++) {
                if (a == b)
                    continue;
                uint64_t gradient = holds(before, a, e) * wire->owned[b] * wire->gradient_bytes;
                uint64_t follow = holds(before, a, e) * wire->followed[b] * wire->gradient_bytes;
                uint64_t weight = holds(after, b, e) * wire->owned[a] * wire->weight_bytes;
                ret[a].gradient_sent += gradient;
                ret[b].gradient_received += gradient;
                ret[a].follow_sent += follow;
                ret[b].follow_received += follow;
                ret[a].weight_sent += weight;
                ret[b].weight_received += weight;
            }
}

Test(place_bytes, the_formulas_count_every_message)
{
    struct smoe_rng rng;
    struct plan before, after;
    struct smoe_place_bytes formula[WORKERS], counted[WORKERS];
    smoe_rng_init(&rng, 1, 0);
    for (int round = 0; round < 200; round++) {
        uint64_t owned[WORKERS], followed[WORKERS];
        uint64_t sum = 0;
        for (int j = 0; j < WORKERS; j++)
            sum += owned[j] = smoe_rng_below(&rng, 1000);
        for (int j = 0; j < WORKERS; j++)
            followed[j] = owned[(j + 1) % WORKERS];
        struct smoe_place_wire wire = {owned, followed, 4, round % 2 ? 2 : 4};
        draw(&rng, &before);
        draw(&rng, &after);
        smoe_place_bytes(&before.p, &after.p, &wire, formula);
        count(&before, &after, &wire, counted);
        cr_assert_arr_eq(formula, counted, sizeof formula);
        cr_assert_gt(sum, 0);
    }
}

/* Every worker offers as many slots and owns as much: then re-placing changes no worker's bytes. */
Test(place_bytes, a_new_placement_costs_no_more_than_the_old)
{
    static const uint64_t OWNED[WORKERS] = {100, 100, 100, 100, 100};
    struct smoe_place_wire wire = {OWNED, NULL, 4, 4};
    struct plan a, b;
    struct smoe_place_bytes stay[WORKERS], move[WORKERS];
    struct smoe_rng rng;
    smoe_rng_init(&rng, 2, 0);
    draw(&rng, &a);
    draw(&rng, &b);
    for (uint32_t q = 0; q < WORKERS * SLOTS; q++) { /* distinct on each worker */
        a.expert[q] = (uint16_t)(q % EXPERTS);
        b.expert[q] = (uint16_t)((q % SLOTS * 2 + q / SLOTS) % EXPERTS);
    }
    smoe_place_bytes(&a.p, &a.p, &wire, stay);
    smoe_place_bytes(&a.p, &b.p, &wire, move);
    cr_assert_arr_eq(stay, move, sizeof stay);
    cr_assert_eq(stay[0].gradient_sent, SLOTS * 400 * 4);
    cr_assert_eq(stay[0].follow_sent, 0);
}
