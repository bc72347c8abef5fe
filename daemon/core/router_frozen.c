/* SPDX-License-Identifier: Apache-2.0
 *
 * The linear map is kept twice: as it came, for its name and the journal, and in tiles of eight experts,
 * [inputs, 8] each, so that a token's eight sums stay in registers while one tile streams by.
 */
#include "daemon/core/router_frozen.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/err.h"
#include "common/base/limits.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { LANES = 8, TILES_MAX = SMOE_EXPERTS_MAX / LANES };

/* Of the bits: no flag of a compiler changes the answer. */
static size_t first_not_finite(size_t n, const float *values)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u)
            return i;
    }
    return n;
}

int smoe_frozen_shape(uint32_t kind, uint32_t inputs, uint32_t experts)
{
    bool known = kind == SMOE_FROZEN_TABLE || kind == SMOE_FROZEN_LINEAR;
    bool sized = inputs >= 1 && inputs <= SMOE_FROZEN_INPUTS_MAX && experts >= 1 &&
                 experts <= SMOE_EXPERTS_MAX;
    return known && sized && (uint64_t)inputs * experts <= SMOE_FROZEN_VALUES_MAX ? 0 : SMOE_EFIELD;
}

uint64_t smoe_frozen_digest(uint32_t kind, uint32_t inputs, uint32_t experts, const float *values)
{
    uint64_t seed = (uint64_t)kind << 56 | (uint64_t)inputs << 24 | experts;
    return XXH3_64bits_withSeed(values, (size_t)inputs * experts * sizeof *values, seed);
}

static int take_table(struct smoe_frozen *f, const float *values)
{
    int rc = smoe_router_table_init(&f->rows, f->inputs, f->experts, values);
    f->values = f->rows.scores;
    return rc;
}

/* The last tile's lanes beyond E stay zero. */
static int take_map(struct smoe_frozen *f, const float *values)
{
    size_t tiles = (f->experts + LANES - 1) / LANES, n = (size_t)f->inputs * f->experts;
    f->tiles = calloc(tiles * f->inputs * LANES, sizeof *f->tiles);
    f->values = malloc(n * sizeof *f->values);
    if (f->values)
        memcpy(f->values, values, n * sizeof *values);
    for (size_t e = 0; f->tiles && f->values && e < f->experts; e++) {
        float *tile = f->tiles + e / LANES * f->inputs * LANES;
        for (size_t i = 0; i < f->inputs; i++)
            tile[i * LANES + e % LANES] = f->values[e * f->inputs + i];
    }
    return f->tiles && f->values ? 0 : SMOE_ENOMEMORY;
}

int smoe_frozen_init(struct smoe_frozen *frozen, uint32_t kind, uint32_t inputs, uint32_t experts,
                     const float *values)
{
    size_t n = (size_t)inputs * experts;
    struct smoe_frozen f = {.kind = kind, .inputs = inputs, .experts = experts};
    int rc = smoe_frozen_shape(kind, inputs, experts);
    if (rc == 0 && first_not_finite(n, values) < n)
        rc = SMOE_ENOTFINITE;
    if (rc)
        return rc;
    f.digest = smoe_frozen_digest(kind, inputs, experts, values);
    rc = kind == SMOE_FROZEN_TABLE ? take_table(&f, values) : take_map(&f, values);
    if (rc)
        smoe_frozen_release(&f);
    else
        *frozen = f;
    return rc;
}

void smoe_frozen_release(struct smoe_frozen *f)
{
    if (f->kind == SMOE_FROZEN_LINEAR)
        free(f->values);
    free(f->tiles);
    smoe_router_table_release(&f->rows);
    *f = (struct smoe_frozen){.experts = 0};
}

size_t smoe_frozen_bad_code(const struct smoe_frozen *f, size_t n, const uint32_t *codes)
{
    smoe_assert(f->kind == SMOE_FROZEN_TABLE);
    return smoe_router_table_unknown(&f->rows, n, codes);
}

size_t smoe_frozen_bad_features(const struct smoe_frozen *f, size_t n, const float *features)
{
    smoe_assert(f->kind == SMOE_FROZEN_LINEAR);
    return first_not_finite(n * f->inputs, features) / f->inputs;
}

void smoe_frozen_score_codes(const struct smoe_frozen *f, size_t n, const uint32_t *codes,
                             float *ret)
{
    smoe_assert(f->kind == SMOE_FROZEN_TABLE);
    smoe_router_table_scores(&f->rows, n, codes, ret);
}

/* tile [inputs, 8], x [inputs] -> sums [8] */
static void multiply(size_t inputs, const float *tile, const float *x, double *ret_sums)
{
    double sums[LANES] = {0};
    for (size_t i = 0; i < inputs; i++, tile += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += (double)tile[lane] * (double)x[i];
    memcpy(ret_sums, sums, sizeof sums);
}

/* In double until the last rounding. */
static void softmax(size_t n, double *logits, float *ret)
{
    double most = logits[0], sum = 0;
    for (size_t e = 1; e < n; e++)
        most = logits[e] > most ? logits[e] : most;
    for (size_t e = 0; e < n; e++)
        sum += logits[e] = smoe_exp(logits[e] - most);
    for (size_t e = 0; e < n; e++)
        ret[e] = (float)(logits[e] / sum);
}

void smoe_frozen_score_features(const struct smoe_frozen *f, size_t n, const float *features,
                                float *ret)
{
    double logits[TILES_MAX * LANES];
    smoe_assert(f->kind == SMOE_FROZEN_LINEAR);
    for (size_t t = 0; t < n; t++) {
        for (size_t e = 0; e < f->experts; e += LANES)
            multiply(f->inputs, f->tiles + e * f->inputs, features + t * f->inputs, logits + e);
        softmax(f->experts, logits, ret + t * f->experts);
    }
}
