/* SPDX-License-Identifier: Apache-2.0
 *
 * Visits whose experts are given, because a replay must have those of the first time: which replica serves them
 * is still open.
 */
#include <criterion/criterion.h>

#include "daemon/core/policy_plan.h"

enum { REPLICAS = 3, VISITS = 150 };

/* Expert 0 on the three nodes, expert 1 on the last alone. */
static const uint32_t first[] = {0, REPLICAS, REPLICAS + 1}, replicas[] = {0, 1, 2, 2};
static struct smoe_node nodes[REPLICAS];
static uint16_t experts[VISITS];
static uint32_t chosen[VISITS], given[REPLICAS];

static void begin(void)
{
    static const double service[REPLICAS] = {100, 50, 100};
    for (int j = 0; j < REPLICAS; j++)
        nodes[j] = (struct smoe_node){.service_max = service[j], .arrivals_max = UINT32_MAX};
}

static uint32_t give(uint32_t n)
{
    n = smoe_plan_given(nodes, first, replicas, n, 1, experts, chosen);
    for (uint32_t i = 0; i < n; i++)
        given[chosen[i]]++;
    return n;
}

TestSuite(given, .init = begin);

Test(given, visits_are_shared_by_what_each_replica_can_serve)
{
    nodes[2].arrivals_max = 0; /* it drains */
    cr_assert_eq(give(VISITS), VISITS);
    cr_assert(given[0] >= 99 && given[0] <= 101, "%u", given[0]);
    cr_assert_eq(given[0] + given[1], VISITS);
}

Test(given, visits_go_where_fewer_wait)
{
    nodes[0].backlog = 100;
    cr_assert_eq(give(VISITS), VISITS);
    cr_assert(given[0] < given[2] && given[1] > 0 && given[2] > VISITS / 2, "%u %u %u", given[0],
              given[1], given[2]);
}

Test(given, a_replica_without_room_leaves_its_part_to_the_others)
{
    nodes[0].arrivals_max = 10;
    cr_assert_eq(give(VISITS), VISITS);
    cr_assert_eq(given[0], 10);
}

Test(given, visits_end_where_no_replica_has_room)
{
    for (int j = 0; j < REPLICAS; j++)
        nodes[j].arrivals_max = 7;
    experts[3] = 1;
    cr_assert_eq(give(VISITS), 3 * 7);
    cr_assert_eq(chosen[3], 2, "its only replica");
}
