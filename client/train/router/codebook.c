/* SPDX-License-Identifier: Apache-2.0
 *
 * Nearest by |c|^2/2 - c.x, which differs from half the squared distance by |x|^2/2, the same for all codes.
 * The centroids lie with one code a lane, so that the loop over codes is vector code, while each lane's
 * sum runs over the values in index order whatever the vector's width.
 */
#include "client/train/router/codebook.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/rng.h"

static const uint64_t STREAM = UINT64_C(3) << 20; /* of the seed */

/* What one round adds up. */
struct round {
    double *sum;    /* [codes, values] */
    size_t *count;  /* [codes] */
    uint32_t *pick; /* [n] patches in the order in which they were drawn */
};

static void refresh_offsets(struct smoe_codebook *book)
{
    for (size_t c = 0; c < book->codes; c++) {
        float sum = 0;
        for (size_t v = 0; v < book->values; v++)
            sum += book->centroids[v * book->codes + c] * book->centroids[v * book->codes + c];
        book->offset[c] = sum / 2;
    }
}

static uint16_t nearest(struct smoe_codebook *book, const smoe_real *x)
{
    size_t codes = book->codes, best = 0;
    float *near = book->near;
    memcpy(near, book->offset, codes * sizeof *near);
    for (size_t v = 0; v < book->values; v++) {
        const float *lane = book->centroids + v * codes;
        float value = (float)x[v];
        for (size_t c = 0; c < codes; c++)
            near[c] -= value * lane[c];
    }
    for (size_t c = 1; c < codes; c++)
        best = near[c] < near[best] ? c : best;
    return (uint16_t)best;
}

/* The first `codes` of a random order of the patches become centroids. */
static void draw(struct smoe_codebook *book, size_t n, const smoe_real *x, uint32_t *pick,
                 uint64_t seed)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, seed, STREAM);
    for (size_t i = 0; i < n; i++)
        pick[i] = (uint32_t)i;
    for (size_t c = 0; c < book->codes; c++) {
        size_t at = c + smoe_rng_below(&rng, n - c);
        uint32_t patch = pick[at];
        pick[at] = pick[c];
        pick[c] = patch;
        for (size_t v = 0; v < book->values; v++)
            book->centroids[v * book->codes + c] = (float)x[(size_t)patch * book->values + v];
    }
    refresh_offsets(book);
}

static void improve(struct smoe_codebook *book, size_t n, const smoe_real *x, struct round *round)
{
    size_t values = book->values;
    memset(round->sum, 0, book->codes * values * sizeof *round->sum);
    memset(round->count, 0, book->codes * sizeof *round->count);
    for (size_t i = 0; i < n; i++) {
        size_t code = nearest(book, x + i * values);
        round->count[code]++;
        for (size_t v = 0; v < values; v++)
            round->sum[code * values + v] += (double)(float)x[i * values + v];
    }
    for (size_t c = 0; c < book->codes; c++)
        for (size_t v = 0; v < values && round->count[c]; v++)
            book->centroids[v * book->codes + c] =
                (float)(round->sum[c * values + v] / (double)round->count[c]);
    refresh_offsets(book);
}

int smoe_codebook_init(struct smoe_codebook *book, uint32_t codes, uint32_t values, size_t n,
                       const smoe_real *x, unsigned rounds, uint64_t seed)
{
    smoe_assert(codes >= 1 && codes <= 65536 && n >= codes && n <= UINT32_MAX && values >= 1);
    *book = (struct smoe_codebook){.codes = codes, .values = values};
    book->centroids = calloc((size_t)codes * values, sizeof *book->centroids);
    book->offset = calloc(codes, sizeof *book->offset);
    book->near = calloc(codes, sizeof *book->near);
    struct round round = {.sum = calloc((size_t)codes * values, sizeof *round.sum),
                          .count = calloc(codes, sizeof *round.count),
                          .pick = calloc(n, sizeof *round.pick)};
    bool complete =
        book->centroids && book->offset && book->near && round.sum && round.count && round.pick;
    if (complete) {
        draw(book, n, x, round.pick, seed);
        for (unsigned r = 0; r < rounds; r++)
            improve(book, n, x, &round);
    } else {
        smoe_codebook_release(book);
    }
    free(round.sum);
    free(round.count);
    free(round.pick);
    return complete ? 0 : SMOE_ENOMEMORY;
}

void smoe_codebook_release(struct smoe_codebook *book)
{
    free(book->centroids);
    free(book->offset);
    free(book->near);
    *book = (struct smoe_codebook){0};
}

void smoe_codebook_encode(struct smoe_codebook *book, size_t n, const smoe_real *x,
                          uint16_t *ret_codes)
{
    for (size_t i = 0; i < n; i++)
        ret_codes[i] = nearest(book, x + i * book->values);
}

uint64_t smoe_codebook_digest(const struct smoe_codebook *book)
{
    uint64_t digest = smoe_mix64(((uint64_t)book->codes << 32) ^ book->values);
    for (size_t i = 0; i < (size_t)book->codes * book->values; i++) {
        uint32_t bits;
        memcpy(&bits, &book->centroids[i], sizeof bits);
        digest = smoe_mix64(digest ^ bits);
    }
    return digest;
}
