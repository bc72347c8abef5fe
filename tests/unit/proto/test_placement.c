/* SPDX-License-Identifier: Apache-2.0
 *
 * Placements out of files: each field at its limit, one below and one above, by the sentence that refuses it.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/wire.h"

static const char *workers[SMOE_PLACEMENT_WORKERS_MAX + 1];
static smoe_name names[SMOE_PLACEMENT_WORKERS_MAX + 1];
static uint32_t slots[SMOE_PLACEMENT_WORKERS_MAX + 1];
static uint32_t experts[SMOE_LAYER_REPLICAS_MAX + 1];
static double popularity[SMOE_EXPERTS_MAX + 1];

/* Four experts on three workers. */
static struct smoe_placement good(void)
{
    for (int w = 0; w < 3; w++) {
        snprintf(names[w], sizeof *names, "pi-%d", w);
        workers[w] = names[w];
        slots[w] = 2;
    }
    for (uint32_t q = 0; q < 6; q++)
        experts[q] = q % 4;
    for (int e = 0; e < 4; e++)
        popularity[e] = 0.25;
    return (struct smoe_placement){.rule = "interval",
                                   .interval = 50,
                                   .n_workers = 3,
                                   .n_slots = 6,
                                   .n_experts = 4,
                                   .workers = workers,
                                   .slots = slots,
                                   .experts = experts,
                                   .popularity = popularity,
                                   .covariance = 0.5,
                                   .variance = 1,
                                   .seen = 7,
                                   .planned = 8};
}

/* Refused in a sentence with these words; NULL: taken. */
static void expect(const struct smoe_placement *p, const char *words)
{
    struct smoe_why why = {""};
    int rc = smoe_placement_check(p, &why);
    cr_assert(words ? rc < 0 : rc == 0, "%d: %s", rc, why.text);
    if (words)
        cr_assert(strstr(why.text, words) && strncmp(why.text, "placement.", 10) == 0, "%s",
                  why.text);
}

Test(placement, what_some_fleet_could_have_is_taken)
{
    struct smoe_placement p = good();
    expect(&p, NULL);
    p.n_workers = p.n_slots = 0;
    expect(&p, NULL); /* popularity alone */
    p = (struct smoe_placement){.rule = "pinned"};
    expect(&p, NULL);
}

Test(placement, a_rule_has_a_name_and_an_interval_an_end)
{
    struct smoe_placement p = good();
    p.rule = "";
    expect(&p, "rule");
    p.rule = "a rule";
    expect(&p, "rule");
    p = good();
    p.interval = 1000000;
    expect(&p, NULL);
    p.interval++;
    expect(&p, "interval 1000001: not in 0..1000000");
}

Test(placement, workers_have_names_of_their_own)
{
    struct smoe_placement p = good();
    workers[1] = "pi-2";
    expect(&p, "workers: pi-2 is there twice");
    workers[1] = "";
    expect(&p, "workers");
    workers[1] = "../pi";
    expect(&p, "workers");
}

Test(placement, there_are_no_more_workers_than_a_message_has_room_for)
{
    struct smoe_placement p = good();
    p.n_workers = p.n_slots = SMOE_PLACEMENT_WORKERS_MAX;
    for (uint32_t w = 0; w <= SMOE_PLACEMENT_WORKERS_MAX; w++) {
        snprintf(names[w], sizeof *names, "w%u", w);
        workers[w] = names[w];
        slots[w] = 1;
        experts[w] = w % 4;
    }
    expect(&p, NULL);
    p.n_workers = p.n_slots = SMOE_PLACEMENT_WORKERS_MAX + 1;
    expect(&p, "workers: count 513: not in 0..512");
}

Test(placement, slots_are_as_many_as_experts_in_them)
{
    struct smoe_placement p = good();
    slots[2] = 0;
    expect(&p, "slots 0: not in 1..1024");
    slots[2] = 1025;
    expect(&p, "slots 1025: not in 1..1024");
    slots[2] = 3;
    expect(&p, "experts: count 6: not in 7..7");
    slots[2] = 1;
    expect(&p, "experts: count 6: not in 5..5");
    for (uint32_t q = 0; q <= SMOE_LAYER_REPLICAS_MAX; q++)
        experts[q] = q % 4;
    for (int w = 0; w < 5; w++) {
        snprintf(names[w], sizeof *names, "w%d", w);
        workers[w] = names[w];
        slots[w] = w < 4 ? 1024 : 1;
    }
    p.n_workers = 4;
    p.n_slots = 4096;
    expect(&p, NULL);
    p.n_workers = 5;
    p.n_slots = 4097;
    expect(&p, "experts: count 4097: not in 0..4096");
}

Test(placement, every_expert_stands_somewhere_and_no_other)
{
    struct smoe_placement p = good();
    experts[5] = 3;
    expect(&p, NULL);
    experts[5] = 4;
    expect(&p, "experts 4: not in 0..3");
    experts[5] = UINT32_MAX;
    expect(&p, "experts 4294967295: not in 0..3");
    p = good();
    experts[3] = 0;
    expect(&p, "expert 3 of 4 stands nowhere");
    p = good();
    p.n_experts = 0;
    expect(&p, "popularity: missing");
}

Test(placement, popularity_is_shares_of_one)
{
    struct smoe_placement p = good();
    popularity[1] = nextafter(1, 2);
    expect(&p, "popularity 1: not in 0..1");
    popularity[1] = -0x1p-60;
    expect(&p, "popularity");
    popularity[1] = (double)NAN;
    expect(&p, "popularity: not a finite number");
    popularity[1] = 0.2500009;
    expect(&p, NULL);
    popularity[1] = 0.250002;
    expect(&p, "popularity: sum");
    popularity[1] = 0.249998;
    expect(&p, "popularity: sum");
    p.n_experts = SMOE_EXPERTS_MAX + 1;
    expect(&p, "popularity: count 1025: not in 0..1024");
}

Test(placement, evidence_is_bounded)
{
    struct smoe_placement p = good();
    p.covariance = -1e4;
    p.variance = 1e4;
    expect(&p, NULL);
    p.covariance = nextafter(-1e4, -1e5);
    expect(&p, "covariance");
    p = good();
    p.covariance = HUGE_VAL;
    expect(&p, "covariance: not a finite number");
    p = good();
    p.variance = -1e-300;
    expect(&p, "variance");
    p.variance = nextafter(1e4, 1e5);
    expect(&p, "variance");
    p = good();
    p.planned = p.seen + 1;
    expect(&p, NULL);
    p.planned++;
    expect(&p, "planned 9: not in 0..8");
    p.seen = p.planned = UINT64_MAX;
    expect(&p, NULL);
}
