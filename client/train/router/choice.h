/* SPDX-License-Identifier: Apache-2.0
 *
 * Routers without a learned rule of their own: Hash layers (Roller et al., 2021) and the balanced
 * assignment of BASE layers (Lewis et al., 2021); and how two choices are compared.
 *
 * Both give scores [n, E] whose K largest are the choice, as a gateway with the policy `topk` and
 * smoe_topk take them, ties to the lowest index.
 */
#ifndef SMOE_TRAIN_ROUTER_CHOICE_H
#define SMOE_TRAIN_ROUTER_CHOICE_H

#include <stddef.h>
#include <stdint.h>

struct smoe_balancer;

/* Every code has K experts drawn once and for all: a function of (seed, code, E, K). 1 for those, 0 for
 * the others. */
void smoe_hash_scores(uint64_t seed, uint32_t experts, uint32_t k, size_t n, const uint16_t *codes,
                      float *ret_scores);

/* The assignment of greatest total affinity (the logarithm of the score) that gives every expert equally many
 * of the n K visits, rounded up; exact (daemon/core/route.h solves it). Each balancer holds the prices of its
 * last batch, where the next one starts. */
int smoe_balancer_new(uint32_t experts, uint32_t k, size_t rows_max, struct smoe_balancer **ret);
void smoe_balancer_free(struct smoe_balancer *balancer);
/* scores [n, E], softmax rows, are raised by 1 for the experts that a token is assigned to. */
void smoe_balancer_assign(struct smoe_balancer *balancer, size_t n, float *scores);

/* The share of the n K choices in `a` that are not among the same token's in `b`; 0 for n = 0. */
double smoe_choices_differ(size_t n, uint32_t k, const uint16_t *a, const uint16_t *b);

#endif
