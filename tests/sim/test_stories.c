/* SPDX-License-Identifier: Apache-2.0
 *
 * Each story on a few seeds. What must come of it stands in the story (sim/stories_*.c), and with it, in
 * every one: all invariants of the machine an event touched, results, gradients and experts against the
 * oracle, and a world at rest that holds nothing any more.
 */
#include <criterion/criterion.h>
#include <inttypes.h>

#include "sim/story.h"

#define SEEDS 6

static void tell(const char *name)
{
    const struct smoe_story *story = smoe_story_find(name);
    cr_assert_not_null(story, "no story %s", name);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct smoe_story_end end;
        smoe_story_tell(story, seed, false, &end);
        cr_assert_eq(end.code, 0, "stablemoe-sim story %s --seeds %" PRIu64 " --messages: %s", name,
                     seed, end.why.text);
        cr_assert_eq(end.losses, 0, "%s, seed %" PRIu64 ": a layer is lost", name, seed);
    }
}

#define STORY(sentence, name) \
    Test(story, sentence)     \
    {                         \
        tell(#name);          \
    }

STORY(workers_join_and_a_trainer_hears_that_its_layer_is_hosted, join)
STORY(three_dozen_steps_make_the_loss_smaller, train)
STORY(a_clipped_adamw_step_is_the_oracles, adam)
STORY(a_slot_closes_early_for_a_trainer_that_waits, slot_closes_early)
STORY(batches_of_the_next_step_wait_for_the_flip, pipelined)
STORY(three_layers_share_workers_and_step_together, three_layers)
STORY(work_is_divided_by_the_speed_of_the_workers, unlike_workers)
STORY(an_evaluator_never_changes_the_layer, evaluation)
STORY(a_layer_has_one_owner_and_the_second_is_told_whose_it_is, two_trainers_one_layer)
STORY(a_drained_worker_gets_nothing_new, drain)
STORY(a_layer_waits_for_a_drained_worker_until_it_may_work_again, drain_new_layer)
STORY(a_gateway_that_is_asked_to_stop_finishes_and_says_goodbye, shutdown)
STORY(a_network_of_crumbs_changes_nothing, crumbs)
STORY(a_batch_lost_while_forwarding_is_replayed, worker_lost_forward)
STORY(gradients_lost_with_their_worker_are_made_again, worker_lost_backward)
STORY(a_step_broken_off_before_its_commit_is_made_again_once, worker_lost_step)
STORY(a_new_process_makes_experts_of_step_0_from_the_seed, worker_dies_new)
STORY(copies_serve_in_the_place_of_a_dead_worker, worker_dies_trained)
STORY(experts_that_died_with_their_copies_are_reported_lost, all_copies_die)
STORY(a_worker_that_hangs_is_declared_lost_and_taken_back, worker_silent)
STORY(who_makes_experts_for_long_is_not_lost, slow_making)
STORY(a_path_that_is_cut_for_a_while_loses_nothing, cut_off)
STORY(a_reader_that_does_not_read_is_disconnected, slow_reader)
STORY(a_dead_trainers_layer_is_kept_for_a_lease, trainer_lease)
STORY(a_new_gateway_learns_all_from_workers_and_trainers, gateway_restart)
STORY(a_gateway_killed_in_stage_2_has_the_same_router, frozen_restart)
STORY(a_router_that_was_never_durable_is_brought_again, frozen_lost)
STORY(a_worker_that_came_back_dies_while_the_gateway_waits, worker_dies_expected)
STORY(a_new_layer_has_second_copies_while_the_gateway_waits, new_layer_expected)
STORY(whoever_dies_one_at_a_time_nothing_is_lost, storm)
STORY(a_commit_whose_answer_was_lost_is_not_made_twice, commit_unheard)
STORY(workers_that_missed_a_commit_learn_of_it_from_a_new_gateway, workers_behind)
STORY(a_first_step_whose_gateway_died_is_not_made_twice, first_step_unheard)
STORY(of_two_gateways_a_worker_serves_the_newer, split)
STORY(experts_of_step_0_are_bound_to_nobody, seed_again)
STORY(gradients_with_staleness_are_those_of_the_parameters_before, stale)
STORY(layers_with_and_without_staleness_step_together, stale_layers)
STORY(what_was_computed_a_step_ahead_counts_once_whoever_dies, stale_storm)
STORY(a_gateway_may_die_with_a_step_ahead, stale_restart)
STORY(a_worker_is_drained_though_batches_are_always_out, stale_drain)
STORY(a_step_that_fails_takes_the_one_ahead_along, stale_poison)
STORY(a_gradient_that_is_not_finite_fails_its_step_only, poison)
STORY(slots_and_shards_step_as_one_process_does, sharded)
STORY(every_rule_places_a_layer_anew_and_loses_nothing, sharded_rules)
STORY(an_iteration_sends_what_the_formulas_say, sharded_bytes)
STORY(gradients_and_weights_as_bf16_leave_all_copies_equal, sharded_bf16)
STORY(two_sharded_layers_are_each_placed_alone, sharded_layers)
STORY(a_holder_may_die_in_any_phase_of_an_iteration, sharded_phases)
STORY(a_connection_may_break_in_any_phase_of_an_iteration, sharded_reset)
STORY(a_gateway_killed_in_any_phase_finds_its_shards_again, sharded_restart)
STORY(a_frozen_router_on_replicas_outlives_the_gateway_with_them, sharded_frozen_restart)
STORY(a_gateway_killed_while_state_moves_takes_it_where_it_is, sharded_restart_moves)
STORY(newcomers_get_a_part_and_drained_workers_give_theirs_away, sharded_joins)
STORY(links_between_workers_may_break_in_any_phase, sharded_links)
STORY(a_link_that_falls_silent_holds_up_a_step_no_longer_than_a_worker, sharded_silence)
STORY(workers_that_do_not_reach_each_other_train_all_the_same, sharded_relayed)
STORY(state_that_died_with_both_holders_is_reported_lost, sharded_both_die)
STORY(slots_that_change_experts_a_step_ahead_step_as_one_process_does, stale_sharded)
STORY(every_rule_places_a_layer_that_is_a_step_ahead, stale_sharded_rules)
STORY(a_step_ahead_sends_no_byte_more, stale_sharded_bytes)
STORY(weights_before_come_again_as_they_were_sent, stale_sharded_bf16)
STORY(a_worker_may_die_in_any_phase_with_a_step_ahead, stale_sharded_phases)
STORY(a_connection_may_break_in_any_phase_with_a_step_ahead, stale_sharded_reset)
STORY(a_gateway_may_die_in_any_phase_with_a_step_ahead, stale_sharded_restart)
STORY(weights_before_that_come_again_may_be_interrupted, stale_sharded_again)
STORY(a_step_may_have_batches_of_two_placements, stale_sharded_mixed)
STORY(a_commit_between_forward_and_backward_changes_nothing, stale_sharded_waits)
STORY(newcomers_and_drained_workers_take_turns_with_steps_ahead, stale_sharded_joins)
STORY(a_step_ahead_of_lost_state_is_reported_lost, stale_sharded_both_die)

/* A story that nobody tells here would be no test. */
Test(story, every_story_is_told)
{
    cr_assert_eq(smoe_stories_len, 76);
}
