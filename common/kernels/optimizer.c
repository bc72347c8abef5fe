/* SPDX-License-Identifier: Apache-2.0
 *
 * Optimizer steps as single loops over the vector. What depends only on the step (bias corrections,
 * the decayed learning rate) is computed once, in double and with nothing but + - * / and sqrt, which
 * every machine rounds alike, then held in the vector's type; the loops do element-wise arithmetic in
 * one order, vectorised or not, and the room is compiled without contraction. So the owner of a shard
 * and its follower get the same bits on unlike machines, which the two-phase step relies on.
 *
 *     g = gradient_scale * gradient
 *     SGD      m = momentum m + g + decay w                w = w - lr m
 *     AdamW    m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
 *              w = (1 - lr decay) w - (lr / (1 - b1^t)) m / (sqrt(v / (1 - b2^t)) + epsilon)
 */
#include "common/kernels/optimizer.h"

#include <math.h>

#include "common/base/assert.h"
#include "common/kernels/vecmath.h"

unsigned smoe_optimizer_moments(enum smoe_optimizer_kind kind)
{
    return kind == SMOE_ADAMW ? 2 : 1;
}

/* base^n by squaring: pow() is not the same on every machine. */
static double power(double base, uint64_t n)
{
    double result = 1;
    for (; n; n /= 2, base *= base)
        if (n % 2)
            result *= base;
    return result;
}

/* The scalars of one step, in the type of the vectors. */
struct sgd {
    smoe_real scale, momentum, decay, rate;
};

struct adamw {
    smoe_real scale, beta1, rest1, beta2, rest2; /* rest = 1 - beta */
    smoe_real keep;                              /* 1 - lr * decay */
    smoe_real rate;                              /* lr / (1 - beta1^t) */
    smoe_real root;                              /* 1 / sqrt(1 - beta2^t) */
    smoe_real epsilon;
};

/* The new arrays may be the old ones. Elements are independent, so what the compiler must be told is
 * only that no array overlaps another one shifted: `ivdep` says that, `restrict` would say too much.
 * (clang does not vectorise what it instruments, and would complain that it was told to.) */
#if defined(SMOE_SANITIZED)
#define SMOE_INDEPENDENT
#elif defined(__clang__)
#define SMOE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define SMOE_INDEPENDENT _Pragma("GCC ivdep")
#endif

SMOE_SIMD_CLONES static void sgd_loop(struct sgd c, size_t n, const smoe_real *w,
                                      const smoe_real *m, const smoe_real *g, smoe_real *new_w,
                                      smoe_real *new_m)
{
    SMOE_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        smoe_real moment = c.momentum * m[i] + (c.scale * g[i] + c.decay * w[i]);
        new_w[i] = w[i] - c.rate * moment;
        new_m[i] = moment;
    }
}

SMOE_SIMD_CLONES static void adamw_loop(const struct adamw *of, size_t n, const smoe_real *w,
                                        const smoe_real *m, const smoe_real *v, const smoe_real *g,
                                        smoe_real *new_w, smoe_real *new_m, smoe_real *new_v)
{
    struct adamw c = *of;
    SMOE_INDEPENDENT
    for (size_t i = 0; i < n; i++) {
        smoe_real gradient = c.scale * g[i];
        smoe_real m1 = c.beta1 * m[i] + c.rest1 * gradient;
        smoe_real v1 = c.beta2 * v[i] + c.rest2 * (gradient * gradient);
#ifdef STABLEMOE_FLOAT64
        smoe_real root = sqrt(v1);
#else
        smoe_real root = sqrtf(v1);
#endif
        new_w[i] = c.keep * w[i] - c.rate * m1 / (root * c.root + c.epsilon);
        new_m[i] = m1;
        new_v[i] = v1;
    }
}

static void step_sgd(const struct smoe_optimizer *o, size_t n, const smoe_real *w,
                     const smoe_real *m, const smoe_real *g, smoe_real *new_w, smoe_real *new_m)
{
    struct sgd c = {.scale = (smoe_real)o->gradient_scale,
                    .momentum = (smoe_real)o->momentum,
                    .decay = (smoe_real)o->weight_decay,
                    .rate = (smoe_real)o->learning_rate};
    sgd_loop(c, n, w, m, g, new_w, new_m);
}

static void step_adamw(const struct smoe_optimizer *o, size_t n, const smoe_real *w,
                       const smoe_real *m, const smoe_real *v, const smoe_real *g, smoe_real *new_w,
                       smoe_real *new_m, smoe_real *new_v)
{
    smoe_assert(o->t >= 1);
    struct adamw c = {
        .scale = (smoe_real)o->gradient_scale,
        .beta1 = (smoe_real)o->beta1,
        .rest1 = (smoe_real)(1 - o->beta1),
        .beta2 = (smoe_real)o->beta2,
        .rest2 = (smoe_real)(1 - o->beta2),
        .keep = (smoe_real)(1 - o->learning_rate * o->weight_decay),
        .rate = (smoe_real)(o->learning_rate / (1 - power(o->beta1, o->t))),
        .root = (smoe_real)(1 / sqrt(1 - power(o->beta2, o->t))),
        .epsilon = (smoe_real)o->epsilon,
    };
    adamw_loop(&c, n, w, m, v, g, new_w, new_m, new_v);
}

void smoe_optimizer_step(const struct smoe_optimizer *o, size_t n, const smoe_real *w,
                         const smoe_real *m, const smoe_real *v, const smoe_real *g,
                         smoe_real *new_w, smoe_real *new_m, smoe_real *new_v)
{
    switch (o->kind) {
    case SMOE_SGD:
        step_sgd(o, n, w, m, g, new_w, new_m);
        break;
    case SMOE_ADAMW:
        step_adamw(o, n, w, m, v, g, new_w, new_m, new_v);
        break;
    }
}

/* Eight partial sums, element i in sum i % 8, so that an addition need not wait for the one before. */
SMOE_SIMD_CLONES static double square_sum(size_t n, const smoe_real *g)
{
    enum { LANES = 8 };
    double sums[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += (double)g[i + lane] * (double)g[i + lane];
    for (size_t i = whole; i < n; i++)
        sums[i % LANES] += (double)g[i] * (double)g[i];
    double total = 0;
    for (size_t lane = 0; lane < LANES; lane++)
        total += sums[lane];
    return total;
}

double smoe_square_norm(size_t n, const smoe_real *g)
{
    return square_sum(n, g);
}
