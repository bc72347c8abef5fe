/* SPDX-License-Identifier: Apache-2.0
 *
 * The result of a run: rows of named figures with their spread, some of them held to a floor, and
 * remarks. Printed as a table or as one JSON object.
 */
#ifndef SMOE_BENCH_REPORT_H
#define SMOE_BENCH_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "bench/floors.h"
#include "bench/sample.h"

#define SMOE_ROWS_MAX  640
#define SMOE_NOTES_MAX 16

struct smoe_row {
    char key[64]; /* bench.what.size: what floors and readers of the JSON go by */
    const char *unit;
    struct smoe_spread spread;
    unsigned n;           /* rounds it is the median of; 0: left out */
    const char *left_out; /* and why */
    const struct smoe_floor *floor;
};

struct smoe_report {
    const char *bench;
    struct smoe_row rows[SMOE_ROWS_MAX];
    unsigned n_rows;
    char notes[SMOE_NOTES_MAX][200];
    unsigned n_notes;
};

/* Adds a row. `unit` is a literal: "x" for a ratio. The key is made by the format. */
__attribute__((format(printf, 4, 5))) void smoe_report_add(struct smoe_report *report,
                                                           const char *unit,
                                                           const struct smoe_sample *sample,
                                                           const char *key, ...);

/* One value without rounds. */
__attribute__((format(printf, 4, 5))) void smoe_report_value(struct smoe_report *report,
                                                             const char *unit, double value,
                                                             const char *key, ...);

/* A row that is not measured because what it would measure is out of reach. `reason` is a literal. Its
 * floor, if it has one, is missed: what cannot be measured for slowness is not fast enough. */
__attribute__((format(printf, 3, 4))) void smoe_report_left_out(struct smoe_report *report,
                                                                const char *reason, const char *key,
                                                                ...);

/* A remark: what was skipped, and why. */
__attribute__((format(printf, 2, 3))) void smoe_report_note(struct smoe_report *report,
                                                            const char *format, ...);

/* Rows that miss their floor. Floors that no row has come under are not counted: what they compare with is not
 * installed, or the run was quick; both printers list them as not checked. */
unsigned smoe_report_missed(const struct smoe_report *report);

void smoe_report_print(const struct smoe_report *report, FILE *out);

/* One line; 0 or SMOE_ENOMEMORY. */
int smoe_report_print_json(const struct smoe_report *report, bool quick, FILE *out);

#endif
