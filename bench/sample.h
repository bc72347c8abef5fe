/* SPDX-License-Identifier: Apache-2.0
 *
 * Repeated measurements of one thing, and what is said of them: the median, and the quartiles as
 * spread. Machines drift (clock, neighbours, caches) by more than most differences worth knowing, so
 * two things are compared round by round: `smoe_sample_ratio` divides what was measured side by side,
 * and the median is taken of these ratios.
 */
#ifndef SMOE_BENCH_SAMPLE_H
#define SMOE_BENCH_SAMPLE_H

#define SMOE_SAMPLE_MAX 128

struct smoe_sample {
    double values[SMOE_SAMPLE_MAX]; /* in the order of their rounds */
    unsigned n;
};

struct smoe_spread {
    double median, low, high; /* quartiles; all the value itself if there is only one */
};

/* More than SMOE_SAMPLE_MAX values are ignored. */
void smoe_sample_add(struct smoe_sample *sample, double value);

/* a over b, round by round. */
struct smoe_sample smoe_sample_ratio(const struct smoe_sample *a, const struct smoe_sample *b);

/* Each value as factor / value: from seconds a piece to pieces a second. */
struct smoe_sample smoe_sample_inverse(const struct smoe_sample *a, double factor);

struct smoe_spread smoe_sample_spread(const struct smoe_sample *sample);

/* The value below which a share q (0..1) of n sorted values lie, between neighbours linearly. */
double smoe_quantile(const double *sorted, unsigned n, double q);

#endif
