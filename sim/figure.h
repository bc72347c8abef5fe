/* SPDX-License-Identifier: Apache-2.0
 *
 * A figure as a script for gnuplot, data included: what it draws is a function of the script.
 */
#ifndef SMOE_SIM_FIGURE_H
#define SMOE_SIM_FIGURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct smoe_figure {
    const char *file; /* without its directory; .svg */
    const char *title, *x, *y;
    const char *right; /* title of the right axis; NULL: there is none */
    bool log_x, log_y, log_right;
};

struct smoe_figure_line {
    const char *name;
    size_t n;
    const double *x; /* [n]; NULL: 1, 2, 3, .. */
    const double *y; /* [n] */
    bool right;      /* belongs to the right axis */
};

/* More than SMOE_FIGURE_POINTS points of a line become means of as many neighbours each. On a logarithmic
 * axis a point of 0 or less is left out. */
#define SMOE_FIGURE_POINTS 200

void smoe_figure_write(const char *dir, const struct smoe_figure *figure,
                       const struct smoe_figure_line *lines, size_t n, FILE *to);

#endif
