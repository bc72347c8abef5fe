/* SPDX-License-Identifier: Apache-2.0
 *
 * Costs in whole grains, 16 bits each, and the loops over rows of them: kernels for every vector width. Nothing is
 * rounded but once, when a row is made, so all give the same bits.
 *
 *     row      one number for each expert, [stride]: as many as there are experts, up to a multiple of SMOE_GRAIN_STEP,
 *              and SMOE_GRAIN_FAR behind the last
 *     far      more than can be told, or never
 */
#ifndef SMOE_CORE_ROUTE_GRAIN_H
#define SMOE_CORE_ROUTE_GRAIN_H

#include <stdbool.h>
#include <stdint.h>

#define SMOE_GRAIN_STEP  32
#define SMOE_GRAIN_FAR   INT16_MAX
#define SMOE_GRAIN_GROUP 16
#define SMOE_GRAIN_ROWS  32 /* most rows made at once */

/* n up to a whole step: the length of a row of n experts. */
static inline uint32_t smoe_grain_steps(uint32_t n)
{
    return (n + SMOE_GRAIN_STEP - 1) / SMOE_GRAIN_STEP * SMOE_GRAIN_STEP;
}

/* How a row of scores becomes one of costs. */
struct smoe_grain_scale {
    const float *prices; /* [stride] in grains; +inf: not on offer, or behind the last */
    float weight;        /* grains of a score of 1, < 0x1p64 */
};

/* The cheapest of a row, of equals the lowest, and what the next costs. */
struct smoe_grain_two {
    uint32_t expert;
    int32_t least, second;
};

/* Shortest ways from some vertices to all: experts, and the sink behind them. */
struct smoe_grain_front {
    uint32_t stride;
    const int16_t *lift; /* [stride] by how much labels have risen, >= 0; FAR: not on offer */
    const int16_t *rows; /* [., stride] the least slack of each arc, but for labels */
    const int16_t *up;   /* [stride] the same to the sink; FAR: not there */
    const int16_t *down; /* [stride] and from it */
    int16_t *key;        /* [stride] distances; FAR: not reached */
    int16_t *open; /* [stride] the same of those that ways are still to go on from, FAR: not so */
    int16_t *came; /* [stride] from where */
    int16_t *base; /* [stride] working memory */
    uint32_t sink; /* its number */
    int32_t sink_lift, sink_key, sink_open;
    uint32_t sink_came;
};

/* Some visits of one expert. */
struct smoe_grain_group {
    uint32_t count;
    const int16_t *costs[SMOE_GRAIN_GROUP]; /* of each token */
    int16_t held[SMOE_GRAIN_GROUP];         /* what each pays now, >= 0 */
};

/* One width. Sums that do not fit stay at the limit. */
struct smoe_grain_kernel {
    /* Rows of `count` tokens, 1..SMOE_GRAIN_ROWS: ret[i, f] becomes prices[f] - weight * scores[i, f] in grains, less
     * the least of the token. scores [count, n], ret [count, stride]. Returns the size of the largest such least. */
    float (*costs)(const struct smoe_grain_scale *scale, const float *scores, uint32_t n,
                   uint32_t count, int16_t *ret);

    /* The two least of each row + lift, which are >= 0; unless it is NULL, but for the experts of `but` [count]. rows
     * [count, stride], ret [count]. */
    void (*two)(const int16_t *rows, uint32_t count, const int16_t *lift, uint32_t stride,
                const struct smoe_grain_two *but, struct smoe_grain_two *ret);
    int32_t (*least)(const int16_t *row, const int16_t *lift, uint32_t stride);

    /* Which of `count`, but that one, is lowest, of equals the first; FAR: none is below that. All >= 0, and FAR
     * behind them up to a whole step. */
    uint32_t (*lowest)(const int16_t *bids, uint32_t count, uint32_t but);

    /* row[f] becomes the least of costs[f] - held of the group, and of what it was if `more`. What is far stays so if
     * `large`, otherwise it is FAR - held. */
    void (*offers)(int16_t *row, uint32_t stride, const struct smoe_grain_group *group, bool more,
                   bool large);

    /* Goes on from the open vertices, the nearest first, until none is open that is no farther than `most`. Vertices
     * that are nearer than the nearest + width go on together; what comes to be nearer by another of them goes on
     * again. Of ways of the same length any may be found, but the same by every width. Returns how many went on. */
    uint32_t (*search)(struct smoe_grain_front *front, int32_t width, int32_t most);

    /* lift[f] rises by way - far[f], where that is more than 0. */
    void (*raise)(int16_t *lift, const int16_t *far, uint32_t stride, int16_t way);
};

/* How many widths this machine runs, from the narrowest; one of them; the widest. */
uint32_t smoe_grain_widths(void);
const struct smoe_grain_kernel *smoe_grain_kernel_by(uint32_t width);
const struct smoe_grain_kernel *smoe_grain_kernel(void);

#endif
