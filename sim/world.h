/* SPDX-License-Identifier: Apache-2.0
 *
 * A deterministic world in virtual time. It drives the project's real machines, byte by byte: the
 * daemon (daemon/gateway), the workers (client/worker/agent, whose tasks run here, inline, and take
 * the virtual time that their work costs) and the trainers (client/libstablemoe/core). There are no
 * sockets, threads or clocks: a world is a function of its options and its seed, the same on every
 * machine, and its trace says so.
 *
 *     struct smoe_world *w = smoe_world_new(&(struct smoe_world_options){.seed = 1});
 *     uint32_t gateway = smoe_world_add_gateway(w, &(struct smoe_sim_gateway_options){0});
 *     uint32_t pi = smoe_world_add_worker(w, &(struct smoe_sim_worker_options){.name = "pi-1"});
 *     smoe_world_start(w, gateway), smoe_world_start(w, pi);
 *     smoe_world_run(w, 100 * SMOE_SIM_MS);
 *
 * After each event all invariants of the machine that it touched are walked, of all machines at the
 * end of smoe_world_run: a broken one ends the process. What a trainer computed is compared with the
 * oracle (sim/oracle.h) as it goes; the first thing found wrong is the world's verdict.
 */
#ifndef SMOE_SIM_WORLD_H
#define SMOE_SIM_WORLD_H

#include "client/libstablemoe/core/uplink.h"
#include "client/worker/agent/agent.h"
#include "common/base/err.h"
#include "daemon/gateway/gateway.h"
#include "sim/compute.h"
#include "sim/network.h"
#include "sim/trace.h"

struct smoe_world;

struct smoe_world_options {
    uint64_t seed;
    enum smoe_sim_arithmetic arithmetic;
    bool keep_trace;      /* its text; the digest is always kept */
    uint64_t check_every; /* events between walks of a machine's invariants; 0: after each */
};

struct smoe_world *smoe_world_new(const struct smoe_world_options *options);
void smoe_world_free(struct smoe_world *world);

/* ---- processes; their numbers are those of the network, in the order in which they were added ----
 * Zero fields get the defaults that are named. Processes begin stopped. */

struct smoe_sim_gateway_options {
    smoe_name name;               /* "gateway" */
    struct smoe_sim_profile path; /* no latency, 256 KiB of buffers */
    struct smoe_core_limits
        limits; /* 16 workers, 8 trainers, 256 batches, 4096 parcels, 1024 tokens */
    struct smoe_core_settings settings; /* those of stablemoed, with a slot of 20 ms */
    uint64_t tensor_bytes_max;          /* 64 MiB */
    size_t tensors_bytes_max;           /* 256 MiB */
    size_t outbox_bytes_max;            /* 64 MiB */
    uint64_t hello_timeout_ns;          /* 2 s */
    bool sharded;                       /* layers are, and placed by: */
    struct smoe_place_rule placement;   /* highest-averages */
    bool links;                         /* workers of sharded layers have direct links */
    uint64_t exchange_bytes;            /* of one of them under way, 4 MiB */
};

struct smoe_sim_worker_options {
    smoe_name name;                 /* "worker" */
    uint32_t gateway;               /* whom it connects to */
    struct smoe_sim_profile path;   /* 1 ms, 256 KiB of buffers */
    double speed;                   /* of nominal_hz, 1 */
    double nominal_hz;              /* 1e9 */
    double cycles_per_flop;         /* 1 */
    double parcel_rows;             /* a parcel costs as much as so many rows more, 0 */
    double making;                  /* flops that a parameter of a new expert takes, 0 */
    double jitter;                  /* a slice takes up to this share longer, 0 */
    uint32_t lanes;                 /* 1 */
    double busy_watts;              /* 0 */
    double meter_noise;             /* of its model meter (agent.h), 0 */
    double budget_watts, cap_watts; /* 0 */
    /* Its frequency is one of voltage too: power is its cube, and a new one is in force at once. False: a
     * duty cycle, which changes with the next slice. */
    bool voltage_follows;
    uint64_t memory_bytes;    /* 64 MiB, divided as stablemoe-worker does */
    uint64_t inbox_bytes_max; /* 1/16 of it, at least 1 MiB */
    uint32_t parcels_max;     /* 4096 */
    uint32_t expert_slots;    /* of a sharded layer; 0: as memory allows */
};

#define SMOE_SIM_LAYERS_MAX 4

/* A program of its own in the place of the script below. Its functions are called by the trainer's
 * process only. */
struct smoe_sim_program {
    void (*start)(void *context, struct smoe_uplink *uplink);
    void (*advance)(void *context, uint64_t now_ns); /* something may have changed */
    uint64_t (*wake_ns)(const void *context);        /* to be advanced then in any case */
    void (*end)(void *context);                      /* before the uplink is freed */
};

/* A trainer is a script: declare; then, `steps` times: submit `batches` batches, at most `in_flight`
 * of them without their gradient; when a batch's results are in, think, give the gradient; when all
 * have it, step. Batch b goes to layer b mod n_layers. It learns a fixed random map from random
 * tokens, by least squares. An evaluating trainer attaches to another's layers and never steps. */
struct smoe_sim_trainer_options {
    smoe_name name; /* "trainer" */
    uint32_t gateway;
    struct smoe_sim_profile path; /* 1 ms, 256 KiB of buffers */
    uint32_t n_layers;            /* 1 */
    struct smoe_layer_shape
        shape;              /* of each; 4 experts, 4 x 8, ReLU, SGD; the seed is the world's */
    const char *layer_name; /* "moe"; layers are called moe-0, moe-1, .. */
    bool evaluate;
    uint32_t steps;     /* 3; evaluations: rounds of `batches` */
    uint32_t batches;   /* a step, 1 */
    uint32_t in_flight; /* `batches` */
    uint32_t tokens;    /* 8 */
    uint32_t top_k;     /* 2 */
    double skew;        /* of the gate scores: larger makes a few experts popular */
    bool turns;         /* ... which others follow at every step: it is never long the same ones */
    uint64_t think_ns;  /* between results and gradient */
    bool pipelined;     /* the next step's batches are submitted before StepDone */
    uint32_t staleness; /* of its layers: then those are computed before the commit */
    bool hasty;         /* it steps without waiting for input gradients */
    struct smoe_step_optimizer optimizer; /* of shape.optimizer's kind; SGD at 0.05 */
    double clip_norm;
    double dense_square_norm;
    uint64_t
        freeze_step; /* from this step on its tokens come with codes for a table that it froze; 0: never */
    uint64_t poison_step; /* its first gradient holds a NaN the first time; 0: none does */
    uint64_t patience_ns; /* 60 s without the gateway, then it gives up */
    const struct smoe_sim_program *program; /* borrowed; NULL: the script */
    void *program_context;
};

uint32_t smoe_world_add_gateway(struct smoe_world *world, const struct smoe_sim_gateway_options *o);
/* A worker's visits take so many times the cycles of its options from its next slice on, and its counters
 * do not say why. */
void smoe_world_slow_worker(struct smoe_world *world, uint32_t number, double times);

uint32_t smoe_world_add_worker(struct smoe_world *world, const struct smoe_sim_worker_options *o);
uint32_t smoe_world_add_trainer(struct smoe_world *world, const struct smoe_sim_trainer_options *o);

/* ---- what happens to them ---- */

enum smoe_sim_act {
    SMOE_SIM_START,  /* a new process: new machine, new incarnation */
    SMOE_SIM_STOP,   /* SIGTERM: it leaves in order */
    SMOE_SIM_CRASH,  /* SIGKILL: its system resets the connections */
    SMOE_SIM_VANISH, /* power loss: no word to anybody */
    SMOE_SIM_PAUSE,  /* SIGSTOP */
    SMOE_SIM_RESUME,
    SMOE_SIM_DEAF, /* it stops reading its connections, and does all else */
    SMOE_SIM_HEARING,
    SMOE_SIM_RESET,    /* its connections are reset by the network */
    SMOE_SIM_CUT,      /* the way between it and its gateway is cut, both directions */
    SMOE_SIM_CUT_TO,   /* only towards the gateway */
    SMOE_SIM_CUT_FROM, /* only from the gateway */
    SMOE_SIM_HEAL,
    SMOE_SIM_DRAIN, /* the operator drains the worker */
    SMOE_SIM_UNDRAIN,
    SMOE_SIM_LOSSY, /* one in eight of its segments is lost, and comes again */
    SMOE_SIM_LOSSLESS,
    SMOE_SIM_DISK_FAILS, /* the gateway's journal cannot be written */
    SMOE_SIM_DISK_WORKS,
    SMOE_SIM_SLOW, /* the worker's visits take four times the cycles, and it does not say so */
    SMOE_SIM_QUICK,
    SMOE_SIM_LIE, /* the worker's results are not numbers */
    SMOE_SIM_HONEST,
    SMOE_SIM_ACTS,
};
const char *smoe_sim_act_name(enum smoe_sim_act act);
/* A word for tables: "crash". */
const char *smoe_sim_act_word(enum smoe_sim_act act);

/* Now. What makes no sense (to start what runs, to stop what does not) does nothing. */
void smoe_world_act(struct smoe_world *world, enum smoe_sim_act act, uint32_t process);
/* Later, `at_ns` after the beginning. */
void smoe_world_plan(struct smoe_world *world, uint64_t at_ns, enum smoe_sim_act act,
                     uint32_t process);
#define smoe_world_start(world, process) smoe_world_act((world), SMOE_SIM_START, (process))

/* The gateway's address leads to another one from now on: the process's connection breaks, and it goes there. */
void smoe_world_redirect(struct smoe_world *world, uint32_t process, uint32_t gateway);

/* The operator changes the daemon's settings. */
void smoe_world_configure(struct smoe_world *world, uint32_t gateway,
                          const struct smoe_core_settings *settings);

/* ---- time ---- */

/* Nanoseconds since the beginning. */
uint64_t smoe_world_now(const struct smoe_world *world);
/* Fires the next event. False if there is none, or the verdict is in. */
bool smoe_world_step(struct smoe_world *world);
/* To `until_ns` after the beginning; false if the verdict came in before. */
bool smoe_world_run(struct smoe_world *world, uint64_t until_ns);
/* Until every trainer that runs has done its part or failed, at the longest until `until_ns`, which is
 * then a verdict: it says what they wait for. */
bool smoe_world_run_trainers(struct smoe_world *world, uint64_t until_ns);

/* ---- what came of it ---- */

/* 0, or what was found wrong first. */
int smoe_world_verdict(const struct smoe_world *world, struct smoe_why *ret_why);

/* How often something was done to a process; of LOSSY, DISK_FAILS and LIE: segments that were lost, writes
 * that failed, results that were spoilt. */
uint64_t smoe_world_acts(const struct smoe_world *world, enum smoe_sim_act act);

/* When all is at rest: nothing is in flight, no tensor is held by anybody, and every expert of every
 * trainer is, where it is hosted, what the oracle says. A code and a sentence otherwise. */
int smoe_world_check_rest(struct smoe_world *world, struct smoe_why *why);

const struct smoe_sim_trace *smoe_world_trace(const struct smoe_world *world);
uint64_t smoe_world_events(const struct smoe_world *world);
uint32_t smoe_world_processes(const struct smoe_world *world);
const char *smoe_world_name(const struct smoe_world *world, uint32_t process);

/* The machine of a process that runs, NULL otherwise. */
struct smoe_gateway *smoe_world_gateway(const struct smoe_world *world, uint32_t process);
struct smoe_agent *smoe_world_agent(const struct smoe_world *world, uint32_t process);
struct smoe_uplink *smoe_world_uplink(const struct smoe_world *world, uint32_t process);

struct smoe_sim_trainer_view {
    bool done;  /* it has made all its steps */
    int failed; /* its uplink, a layer or its patience failed for good; the sentence is in `why` */
    struct smoe_why why;
    uint64_t steps; /* committed, as far as it knows */
    uint64_t failed_steps;
    struct smoe_why step_why; /* of the last step that failed */
    uint64_t failed_batches;
    uint64_t batches;             /* whose results were seen */
    double first_loss, last_loss; /* mean over a step's tokens (not EXACT) */
    double clip_scale;            /* of the last step */
    double error_max;             /* largest relative error against the oracle so far */
};
struct smoe_sim_trainer_view smoe_world_trainer(const struct smoe_world *world, uint32_t process);

/* A number that all parameters of the trainer's experts, as the oracle has them, go into. */
uint64_t smoe_world_parameters(const struct smoe_world *world, uint32_t trainer);

#endif
