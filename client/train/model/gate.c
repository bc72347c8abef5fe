/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate between its logits s [n,E] and the weights w [n,K] of the experts that were used, forward and
 * back, for the three kinds of model.h; and the balance loss that belongs to each.
 *
 *     SOFTMAX   dg_ek = (dw_k - sum_j w_j dw_j) / S    S = sum_j (g_ej + eps);  K = 1: dg = dw
 *               dg_e += alpha E f_e / n for every e
 *               ds = g (dg - sum_e g_e dg_e)
 *     SIGMOID   dg_ek = dw_k
 *               dg_te += alpha c_e / n for the K experts that token t has in its own top-K
 *               ds = g (1 - g) dg
 *     NONE      ds = 0: the matrix is there, and nothing moves it but the weight decay
 */
#include <string.h>

#include "client/train/model/layout.h"
#include "common/kernels/score.h"

/* Keeps w finite where the router used only experts whose gates underflow. */
#define GATE_EPSILON ((smoe_real)1e-6)

void smoe_gate_forward(struct smoe_pass *pass)
{
    size_t experts = pass->shape.experts, n = pass->n * experts;
    bool sigmoid = pass->shape.gate == SMOE_GATE_SIGMOID;
    if (sigmoid) /* dgate is free until backward: it holds s while gate becomes the softmax */
        memcpy(pass->dgate, pass->gate, n * sizeof *pass->gate);
    smoe_softmax_rows(pass->n, experts, pass->gate);
    for (size_t i = 0; i < n; i++)
        pass->scores[i] = (float)pass->gate[i];
    if (sigmoid)
        smoe_sigmoid(n, pass->dgate, pass->gate);
}

/* S of one row. */
static smoe_real gate_sum(size_t k, const smoe_real *gate, const uint16_t *experts)
{
    smoe_real sum = 0;
    for (size_t j = 0; j < k; j++)
        sum += gate[experts[j]] + GATE_EPSILON;
    return sum;
}

static void mix_softmax(size_t k, const smoe_real *gate, const uint16_t *experts, smoe_real *ret_w)
{
    smoe_real sum = gate_sum(k, gate, experts);
    for (size_t j = 0; j < k; j++)
        ret_w[j] = k == 1 ? gate[experts[j]] : (gate[experts[j]] + GATE_EPSILON) / sum;
}

void smoe_gate_mix(struct smoe_pass *pass)
{
    size_t experts = pass->shape.experts, k = pass->shape.top_k;
    for (size_t row = 0; row < pass->n; row++) {
        const smoe_real *gate = pass->gate + row * experts;
        const uint16_t *used = pass->used + row * k;
        smoe_real *w = pass->weights + row * k;
        if (pass->shape.gate == SMOE_GATE_SOFTMAX)
            mix_softmax(k, gate, used, w);
        for (size_t j = 0; j < k && pass->shape.gate != SMOE_GATE_SOFTMAX; j++)
            w[j] = pass->shape.gate == SMOE_GATE_SIGMOID ? gate[used[j]] : 1 / (smoe_real)k;
    }
}

/* f_e, the share of the gate's choices that fell on expert e. */
static double share_of(const struct smoe_pass *pass, size_t expert)
{
    return (double)pass->popularity[expert] / ((double)pass->n * pass->shape.top_k);
}

/* alpha E f_e or alpha c_e: what one token's g_e weighs in the balance loss, times n. c_e = E f_e - 1. */
static double weight_of(const struct smoe_pass *pass, double alpha, size_t expert)
{
    double load = (double)pass->shape.experts * share_of(pass, expert);
    return alpha * (pass->shape.gate == SMOE_GATE_SOFTMAX ? load : load - 1);
}

double smoe_gate_balance(const struct smoe_pass *pass, double balance_weight)
{
    size_t experts = pass->shape.experts, k = pass->shape.top_k;
    double sum = 0;
    if (!pass->n || pass->shape.gate == SMOE_GATE_NONE)
        return 0;
    for (size_t row = 0; row < pass->n; row++) {
        const smoe_real *gate = pass->gate + row * experts;
        const uint16_t *top = pass->top + row * k;
        if (pass->shape.gate == SMOE_GATE_SOFTMAX)
            for (size_t e = 0; e < experts; e++)
                sum += weight_of(pass, balance_weight, e) * (double)gate[e];
        else
            for (size_t j = 0; j < k; j++)
                sum += weight_of(pass, balance_weight, top[j]) * (double)gate[top[j]];
    }
    return sum / (double)pass->n;
}

void smoe_gate_start_backward(struct smoe_pass *pass, double balance_weight)
{
    size_t experts = pass->shape.experts, k = pass->shape.top_k;
    bool softmax = pass->shape.gate == SMOE_GATE_SOFTMAX;
    memset(pass->dgate, 0, pass->n * experts * sizeof *pass->dgate);
    for (size_t row = 0; row < pass->n && pass->shape.gate != SMOE_GATE_NONE; row++)
        for (size_t j = 0; j < (softmax ? experts : k); j++) {
            size_t e = softmax ? j : pass->top[row * k + j];
            pass->dgate[row * experts + e] =
                (smoe_real)(weight_of(pass, balance_weight, e) / (double)pass->n);
        }
}

void smoe_gate_unmix(struct smoe_pass *pass, size_t row, const smoe_real *dw)
{
    size_t experts = pass->shape.experts, k = pass->shape.top_k;
    const uint16_t *used = pass->used + row * k;
    const smoe_real *w = pass->weights + row * k;
    smoe_real *dgate = pass->dgate + row * experts, mean = 0;
    smoe_real sum = gate_sum(k, pass->gate + row * experts, used);
    for (size_t j = 0; j < k; j++)
        mean += w[j] * dw[j];
    for (size_t j = 0; j < k && pass->shape.gate != SMOE_GATE_NONE; j++)
        dgate[used[j]] +=
            k == 1 || pass->shape.gate == SMOE_GATE_SIGMOID ? dw[j] : (dw[j] - mean) / sum;
}

void smoe_gate_finish_backward(struct smoe_pass *pass)
{
    size_t experts = pass->shape.experts, n = pass->n * experts;
    if (pass->shape.gate == SMOE_GATE_SOFTMAX)
        smoe_softmax_backward(pass->n, experts, pass->gate, pass->dgate, pass->dgate);
    else
        for (size_t i = 0; i < n; i++)
            pass->dgate[i] *= pass->gate[i] * (1 - pass->gate[i]);
}
