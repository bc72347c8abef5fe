/* SPDX-License-Identifier: Apache-2.0
 *
 * A row is made from the scores of every token in sight on its expert, and looked at whole whenever a search
 * passes there: a few vectors each, where a list of options for every token would take a branch for each.
 */
#include "daemon/core/route_arcs.h"

#include <string.h>

#define UNROLL _Pragma("GCC unroll 4")

#define TILE(x) x##_portable
#define TARGET
#define LANES 2
#include "daemon/core/route_arcs_tile.h"

#if defined(__x86_64__)
#define TILE(x) x##_avx2
#define TARGET  __attribute__((target("avx2")))
#define LANES   4
#include "daemon/core/route_arcs_tile.h"
#endif

bool smoe_route_arcs_wide(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2");
#else
    return false;
#endif
}

void smoe_route_arcs_offer(bool wide, double *row, uint32_t n, const float *scores, double weight,
                           double held)
{
#if defined(__x86_64__)
    if (wide) {
        offer_avx2(row, n, scores, weight, held);
        return;
    }
#endif
    (void)wide;
    offer_portable(row, n, scores, weight, held);
}

uint32_t smoe_route_arcs_owned(bool wide, const double *row, uint32_t n, const float *scores,
                               double weight, double held, uint16_t *ret_expert)
{
#if defined(__x86_64__)
    if (wide)
        return owned_avx2(row, n, scores, weight, held, ret_expert);
#endif
    (void)wide;
    return owned_portable(row, n, scores, weight, held, ret_expert);
}

uint32_t smoe_route_arcs_nearer(bool wide, const double *row, const double *label,
                                const double *distance, uint32_t n, double base, double radius,
                                uint16_t *ret_expert)
{
#if defined(__x86_64__)
    if (wide)
        return nearer_avx2(row, label, distance, n, base, radius, ret_expert);
#endif
    (void)wide;
    return nearer_portable(row, label, distance, n, base, radius, ret_expert);
}
