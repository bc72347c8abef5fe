/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers that describe a scenario: lists as a person writes them, and files of them.
 */
#ifndef SMOE_SIM_NUMBERS_H
#define SMOE_SIM_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define SMOE_NUMBERS_MAX (1u << 22) /* of one file */

/* A list: `1 0.5 0.25` repeated as often as needed, `1.5..9.5` evenly spaced, or `~0.1..1` log-uniform
 * at random. */
struct smoe_number_list {
    const char *key;  /* as the person wrote it, for the sentence */
    const char *text; /* shorter than SMOE_SCENARIO_LIST_MAX */
    uint64_t n;
    uint64_t seed; /* of what is random; lists of other keys have other numbers */
    double above;  /* all must be */
};

/* ret[n]. SMOE_ECONFIG and a sentence. */
int smoe_numbers_list(const struct smoe_number_list *list, double *ret, struct smoe_why *why);

/* A text file of numbers between blanks, `#` to the end of a line a comment, `columns` of them a row.
 * `*ret` [rows, columns] is the caller's to free. SMOE_ECONFIG, or the errno of the file. */
int smoe_numbers_file(const char *key, const char *path, size_t columns, double **ret,
                      uint64_t *ret_rows, struct smoe_why *why);

#endif
