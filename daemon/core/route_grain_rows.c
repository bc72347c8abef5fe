/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of whole grains. 16 bits for each expert: a row of 256 is eight vectors of AVX-512.
 */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/route_arcs.h"
#include "daemon/core/route_grain.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 4")
#define INLINE static inline __attribute__((always_inline))

enum {
    SMOE_GRAIN_AHEAD = 2048, /* scores */
    SMOE_GRAIN_WAVE = 60,    /* experts that go on together at most */
};

typedef int16_t eight __attribute__((vector_size(16)));
typedef float four __attribute__((vector_size(16)));

INLINE eight choose(eight a, eight b, eight first)
{
    return (a & first) | (b & ~first);
}

#if defined(__x86_64__)
#define LESS_8(a, b)  ((eight)_mm_min_epi16((__m128i)(a), (__m128i)(b)))
#define MORE_8(a, b)  ((eight)_mm_max_epi16((__m128i)(a), (__m128i)(b)))
#define PLUS_8(a, b)  ((eight)_mm_adds_epi16((__m128i)(a), (__m128i)(b)))
#define MINUS_8(a, b) ((eight)_mm_subs_epi16((__m128i)(a), (__m128i)(b)))
#define LESS_4(a, b)  _mm_min_ps(a, b)
#else /* the mask of a comparison chooses; compilers make one or two instructions of it */
#define LESS_8(a, b)  choose(a, b, (a) < (b))
#define MORE_8(a, b)  choose(a, b, (a) > (b))
#define PLUS_8(a, b)  plus(a, b)
#define MINUS_8(a, b) minus(a, b)
#define LESS_4(a, b)  choose_floats(a, b, (a) < (b))
typedef uint16_t eight_unsigned __attribute__((vector_size(16)));
typedef int32_t four_ints __attribute__((vector_size(16)));
INLINE four choose_floats(four a, four b, four_ints first)
{
    return (four)(((four_ints)a & first) | ((four_ints)b & ~first));
}
/* A sum of two of one sign has that sign too, or it is over the limit. */
INLINE eight plus(eight a, eight b)
{
    eight sum = (eight)((eight_unsigned)a + (eight_unsigned)b), over = ((a ^ sum) & (b ^ sum)) < 0;
    return choose((a >> 15) ^ INT16_MAX, sum, over);
}
INLINE eight minus(eight a, eight b)
{
    eight rest = (eight)((eight_unsigned)a - (eight_unsigned)b), over = ((a ^ b) & (a ^ rest)) < 0;
    return choose((a >> 15) ^ INT16_MAX, rest, over);
}
#endif

typedef int32_t four_whole __attribute__((vector_size(16)));

INLINE eight narrow_8(four_whole a, four_whole b)
{
#if defined(__x86_64__)
    return (eight)_mm_packs_epi32((__m128i)a, (__m128i)b);
#else
    eight all;
    for (int l = 0; l < 4; l++) {
        all[l] = (int16_t)a[l];
        all[l + 4] = (int16_t)b[l];
    }
    return all;
#endif
}

INLINE int16_t least_of_8(eight a)
{
    int16_t least = a[0];
    for (int l = 1; l < 8; l++)
        least = a[l] < least ? a[l] : least;
    return least;
}

INLINE uint32_t mask_of(eight a)
{
#if defined(__x86_64__)
    return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16((__m128i)a, _mm_setzero_si128()));
#else
    uint32_t bits = 0;
    for (int l = 0; l < 8; l++)
        bits |= (uint32_t)(a[l] != 0) << l;
    return bits;
#endif
}

/* Vertices that a search goes on from together. */
struct smoe_grain_wave {
    uint32_t count;
    uint32_t from[SMOE_GRAIN_WAVE + 17]; /* the sink, and what LIST may write */
    int16_t base[SMOE_GRAIN_WAVE + 1];
    const int16_t *row[SMOE_GRAIN_WAVE + 1];
};

INLINE uint32_t list_bits(uint32_t bits, uint32_t f, uint32_t *ret)
{
    uint32_t count = 0;
    for (; bits; bits &= bits - 1)
        ret[count++] = f + (uint32_t)__builtin_ctz(bits);
    return count;
}

/* Is there a shorter way to the sink now? By whom it is, is looked for only then. */
INLINE void smoe_grain_reach_sink(struct smoe_grain_front *front, int32_t way)
{
    if (way >= front->sink_key)
        return;
    uint32_t f = 0;
    while (front->key[f] - front->lift[f] + front->up[f] + front->sink_lift > way)
        f++;
    front->sink_key = front->sink_open = way;
    front->sink_came = f;
}

/* Where the vertices of a wave are, and where their ways go on. */
INLINE void smoe_grain_complete_wave(struct smoe_grain_front *front, int32_t within,
                                     struct smoe_grain_wave *wave)
{
    uint32_t n = wave->count;
    for (uint32_t i = 0; i < n; i++) {
        wave->row[i] = front->rows + (size_t)wave->from[i] * front->stride;
        wave->base[i] = front->base[wave->from[i]];
    }
    if (front->sink_open > within)
        return;
    front->sink_open = SMOE_GRAIN_FAR;
    wave->from[n] = front->sink;
    wave->row[n] = front->down;
    wave->base[n] = (int16_t)(front->sink_key - front->sink_lift);
    wave->count = n + 1;
}

static inline float least_float_4(four a)
{
    float first = a[0] < a[1] ? a[0] : a[1], last = a[2] < a[3] ? a[2] : a[3];
    return first < last ? first : last;
}

#define TILE(x) x##_portable
#define TARGET
#define LANES             8
#define LESS(a, b)        LESS_8(a, b)
#define MORE(a, b)        MORE_8(a, b)
#define PLUS(a, b)        PLUS_8(a, b)
#define MINUS(a, b)       MINUS_8(a, b)
#define LESS_FLOATS(a, b) LESS_4(a, b)
#define NARROW(a, b)      narrow_8(a, b)
#define LEAST(a)          least_of_8(a)
#define ALL(a)            (least_of_8(a) - (eight){0})
#define SAME(a, b)        mask_of((a) == (b))
#define LIST(bits, f, to) list_bits(bits, f, to)
#define LEAST_FLOAT(a)    least_float_4(a)
#define MASK(a)           mask_of(a)
#include "daemon/core/route_grain_tile.h"

#if defined(__x86_64__)
__attribute__((target("avx2"))) static inline float least_float_avx2(__m256 a)
{
    __m128 half = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 two = _mm_min_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}
__attribute__((target("avx2"))) static inline uint32_t mask_avx2(__m256i a)
{
    return (uint32_t)_mm_movemask_epi8(
        _mm_packs_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}
__attribute__((target("avx2"))) static inline __m256i narrow_avx2(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8); /* it packs halves */
}
__attribute__((target("avx512f,avx512bw"))) static inline __m512i narrow_avx512(__m512i a,
                                                                                __m512i b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                              _mm512_cvtepi32_epi16(b), 1);
}
/* Without a branch. */
__attribute__((target("avx512f"))) static inline uint32_t list_avx512(uint32_t bits, uint32_t f,
                                                                      uint32_t *ret)
{
    const __m512i first = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i all = _mm512_add_epi32(first, _mm512_set1_epi32((int)f));
    uint32_t low = bits & 0xffff, high = bits >> 16, n = (uint32_t)__builtin_popcount(low);
    _mm512_storeu_si512(ret, _mm512_maskz_compress_epi32((__mmask16)low, all));
    all = _mm512_add_epi32(all, _mm512_set1_epi32(16));
    _mm512_storeu_si512(ret + n, _mm512_maskz_compress_epi32((__mmask16)high, all));
    return n + (uint32_t)__builtin_popcount(high);
}

#define TILE(x)           x##_avx2
#define TARGET            __attribute__((target("avx2")))
#define LANES             16
#define MASK(a)           mask_avx2((__m256i)(a))
#define LESS(a, b)        ((grains_avx2)_mm256_min_epi16((__m256i)(a), (__m256i)(b)))
#define MORE(a, b)        ((grains_avx2)_mm256_max_epi16((__m256i)(a), (__m256i)(b)))
#define PLUS(a, b)        ((grains_avx2)_mm256_adds_epi16((__m256i)(a), (__m256i)(b)))
#define MINUS(a, b)       ((grains_avx2)_mm256_subs_epi16((__m256i)(a), (__m256i)(b)))
#define LESS_FLOATS(a, b) _mm256_min_ps(a, b)
#define NARROW(a, b)      ((grains_avx2)narrow_avx2((__m256i)(a), (__m256i)(b)))
#define LEAST(a)          (int16_t) _mm_cvtsi128_si32(_mm_minpos_epu16((__m128i)(a)))
#define ALL(a)            ((grains_avx2)_mm256_broadcastw_epi16(_mm_minpos_epu16((__m128i)(a))))
#define SAME(a, b)        mask_avx2((__m256i)((a) == (b)))
#define LIST(bits, f, to) list_bits(bits, f, to)
#define LEAST_FLOAT(a)    least_float_avx2(a)
#include "daemon/core/route_grain_tile.h"

#define TILE(x)           x##_avx512
#define TARGET            __attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl")))
#define LANES             32
#define MASK(a)           _mm512_movepi16_mask((__m512i)(a))
#define LESS(a, b)        ((grains_avx512)_mm512_min_epi16((__m512i)(a), (__m512i)(b)))
#define MORE(a, b)        ((grains_avx512)_mm512_max_epi16((__m512i)(a), (__m512i)(b)))
#define PLUS(a, b)        ((grains_avx512)_mm512_adds_epi16((__m512i)(a), (__m512i)(b)))
#define MINUS(a, b)       ((grains_avx512)_mm512_subs_epi16((__m512i)(a), (__m512i)(b)))
#define LESS_FLOATS(a, b) _mm512_min_ps(a, b)
#define NARROW(a, b)      ((grains_avx512)narrow_avx512((__m512i)(a), (__m512i)(b)))
#define LEAST(a)          (int16_t) _mm_cvtsi128_si32(_mm_minpos_epu16((__m128i)(a)))
#define ALL(a)            ((grains_avx512)_mm512_broadcastw_epi16(_mm_minpos_epu16((__m128i)(a))))
#define SAME(a, b)        _mm512_cmpeq_epi16_mask((__m512i)(a), (__m512i)(b))
#define LIST(bits, f, to) list_avx512(bits, f, to)
#define LEAST_FLOAT(a)    _mm512_reduce_min_ps(a)
#include "daemon/core/route_grain_tile.h"
#endif

#define KERNELS(x)                                                                   \
    {                                                                                \
        costs_##x, two_##x, least_##x, lowest_##x, offers_##x, search_##x, raise_##x \
    }

static const struct smoe_grain_kernel WIDTHS[] = {
    KERNELS(portable),
#if defined(__x86_64__)
    KERNELS(avx2),
    KERNELS(avx512),
#endif
};

uint32_t smoe_grain_widths(void)
{
    return smoe_route_arcs_widths(); /* which need the same of a processor */
}

const struct smoe_grain_kernel *smoe_grain_kernel_by(uint32_t width)
{
    smoe_assert(width < smoe_grain_widths());
    return &WIDTHS[width];
}

const struct smoe_grain_kernel *smoe_grain_kernel(void)
{
    return &WIDTHS[smoe_grain_widths() - 1];
}
