/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the world: what its files offer each other. world.c owns processes and time;
 * process_gateway.c, process_worker.c and process_trainer.c stand in for the three shells; link.c is
 * the connection that worker and trainer make and make again; script.c is what a trainer does.
 */
#ifndef SMOE_SIM_WORLD_STATE_H
#define SMOE_SIM_WORLD_STATE_H

#include "common/base/list.h"
#include "sim/world.h"

enum smoe_sim_kind { SMOE_SIM_GATEWAY, SMOE_SIM_WORKER, SMOE_SIM_TRAINER };

struct smoe_sim_process;

/* What each kind of process does its own way. All but `free` are called while it is up, `start` while
 * it is not. */
struct smoe_sim_kind_ops {
    void (*start)(struct smoe_sim_process *process);
    void (*stop)(struct smoe_sim_process *process);
    void (*kill)(struct smoe_sim_process *process); /* the machine is freed; the network knows */
    void (*check)(const struct smoe_sim_process *process);
    void (*free)(struct smoe_sim_process *process);
};

/* First member of every process. */
struct smoe_sim_process {
    struct smoe_world *world;
    const struct smoe_sim_kind_ops *ops;
    enum smoe_sim_kind kind;
    uint32_t number;
    smoe_name name;
    uint32_t gateway; /* its own number, for a gateway */
    bool up, paused;
    uint32_t starts;
    struct smoe_rng rng;
    struct smoe_sim_event *missed[64]; /* [n_missed] what was due while it was paused */
    uint32_t n_missed;
};

struct smoe_world {
    struct smoe_world_options options;
    struct smoe_sim_clock clock;
    uint64_t start_ns;
    struct smoe_simnet *net;
    struct smoe_sim_trace trace;
    struct smoe_sim_process **processes; /* [n], owned */
    uint32_t n_processes;
    struct smoe_sim_process *touched; /* by the present event: to be checked */
    struct smoe_list plans;
    int verdict;
    struct smoe_why why;
    uint64_t acts[SMOE_SIM_ACTS];
    bool sharded, frozen,
        stale; /* random worlds: layers are, routers are on the way, batches are a step ahead */
    uint32_t losses; /* trainers whose experts are lost, where the story takes that (sim/story.h) */
};

/* Adds a process of `bytes` bytes whose first member this is. */
struct smoe_sim_process *smoe_world_add(struct smoe_world *world, size_t bytes,
                                        const struct smoe_sim_kind_ops *ops,
                                        enum smoe_sim_kind kind, const char *name,
                                        const struct smoe_sim_profile *path);

/* For every event and callback of a process: it is the one to be checked. With an event: false if the
 * process is paused; the event then comes when it goes on. */
void smoe_world_touch(struct smoe_sim_process *process);
bool smoe_world_due(struct smoe_sim_process *process, struct smoe_sim_event *event);

/* Sets and cancels a process's event; `at_ns` on the clock. */
void smoe_process_set(struct smoe_sim_process *process, struct smoe_sim_event *event,
                      uint64_t at_ns);
void smoe_process_cancel(struct smoe_sim_process *process, struct smoe_sim_event *event);

/* The process ended by itself. */
void smoe_world_ended(struct smoe_sim_process *process);

/* The first thing found wrong. */
__attribute__((format(printf, 3, 4))) void smoe_world_fail(struct smoe_world *world, int code,
                                                           const char *format, ...);

/* A random number that is never 0. */
uint64_t smoe_process_identity(struct smoe_sim_process *process);

void smoe_sim_default_path(struct smoe_sim_profile *path, uint64_t latency_ns);

/* ---- process_gateway.c ---- */
void smoe_sim_gateway_drain(struct smoe_sim_process *gateway, const char *worker, bool drain);
void smoe_sim_gateway_configure(struct smoe_sim_process *gateway,
                                const struct smoe_core_settings *settings);
void smoe_sim_gateway_break_disk(struct smoe_sim_process *gateway, bool broken);
struct smoe_gateway *smoe_sim_gateway_machine(const struct smoe_sim_process *gateway);

/* ---- process_worker.c ---- */
void smoe_sim_worker_lie(struct smoe_sim_process *worker, bool lies);
struct smoe_agent *smoe_sim_worker_machine(const struct smoe_sim_process *worker);

/* ---- process_trainer.c ---- */
struct smoe_uplink *smoe_sim_trainer_machine(const struct smoe_sim_process *trainer);
struct smoe_sim_trainer_view smoe_sim_trainer_see(const struct smoe_sim_process *trainer);
/* Done, failed, or not running. */
bool smoe_sim_trainer_over(const struct smoe_sim_process *trainer);
const struct smoe_script *smoe_sim_trainer_script(const struct smoe_sim_process *trainer);

#endif
