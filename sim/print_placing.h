/* SPDX-License-Identifier: Apache-2.0
 *
 * The grid of `stablemoe-sim placement`: rules of placement under drift, on equal and on unlike workers, with visits
 * shared by price and equally.
 */
#ifndef SMOE_SIM_PRINT_PLACING_H
#define SMOE_SIM_PRINT_PLACING_H

#include <stdio.h>

#include "sim/placing.h"

#define SMOE_PLACING_RULES        10
#define SMOE_PLACING_COEFFICIENTS 5
#define SMOE_PLACING_TABLES       4

struct smoe_placing_row {
    const char *name; /* as a person writes it; how it is parsed and run is in print_placing.c */
    struct smoe_placing_result result;
};

/* One fleet and way to share visits. */
struct smoe_placing_table {
    struct smoe_placing_spec spec; /* the last coefficient's */
    struct smoe_placing_row rows[SMOE_PLACING_COEFFICIENTS][SMOE_PLACING_RULES];
};

/* Runs the whole grid; of `spec` the coefficient, the fleet and the sharing are its own. */
void smoe_placing_grid(const struct smoe_placing_spec *spec,
                       struct smoe_placing_table ret[SMOE_PLACING_TABLES]);

void smoe_print_placing(const struct smoe_placing_table tables[SMOE_PLACING_TABLES], FILE *out);
void smoe_print_placing_json(const struct smoe_placing_table tables[SMOE_PLACING_TABLES],
                             FILE *out);

#endif
