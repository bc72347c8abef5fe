/* SPDX-License-Identifier: Apache-2.0
 *
 * A seeded random stream: xoshiro256** (Blackman and Vigna, 2018), seeded through splitmix64. The
 * same seed gives the same numbers on every machine: integers exactly, and the derived
 * distributions too, since they use only IEEE arithmetic and common/base/detmath. Not for secrets.
 */
#ifndef SMOE_BASE_RNG_H
#define SMOE_BASE_RNG_H

#include <stdint.h>

struct smoe_rng {
    uint64_t s[4];
};

/* `stream` separates independent sequences of one seed (a layer, an expert, a node). */
void smoe_rng_init(struct smoe_rng *rng, uint64_t seed, uint64_t stream);

/* 64 uniform bits. */
uint64_t smoe_rng_u64(struct smoe_rng *rng);

/* Uniform in [0, bound), without bias; bound > 0. */
uint64_t smoe_rng_below(struct smoe_rng *rng, uint64_t bound);

/* Uniform in [0, 1), 53 bits. */
double smoe_rng_unit(struct smoe_rng *rng);

/* Normal, mean 0, variance 1 (polar method: only log and sqrt). */
double smoe_rng_normal(struct smoe_rng *rng);

/* Exponential with mean 1. */
double smoe_rng_exponential(struct smoe_rng *rng);

/* Poisson with the given mean in [0, 1e6] (Knuth in chunks of 16: exact, O(mean)). */
uint32_t smoe_rng_poisson(struct smoe_rng *rng, double mean);

/* Mixes a 64-bit value: a good hash of small integers. */
static inline uint64_t smoe_mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
