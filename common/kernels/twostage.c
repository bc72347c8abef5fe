/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows are short and there are few of them beside the experts' work, so the loops are plain, sums run in index
 * order, and nothing is allocated. A row's softmax is shifted by its maximum.
 */
#include "stablemoe/twostage.h"

#include <math.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "common/kernels/vecmath.h"

static smoe_real dot(size_t d, const smoe_real *a, const smoe_real *b)
{
    smoe_real sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += a[i] * b[i];
    return sum;
}

static smoe_real largest(size_t n, const smoe_real *row)
{
    smoe_real most = row[0];
    for (size_t i = 1; i < n; i++)
        most = row[i] > most ? row[i] : most;
    return most;
}

/* s [E] -> softmax(s) */
static void softmax(size_t experts, const smoe_real *s, float *ret)
{
    smoe_real most = largest(experts, s), sum = 0;
    for (size_t e = 0; e < experts; e++)
        sum += smoe_vec_exp(s[e] - most);
    for (size_t e = 0; e < experts; e++)
        ret[e] = (float)(smoe_vec_exp(s[e] - most) / sum);
}

void smoe_centroid_gate(size_t n, size_t experts, size_t d, const smoe_real *h,
                        const smoe_real *centroids, smoe_real *ret_gates, float *ret_scores)
{
    for (size_t t = 0; t < n; t++) {
        smoe_real *row = ret_gates + t * experts;
        for (size_t e = 0; e < experts; e++)
            row[e] = dot(d, h + t * d, centroids + e * d);
        if (ret_scores)
            softmax(experts, row, ret_scores + t * experts);
        for (size_t e = 0; e < experts; e++)
            row[e] = smoe_vec_sigmoid(row[e]);
    }
}

/* to += weight x */
static void add(size_t d, smoe_real weight, const smoe_real *x, smoe_real *to)
{
    for (size_t i = 0; to && i < d; i++)
        to[i] += weight * x[i];
}

void smoe_centroid_gate_backward(size_t n, size_t experts, size_t d, const smoe_real *h,
                                 const smoe_real *centroids, const smoe_real *gates,
                                 const smoe_real *dgates, smoe_real *dcentroids, smoe_real *dh)
{
    for (size_t t = 0; t < n; t++)
        for (size_t e = 0; e < experts; e++) {
            smoe_real g = gates[t * experts + e], ds = g * (1 - g) * dgates[t * experts + e];
            add(d, ds, h + t * d, dcentroids ? dcentroids + e * d : NULL);
            add(d, ds, centroids + e * d, dh ? dh + t * d : NULL);
        }
}

double smoe_balance_loss(size_t n, size_t experts, size_t top_k, const uint16_t *top,
                         const smoe_real *gates, double alpha, smoe_real *dgates)
{
    double load[SMOE_EXPERTS_MAX] = {0}, nbar = (double)(n * top_k) / (double)experts, loss = 0;
    smoe_assert(experts >= 1 && experts <= SMOE_EXPERTS_MAX);
    for (size_t v = 0; v < n * top_k; v++) {
        smoe_assert(top[v] < experts);
        load[top[v]]++;
    }
    for (size_t v = 0; v < n * top_k; v++) {
        size_t at = v / top_k * experts + top[v];
        double weight = alpha / (double)n * (load[top[v]] - nbar) / nbar;
        loss += weight * (double)gates[at];
        if (dgates)
            dgates[at] += (smoe_real)weight;
    }
    return loss;
}

/* One token: - sum over its choices of log softmax(logits), and that times `weight` by the logits. */
static double distil_row(size_t experts, size_t top_k, const uint16_t *top, const smoe_real *logits,
                         double weight, smoe_real *ret_dlogits)
{
    smoe_real most = largest(experts, logits), sum = 0;
    double loss = 0;
    for (size_t e = 0; e < experts; e++)
        sum += smoe_vec_exp(logits[e] - most);
    for (size_t k = 0; k < top_k; k++)
        loss += log((double)sum) + (double)most - (double)logits[top[k]];
    for (size_t e = 0; ret_dlogits && e < experts; e++)
        ret_dlogits[e] =
            (smoe_real)(weight * (double)top_k * (double)(smoe_vec_exp(logits[e] - most) / sum));
    for (size_t k = 0; ret_dlogits && k < top_k; k++)
        ret_dlogits[top[k]] -= (smoe_real)weight;
    return loss;
}

double smoe_distil_loss(size_t n, size_t experts, size_t top_k, const uint16_t *top,
                        const smoe_real *logits, double weight, smoe_real *ret_dlogits)
{
    double each = n ? weight / (double)(n * top_k) : 0, loss = 0;
    for (size_t t = 0; t < n; t++)
        loss += distil_row(experts, top_k, top + t * top_k, logits + t * experts, each,
                           ret_dlogits ? ret_dlogits + t * experts : NULL);
    return each * loss;
}
