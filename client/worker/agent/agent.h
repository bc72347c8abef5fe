/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's mind: one connection to the gateway as bytes, experts, parcels, and what to compute
 * next. No socket, no thread, no clock: a shell moves bytes, runs tasks on its lanes and tells the
 * time; the simulator does the same in virtual time.
 *
 * Use: feed what was received; after every call write what smoe_agent_peek offers, and give an idle
 * lane what smoe_agent_next_task offers; run its slices anywhere; report it done.
 */
#ifndef SMOE_AGENT_AGENT_H
#define SMOE_AGENT_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "client/worker/agent/experts.h"
#include "client/worker/agent/task.h"
#include "common/base/err.h"
#include "common/base/limits.h"

#define SMOE_LANES_MAX         256
#define SMOE_AGENT_PARCELS_MAX 65536

struct smoe_agent;

struct smoe_agent_options {
    smoe_name id;
    uint64_t incarnation; /* random, not 0 */
    smoe_name software;
    uint32_t lanes;         /* compute lanes, 1..SMOE_LANES_MAX */
    double freq_nominal_hz; /* cycles a second of CPU time: what cycles are counted in */
    double freq_max_hz;     /* highest frequency in force: nominal x speed cap */
    double busy_watts;      /* power of the compute lanes running without pause, 0: unknown */
    char energy_source[16]; /* the meter that smoe_agent_set_joules is told from; "": a model of
                             * busy_watts, which is then not told to the gateway: it must learn */
    double model_noise; /* standard deviation of what the model says of a task, of itself, 0..0.5 */
    double budget_watts, cap_watts; /* mean and highest power the node may draw, 0: any */
    /* The driver lowers the voltage with the frequency: power falls with the cube of it from busy_watts at
     * freq_max_hz. False: a duty cycle, a cycle costs the same at any frequency. */
    bool voltage_follows;
    smoe_name freq_driver;
    uint64_t freq_states_khz[SMOE_FREQ_STATES_MAX]; /* P-states, rising; of what the driver takes */
    uint32_t n_freq_states;                         /* 0: any frequency */
    uint64_t experts_bytes_max;                     /* memory of expert states */
    uint32_t expert_slots; /* of a sharded layer that it serves at a time; 0: as memory allows */
    uint64_t tensors_bytes_max; /* raw parts coming in, results, kept activations */
    uint64_t inbox_bytes_max;   /* of these, visits whose forward is not done: said in Hello */
    uint32_t parcels_max;       /* parcels held at a time; 0: SMOE_AGENT_PARCELS_MAX */
};

int smoe_agent_new(const struct smoe_agent_options *options, struct smoe_agent **ret,
                   struct smoe_why *why);
/* Nobody may be running a task; one that was begun and not reported done is dropped. */
void smoe_agent_free(struct smoe_agent *agent);

/* ---- the link ---- */

/* A connection stands: says hello. */
void smoe_agent_connected(struct smoe_agent *agent, uint64_t now_ns);
/* It is gone. Experts stay as last committed; parcels and gradients are dropped. */
void smoe_agent_disconnected(struct smoe_agent *agent);

uint8_t *smoe_agent_direct(const struct smoe_agent *agent, size_t *ret_room);
/* A nonzero return means the connection must be closed; the sentence says why. */
int smoe_agent_received(struct smoe_agent *agent, const uint8_t *data, size_t n, uint64_t now_ns,
                        struct smoe_why *why);
size_t smoe_agent_peek(const struct smoe_agent *agent, struct iovec *iovecs, size_t max);
void smoe_agent_consume(struct smoe_agent *agent, size_t bytes);

/* Leaves on purpose: says Bye; close when it is written. */
void smoe_agent_leave(struct smoe_agent *agent, const char *reason);

bool smoe_agent_welcomed(const struct smoe_agent *agent);

/* There was no memory for something that the gateway waits for: close the connection, whose end makes
 * everybody begin again. */
bool smoe_agent_speechless(const struct smoe_agent *agent);

/* ---- computing ---- */

/* The next task, backward passes first; NULL if there is none for now. `scratch` must hold
 * smoe_agent_scratch_elements() reals and belong to one lane. The task is the caller's to run until
 * smoe_agent_task_done. */
struct smoe_task *smoe_agent_next_task(struct smoe_agent *agent, smoe_real *scratch);
/* Work that waits for a lane, optimizer steps included. [flop, roughly] */
uint64_t smoe_agent_waiting_flops(const struct smoe_agent *agent);
/* The task ran to its end and took `cpu_ns` of CPU time. */
void smoe_agent_task_done(struct smoe_agent *agent, struct smoe_task *task, uint64_t cpu_ns,
                          uint64_t now_ns);
/* Scratch of one lane; grows when a larger layer is hosted, so ask before each task. */
size_t smoe_agent_scratch_elements(const struct smoe_agent *agent);

/* ---- frequency, reports, time ---- */

/* The frequency the gateway decided, 0 if none yet. [kHz] */
uint64_t smoe_agent_freq_wanted_khz(const struct smoe_agent *agent);
/* What the driver made of it, for the report. */
void smoe_agent_set_freq(struct smoe_agent *agent, uint64_t in_force_khz, double max_hz);
/* Cycles that a second of a lane's CPU time counts from now on; freq_nominal_hz until told. */
void smoe_agent_set_cycles_hz(struct smoe_agent *agent, double hz);
/* For the report: what the driver was asked for and what was measured, 0 if unknown, and its note. */
void smoe_agent_set_driver(struct smoe_agent *agent, uint64_t requested_khz, uint64_t achieved_khz,
                           const char *note);
/* What the meter named in the options has counted since the beginning; never falls. */
void smoe_agent_set_joules(struct smoe_agent *agent, double joules);
/* Whether that meter cannot be read now: the gateway then goes by its own model. */
void smoe_agent_set_meter_lost(struct smoe_agent *agent, bool lost);
void smoe_agent_set_temperature(struct smoe_agent *agent, double celsius);

/* Time passed: sends the report when it is due. */
void smoe_agent_tick(struct smoe_agent *agent, uint64_t now_ns);
uint64_t smoe_agent_wake_ns(const struct smoe_agent *agent);

/* ---- frozen routers ---- */

/* Asks the gateway which router is in force of every layer held here. */
void smoe_agent_ask_routers(struct smoe_agent *agent);
/* The name of held layer 0..SMOE_LAYERS_MAX - 1, NULL if there is none, and the router that the gateway named
 * last; version 0: none, or it has not answered. */
const char *smoe_agent_router(const struct smoe_agent *agent, uint32_t layer,
                              struct smoe_frozen_head *ret_router);

/* ---- views ---- */

const struct smoe_experts *smoe_agent_experts(const struct smoe_agent *agent);
/* Times and cycles are those of the tasks that have ended. */
void smoe_agent_counters(const struct smoe_agent *agent, struct smoe_msg_report *ret);
void smoe_agent_check(const struct smoe_agent *agent);

#endif
