/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/rng.h"

#include <math.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"

void smoe_rng_init(struct smoe_rng *rng, uint64_t seed, uint64_t stream)
{
    uint64_t x = seed ^ smoe_mix64(stream);
    for (int i = 0; i < 4; i++) {
        rng->s[i] = smoe_mix64(x);
        x += 0x9e3779b97f4a7c15u;
    }
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t smoe_rng_u64(struct smoe_rng *rng)
{
    uint64_t *s = rng->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t smoe_rng_below(struct smoe_rng *rng, uint64_t bound)
{
    smoe_assert(bound > 0);
    uint64_t x;
    do
        x = smoe_rng_u64(rng);
    while (x < bound && x < (0 - bound) % bound); /* 2^64 mod bound, which is below it */
    return x % bound;
}

double smoe_rng_unit(struct smoe_rng *rng)
{
    return (double)(smoe_rng_u64(rng) >> 11) * 0x1p-53;
}

double smoe_rng_normal(struct smoe_rng *rng)
{
    double u, v, r2;
    do {
        u = 2 * smoe_rng_unit(rng) - 1;
        v = 2 * smoe_rng_unit(rng) - 1;
        r2 = u * u + v * v;
    } while (r2 >= 1 || r2 == 0);
    return u * sqrt(-2 * smoe_log(r2) / r2); /* sqrt is correctly rounded everywhere */
}

double smoe_rng_exponential(struct smoe_rng *rng)
{
    return -smoe_log(1 - smoe_rng_unit(rng));
}

static uint32_t poisson_small(struct smoe_rng *rng, double mean)
{
    double floor = smoe_exp(-mean);
    double product = smoe_rng_unit(rng);
    uint32_t n = 0;
    for (; product > floor; n++)
        product *= smoe_rng_unit(rng);
    return n;
}

uint32_t smoe_rng_poisson(struct smoe_rng *rng, double mean)
{
    smoe_assert(mean >= 0 && mean <= 1e6);
    uint32_t n = 0;
    for (; mean > 16; mean -= 16) /* a sum of Poissons is a Poisson of the sum */
        n += poisson_small(rng, 16);
    return n + poisson_small(rng, mean);
}
