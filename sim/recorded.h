/* SPDX-License-Identifier: Apache-2.0
 *
 * A trace of the daemon as something to run policies on (slotted.h): its arrivals, scores and workers slot by
 * slot, with other decisions.
 *
 * A trainer that waits for its results (routing.plan = work) is a closed source: each recorded decision is
 * one slot, which lasts until it is served. An open stream (plan = slot or shorter) keeps its times: what was
 * routed within slot_ns arrives in one slot. Tokens that were not routed come again in a later record and
 * count there; replays, whose experts were given, had come before and are left out.
 */
#ifndef SMOE_SIM_RECORDED_H
#define SMOE_SIM_RECORDED_H

#include "sim/recording.h"
#include "sim/slotted.h"

struct smoe_recorded {
    struct smoe_recording file;
    /* Found out by smoe_recorded_open; of one layer. */
    smoe_name layer;
    uint32_t experts, top_k, workers; /* numbers up to workers - 1 took part */
    uint32_t scores_kept;             /* least of a record; below experts: the rest is not known */
    bool closed;
    uint64_t slot_ns;
    double v, mu, gap;
    uint64_t slots, tokens;
    uint64_t first_ns; /* open: when slot 0 began */
    struct smoe_slotted_tape tape;
    double *rate_sum; /* [workers] sum over the records in which it served: visits/s, owned */
    uint64_t *seen;   /* [workers] these records, owned */
    /* Where `tape` stands. */
    uint64_t slot;
    bool ahead; /* `entry` is read and not used */
    struct smoe_trace_entry entry;
    int rc; /* a file that changed under us: slots are empty from then on, */
    struct smoe_why why;
    float *scores;                  /* [tokens_max, experts], owned, as are */
    struct smoe_plan_worker *known; /* [workers] of the last record used, and what they draw */
    struct smoe_power_curve *curves;
    uint32_t *replica_first, *replica_node;
};

/* Reads the whole file once. `layer` "": the only one that there is. SMOE_EFIELD and a sentence that names
 * what a run cannot have: several layers, or a top_k, plan, slot or weight that changes. */
int smoe_recorded_open(struct smoe_recorded *recorded, const char *path, const char *layer,
                       struct smoe_why *why);
void smoe_recorded_close(struct smoe_recorded *recorded);

/* To the first slot again; `recorded->tape` gives them. */
void smoe_recorded_rewind(struct smoe_recorded *recorded);

/* The fleet as a scenario, for what is printed: speeds are visits a second, on average over the records.
 * Release with smoe_scenario_release. */
int smoe_recorded_scenario(const struct smoe_recorded *recorded, struct smoe_scenario *ret,
                           struct smoe_why *why);

#endif
