/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/core/place_popularity.h"

/* Is expert e before f in the token's own order? Ties go to the lowest index. */
static bool before(const float *row, uint32_t e, uint32_t f)
{
    return row[e] > row[f] || (row[e] == row[f] && e < f);
}

void smoe_place_count(const float *scores, uint32_t n_experts, uint32_t top_k, uint64_t *popularity)
{
    uint32_t best[SMOE_PLACE_TOP_K_MAX];
    uint32_t n = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        uint32_t at = n;
        if (n == top_k && !before(scores, e, best[n - 1]))
            continue;
        if (n < top_k)
            n++;
        else
            at = n - 1;
        for (; at > 0 && before(scores, e, best[at - 1]); at--)
            best[at] = best[at - 1];
        best[at] = e;
    }
    for (uint32_t k = 0; k < n; k++)
        popularity[best[k]]++;
}
