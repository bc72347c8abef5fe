/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector kernels of the hot pass. They are exact although they look at the scores in single
 * precision: what they find is then proven, token by token, and computed again in double.
 *
 *     filter   every cost, less the cheapest price and scaled, becomes a float whose lowest bits are
 *              overwritten by the expert: one word is both the key and what it belongs to. The K+2 least
 *              words of each token are found without a branch (route_pick_tile.h).
 *     proof    a key is off by rounding and by its overwritten bits, at most `slack` |key| + `offset`. If
 *              the (K+2)-th key is farther than that above the (K+1)-th, no expert outside the first
 *              K+1 can be among the K+1 cheapest. Otherwise the token is done again by the scalar pass;
 *              for gate scores that is one token in hundreds, for equal scores it is all of them.
 *     result   the K+1 experts are sorted by their double costs, computed as the scalar pass does. Nearly always
 *              they rise already, and four tokens are told at once.
 *
 * So every kernel gives the bits of the scalar pass, whatever its width and however the compiler
 * contracts the filter's arithmetic. No key is ever NaN: scores are finite, the scale keeps weight times
 * score below 2^124, and what is not on offer costs 2^126.
 */
#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "daemon/core/route.h"
#include "daemon/core/route_pick.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SMOE_ROUTE_TILE_DEAD 0x1p126F             /* the key of what is not on offer */
#define SMOE_ROUTE_TILE_KEYS (SMOE_TOP_K_MAX + 2) /* K, the runner-up, and what it is proven by */

/* Ranks are registers only in straight code. */
#define UNROLL _Pragma("GCC unroll 16")

/* Longer rows wait for memory, which four rows at once keep busier; measured on Zen 4. */
#define SMOE_ROUTE_TILE_ROW_MAX 128

enum { WIDEST = 16, KEYS_MAX = SMOE_EXPERTS_MAX + WIDEST };

/* What the filter needs to know of a pass. */
struct smoe_route_tile {
    const struct smoe_route_pick *pick;
    uint32_t n_experts;
    bool alone;          /* only K are on offer: there is no runner-up */
    int32_t expert_mask; /* the bits of a key that hold the expert */
    float weight;        /* scaled */
    float slack,
        offset; /* two keys within slack (|a| + |b|) + offset may stand in the wrong order */
    /* less the cheapest, scaled; DEAD where not on offer and behind the last */
    _Alignas(64) float price[KEYS_MAX];    /* no vector crosses a cache line */
    _Alignas(64) int32_t expert[KEYS_MAX]; /* 0, 1, 2 .. */
};

/* The key's place among the costs is certain: nothing from `next` on can be cheaper. */
static inline bool in_order(const struct smoe_route_tile *tile, float last, float next)
{
    return next - last > tile->slack * (fabsf(next) + fabsf(last)) + tile->offset;
}

/* By cost, of equals the lowest index first. */
static void sort_places(double *cost, uint16_t *expert, uint32_t n)
{
    for (uint32_t m = 1; m < n; m++)
        for (uint32_t k = m; k > 0 && (cost[k] < cost[k - 1] ||
                                       (cost[k] == cost[k - 1] && expert[k] < expert[k - 1]));
             k--) {
            double c = cost[k];
            uint16_t e = expert[k];
            cost[k] = cost[k - 1];
            expert[k] = expert[k - 1];
            cost[k - 1] = c;
            expert[k - 1] = e;
        }
}

/* Of four tokens: the experts of the K+1 least keys by rank, and the last two of K+2 keys. */
struct smoe_route_tile_found {
    uint32_t expert[SMOE_TOP_K_MAX + 1][4];
    float last[4], next[4];
};

/* One of four tokens, to its result. */
static void settle_one(const struct smoe_route_tile *tile, uint32_t token, uint32_t top_k,
                       const struct smoe_route_tile_found *found, uint32_t t)
{
    const struct smoe_route_pick *pick = tile->pick;
    const float *scores = pick->scores + (size_t)token * pick->n_experts;
    double cost[SMOE_TOP_K_MAX + 1];
    uint16_t expert[SMOE_TOP_K_MAX + 1];
    if (!tile->alone && !in_order(tile, found->last[t], found->next[t])) {
        smoe_route_pick_token(pick, token);
        return;
    }
    for (uint32_t m = 0; m <= top_k; m++) {
        expert[m] = (uint16_t)found->expert[m][t];
        cost[m] = m == top_k && tile->alone
                      ? (double)INFINITY
                      : pick->prices[expert[m]] - pick->weight * (double)scores[expert[m]];
    }
    if (tile->alone)
        expert[top_k] = SMOE_ROUTE_NONE;
    bool rising = true;
    for (uint32_t m = 1; m <= top_k; m++)
        rising &= cost[m - 1] < cost[m];
    if (!rising)
        sort_places(cost, expert, top_k + 1);
    for (uint32_t m = 0; m < top_k; m++) {
        pick->chosen[(size_t)token * top_k + m] = expert[m];
        pick->loads[expert[m]]++;
    }
    pick->runner_up[token] = expert[top_k];
    pick->cutoff[token] = cost[top_k - 1];
    pick->margin[token] = cost[top_k] - cost[top_k - 1];
}

/* Four tokens, one after the other; out of the kernels' way, as it is rare. */
static __attribute__((noinline)) void smoe_route_tile_settle(
    const struct smoe_route_tile *tile, uint32_t token, uint32_t top_k,
    const struct smoe_route_tile_found *found)
{
    for (uint32_t t = 0; t < 4; t++)
        settle_one(tile, token + t, top_k, found, t);
}

typedef float two_floats __attribute__((vector_size(8)));
typedef double two_doubles __attribute__((vector_size(16)));
typedef double four_doubles __attribute__((vector_size(32)));
typedef int64_t two_longs __attribute__((vector_size(16)));
typedef int64_t four_longs __attribute__((vector_size(32)));
typedef float four_floats __attribute__((vector_size(16)));
typedef int32_t four_ints __attribute__((vector_size(16)));
typedef uint16_t four_shorts __attribute__((vector_size(8)));

/* in_order() of four tokens: all bits of a token's 32 are set if it is proven. */
static inline __attribute__((always_inline)) two_longs smoe_route_tile_proven(
    const struct smoe_route_tile *tile, const struct smoe_route_tile_found *found)
{
    four_floats last, next;
    memcpy(&last, found->last, sizeof last);
    memcpy(&next, found->next, sizeof next);
    four_floats sizes =
        (four_floats)((four_ints)last & INT32_MAX) + (four_floats)((four_ints)next & INT32_MAX);
    return (two_longs)(next - last > tile->slack * sizes + tile->offset);
}

/* What four tokens chose, and who came next. */
static inline __attribute__((always_inline)) void smoe_route_tile_tell(
    const struct smoe_route_tile *tile, uint32_t token, uint32_t top_k,
    const struct smoe_route_tile_found *found)
{
    const struct smoe_route_pick *pick = tile->pick;
    four_ints next;
    memcpy(&next, found->expert[top_k], sizeof next);
    four_shorts runner_up =
        __builtin_convertvector(tile->alone ? SMOE_ROUTE_NONE - (four_ints){0} : next, four_shorts);
    memcpy(pick->runner_up + token, &runner_up, sizeof runner_up);
    UNROLL
    for (uint32_t m = 0; m < top_k; m++)
        UNROLL
    for (uint32_t t = 0; t < 4; t++) {
        uint32_t e = found->expert[m][t];
        pick->loads[e]++;
        pick->chosen[(size_t)(token + t) * top_k + m] = (uint16_t)e;
    }
}

/* Asks for the part of the next four rows that is as far along as the kernel is in these four, and for that of the
 * four after them: in the order of memory, as four streams that end after a row are too much for the hardware's
 * own guesses, which end with a page besides. What is asked for four rows ahead is still on its way when the kernel
 * gets there, so it comes to the second cache before; short rows take longer to look at than to fetch. What would
 * crowd out the first cache stays in the second. */
static inline void smoe_route_tile_ahead(const float *next, uint32_t lanes, size_t stride)
{
    if (stride > 64) {
        UNROLL
        for (uint32_t f = 0; f < 4 * lanes; f += 16) /* a cache line */
            __builtin_prefetch(next + 4 * stride + f, 0, 2);
    }
    if (stride <= 512) {
        UNROLL
        for (uint32_t f = 0; f < 4 * lanes; f += 16)
            __builtin_prefetch(next + f, 0, 3);
    }
}

#define TILE(x) x##_portable
#define TARGET
#define LANES                 4
#define OTHER(a, b, lesser)   GREATER(a, b)
#define LESS_PRODUCT(a, b, c) ((a) - (b) * (c))
#define MARKED(x, mask, mark) ((four_floats)(((four_ints)(x) & ~(mask)) | (mark)))
#if defined(__x86_64__)
#define LESSER(a, b)  _mm_min_ps(a, b)
#define GREATER(a, b) _mm_max_ps(a, b)
#else /* the mask of a comparison chooses; compilers make one or two instructions of it */
#define LESSER(a, b)  choose(a, b, (a) < (b))
#define GREATER(a, b) choose(a, b, (a) > (b))
static inline four_floats choose(four_floats a, four_floats b, four_ints first)
{
    return (four_floats)(((four_ints)a & first) | ((four_ints)b & ~first));
}
#endif
#include "daemon/core/route_pick_tile.h"

#if defined(__x86_64__)
#define TILE(x)               x##_avx2
#define TARGET                __attribute__((target("avx2")))
#define LANES                 8
#define LESSER(a, b)          _mm256_min_ps(a, b)
#define GREATER(a, b)         _mm256_max_ps(a, b)
#define OTHER(a, b, lesser)   GREATER(a, b)
#define LESS_PRODUCT(a, b, c) ((a) - (b) * (c))
#define MARKED(x, mask, mark) ((floats_avx2)(((ints_avx2)(x) & ~(mask)) | (mark)))
#include "daemon/core/route_pick_tile.h"

/* Of three words AVX-512 makes any bit by one instruction: (a & ~b) | c, and a ^ b ^ c, which leaves of a, b and the
 * lesser of them the greater and has more units to run on than a maximum. */
#define WORDS256(a, b, c, function) \
    _mm256_castsi256_ps(_mm256_ternarylogic_epi32(_mm256_castps_si256(a), b, c, function))
#define WORDS512(a, b, c, function) \
    _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a), b, c, function))
#define A_BUT_B_OR_C  0xba
#define A_XOR_B_XOR_C 0x96

#define TILE(x)               x##_avx512vl
#define TARGET                __attribute__((target("fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define LANES                 8
#define LESSER(a, b)          _mm256_min_ps(a, b)
#define GREATER(a, b)         _mm256_max_ps(a, b)
#define OTHER(a, b, lesser)   WORDS256(a, (__m256i)(b), (__m256i)(lesser), A_XOR_B_XOR_C)
#define LESS_PRODUCT(a, b, c) _mm256_fnmadd_ps(_mm256_set1_ps(b), c, a)
#define MARKED(x, mask, mark) WORDS256(x, _mm256_set1_epi32(mask), (__m256i)(mark), A_BUT_B_OR_C)
#include "daemon/core/route_pick_tile.h"

#define TILE(x)               x##_avx512
#define TARGET                __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define LANES                 16
#define LESSER(a, b)          _mm512_min_ps(a, b)
#define GREATER(a, b)         _mm512_max_ps(a, b)
#define OTHER(a, b, lesser)   WORDS512(a, (__m512i)(b), (__m512i)(lesser), A_XOR_B_XOR_C)
#define LESS_PRODUCT(a, b, c) _mm512_fnmadd_ps(_mm512_set1_ps(b), c, a)
#define MARKED(x, mask, mark) WORDS512(x, _mm512_set1_epi32(mask), (__m512i)(mark), A_BUT_B_OR_C)
#include "daemon/core/route_pick_tile.h"
#endif

bool smoe_route_kernel_runs(enum smoe_route_kernel kernel)
{
    switch (kernel) {
    case SMOE_ROUTE_SCALAR:
    case SMOE_ROUTE_PORTABLE:
        return true;
#if defined(__x86_64__)
    case SMOE_ROUTE_AVX2:
        return __builtin_cpu_supports("avx2");
    case SMOE_ROUTE_AVX512VL:
    case SMOE_ROUTE_AVX512:
        return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#else
    case SMOE_ROUTE_AVX2:
    case SMOE_ROUTE_AVX512VL:
    case SMOE_ROUTE_AVX512:
        return false;
#endif
    case SMOE_ROUTE_KERNELS:
        break;
    }
    return false;
}

enum smoe_route_kernel smoe_route_kernel_best(uint32_t n_experts)
{
    /* the widest vectors pay when their last merge is small beside the row */
    if (n_experts > 128 && smoe_route_kernel_runs(SMOE_ROUTE_AVX512))
        return SMOE_ROUTE_AVX512;
    if (n_experts > 4 && smoe_route_kernel_runs(SMOE_ROUTE_AVX512VL))
        return SMOE_ROUTE_AVX512VL;
    if (n_experts > 4 && smoe_route_kernel_runs(SMOE_ROUTE_AVX2))
        return SMOE_ROUTE_AVX2;
    return n_experts > 1 ? SMOE_ROUTE_PORTABLE : SMOE_ROUTE_SCALAR;
}

/* The prices as keys. False if they are spread too far for single precision to say anything. */
static bool prepare(struct smoe_route_tile *tile, const struct smoe_route_pick *pick,
                    uint32_t lanes)
{
    double least = (double)INFINITY, most = -(double)INFINITY;
    uint32_t n_offered = 0;
    for (uint32_t e = 0; e < pick->n_experts; e++) {
        n_offered += !isinf(pick->prices[e]);
        least = pick->prices[e] < least ? pick->prices[e] : least;
        most = pick->prices[e] > most && !isinf(pick->prices[e]) ? pick->prices[e] : most;
    }
    double scale = pick->weight > 0x1p-4 ? 0x1p-4 / pick->weight : 1;
    double spread = (most - least) * scale, size = (fabs(most) + fabs(least)) * scale;
    if (!(size < 0x1p100))
        return false;

    uint32_t padded = (pick->n_experts + lanes - 1) / lanes * lanes, bits = 0;
    while (UINT32_C(1) << bits < padded)
        bits++;
    tile->pick = pick;
    tile->n_experts = pick->n_experts;
    tile->alone = n_offered <= pick->top_k;
    tile->expert_mask = (INT32_C(1) << bits) - 1;
    tile->weight = (float)(pick->weight * scale);
    for (uint32_t e = 0; e < padded; e++) {
        bool offered = e < pick->n_experts && !isinf(pick->prices[e]);
        tile->price[e] =
            offered ? (float)((pick->prices[e] - least) * scale) : SMOE_ROUTE_TILE_DEAD;
        tile->expert[e] = (int32_t)e;
    }
    /* Of one key: the overwritten bits, |key| 2^(bits-23); four roundings in single precision (price,
     * weight, product, difference), at most 3 (spread + |key|) 2^-24; what double precision itself has
     * lost, (size + spread + |key|) 2^-51; and what is lost below the least normal number. Twice all of it. */
    tile->slack = (float)(UINT32_C(1) << bits) * 0x1p-22F + 0x1p-20F;
    tile->offset = (float)(spread * 0x1p-20 + size * 0x1p-48) + 0x1p-110F;
    return true;
}

/* Tokens of which a kernel may read whole vectors without leaving the scores, in fours. */
static uint32_t tokens_in_bounds(const struct smoe_route_pick *pick, uint32_t lanes)
{
    uint32_t beyond = (lanes - pick->n_experts % lanes) % lanes; /* read behind a row */
    uint32_t rows = (beyond + pick->n_experts - 1) / pick->n_experts;
    return pick->n_tokens > rows ? (pick->n_tokens - rows) / 4 * 4 : 0;
}

void smoe_route_pick_by(enum smoe_route_kernel kernel, const struct smoe_route_pick *pick)
{
    static const uint32_t LANES_OF[SMOE_ROUTE_KERNELS] = {[SMOE_ROUTE_PORTABLE] = 4,
                                                          [SMOE_ROUTE_AVX2] = 8,
                                                          [SMOE_ROUTE_AVX512VL] = 8,
                                                          [SMOE_ROUTE_AVX512] = 16};
    struct smoe_route_tile tile;
    uint32_t n_tiled = 0;
    smoe_assert(pick->top_k >= 1 && pick->top_k <= SMOE_TOP_K_MAX);
    smoe_assert(pick->n_experts <= SMOE_EXPERTS_MAX);
    smoe_assert(smoe_route_kernel_runs(kernel));
    memset(pick->loads, 0, pick->n_experts * sizeof *pick->loads);
    if (kernel != SMOE_ROUTE_SCALAR && prepare(&tile, pick, LANES_OF[kernel]))
        n_tiled = tokens_in_bounds(pick, LANES_OF[kernel]);
    if (n_tiled && kernel == SMOE_ROUTE_PORTABLE)
        run_portable(&tile, n_tiled);
#if defined(__x86_64__)
    if (n_tiled && kernel == SMOE_ROUTE_AVX2)
        run_avx2(&tile, n_tiled);
    if (n_tiled && kernel == SMOE_ROUTE_AVX512VL)
        run_avx512vl(&tile, n_tiled);
    if (n_tiled && kernel == SMOE_ROUTE_AVX512)
        run_avx512(&tile, n_tiled);
#endif
    for (uint32_t i = n_tiled; i < pick->n_tokens; i++)
        smoe_route_pick_token(pick, i);
}

void smoe_route_pick(const struct smoe_route_pick *pick)
{
    smoe_route_pick_by(smoe_route_kernel_best(pick->n_experts), pick);
}
