/* SPDX-License-Identifier: Apache-2.0
 *
 * A row is made from the scores of every token in sight on its expert, and looked at whole whenever a search
 * passes there: a few vectors each, where a list of options for every token would take a branch for each.
 */
#include "daemon/core/route_arcs.h"

#include <math.h>
#include <string.h>

#include "common/base/assert.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 4")

typedef float four_floats __attribute__((vector_size(16)));

static inline float least_of_4(four_floats a)
{
    float x = a[0] < a[1] ? a[0] : a[1], y = a[2] < a[3] ? a[2] : a[3];
    return x < y ? x : y;
}

#define TILE(x) x##_portable
#define TARGET
#define LANES    2
#define LEAST(a) least_of_4(a)
#define ANY(a)   (((a)[0] | (a)[1]) != 0)
#if defined(__x86_64__)
#define LESSER(a, b) _mm_min_pd(a, b)
#define LESS(a, b)   _mm_min_ps(a, b)
#define MORE(a, b)   _mm_max_ps(a, b)
#else /* the mask of a comparison chooses; compilers make one or two instructions of it */
#define LESSER(a, b) choose(a, b, (a) < (b))
#define LESS(a, b)   choose_floats(a, b, (a) < (b))
#define MORE(a, b)   choose_floats(a, b, (a) > (b))
typedef int32_t four_ints __attribute__((vector_size(16)));
static inline four_floats choose_floats(four_floats a, four_floats b, four_ints first)
{
    return (four_floats)(((four_ints)a & first) | ((four_ints)b & ~first));
}
typedef double two_doubles __attribute__((vector_size(16)));
typedef int64_t two_longs __attribute__((vector_size(16)));
static inline two_doubles choose(two_doubles a, two_doubles b, two_longs first)
{
    return (two_doubles)(((two_longs)a & first) | ((two_longs)b & ~first));
}
#endif
#include "daemon/core/route_arcs_tile.h"

#if defined(__x86_64__)
#define TILE(x)      x##_avx2
#define TARGET       __attribute__((target("avx2")))
#define LANES        4
#define LEAST(a)     least_of_4(_mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)))
#define LESSER(a, b) _mm256_min_pd(a, b)
#define LESS(a, b)   _mm256_min_ps(a, b)
#define MORE(a, b)   _mm256_max_ps(a, b)
#define ANY(a)       (!_mm256_testz_si256((__m256i)(a), (__m256i)(a)))
#include "daemon/core/route_arcs_tile.h"

#define TILE(x)      x##_avx512
#define TARGET       __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw")))
#define LANES        8
#define LEAST(a)     _mm512_reduce_min_ps(a)
#define LESSER(a, b) _mm512_min_pd(a, b)
#define LESS(a, b)   _mm512_min_ps(a, b)
#define MORE(a, b)   _mm512_max_ps(a, b)
#define ANY(a)       (_mm512_test_epi64_mask((__m512i)(a), (__m512i)(a)) != 0)
#include "daemon/core/route_arcs_tile.h"
#endif

#define KERNELS(x)                                                                      \
    {                                                                                   \
        offer_##x, owned_##x, nearer_##x, two_##x, spread_##x, offers_##x, cheapest_##x \
    }

static const struct smoe_route_arcs WIDTHS[] = {
    KERNELS(portable),
#if defined(__x86_64__)
    KERNELS(avx2),
    KERNELS(avx512),
#endif
};

uint32_t smoe_route_arcs_widths(void)
{
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2"))
        return 1;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")
               ? 3
               : 2;
#else
    return 1;
#endif
}

const struct smoe_route_arcs *smoe_route_arcs_by(uint32_t width)
{
    smoe_assert(width < smoe_route_arcs_widths());
    return &WIDTHS[width];
}

const struct smoe_route_arcs *smoe_route_arcs(void)
{
    return &WIDTHS[smoe_route_arcs_widths() - 1];
}
