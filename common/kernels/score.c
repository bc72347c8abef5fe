/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows here are short (8 to 64 experts, 10 classes), so the loops are plain and the sums run in index
 * order. Every softmax is shifted by its row's maximum: the largest exponent is 0, nothing overflows,
 * and the sum is at least 1.
 */
#include "common/kernels/score.h"

#include <math.h>

#include "common/base/assert.h"
#include "common/kernels/vecmath.h"

static smoe_real row_max(size_t width, const smoe_real *row)
{
    smoe_real max = row[0];
    for (size_t i = 1; i < width; i++)
        max = row[i] > max ? row[i] : max;
    return max;
}

void smoe_softmax_rows(size_t n, size_t width, smoe_real *rows)
{
    for (size_t r = 0; r < n; r++) {
        smoe_real *row = rows + r * width;
        smoe_real max = row_max(width, row), sum = 0;
        for (size_t i = 0; i < width; i++)
            row[i] = smoe_vec_exp(row[i] - max);
        for (size_t i = 0; i < width; i++)
            sum += row[i];
        for (size_t i = 0; i < width; i++)
            row[i] /= sum;
    }
}

void smoe_sigmoid(size_t n, const smoe_real *x, smoe_real *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = smoe_vec_sigmoid(x[i]);
}

void smoe_softmax_backward(size_t n, size_t width, const smoe_real *p, const smoe_real *dp,
                           smoe_real *ret_dlogits)
{
    for (size_t r = 0; r < n; r++, p += width, dp += width, ret_dlogits += width) {
        smoe_real mean = 0;
        for (size_t i = 0; i < width; i++)
            mean += p[i] * dp[i];
        for (size_t i = 0; i < width; i++)
            ret_dlogits[i] = p[i] * (dp[i] - mean);
    }
}

/* Insertion into a list of k: k is at most 8 where it matters, and most values do not even beat the
 * list's last. A later equal value never overtakes, hence ties go to the lowest index. */
void smoe_topk(size_t width, const float *values, size_t k, uint16_t *ret_indices)
{
    smoe_assert(k <= width && width <= UINT16_MAX);
    size_t held = 0;
    for (size_t i = 0; i < width && k; i++) {
        if (held == k && !(values[i] > values[ret_indices[k - 1]]))
            continue;
        size_t at = held < k ? held++ : k - 1;
        for (; at > 0 && values[i] > values[ret_indices[at - 1]]; at--)
            ret_indices[at] = ret_indices[at - 1];
        ret_indices[at] = (uint16_t)i;
    }
}

static size_t argmax(size_t width, const smoe_real *row)
{
    size_t best = 0;
    for (size_t i = 1; i < width; i++)
        best = row[i] > row[best] ? i : best;
    return best;
}

/* e^(z - max) of one row, summed in index order; kept in ret_exps [width] if that is given, where a vector
 * loop can make them first (a vocabulary has thousands of classes). The sum has the same bits either way. */
static smoe_real sum_exps(size_t width, const smoe_real *logits, smoe_real max, smoe_real *ret_exps)
{
    smoe_real sum = 0;
    for (size_t i = 0; ret_exps && i < width; i++)
        ret_exps[i] = smoe_vec_exp(logits[i] - max);
    for (size_t i = 0; i < width; i++)
        sum += ret_exps ? ret_exps[i] : smoe_vec_exp(logits[i] - max);
    return sum;
}

/* One row: -log softmax(logits)[label]; dlogits [width], if wanted, scaled by `weight`. */
static double cross_entropy_row(size_t width, const smoe_real *logits, size_t label, double weight,
                                smoe_real *ret_dlogits)
{
    smoe_real max = row_max(width, logits);
    smoe_real sum = sum_exps(width, logits, max, ret_dlogits);
    double loss = log((double)sum) + (double)max - (double)logits[label];
    if (ret_dlogits) {
        smoe_real factor = (smoe_real)(weight / (double)sum);
        for (size_t i = 0; i < width; i++)
            ret_dlogits[i] *= factor;
        ret_dlogits[label] -= (smoe_real)weight;
    }
    return loss;
}

double smoe_cross_entropy(size_t n, size_t width, const smoe_real *logits, const uint16_t *labels,
                          smoe_real *ret_dlogits, size_t *ret_correct)
{
    double sum = 0;
    *ret_correct = 0;
    for (size_t row = 0; row < n; row++) {
        const smoe_real *z = logits + row * width;
        smoe_real *dz = ret_dlogits ? ret_dlogits + row * width : NULL;
        smoe_assert(labels[row] < width);
        sum += cross_entropy_row(width, z, labels[row], 1 / (double)n, dz);
        *ret_correct += argmax(width, z) == labels[row];
    }
    return n ? sum / (double)n : 0;
}
