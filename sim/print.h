/* SPDX-License-Identifier: Apache-2.0
 *
 * What stablemoe-sim prints: tables for people, one JSON object for programs. Numbers are written with a
 * fixed count of digits, so that equal results are equal bytes.
 */
#ifndef SMOE_SIM_PRINT_H
#define SMOE_SIM_PRINT_H

#include <stdio.h>

#include "sim/slotted.h"
#include "sim/story.h"

/* One run of one policy. */
struct smoe_print_run {
    enum smoe_policy policy;
    struct smoe_slotted_result result;
};

/* What was asked for. */
struct smoe_print_job {
    const struct smoe_scenario *scenario;
    enum smoe_sim_freq_rule freq_rule;
    uint64_t slots, seed;
    bool timings; /* the only numbers that differ from machine to machine */
    bool whole;   /* by smoe_whole_run */
};

void smoe_print_runs(const struct smoe_print_job *job, const struct smoe_print_run *runs, size_t n,
                     FILE *out);
void smoe_print_runs_json(const struct smoe_print_job *job, const struct smoe_print_run *runs,
                          size_t n, FILE *out);

/* One line; its trace first, if there is one. */
void smoe_print_story(const struct smoe_story *story, uint64_t seed,
                      const struct smoe_story_end *end, FILE *out);
void smoe_print_story_json(const struct smoe_story *story, uint64_t seed,
                           const struct smoe_story_end *end, FILE *out);

#endif
