/* SPDX-License-Identifier: Apache-2.0
 *
 * `placement`: rules of placement side by side while popularity drifts.
 */
#include "sim/print_placing.h"
#include "sim/program/program.h"

int smoe_sim_placement(const struct smoe_sim_arguments *a)
{
    static struct smoe_placing_table tables[SMOE_PLACING_TABLES];
    struct smoe_placing_spec spec;
    smoe_placing_standard(&spec);
    spec.iterations = a->slots;
    spec.seed = a->seed;
    spec.bandwidth = a->bandwidth * 1e6;
    smoe_placing_grid(&spec, tables);
    (a->json ? smoe_print_placing_json : smoe_print_placing)(tables, stdout);
    return SMOE_EXIT_OK;
}
