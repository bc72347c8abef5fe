/* SPDX-License-Identifier: Apache-2.0
 *
 * The losses of StableMoE's first stage against finite differences, and who gets no gradient of them.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "stablemoe/twostage.h"

enum { N = 7, E = 5, D = 4, K = 2 };
#define STEP      ((smoe_real)1e-2)
#define TOLERANCE 2e-3

static smoe_real h[N * D], centroids[E * D], gates[N * E], logits[N * E], weights[N * E];
static uint16_t top[N * K];

static void draw(void)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 3, 0);
    for (size_t i = 0; i < N * D; i++)
        h[i] = (smoe_real)smoe_rng_normal(&rng);
    for (size_t i = 0; i < E * D; i++)
        centroids[i] = (smoe_real)smoe_rng_normal(&rng);
    for (size_t i = 0; i < N * E; i++) {
        logits[i] = (smoe_real)smoe_rng_normal(&rng);
        weights[i] = (smoe_real)smoe_rng_normal(&rng);
    }
    for (size_t t = 0; t < N; t++)
        for (size_t k = 0; k < K; k++)
            top[t * K + k] = (uint16_t)((t / 3 + k) % E); /* expert 4 has nobody */
}

TestSuite(twostage, .init = draw);

/* Any loss of the gates will do: sum of weights g. */
static double some_loss(void)
{
    double loss = 0;
    smoe_centroid_gate(N, E, D, h, centroids, gates, NULL);
    for (size_t i = 0; i < N * E; i++)
        loss += (double)(weights[i] * gates[i]);
    return loss;
}

static void check_by_differences(smoe_real *at, size_t n, const smoe_real *gradient)
{
    for (size_t i = 0; i < n; i++) {
        smoe_real was = at[i];
        at[i] = was + STEP;
        double up = some_loss();
        at[i] = was - STEP;
        double down = some_loss();
        at[i] = was;
        cr_assert_float_eq((up - down) / (2 * (double)STEP), (double)gradient[i], TOLERANCE);
    }
}

Test(twostage, the_gate_is_a_sigmoid_and_its_scores_a_softmax_of_the_same_affinities)
{
    float scores[N * E];
    smoe_centroid_gate(N, E, D, h, centroids, gates, scores);
    for (size_t t = 0; t < N; t++) {
        double sum = 0, s[E];
        for (size_t e = 0; e < E; e++) {
            s[e] = 0;
            for (size_t i = 0; i < D; i++)
                s[e] += (double)(h[t * D + i] * centroids[e * D + i]);
            sum += exp(s[e]);
            cr_assert_float_eq((double)gates[t * E + e], 1 / (1 + exp(-s[e])), 1e-5);
        }
        for (size_t e = 0; e < E; e++)
            cr_assert_float_eq((double)scores[t * E + e], exp(s[e]) / sum, 1e-5);
    }
}

Test(twostage, the_gates_gradient_reaches_centroids_and_tokens)
{
    smoe_real dcentroids[E * D] = {0}, dh[N * D] = {0}, again[N * D] = {0};
    (void)some_loss();
    smoe_centroid_gate_backward(N, E, D, h, centroids, gates, weights, dcentroids, dh);
    smoe_centroid_gate_backward(N, E, D, h, centroids, gates, weights, NULL, again);
    cr_assert_eq(memcmp(dh, again, sizeof dh), 0);
    check_by_differences(centroids, E * D, dcentroids);
    check_by_differences(h, N * D, dh);
}

/* c_e is a number: the loss is linear in the gates as long as the choices stay. */
Test(twostage, the_balance_loss_pushes_busy_experts_down_and_its_coefficient_has_no_gradient)
{
    smoe_real dgates[N * E] = {0};
    double nbar = (double)(N * K) / E, loss = 0;
    (void)some_loss();
    double told = smoe_balance_loss(N, E, K, top, gates, 0.3, dgates);
    for (size_t e = 0; e < E; e++) {
        double load = 0, c;
        for (size_t v = 0; v < N * K; v++)
            load += top[v] == e;
        c = (load - nbar) / nbar;
        for (size_t t = 0; t < N; t++) {
            bool chosen = top[t * K] == e || top[t * K + 1] == e;
            double want = chosen ? 0.3 * c / N : 0;
            cr_assert_float_eq((double)dgates[t * E + e], want, 1e-6);
            loss += want * (double)gates[t * E + e];
        }
    }
    cr_assert_float_eq(told, loss, 1e-6);
    cr_assert_float_eq(smoe_balance_loss(N, E, K, top, gates, 0.3, NULL), told, 1e-12);
}

Test(twostage, equal_loads_cost_nothing)
{
    uint16_t even[E];
    smoe_real dgates[E * E] = {0};
    for (uint16_t t = 0; t < E; t++)
        even[t] = t;
    (void)some_loss();
    cr_assert_eq(smoe_balance_loss(E, E, 1, even, gates, 0.3, dgates), 0);
    for (size_t i = 0; i < E * E; i++)
        cr_assert_eq(dgates[i], 0);
}

Test(twostage, the_distillation_loss_is_a_cross_entropy_of_the_choices)
{
    smoe_real dlogits[N * E];
    double told = smoe_distil_loss(N, E, K, top, logits, 0.3, dlogits), loss = 0;
    for (size_t t = 0; t < N; t++) {
        double sum = 0;
        for (size_t e = 0; e < E; e++)
            sum += exp((double)logits[t * E + e]);
        for (size_t k = 0; k < K; k++)
            loss -= log(exp((double)logits[t * E + top[t * K + k]]) / sum);
    }
    cr_assert_float_eq(told, 0.3 * loss / (N * K), 1e-5);
    for (size_t i = 0; i < N * E; i++) {
        smoe_real was = logits[i];
        logits[i] = was + STEP;
        double up = smoe_distil_loss(N, E, K, top, logits, 0.3, NULL);
        logits[i] = was - STEP;
        double down = smoe_distil_loss(N, E, K, top, logits, 0.3, NULL);
        logits[i] = was;
        cr_assert_float_eq((up - down) / (2 * (double)STEP), (double)dlogits[i], TOLERANCE);
    }
    smoe_distil_loss(N, E, K, top, logits, 0.3, logits); /* in place */
    cr_assert_eq(memcmp(logits, dlogits, sizeof dlogits), 0);
}
