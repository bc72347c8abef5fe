/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of arcs between experts (route_graph.h), and the loops over them that take the time of mending: a kernel
 * for every vector width, of single IEEE operations and comparisons, so that all give the same bits.
 */
#ifndef SMOE_CORE_ROUTE_ARCS_H
#define SMOE_CORE_ROUTE_ARCS_H

#include <stdbool.h>
#include <stdint.h>

/* Can this machine run the wider one? */
bool smoe_route_arcs_wide(void);

/* What a token, `held` the weight of the expert it would leave, offers to all: row[f] becomes the lesser of itself
 * and held - weight * scores[f]. row [n], scores [n]. */
void smoe_route_arcs_offer(bool wide, double *row, uint32_t n, const float *scores, double weight,
                           double held);

/* Lists the experts whose entry is what this token offers, rising. ret_expert has room for n. Returns how many. */
uint32_t smoe_route_arcs_owned(bool wide, const double *row, uint32_t n, const float *scores,
                               double weight, double held, uint16_t *ret_expert);

/* Lists the experts to which base + (label[f] + row[f]) is less than both distance[f] and radius, rising. All [n];
 * ret_expert has room for n. Returns how many. */
uint32_t smoe_route_arcs_nearer(bool wide, const double *row, const double *label,
                                const double *distance, uint32_t n, double base, double radius,
                                uint16_t *ret_expert);

#endif
