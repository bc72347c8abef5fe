/* SPDX-License-Identifier: Apache-2.0
 *
 * How popular experts are with the gate alone: what a token would visit if no worker had a queue. Routing moves visits
 * away from what is busy, and would hide the very demand that the next placement must meet (MODEL.md section 8).
 */
#ifndef SMOE_CORE_PLACE_POPULARITY_H
#define SMOE_CORE_PLACE_POPULARITY_H

#include <stdbool.h>
#include <stdint.h>

#define SMOE_PLACE_TOP_K_MAX 8

/* Adds 1 to each of the token's top_k (1..SMOE_PLACE_TOP_K_MAX, at most n_experts) experts of the highest scores
 * [n_experts]. */
void smoe_place_count(const float *scores, uint32_t n_experts, uint32_t top_k,
                      uint64_t *popularity);

#endif
