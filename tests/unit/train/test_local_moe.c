/* SPDX-License-Identifier: Apache-2.0
 *
 * The in-process layer, to which the distributed one is compared: what it computes and in which order.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/model/local_moe.h"
#include "common/kernels/gemm.h"
#include "tests/unit/kernels/tensors.h"

enum { N = 5, D = 6, H = 9, E = 4, K = 2, VISITS = N * K };

/* Expert 3 is visited by nobody. */
static const uint16_t routes[VISITS] = {2, 0, 0, 1, 2, 1, 0, 2, 1, 2};
static const struct smoe_ffn_shape SHAPE = {D, H, SMOE_SWIGLU};

struct layer {
    struct smoe_local_moe moe;
    smoe_real *x, *dy, *y, *dx;
};

static struct layer layer_new(void)
{
    struct layer l;
    smoe_gemm_setup();
    cr_assert_eq(smoe_local_moe_init(&l.moe, &SHAPE, E, K, N, 1, false), 0);
    l.x = tensor_normal(N * D, 2, 1);
    l.dy = tensor_normal(VISITS * D, 3, 1);
    l.y = tensor_nan(VISITS * D);
    l.dx = tensor_nan(VISITS * D);
    smoe_local_moe_forward(&l.moe, N, l.x, routes, l.y);
    smoe_local_moe_backward(&l.moe, l.dy, l.dx);
    return l;
}

static void layer_free(struct layer *l)
{
    smoe_local_moe_release(&l->moe);
    free(l->x);
    free(l->dy);
    free(l->y);
    free(l->dx);
}

Test(local_moe, every_visit_is_its_expert_applied_to_its_token)
{
    struct layer l = layer_new();
    size_t n_params = l.moe.n_params;
    smoe_real *want_grads = tensor_zero(E * n_params);
    for (size_t v = 0; v < VISITS; v++) {
        smoe_real y[D], dx[D];
        const smoe_real *params = l.moe.params + routes[v] * n_params, *x = l.x + v / K * D;
        smoe_ffn_forward_reference(&SHAPE, params, 1, x, y);
        smoe_ffn_backward_reference(&SHAPE, params, 1, x, l.dy + v * D,
                                    want_grads + routes[v] * n_params, dx);
        cr_assert_leq(tensor_error(D, l.y + v * D, y), SUM_BOUND);
        cr_assert_leq(tensor_error(D, l.dx + v * D, dx), SUM_BOUND);
    }
    cr_assert_leq(tensor_error(E * n_params, l.moe.grads, want_grads), SUM_BOUND);
    free(want_grads);
    layer_free(&l);
}

/* Bit for bit: expert 2 is visited by tokens 0, 2, 3, 4 and works on them as one batch in this order. */
Test(local_moe, an_experts_visits_are_one_batch_in_the_order_of_their_tokens)
{
    static const size_t visits[] = {0, 4, 7, 9};
    enum { ROWS = 4 };
    struct layer l = layer_new();
    size_t n_params = l.moe.n_params;
    smoe_real x[ROWS * D], dy[ROWS * D], y[ROWS * D], dx[ROWS * D];
    smoe_real *saved = tensor_nan(ROWS * smoe_ffn_saved_per_row(&SHAPE));
    smoe_real *scratch = tensor_nan(smoe_ffn_scratch(&SHAPE, ROWS)), *grads = tensor_zero(n_params);
    const smoe_real *params = l.moe.params + 2 * n_params;
    for (size_t i = 0; i < ROWS; i++) {
        memcpy(x + i * D, l.x + visits[i] / K * D, D * sizeof *x);
        memcpy(dy + i * D, l.dy + visits[i] * D, D * sizeof *dy);
    }
    smoe_ffn_forward(&SHAPE, params, ROWS, x, saved, scratch, y);
    smoe_ffn_backward(&SHAPE, params, ROWS, x, saved, dy, scratch, grads, dx);
    for (size_t i = 0; i < ROWS; i++) {
        cr_assert_eq(memcmp(l.y + visits[i] * D, y + i * D, D * sizeof *y), 0);
        cr_assert_eq(memcmp(l.dx + visits[i] * D, dx + i * D, D * sizeof *dx), 0);
    }
    cr_assert_eq(memcmp(l.moe.grads + 2 * n_params, grads, n_params * sizeof *grads), 0);
    free(saved);
    free(scratch);
    free(grads);
    layer_free(&l);
}

Test(local_moe, gradients_add_up_over_batches)
{
    struct layer l = layer_new();
    size_t n = E * l.moe.n_params;
    smoe_real *once = tensor_copy(n, l.moe.grads);
    smoe_local_moe_forward(&l.moe, N, l.x, routes, l.y);
    smoe_local_moe_backward(&l.moe, l.dy, l.dx);
    for (size_t i = 0; i < n; i++)
        cr_assert_float_eq((double)l.moe.grads[i], 2 * (double)once[i], 1e-4);
    cr_assert_float_eq(smoe_local_moe_square_norm(&l.moe), tensor_dot(n, l.moe.grads, l.moe.grads),
                       1e-6 * tensor_dot(n, l.moe.grads, l.moe.grads));
    free(once);
    layer_free(&l);
}

Test(local_moe, a_step_moves_every_expert_and_takes_the_gradients)
{
    struct layer l = layer_new();
    size_t n_params = l.moe.n_params;
    struct smoe_optimizer adamw = {SMOE_ADAMW, 0.1, 0, 0.9, 0.999, 1e-8, 0.5, 1, 1};
    smoe_real *want = tensor_copy(E * n_params, l.moe.params), *m = tensor_zero(E * n_params);
    smoe_real *v = tensor_zero(E * n_params), before = want[3 * n_params];
    smoe_optimizer_step(&adamw, E * n_params, want, m, v, l.moe.grads, want, m, v);
    smoe_local_moe_step(&l.moe, &adamw);
    cr_assert_eq(memcmp(l.moe.params, want, E * n_params * sizeof *want), 0);
    cr_assert_eq(smoe_local_moe_square_norm(&l.moe), 0);
    cr_assert_float_eq((double)l.moe.params[3 * n_params], 0.95 * (double)before, 1e-6,
                       "the expert nobody visited decays");
    free(want);
    free(m);
    free(v);
    layer_free(&l);
}

Test(local_moe, experts_that_start_at_zero_say_nothing)
{
    struct smoe_local_moe moe;
    smoe_real *x = tensor_normal(N * D, 2, 1), *y = tensor_nan(VISITS * D);
    cr_assert_eq(smoe_local_moe_init(&moe, &SHAPE, E, K, N, 1, true), 0);
    smoe_local_moe_forward(&moe, N, x, routes, y);
    cr_assert_eq(tensor_dot(VISITS * D, y, y), 0);
    smoe_local_moe_release(&moe);
    smoe_local_moe_release(&moe);
    free(x);
    free(y);
}

Test(local_moe, an_empty_batch_is_a_batch)
{
    struct smoe_local_moe moe;
    cr_assert_eq(smoe_local_moe_init(&moe, &SHAPE, E, K, 0, 1, false), 0);
    smoe_local_moe_forward(&moe, 0, NULL, NULL, NULL);
    smoe_local_moe_backward(&moe, NULL, NULL);
    cr_assert_eq(smoe_local_moe_square_norm(&moe), 0);
    smoe_local_moe_release(&moe);
}
