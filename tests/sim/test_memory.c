/* SPDX-License-Identifier: Apache-2.0
 *
 * Worlds in which the nth allocation of the machines fails, for one n after another: of the gateway, of
 * agents and of the library, in the middle of whatever they do. Somebody's session may end by it and a batch
 * may have to be submitted again, but the world must finish as any other: each step once and right to the
 * last bit, nothing in flight, nothing held.
 *
 * What the simulator itself needs does not count, nor does what a machine needs to be made: a program that
 * finds no memory at its start ends (tests/integration/test_shortage.py).
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <string.h>

#include "client/libstablemoe/core/uplink.h"
#include "client/worker/agent/agent.h"
#include "daemon/gateway/gateway.h"
#include "sim/story.h"
#include "sim/world_state.h"
#include "tests/unit/io/alloc_fault.h"

/* Worlds a seed: every allocation of a small one, some of a large one. */
#define WORLDS      300
#define EXCUSED_MAX 20 /* of these */

/* ---- the nth allocation ---- */

static uint64_t excused;

/* A function whose memory is not counted. */
#define SHELTER(type, name, parameters, arguments) \
    type __real_##name parameters;                 \
    type __wrap_##name parameters;                 \
    type __wrap_##name parameters                  \
    {                                              \
        smoe_alloc_shelter();                      \
        type result = __real_##name arguments;     \
        smoe_alloc_expose();                       \
        return result;                             \
    }

SHELTER(void *, smoe_sim_alloc, (size_t n, size_t bytes), (n, bytes))
SHELTER(void *, smoe_sim_room, (size_t bytes), (bytes))
SHELTER(void *, smoe_sim_grow, (void *array, size_t was, size_t n, size_t bytes),
        (array, was, n, bytes))
SHELTER(int, smoe_gateway_new,
        (const struct smoe_gateway_options *options, struct smoe_gateway **ret,
         struct smoe_why *why),
        (options, ret, why))
SHELTER(int, smoe_agent_new,
        (const struct smoe_agent_options *options, struct smoe_agent **ret, struct smoe_why *why),
        (options, ret, why))
SHELTER(int, smoe_wire_new, (struct smoe_wire * *ret), (ret))
SHELTER(int, smoe_restored_apply, (struct smoe_restored * to, const struct smoe_record *record),
        (to, record))
SHELTER(int, smoe_record_copy, (const struct smoe_record *record, struct smoe_record *ret),
        (record, ret))
SHELTER(int, smoe_uplink_new, (const struct smoe_uplink_options *options, struct smoe_uplink **ret),
        (options, ret))

/* ---- worlds ---- */

static void tell(const struct smoe_story *story, uint64_t seed, uint64_t nth)
{
    struct smoe_story_end end;
    smoe_alloc_fail_at(nth);
    smoe_story_tell(story, seed, false, &end);
    /* A worker without room for an expert says so, and its trainer hears of it; so it does of a router that the
     * gateway has no room for. */
    if (end.code && (strstr(end.why.text, "out of memory") || strstr(end.why.text, "find no room")))
        excused++;
    else
        cr_assert_eq(end.code, 0, "%s, seed %" PRIu64 ", allocation %" PRIu64 ": %s", story->name,
                     seed, nth, end.why.text);
}

/* Every `stride`th allocation from `first` to `last`. */
static void tell_with_some(const char *name, uint64_t seed, uint64_t first, uint64_t last,
                           uint64_t stride)
{
    const struct smoe_story *story = smoe_story_find(name);
    excused = 0;
    for (uint64_t nth = first; nth <= last; nth += stride)
        tell(story, seed, nth);
    cr_assert_leq(excused, EXCUSED_MAX, "%s, seed %" PRIu64, name, seed);
}

static void tell_with_each(const char *name, uint64_t seed)
{
    tell(smoe_story_find(name), seed, 0);
    uint64_t all = smoe_alloc_count(), stride = all / WORLDS + 1;
    cr_assert_gt(all, 100, "%s, seed %" PRIu64 " allocates %" PRIu64 " times", name, seed, all);
    tell_with_some(name, seed, 1 + seed % stride, all, stride);
}

Test(memory, that_is_not_there_once_costs_no_step_and_no_visit)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        tell_with_each("torture_whole", seed);
}

Test(memory, that_is_not_there_once_costs_no_step_of_a_sharded_layer)
{
    tell_with_each("random_sharded", 1);
}

Test(memory, that_is_not_there_once_costs_nothing_with_shards_and_frozen_routers_together)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        tell_with_each("torture", seed);
}

/* Where it once did: the numbers move with the code, so all that is near is told again. */
Test(memory, that_was_once_missed_is_missed_no_more)
{
    /* A step waited for ever for local sums, or a layer was lost: a Host that failed had dropped room for them. */
    tell_with_some("random_sharded", 3, 2200, 2320, 2);
    tell_with_some("random_sharded", 2, 1800, 1890, 2);
    tell_with_some("random_sharded", 21, 5240, 5300, 1);
    /* A worker without an inventory to send was struck. */
    tell_with_some("random_sharded", 5, 1, 12, 1);
    /* The only worker, refusing its part once, was never asked again. */
    tell_with_some("random_sharded", 26, 20, 55, 1);
    tell_with_some("random_sharded", 33, 10, 40, 2);
}
