/* SPDX-License-Identifier: Apache-2.0
 *
 * Worlds made up from their seed, with faults at random moments (sim/story_random.c).
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "sim/story.h"

#define WORLDS 200
/* Trainers whose experts died with all their copies, in worlds where workers die; six with these seeds. */
#define LOSSES_MAX 8

/* A world that must end well; how many of its trainers' experts are lost. */
static uint32_t tell(const char *name, uint64_t seed)
{
    struct smoe_story_end end;
    smoe_story_tell(smoe_story_find(name), seed, false, &end);
    cr_assert_eq(end.code, 0, "stablemoe-sim story %s --seeds %" PRIu64 " --messages: %s", name,
                 seed, end.why.text);
    return end.losses;
}

Test(random_worlds, two_hundred_worlds_finish_and_count_every_visit_once)
{
    uint32_t losses = 0;
    for (uint64_t seed = 1; seed <= WORLDS; seed++)
        losses += tell("random", seed);
    cr_assert_leq(losses, LOSSES_MAX, "%u worlds lost experts", losses);
}

Test(random_worlds, a_hundred_worlds_of_sharded_layers_finish)
{
    const struct smoe_story *story = smoe_story_find("random_sharded");
    uint32_t losses = 0;
    for (uint64_t seed = 1; seed <= WORLDS / 2; seed++) {
        struct smoe_story_end end;
        smoe_story_tell(story, seed, false, &end);
        cr_assert_eq(end.code, 0,
                     "stablemoe-sim story random_sharded --seeds %" PRIu64 " --messages: %s", seed,
                     end.why.text);
        losses += end.losses;
    }
    cr_assert_leq(losses, LOSSES_MAX, "%u worlds lost experts", losses);
}

Test(random_worlds, a_hundred_worlds_a_step_ahead_finish)
{
    uint32_t losses = 0;
    for (uint64_t seed = 1; seed <= WORLDS / 2; seed++)
        losses += tell("random_stale", seed) + tell("random_stale_sharded", seed);
    cr_assert_leq(losses, LOSSES_MAX, "%u worlds lost experts", losses);
}

Test(random_worlds, two_hundred_tortured_worlds_finish_too)
{
    for (uint64_t seed = 1; seed <= WORLDS; seed++) {
        tell("torture_whole", seed);
        tell("torture", seed);
    }
}

/* Worlds that once ended wrong, and why. */
Test(random_worlds, that_once_ended_wrong_do_not_any_more)
{
    /* A worker returned while a step was being committed, with what came before it. */
    tell("torture_whole", 923);
    /* A worker that alone held its experts was struck for numbers that nobody could compare. */
    tell("torture_whole", 459);
    /* A step that was refused left the batches submitted after it out of the next, which was refused too. */
    tell("torture_whole", 2469);
    tell("torture_whole", 2743);
    /* A commit that its trainer had not heard of died with the layer; the layer began anew, the step was answered. */
    tell("torture", 471);
    /* All lost their connections while state moved: each came back with part of a piece. */
    tell("random_sharded", 357);
}

Test(random_worlds, the_same_seed_gives_the_same_trace_byte_for_byte)
{
    const struct smoe_story *story = smoe_story_find("random");
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct smoe_story_end first, second;
        smoe_story_tell(story, seed, true, &first);
        smoe_story_tell(story, seed, true, &second);
        cr_assert_str_eq(first.trace, second.trace, "seed %" PRIu64, seed);
        cr_assert_eq(first.digest, second.digest);
        cr_assert_eq(first.events, second.events);
        free(first.trace);
        free(second.trace);
    }
}

Test(random_worlds, keeping_the_trace_changes_nothing)
{
    const struct smoe_story *story = smoe_story_find("random");
    struct smoe_story_end kept, not_kept;
    smoe_story_tell(story, 7, true, &kept);
    smoe_story_tell(story, 7, false, &not_kept);
    cr_assert_eq(kept.digest, not_kept.digest);
    cr_assert_gt(strlen(kept.trace), 1000);
    cr_assert_null(not_kept.trace);
    free(kept.trace);
}

Test(random_worlds, another_seed_is_another_world)
{
    const struct smoe_story *story = smoe_story_find("random");
    struct smoe_story_end one, two;
    smoe_story_tell(story, 1, false, &one);
    smoe_story_tell(story, 2, false, &two);
    cr_assert_neq(one.digest, two.digest);
}
