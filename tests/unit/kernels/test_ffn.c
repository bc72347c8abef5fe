/* SPDX-License-Identifier: Apache-2.0
 *
 * The fast expert against the plain one, and what its contract promises besides.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/kernels/ffn.h"
#include "common/kernels/gemm.h"
#include "tests/unit/kernels/tensors.h"

static const enum smoe_activation all[] = {SMOE_RELU, SMOE_GELU, SMOE_SWIGLU};

/* Both passes of one expert on n random rows, with every array of exactly the promised size. */
struct pass {
    struct smoe_ffn_shape shape;
    size_t n, elements; /* elements = n * d */
    struct smoe_ffn_layout at;
    smoe_real *params, *x, *dy;                 /* in */
    smoe_real *saved, *scratch;                 /* between */
    smoe_real *y, *dx, *dparams;                /* out: fast */
    smoe_real *want_y, *want_dx, *want_dparams; /* out: reference */
};

static struct pass pass_new(enum smoe_activation activation, uint32_t d, uint32_t h, size_t n)
{
    struct pass p = {.shape = {d, h, activation}, .n = n, .elements = n * d};
    p.at = smoe_ffn_layout(&p.shape);
    p.params = tensor_normal(p.at.n_params, 1, 0.5);
    p.x = tensor_normal(p.elements, 2, 1);
    p.dy = tensor_normal(p.elements, 3, 1);
    p.saved = tensor_nan(n * smoe_ffn_saved_per_row(&p.shape));
    p.scratch = tensor_nan(smoe_ffn_scratch(&p.shape, n));
    p.y = tensor_nan(p.elements);
    p.dx = tensor_nan(p.elements);
    p.dparams = tensor_normal(p.at.n_params, 4, 0.1); /* added to, hence not zero */
    p.want_y = tensor_nan(p.elements);
    p.want_dx = tensor_nan(p.elements);
    p.want_dparams = tensor_copy(p.at.n_params, p.dparams);
    return p;
}

static void pass_free(struct pass *p)
{
    smoe_real *arrays[] = {p->params, p->x,       p->dy,     p->saved,   p->scratch,     p->y,
                           p->dx,     p->dparams, p->want_y, p->want_dx, p->want_dparams};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
}

static void run_fast(struct pass *p)
{
    smoe_ffn_forward(&p->shape, p->params, p->n, p->x, p->saved, p->scratch, p->y);
    smoe_ffn_backward(&p->shape, p->params, p->n, p->x, p->saved, p->dy, p->scratch, p->dparams,
                      p->dx);
}

static void assert_close(const struct pass *p, const char *what, size_t n, const smoe_real *got,
                         const smoe_real *want)
{
    double error = tensor_error(n, got, want);
    cr_assert_leq(error, SUM_BOUND, "%s %s d=%u h=%u n=%zu: %g",
                  smoe_activation_name(p->shape.activation), what, p->shape.d_model, p->shape.d_ff,
                  p->n, error);
}

static void compare(enum smoe_activation activation, uint32_t d, uint32_t h, size_t n)
{
    struct pass p = pass_new(activation, d, h, n);
    run_fast(&p);
    smoe_ffn_forward_reference(&p.shape, p.params, n, p.x, p.want_y);
    smoe_ffn_backward_reference(&p.shape, p.params, n, p.x, p.dy, p.want_dparams, p.want_dx);
    assert_close(&p, "y", p.elements, p.y, p.want_y);
    assert_close(&p, "dx", p.elements, p.dx, p.want_dx);
    assert_close(&p, "dW_in", p.at.w_out, p.dparams, p.want_dparams);
    assert_close(&p, "dW_out", (size_t)h * d, p.dparams + p.at.w_out, p.want_dparams + p.at.w_out);
    assert_close(&p, "db_in", h, p.dparams + p.at.b_in, p.want_dparams + p.at.b_in);
    assert_close(&p, "db_out", d, p.dparams + p.at.b_out, p.want_dparams + p.at.b_out);
    pass_free(&p);
}

Test(ffn, fast_equals_reference_for_all_activations_at_ragged_sizes)
{
    static const uint32_t dims[] = {1, 3, 17, 64};
    static const size_t rows[] = {1, 2, 3, 17, 64};
    smoe_gemm_setup();
    for (size_t a = 0; a < 3; a++)
        for (size_t i = 0; i < 4; i++)
            for (size_t j = 0; j < 4; j++)
                for (size_t k = 0; k < 5; k++)
                    compare(all[a], dims[i], dims[j], rows[k]);
}

Test(ffn, fast_equals_reference_at_and_around_the_edge_of_a_panel)
{
    smoe_gemm_setup();
    for (size_t a = 0; a < 3; a++)
        for (size_t n = 127; n <= 129; n++)
            compare(all[a], 16, 24, n);
    compare(SMOE_SWIGLU, 64, 256, 300);
}

Test(ffn, no_rows_leave_every_array_as_it_was)
{
    for (size_t a = 0; a < 3; a++) {
        struct pass p = pass_new(all[a], 3, 5, 0);
        run_fast(&p);
        cr_assert_eq(tensor_error(p.at.n_params, p.dparams, p.want_dparams), 0);
        pass_free(&p);
    }
}

/* Evaluation keeps nothing, and must not compute something else for it. */
Test(ffn, forward_without_saving_gives_the_same_bits)
{
    for (size_t a = 0; a < 3; a++) {
        struct pass p = pass_new(all[a], 17, 31, 200);
        smoe_ffn_forward(&p.shape, p.params, p.n, p.x, p.saved, p.scratch, p.y);
        smoe_ffn_forward(&p.shape, p.params, p.n, p.x, NULL, p.scratch, p.want_y);
        cr_assert_eq(memcmp(p.y, p.want_y, p.elements * sizeof *p.y), 0);
        pass_free(&p);
    }
}

/* A worker may take rows back in another grouping than it sent them out. */
Test(ffn, what_is_saved_belongs_to_its_row)
{
    for (size_t a = 0; a < 3; a++) {
        struct pass p = pass_new(all[a], 9, 20, 12);
        size_t d = 9, saved = smoe_ffn_saved_per_row(&p.shape);
        smoe_ffn_forward(&p.shape, p.params, 5, p.x, p.saved, p.scratch, p.y);
        smoe_ffn_forward(&p.shape, p.params, 7, p.x + 5 * d, p.saved + 5 * saved, p.scratch,
                         p.y + 5 * d);
        smoe_ffn_backward(&p.shape, p.params, 12, p.x, p.saved, p.dy, p.scratch, p.dparams, p.dx);
        smoe_ffn_backward_reference(&p.shape, p.params, 12, p.x, p.dy, p.want_dparams, p.want_dx);
        assert_close(&p, "dx", p.elements, p.dx, p.want_dx);
        assert_close(&p, "dparams", p.at.n_params, p.dparams, p.want_dparams);
        pass_free(&p);
    }
}

Test(ffn, a_nan_in_a_row_shows_in_its_output_and_in_no_other)
{
    for (size_t a = 0; a < 3; a++) {
        struct pass p = pass_new(all[a], 8, 16, 4);
        p.x[2 * 8 + 3] = (smoe_real)NAN;
        smoe_ffn_forward(&p.shape, p.params, p.n, p.x, NULL, p.scratch, p.y);
        for (size_t i = 0; i < p.elements; i++)
            cr_assert_eq(!!isnan(p.y[i]), i / 8 == 2, "%s y[%zu]", smoe_activation_name(all[a]), i);
        pass_free(&p);
    }
}

Test(ffn, scratch_is_bounded_whatever_the_number_of_rows)
{
    struct smoe_ffn_shape shape = {64, 256, SMOE_SWIGLU};
    cr_assert_eq(smoe_ffn_scratch(&shape, 0), 0);
    cr_assert_lt(smoe_ffn_scratch(&shape, 1), smoe_ffn_scratch(&shape, 128));
    cr_assert_eq(smoe_ffn_scratch(&shape, 100000), smoe_ffn_scratch(&shape, 128));
}

Test(ffn, the_layout_is_the_flat_order_that_checkpoints_store)
{
    struct smoe_ffn_layout relu = smoe_ffn_layout(&(struct smoe_ffn_shape){3, 5, SMOE_RELU});
    cr_assert_eq(relu.w_in, 0);
    cr_assert_eq(relu.w_out, 15);
    cr_assert_eq(relu.b_in, 30);
    cr_assert_eq(relu.b_out, 35);
    cr_assert_eq(relu.n_params, 38);
    struct smoe_ffn_layout swiglu = smoe_ffn_layout(&(struct smoe_ffn_shape){3, 5, SMOE_SWIGLU});
    cr_assert_eq(swiglu.w_gate, 15);
    cr_assert_eq(swiglu.w_out, 30);
    cr_assert_eq(swiglu.n_params, 53);
}

Test(ffn, names_and_activations_are_one_to_one)
{
    for (size_t a = 0; a < 3; a++) {
        enum smoe_activation parsed = 0;
        cr_assert(smoe_activation_parse(smoe_activation_name(all[a]), &parsed));
        cr_assert_eq(parsed, all[a]);
    }
    enum smoe_activation untouched = SMOE_GELU;
    cr_assert_not(smoe_activation_parse("Relu", &untouched));
    cr_assert_eq(untouched, SMOE_GELU);
}

static uint64_t digest_of_init(enum smoe_activation activation, uint32_t index, bool zero_out)
{
    struct smoe_ffn_shape shape = {24, 40, activation};
    struct smoe_ffn_layout at = smoe_ffn_layout(&shape);
    smoe_real *params = tensor_nan(at.n_params);
    smoe_ffn_init(&shape, 42, index, zero_out, params);
    uint64_t digest = 0;
    for (size_t i = 0; i < at.n_params; i++) {
        float value = (float)params[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        digest = smoe_mix64(digest ^ bits);
    }
    free(params);
    return digest;
}

/* These constants are the contract: every compiler and machine starts training from the same bits. */
Test(ffn, initial_weights_are_the_same_bits_everywhere)
{
    cr_assert_eq(digest_of_init(SMOE_RELU, 0, false), UINT64_C(0x461dd8e2b25941bf), "0x%016llx",
                 (unsigned long long)digest_of_init(SMOE_RELU, 0, false));
    cr_assert_eq(digest_of_init(SMOE_SWIGLU, 3, true), UINT64_C(0x17d9540b4edd28c9), "0x%016llx",
                 (unsigned long long)digest_of_init(SMOE_SWIGLU, 3, true));
    cr_assert_neq(digest_of_init(SMOE_RELU, 0, false), digest_of_init(SMOE_RELU, 1, false));
}

static double standard_deviation(size_t n, const smoe_real *v)
{
    return sqrt(tensor_dot(n, v, v) / (double)n);
}

Test(ffn, initial_weights_have_the_promised_spread)
{
    struct smoe_ffn_shape shape = {64, 256, SMOE_SWIGLU};
    struct smoe_ffn_layout at = smoe_ffn_layout(&shape);
    smoe_real *params = tensor_nan(at.n_params);
    smoe_ffn_init(&shape, 7, 0, false, params);
    cr_assert_float_eq(standard_deviation(at.w_out, params), sqrt(2.0 / 64), 0.002);
    cr_assert_float_eq(standard_deviation(64 * 256, params + at.w_out), sqrt(1.0 / 256), 0.001);
    cr_assert_eq(tensor_dot(256 + 64, params + at.b_in, params + at.b_in), 0);
    smoe_ffn_init(&shape, 7, 0, true, params);
    cr_assert_eq(tensor_dot(64 * 256, params + at.w_out, params + at.w_out), 0);
    free(params);
}
