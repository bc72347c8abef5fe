/* SPDX-License-Identifier: Apache-2.0
 *
 * Stories: small worlds in which something happens, each with what must come of it. The tests tell them,
 * and so does `stablemoe-sim story`, where a seed that failed can be told again and read.
 *
 * A story is a function of its seed alone. `random` makes a world up from its seed, cast, network and
 * faults; when the faults end everything is mended, and then everything must finish.
 */
#ifndef SMOE_SIM_STORY_H
#define SMOE_SIM_STORY_H

#include "sim/world.h"

struct smoe_story {
    const char *name;
    const char *about; /* one sentence: what must be true */
    enum smoe_sim_arithmetic arithmetic;
    void (*play)(struct smoe_world *world); /* adds, acts, runs; what is wrong is the verdict */
};

extern const struct smoe_story smoe_stories[];
extern const size_t smoe_stories_len;

/* NULL if there is none of that name. */
const struct smoe_story *smoe_story_find(const char *name);

/* What was told, to be printed or compared. */
struct smoe_story_end {
    int code; /* 0: as it must be */
    struct smoe_why why;
    uint32_t
        losses; /* trainers and layers that ended without their experts; 0 but in random worlds */
    bool sharded, frozen,
        stale; /* random worlds: layers are, routers are on the way, batches are a step ahead */
    uint64_t acts[SMOE_SIM_ACTS]; /* smoe_world_acts */
    uint64_t virtual_ns, events, messages;
    uint64_t digest; /* of everything that happened */
    char *trace;     /* to be freed; NULL if none was kept */
};
void smoe_story_tell(const struct smoe_story *story, uint64_t seed, bool keep_trace,
                     struct smoe_story_end *ret);

/* ---- for those who write stories ---- */

/* The verdict, unless `condition` holds. */
__attribute__((format(printf, 3, 4))) void smoe_story_expect(struct smoe_world *world,
                                                             bool condition, const char *format,
                                                             ...);

/* Runs until all trainers are done, at most until `until_ns`, then a while longer until all is at rest,
 * and checks that. */
void smoe_story_finish(struct smoe_world *world, uint64_t until_ns);

/* The trainer is done, or failed with this code (0: is done, without failing). */
void smoe_story_expect_trainer(struct smoe_world *world, uint32_t trainer, int failed);

/* Runs until the gateway has routed `visits` more to the worker and the worker has not answered them
 * all; a verdict if that does not happen before `until_ns`. */
void smoe_story_run_into_forward(struct smoe_world *world, uint32_t gateway, uint32_t worker,
                                 uint64_t until_ns);
/* Runs until the trainer has committed `steps` steps. */
void smoe_story_run_to_step(struct smoe_world *world, uint32_t trainer, uint64_t steps,
                            uint64_t until_ns);

/* Runs until every expert of the first layer stands on two workers that are there. */
void smoe_story_run_to_both_copies(struct smoe_world *world, uint32_t gateway);

/* The gateway's books of the worker of that process; all zero if it does not know it. */
struct smoe_worker smoe_story_worker(const struct smoe_world *world, uint32_t gateway,
                                     uint32_t worker);

/* The same small cast in most of them: a gateway, two workers of unlike speed, a trainer; started. */
struct smoe_cast {
    uint32_t gateway, fast, slow, trainer;
};
struct smoe_cast smoe_story_cast(struct smoe_world *world,
                                 const struct smoe_sim_gateway_options *gateway,
                                 const struct smoe_sim_trainer_options *trainer);

/* stories_work.c and stories_faults.c: what goes as planned, and what does not. */
#define SMOE_STORY_MAP(X)                                                                          \
    X(join, EXACT, "workers join, a layer is hosted, and its trainer hears of it")                 \
    X(train, FLOAT, "three steps make the loss smaller, and experts become what the oracle says")  \
    X(adam, FLOAT, "AdamW over clipped gradients is the oracle's, dense part included")            \
    X(slot_closes_early, EXACT, "a trainer that waits for its batch never waits for the clock")    \
    X(pipelined, EXACT, "batches of the next step wait for the flip and lose nothing")             \
    X(three_layers, EXACT, "layers share workers and step together")                               \
    X(unlike_workers, EXACT, "work is divided by the speed of the workers")                        \
    X(evaluation, EXACT, "a second trainer evaluates a layer and never changes it")                \
    X(two_trainers_one_layer, EXACT, "a layer has one owner; the second is told whose it is")      \
    X(drain, EXACT, "a drained worker gets nothing new, and works again when it is undrained")     \
    X(drain_new_layer, EXACT, "a layer waits for a drained worker until it may work again")        \
    X(shutdown, EXACT, "a gateway that is asked to stop finishes, says goodbye and ends")          \
    X(crumbs, EXACT, "a network that delivers byte by byte changes nothing")                       \
    X(worker_lost_forward, EXACT, "a batch lost with its worker is replayed when it returns")      \
    X(worker_lost_backward, EXACT, "gradients lost with their worker are made again")              \
    X(worker_lost_step, EXACT, "a step broken off before its commit is made again, once")          \
    X(worker_dies_new, EXACT, "experts of step 0 are in the seed: a new process makes them again") \
    X(worker_dies_trained, EXACT, "the copies of a dead worker's experts serve in its place")      \
    X(all_copies_die, EXACT, "experts that died with their copies are lost, never made up")        \
    X(worker_silent, EXACT, "a worker that hangs is declared lost in time and taken back")         \
    X(slow_making, EXACT, "a worker that makes experts for long is not taken for one that hangs")  \
    X(cut_off, EXACT, "a path that is cut for a while loses nothing")                              \
    X(slow_reader, EXACT, "a peer that does not read is disconnected, not buffered for ever")      \
    X(trainer_lease, EXACT, "a dead trainer's layer is kept for a lease and then given away")      \
    X(gateway_restart, EXACT, "a new gateway learns all from workers and trainers and goes on")    \
    X(frozen_restart, EXACT,                                                                       \
      "a gateway killed in stage 2 comes back with the same router: same codes, same experts")     \
    X(frozen_lost, EXACT,                                                                          \
      "a router that died unwritten with its gateway is brought again before it is needed")        \
    X(worker_dies_expected, EXACT,                                                                 \
      "a worker that a new gateway waited for may come, die and return with nothing")              \
    X(new_layer_expected, EXACT,                                                                   \
      "experts declared while a new gateway waits for its workers have second copies at once")     \
    X(storm, EXACT, "whoever dies, one at a time and when both copies are there, nothing is lost") \
    X(commit_unheard, EXACT, "a commit whose answer was lost is not made twice")                   \
    X(workers_behind, EXACT, "workers that missed a commit learn of it from a new gateway")        \
    X(first_step_unheard, EXACT, "a first step that a dead gateway committed is not made twice")   \
    X(split, EXACT, "of two gateways a worker serves the newer one only, whoever calls it back")   \
    X(seed_again, EXACT,                                                                           \
      "a new gateway takes experts of step 0 from anybody, not from who had them")                 \
    X(stale, FLOAT, "with staleness 1 a step's gradients are those of the parameters before it")   \
    X(stale_layers, EXACT, "layers with and without staleness step together")                      \
    X(stale_storm, EXACT, "whoever dies, what was computed a step ahead counts once, as it was")   \
    X(stale_restart, EXACT, "a gateway may die with a step ahead of its commit")                   \
    X(stale_drain, EXACT, "a worker is drained though the next step's batches are always out")     \
    X(stale_poison, FLOAT, "a step that fails takes the one ahead of it along, and both count")    \
    X(poison, FLOAT, "a gradient that is not finite fails its step, and the next attempt counts")  \
    X(sharded, FLOAT,                                                                              \
      "slots and shards make AdamW steps as one process does, wherever experts stand")             \
    X(sharded_rules, EXACT, "every rule places a layer anew at each step, and no visit is lost")   \
    X(sharded_bytes, EXACT, "an iteration sends what the formulas say, whatever moves")            \
    X(sharded_bf16, FLOAT, "bf16 on the wire: half of the bytes, and all copies equal to the bit") \
    X(sharded_phases, EXACT, "a worker may die in any phase of an iteration, and come back empty") \
    X(sharded_reset, EXACT, "a connection may break in any phase, and what was held still counts") \
    X(sharded_restart, EXACT,                                                                      \
      "a gateway may die in any phase: its successor has the shards' places")                      \
    X(sharded_frozen_restart, EXACT,                                                               \
      "a frozen router, its experts' replicas and their shards outlive the gateway together")      \
    X(sharded_restart_moves, EXACT, "a gateway may die while state moves: whoever has it counts")  \
    X(sharded_joins, EXACT, "newcomers get slots and pieces, drained workers end up with nothing") \
    X(sharded_links, EXACT, "a link between workers that breaks in any phase costs no attempt")    \
    X(sharded_silence, EXACT, "a link that falls silent holds up a step no longer than a worker")  \
    X(sharded_relayed, EXACT, "workers that do not reach each other exchange through the gateway") \
    X(sharded_both_die, EXACT, "state that died with both its holders is lost, never made up")     \
    X(sharded_layers, EXACT, "two sharded layers of one trainer share workers, each placed alone") \
    X(stale_sharded, FLOAT,                                                                        \
      "a step ahead where slots change experts at every commit: the steps of one process")         \
    X(stale_sharded_rules, EXACT, "the same by every rule")                                        \
    X(stale_sharded_bytes, EXACT, "being a step ahead sends nothing more, whatever moves")         \
    X(stale_sharded_bf16, FLOAT, "weights before, come again as bf16, are those that slots had")   \
    X(stale_sharded_phases, EXACT, "a worker may die in any phase, with what is a step ahead")     \
    X(stale_sharded_reset, EXACT, "a connection may break in any phase, with a step ahead")        \
    X(stale_sharded_restart, EXACT, "a gateway may die in any phase, with a step ahead")           \
    X(stale_sharded_again, EXACT, "the weights before come again to slots that may break again")   \
    X(stale_sharded_mixed, EXACT, "a step may have batches of two placements: both are summed")    \
    X(stale_sharded_waits, EXACT, "a commit between forward and backward: backward goes on there") \
    X(stale_sharded_joins, EXACT, "newcomers and drained workers take turns with steps ahead")     \
    X(stale_sharded_both_die, EXACT, "a step ahead of state that died with both is lost with it")  \
    X(random_stale_sharded, EXACT, "whatever happens, sharded layers a step ahead finish")         \
    X(random_sharded, EXACT, "whatever happens to workers and networks, sharded layers finish")    \
    X(random, EXACT, "whatever happens, when the faults end everything is finished, exactly once") \
    X(random_frozen, EXACT, "the same with routers that are frozen on the way")                    \
    X(random_stale, EXACT, "the same with layers whose batches are a step ahead")                  \
    X(torture_whole, EXACT,                                                                        \
      "the same with lost packets, disks that fail, and workers that slow down or lie")            \
    X(torture, EXACT,                                                                              \
      "the same, sharded layers placed anew at each step and frozen routers among them")

#define X(name, arithmetic, about) void smoe_story_##name(struct smoe_world *world);
SMOE_STORY_MAP(X)
#undef X

#endif
