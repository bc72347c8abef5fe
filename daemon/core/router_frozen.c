/* SPDX-License-Identifier: Apache-2.0
 *
 * The linear map is kept twice: as it came, for its name and the journal, and in tiles of eight experts,
 * [inputs, 8] each, so that a token's eight sums stay in registers while one tile streams by.
 */
#include "daemon/core/router_frozen.h"

#include <float.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/within.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { LANES = 8, TILES_MAX = SMOE_EXPERTS_MAX / LANES };

int smoe_frozen_shape(uint32_t kind, uint32_t inputs, uint32_t experts)
{
    bool known = kind == SMOE_FROZEN_TABLE || kind == SMOE_FROZEN_LINEAR;
    bool sized = inputs >= 1 && inputs <= SMOE_FROZEN_INPUTS_MAX && experts >= 1 &&
                 experts <= SMOE_EXPERTS_MAX;
    return known && sized && (uint64_t)inputs * experts <= SMOE_FROZEN_VALUES_MAX ? 0 : SMOE_EFIELD;
}

static size_t tiles_of(size_t experts)
{
    return (experts + LANES - 1) / LANES;
}

size_t smoe_frozen_memory(uint32_t kind, uint32_t inputs, uint32_t experts)
{
    size_t values = (size_t)inputs * experts * sizeof(float);
    return values + (kind == SMOE_FROZEN_TABLE
                         ? smoe_router_table_lists(inputs, experts)
                         : tiles_of(experts) * inputs * LANES * sizeof(float));
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
    size_t n = (size_t)f->inputs * f->experts;
    f->tiles = calloc(tiles_of(f->experts) * f->inputs * LANES, sizeof *f->tiles);
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
    if (rc == 0 && !smoe_within_f32(values, n, FLT_MAX))
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
    size_t good = smoe_within_f32(features, n * f->inputs, FLT_MAX) ? n : 0;
    while (good < n && smoe_within_f32(features + good * f->inputs, f->inputs, FLT_MAX))
        good++;
    return good;
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

void smoe_frozen_score_features(const struct smoe_frozen *f, size_t n, const float *features,
                                float *ret)
{
    double logits[TILES_MAX * LANES];
    smoe_assert(f->kind == SMOE_FROZEN_LINEAR);
    for (size_t t = 0; t < n; t++) {
        for (size_t e = 0; e < f->experts; e += LANES)
            multiply(f->inputs, f->tiles + e * f->inputs, features + t * f->inputs, logits + e);
        smoe_softmax(f->experts, logits, ret + t * f->experts);
    }
}
