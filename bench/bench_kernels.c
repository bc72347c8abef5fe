/* SPDX-License-Identifier: Apache-2.0
 *
 * The expert's kernels. Three lanes compute the same pass: `fast` as workers do; `gemm`, the bare
 * matrix products of that pass, handed to BLAS with nothing around them, which is as fast as a kernel
 * on this BLAS can be; and `reference`, the plain loops that define the result. The optimizer is
 * compared with copying the bytes that it reads and writes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/race.h"
#include "common/base/rng.h"
#include "common/kernels/ffn.h"
#include "common/kernels/gemm.h"
#include "common/kernels/optimizer.h"

struct pass {
    struct smoe_ffn_shape shape;
    size_t n;                      /* rows */
    smoe_real *params, *gradients; /* [n_params] */
    smoe_real *x, *y, *dy, *dx;    /* [n, d] */
    smoe_real *hidden;             /* [2, n, h], of the bare products */
    smoe_real *saved, *scratch;
};

static smoe_real *reals(size_t n, struct smoe_rng *rng)
{
    smoe_real *values = malloc(n * sizeof *values);
    for (size_t i = 0; values && i < n; i++)
        values[i] = (smoe_real)smoe_rng_normal(rng);
    return values;
}

static void pass_release(struct pass *p)
{
    smoe_real *all[] = {p->params, p->gradients, p->x,     p->y,      p->dy,
                        p->dx,     p->hidden,    p->saved, p->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static int pass_init(struct pass *p, const struct smoe_ffn_shape *shape, size_t n)
{
    struct smoe_rng rng;
    size_t params = smoe_ffn_layout(shape).n_params, values = n * shape->d_model;
    smoe_rng_init(&rng, 1, 0);
    *p = (struct pass){.shape = *shape, .n = n};
    p->params = reals(params, &rng);
    p->gradients = reals(params, &rng);
    p->x = reals(values, &rng);
    p->y = reals(values, &rng);
    p->dy = reals(values, &rng);
    p->dx = reals(values, &rng);
    p->hidden = reals(2 * n * shape->d_ff, &rng);
    p->saved = reals(n * smoe_ffn_saved_per_row(shape), &rng);
    p->scratch = reals(smoe_ffn_scratch(shape, n), &rng);
    if (!p->params || !p->gradients || !p->x || !p->y || !p->dy || !p->dx || !p->hidden ||
        !p->saved || !p->scratch)
        return SMOE_ENOMEMORY;
    smoe_ffn_init(shape, 1, 0, false, p->params);
    return 0;
}

/* ---- the lanes ---- */

static void forward_fast(void *context)
{
    struct pass *p = context;
    smoe_ffn_forward(&p->shape, p->params, p->n, p->x, p->saved, p->scratch, p->y);
}

static void forward_reference(void *context)
{
    struct pass *p = context;
    smoe_ffn_forward_reference(&p->shape, p->params, p->n, p->x, p->y);
}

/* x W_in^T, (x W_gate^T,) a W_out */
static void forward_gemm(void *context)
{
    struct pass *p = context;
    struct smoe_ffn_layout at = smoe_ffn_layout(&p->shape);
    size_t d = p->shape.d_model, h = p->shape.d_ff;
    smoe_gemm_nt(p->n, h, d, p->x, p->params + at.w_in, false, p->hidden);
    if (p->shape.activation == SMOE_SWIGLU)
        smoe_gemm_nt(p->n, h, d, p->x, p->params + at.w_gate, false, p->hidden);
    smoe_gemm_nn(p->n, d, h, p->hidden, p->params + at.w_out, false, p->y);
}

static void backward_fast(void *context)
{
    struct pass *p = context;
    smoe_ffn_backward(&p->shape, p->params, p->n, p->x, p->saved, p->dy, p->scratch, p->gradients,
                      p->dx);
}

static void backward_reference(void *context)
{
    struct pass *p = context;
    smoe_ffn_backward_reference(&p->shape, p->params, p->n, p->x, p->dy, p->gradients, p->dx);
}

/* dy W_out^T, a^T dy, dz^T x, dz W_in, and the last two once more for the gate */
static void backward_gemm(void *context)
{
    struct pass *p = context;
    struct smoe_ffn_layout at = smoe_ffn_layout(&p->shape);
    size_t d = p->shape.d_model, h = p->shape.d_ff;
    smoe_real *dz = p->hidden + p->n * h;
    smoe_gemm_nt(p->n, h, d, p->dy, p->params + at.w_out, false, dz);
    smoe_gemm_tn(h, d, p->n, p->hidden, p->dy, true, p->gradients + at.w_out);
    smoe_gemm_tn(h, d, p->n, dz, p->x, true, p->gradients + at.w_in);
    smoe_gemm_nn(p->n, d, h, dz, p->params + at.w_in, false, p->dx);
    if (p->shape.activation != SMOE_SWIGLU)
        return;
    smoe_gemm_tn(h, d, p->n, dz, p->x, true, p->gradients + at.w_gate);
    smoe_gemm_nn(p->n, d, h, dz, p->params + at.w_gate, true, p->dx);
}

/* ---- passes ---- */

static double forward_flops(const struct pass *p)
{
    double matrices = p->shape.activation == SMOE_SWIGLU ? 3 : 2;
    return 2 * matrices * (double)p->n * p->shape.d_model * p->shape.d_ff;
}

static void race_pass(struct smoe_bench *bench, struct pass *p, bool backward, bool reference)
{
    struct smoe_lane lanes[] = {
        {.run = backward ? backward_fast : forward_fast, .context = p},
        {.run = backward ? backward_gemm : forward_gemm, .context = p},
        {.run = backward ? backward_reference : forward_reference, .context = p},
    };
    char what[40];
    forward_fast(p); /* `saved` belongs to the backward pass */
    smoe_race(lanes, reference ? 3 : 2, bench->quick);
    snprintf(what, sizeof what, "%s.%s.d%u.n%zu", backward ? "backward" : "forward",
             smoe_activation_name(p->shape.activation), p->shape.d_model, p->n);
    double flops = forward_flops(p) * (backward ? 2 : 1);
    struct smoe_sample gflops = smoe_sample_inverse(&lanes[0].ns, flops);
    struct smoe_sample of_gemm = smoe_sample_ratio(&lanes[1].ns, &lanes[0].ns);
    smoe_report_add(bench->report, "GFLOP/s", &gflops, "kernels.%s", what);
    smoe_report_add(bench->report, "x", &of_gemm, "kernels.%s.to_gemm", what);
    if (!reference)
        return;
    struct smoe_sample over = smoe_sample_ratio(&lanes[2].ns, &lanes[0].ns);
    smoe_report_add(bench->report, "x", &over, "kernels.%s.to_reference", what);
}

static int bench_shape(struct smoe_bench *bench, const struct smoe_ffn_shape *shape, size_t n,
                       bool reference)
{
    struct pass p;
    int rc = pass_init(&p, shape, n);
    if (rc == 0) {
        race_pass(bench, &p, false, reference);
        race_pass(bench, &p, true, reference);
    }
    pass_release(&p);
    return rc;
}

/* ---- the optimizer ---- */

struct step {
    struct smoe_optimizer optimizer;
    size_t n;
    smoe_real *state[7]; /* w m v g, new w m v */
};

static void step_fast(void *context)
{
    struct step *s = context;
    smoe_real **a = s->state;
    smoe_optimizer_step(&s->optimizer, s->n, a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

/* The same three arrays written, the same but the gradient read: as fast as memory is. */
static void step_copy(void *context)
{
    struct step *s = context;
    for (int i = 0; i < 3; i++)
        memcpy(s->state[4 + i], s->state[i], s->n * sizeof **s->state);
}

static int bench_step(struct smoe_bench *bench, size_t n)
{
    struct step s = {.optimizer = {SMOE_ADAMW, 1e-3, 0, 0.9, 0.999, 1e-8, 0.01, 1, 10}, .n = n};
    struct smoe_rng rng;
    bool have_all = true;
    smoe_rng_init(&rng, 1, 1);
    for (int i = 0; i < 7; i++)
        have_all &= (s.state[i] = reals(n, &rng)) != NULL;
    for (size_t i = 0; have_all && i < n; i++)
        s.state[2][i] = (smoe_real)fabs((double)s.state[2][i]); /* v is a mean of squares */
    if (have_all) {
        struct smoe_lane lanes[] = {{.run = step_fast, .context = &s},
                                    {.run = step_copy, .context = &s}};
        smoe_race(lanes, 2, bench->quick);
        struct smoe_sample rate = smoe_sample_inverse(&lanes[0].ns, (double)n * 1e3);
        struct smoe_sample of_copy = smoe_sample_ratio(&lanes[1].ns, &lanes[0].ns);
        smoe_report_add(bench->report, "M/s", &rate, "kernels.adamw.n%zu", n);
        smoe_report_add(bench->report, "x", &of_copy, "kernels.adamw.n%zu.to_copy", n);
    }
    for (int i = 0; i < 7; i++)
        free(s.state[i]);
    return have_all ? 0 : SMOE_ENOMEMORY;
}

int smoe_bench_kernels(struct smoe_bench *bench, struct smoe_why *why)
{
    static const struct smoe_ffn_shape small = {64, 256, SMOE_RELU},
                                       middle = {256, 1024, SMOE_RELU};
    static const struct smoe_ffn_shape gelu = {256, 1024, SMOE_GELU},
                                       swiglu = {256, 1024, SMOE_SWIGLU};
    static const size_t rows[] = {8, 32, 128, 512};
    int rc = 0;
    (void)smoe_gemm_setup();
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !rc; i++)
        rc = bench_shape(bench, &small, rows[i], rows[i] == 32);
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !rc; i++)
        rc = bench_shape(bench, &middle, rows[i], false);
    rc = rc ? rc : bench_shape(bench, &gelu, 128, false);
    rc = rc ? rc : bench_shape(bench, &swiglu, 128, false);
    rc = rc ? rc : bench_step(bench, 33088); /* an expert of 64-256-64 */
    rc = rc ? rc : bench_step(bench, 1u << 22);
    return rc ? smoe_fail(why, rc, "kernels: out of memory") : 0;
}
