/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands of stablemoe-sim: what a person types becomes a run of the rooms below, and an exit code.
 * Only here does the simulator meet command lines, data sets and other programs.
 */
#ifndef SMOE_SIM_PROGRAM_PROGRAM_H
#define SMOE_SIM_PROGRAM_PROGRAM_H

#include "common/io/cli.h"
#include "daemon/core/policy.h"
#include "sim/scenario.h"

#define SMOE_SIM_PROGRAM "stablemoe-sim"

struct smoe_sim_arguments {
    char seeds[44];
    char scenario[256];
    char policy[32];
    char output[256];
    char dataset[32];
    char data_dir[256];
    unsigned freq_rule;
    double load;      /* 0: the scenario's */
    double bandwidth; /* of `placement` [MB/s] */
    uint64_t slots, seed;
    char trace[256]; /* file that the daemon recorded; "": none */
    char layer[64];  /* of its layers; "": the only one */
    bool json, messages, timings, train, whole;
};

#define SMOE_SIM_SLOTS 1000 /* where nobody says how many */

int smoe_sim_tell_stories(const char *name, const struct smoe_sim_arguments *a);
/* Many random worlds with faults of every kind: exit code 1 if one ends wrong. */
int smoe_sim_torture(const struct smoe_sim_arguments *a);
int smoe_sim_run(const struct smoe_sim_arguments *a);
/* Makes the decisions of a trace again and says whether they are the same: exit code 1 if not. */
int smoe_sim_replay(const struct smoe_sim_arguments *a);
/* What is in a trace. */
int smoe_sim_summarise(const char *path, const struct smoe_sim_arguments *a);
int smoe_sim_plot(const struct smoe_sim_arguments *a);
/* Rules of placement side by side. */
int smoe_sim_placement(const struct smoe_sim_arguments *a);

/* Policies asked for: one, or all; returns how many, 0 if there is none of that name. */
size_t smoe_sim_read_policies(const char *name, enum smoe_policy ret[SMOE_POLICY_COUNT]);
/* SMOE_ECONFIG and the sentence for that. */
int smoe_sim_no_policy(const char *name, struct smoe_why *why);

/* `A..B` or `A`. SMOE_ECONFIG and a sentence. */
int smoe_sim_read_seeds(const char *text, uint64_t *ret_first, uint64_t *ret_last,
                        struct smoe_why *why);

/* A built-in scenario, `random:N` or a file. SMOE_ECONFIG and a sentence, or what the file gave. */
int smoe_sim_load_scenario(const char *name, struct smoe_scenario *ret, struct smoe_why *why);

/* The same with --load. */
int smoe_sim_asked_scenario(const struct smoe_sim_arguments *a, struct smoe_scenario *ret,
                            struct smoe_why *why);

#endif
