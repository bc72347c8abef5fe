/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of arcs between experts (route_graph.h), rows of scores, and the loops over them that take the time of
 * bidding and mending: kernels for every vector width, of single IEEE operations and comparisons, so that all give
 * the same bits.
 */
#ifndef SMOE_CORE_ROUTE_ARCS_H
#define SMOE_CORE_ROUTE_ARCS_H

#include <stdbool.h>
#include <stdint.h>

#define SMOE_ROUTE_OFFERS 8

/* The two cheapest of a row. */
struct smoe_route_two {
    uint32_t expert;      /* the cheapest, of equals the lowest; UINT32_MAX: none is finite */
    double least, second; /* their costs, +inf: none */
};

/* Vertices that a search has reached, but not settled. All [n]. */
struct smoe_route_front {
    uint32_t n;
    const float *open; /* labels; +inf: settled, or out of reach */
    float *key;        /* distances; +inf: settled, or not reached */
    int32_t *came;     /* from where */
};

/* What some tokens offer. */
struct smoe_route_offers {
    uint32_t count;
    bool more;                              /* to what is in the row already */
    const float *scores[SMOE_ROUTE_OFFERS]; /* of each token, [n] */
    float held[SMOE_ROUTE_OFFERS];          /* what each pays now */
};

/* One width. */
struct smoe_route_arcs {
    /* What a token, `held` the weight of the expert it would leave, offers to all: row[f] becomes the lesser of
     * itself and held - weight * scores[f]. row [n], scores [n]. */
    void (*offer)(double *row, uint32_t n, const float *scores, double weight, double held);

    /* Lists the experts whose entry is what this token offers, rising. ret_expert has room for n. Returns how
     * many. */
    uint32_t (*owned)(const double *row, uint32_t n, const float *scores, double weight,
                      double held, uint16_t *ret_expert);

    /* Lists the experts to which base + (label[f] + row[f]) is less than both distance[f] and radius, rising. All
     * [n]; ret_expert has room for n. Returns how many. */
    uint32_t (*nearer)(const double *row, const double *label, const double *distance, uint32_t n,
                       double base, double radius, uint16_t *ret_expert);

    /* The two least of prices[f] - weight * scores[f]. prices [n], scores [n]. */
    struct smoe_route_two (*two)(const double *prices, uint32_t n, const float *scores,
                                 double weight);

    /* Whoever of the front is nearer by way of `from`, at base + (open[f] + row[f]), though not less than distance:
     * comes from there. Returns the nearest of the front then, of equals the lowest; n: nobody is. */
    uint32_t (*spread)(const struct smoe_route_front *front, const float *row, uint32_t from,
                       float distance, float base);

    /* row[f] becomes the least of (prices[f] - weight scores[f]) - held of the offers, and of what it was if there
     * are more. All [n]. */
    void (*offers)(float *row, uint32_t n, const struct smoe_route_offers *offers, float weight,
                   const float *prices);

    /* The least of prices[f] - weight * scores[f]; +inf: none is finite. */
    double (*cheapest)(const double *prices, uint32_t n, const float *scores, double weight);
};

/* How many widths this machine runs, from the narrowest; one of them; the widest. */
uint32_t smoe_route_arcs_widths(void);
const struct smoe_route_arcs *smoe_route_arcs_by(uint32_t width);
const struct smoe_route_arcs *smoe_route_arcs(void);

#endif
