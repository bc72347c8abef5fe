/* SPDX-License-Identifier: Apache-2.0
 *
 * The model is stablemoe-train's at its default sizes (encoder of 64, experts 64-256-64 with ReLU, a linear
 * head), with its default optimizer (AdamW, learning rate 0.002, weight decay 0.05, gradients clipped at
 * norm 1, balance loss 0.01) but a constant learning rate: a schedule would have to know how many steps
 * there will be, which is what the policies differ in. None of it was tuned to any policy.
 *
 * Token t shows training image order[t mod n]. At completion a token is passed through the model as it is
 * then, with the experts it was given at arrival: one forward and one backward pass of the slot's batch.
 */
#include "sim/training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/model/local_moe.h"
#include "client/train/model/model.h"
#include "common/base/assert.h"
#include "common/base/rng.h"
#include "common/kernels/gemm.h"
#include "sim/events.h"

#define D_MODEL        64
#define D_FF           256
#define BALANCE        0.01
#define LEARNING_RATE  0.002
#define WEIGHT_DECAY   0.05
#define CLIP_NORM      1.0
#define EVALUATED_ROWS 500
#define RNG_ORDER      4 /* stream of the seed */

const uint64_t smoe_training_budgets[SMOE_TRAINING_BUDGETS] = {20, 40, 150, 300};

struct trainer {
    const struct smoe_training_data *data;
    struct smoe_training_result *result;
    struct smoe_model model;
    struct smoe_local_moe moe;
    struct smoe_pass pass;
    size_t rows_max;     /* the most tokens that can complete in a slot, or are evaluated at once */
    uint32_t *order;     /* [train_n], owned, as all below */
    smoe_real *x;        /* [rows_max, pixels] */
    uint16_t *labels;    /* [rows_max] */
    smoe_real *y, *dy;   /* [rows_max, K, d] the experts' outputs; their gradients */
    smoe_real *visit_dx; /* [rows_max, K, d] */
    smoe_real *dx;       /* [rows_max, d] */
};

/* ---- beginning and end ---- */

static void shuffle(struct trainer *t, uint64_t seed)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, seed, RNG_ORDER);
    for (uint32_t i = 0; i < t->data->train_n; i++) {
        uint32_t at = (uint32_t)smoe_rng_below(&rng, i + 1u);
        t->order[i] = t->order[at];
        t->order[at] = i;
    }
}

static void release(struct trainer *t)
{
    void *arrays[] = {t->order, t->x, t->labels, t->y, t->dy, t->visit_dx, t->dx};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    smoe_model_release(&t->model);
    smoe_local_moe_release(&t->moe);
    smoe_pass_release(&t->pass);
}

/* No slot completes more tokens than its workers can serve visits. */
static size_t most_rows(const struct smoe_scenario *s)
{
    double slot_s = (double)s->spec.slot_ns * 1e-9, visits = s->spec.tokens * (double)s->spec.top_k;
    if (s->spec.source == SMOE_SOURCE_OPEN)
        for (uint64_t j = 0; j < s->spec.workers; j++)
            visits += slot_s * s->freq_max_hz[j] / s->spec.cycles + 1;
    return (size_t)visits + EVALUATED_ROWS;
}

static int init(struct trainer *t, const struct smoe_scenario *s, uint64_t seed)
{
    struct smoe_model_shape shape = {.pixels = t->data->pixels,
                                     .d_model = D_MODEL,
                                     .experts = (uint32_t)s->spec.experts,
                                     .top_k = (uint32_t)s->spec.top_k,
                                     .classes = t->data->classes,
                                     .balance_weight = BALANCE};
    struct smoe_ffn_shape expert = {D_MODEL, D_FF, SMOE_RELU};
    t->rows_max = most_rows(s);
    size_t visits = t->rows_max * shape.top_k * D_MODEL;
    (void)smoe_gemm_setup();
    t->order = smoe_sim_alloc(t->data->train_n, sizeof *t->order);
    t->x = smoe_sim_alloc(t->rows_max * shape.pixels, sizeof *t->x);
    t->labels = smoe_sim_alloc(t->rows_max, sizeof *t->labels);
    smoe_real **reals[] = {&t->y, &t->dy, &t->visit_dx, &t->dx};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        *reals[i] = smoe_sim_alloc(visits, sizeof(smoe_real));
    shuffle(t, seed);
    int rc = smoe_model_init(&t->model, &shape, seed);
    if (rc == 0)
        rc = smoe_pass_init(&t->pass, &shape, t->rows_max);
    if (rc == 0)
        rc = smoe_local_moe_init(&t->moe, &expert, shape.experts, shape.top_k, t->rows_max, seed,
                                 true);
    return rc;
}

/* ---- what the slots ask for ---- */

static void fill(struct trainer *t, size_t row, bool test, uint64_t image)
{
    t->labels[row] = t->data->image(t->data->context, test, image, t->x + row * t->data->pixels);
}

static uint64_t image_of(const struct trainer *t, uint64_t token)
{
    return t->order[token % t->data->train_n];
}

static void score(void *context, uint64_t first, uint32_t n, float *ret)
{
    struct trainer *t = context;
    size_t experts = t->model.shape.experts;
    for (uint32_t done = 0; done < n;) {
        uint32_t rows = n - done < EVALUATED_ROWS ? n - done : EVALUATED_ROWS;
        for (uint32_t i = 0; i < rows; i++)
            fill(t, i, false, image_of(t, first + done + i));
        smoe_model_forward_gate(&t->model, &t->pass, rows, t->x);
        memcpy(ret + done * experts, t->pass.scores, rows * experts * sizeof *ret);
        done += rows;
    }
}

static void step(struct trainer *t)
{
    struct smoe_optimizer o = {.kind = SMOE_ADAMW,
                               .learning_rate = LEARNING_RATE,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .epsilon = 1e-8,
                               .weight_decay = WEIGHT_DECAY,
                               .gradient_scale = 1,
                               .t = ++t->result->steps};
    double square =
        smoe_square_norm(t->model.n_params, t->model.grads) + smoe_local_moe_square_norm(&t->moe);
    if (square > CLIP_NORM * CLIP_NORM)
        o.gradient_scale = CLIP_NORM / sqrt(square);
    smoe_model_step(&t->model, &o);
    smoe_local_moe_step(&t->moe, &o);
}

static void train(struct trainer *t, uint32_t n, const uint64_t *tokens, const uint16_t *experts)
{
    const struct smoe_model_shape *shape = &t->model.shape;
    struct smoe_model_result r;
    for (uint32_t i = 0; i < n; i++)
        fill(t, i, false, image_of(t, tokens[i]));
    smoe_model_forward_gate(&t->model, &t->pass, n, t->x);
    smoe_local_moe_forward(&t->moe, n, t->pass.h, experts, t->y);
    smoe_model_forward_head(&t->model, &t->pass, experts, t->y, t->labels, &r);
    smoe_model_backward_head(&t->model, &t->pass, t->y, t->dy);
    smoe_local_moe_backward(&t->moe, t->dy, t->visit_dx);
    smoe_visits_sum(n, shape->top_k, shape->d_model, t->visit_dx, t->dx);
    smoe_model_backward_gate(&t->model, &t->pass, t->dx);
    step(t);
}

/* Share of the first n test images that the model gets right, by the gate's own top-K. */
static double evaluate(struct trainer *t, uint64_t n)
{
    uint64_t correct = 0, done = 0;
    n = n < t->data->test_n ? n : t->data->test_n;
    while (done < n) {
        size_t rows = n - done < EVALUATED_ROWS ? n - done : EVALUATED_ROWS;
        struct smoe_model_result r;
        for (size_t i = 0; i < rows; i++)
            fill(t, i, true, done + i);
        smoe_model_forward_gate(&t->model, &t->pass, rows, t->x);
        smoe_local_moe_forward(&t->moe, rows, t->pass.h, t->pass.top, t->y);
        smoe_model_forward_head(&t->model, &t->pass, t->pass.top, t->y, t->labels, &r);
        correct += r.correct;
        done += rows;
    }
    return (double)correct / (double)n;
}

static void learn(void *context, uint64_t slot, uint32_t n, const uint64_t *tokens,
                  const uint16_t *experts)
{
    struct trainer *t = context;
    uint64_t slots = slot + 1;
    smoe_assert(n <= t->rows_max);
    if (n)
        train(t, n, tokens, experts);
    if (slots % SMOE_TRAINING_EVERY == 0) {
        t->result->glance_joules[t->result->glances] = t->result->fleet.joules;
        t->result->glance[t->result->glances++] = evaluate(t, SMOE_TRAINING_GLANCE);
    }
    for (size_t b = 0; b < SMOE_TRAINING_BUDGETS; b++)
        if (slots == smoe_training_budgets[b])
            t->result->budget[b] = evaluate(t, t->data->test_n);
}

/* ---- the run ---- */

int smoe_training_run(const struct smoe_scenario *scenario,
                      const struct smoe_slotted_options *options,
                      const struct smoe_training_data *data, struct smoe_training_result *ret)
{
    struct trainer t = {.data = data, .result = ret};
    struct smoe_slotted_trainer hooks = {&t, score, learn};
    struct smoe_slotted_options o = *options;
    size_t glances = o.slots / SMOE_TRAINING_EVERY + 1;
    *ret = (struct smoe_training_result){.glance = smoe_sim_alloc(glances, sizeof *ret->glance),
                                         .glance_joules =
                                             smoe_sim_alloc(glances, sizeof *ret->glance_joules)};
    for (size_t b = 0; b < SMOE_TRAINING_BUDGETS; b++)
        ret->budget[b] = -1;
    o.trainer = &hooks;
    int rc = init(&t, scenario, options->seed);
    if (rc == 0)
        smoe_slotted_run(scenario, &o, &ret->fleet);
    release(&t);
    if (rc)
        smoe_training_release(ret);
    return rc;
}

void smoe_training_release(struct smoe_training_result *result)
{
    smoe_slotted_release(&result->fleet);
    free(result->glance);
    free(result->glance_joules);
    *result = (struct smoe_training_result){0};
}

uint64_t smoe_training_slots_to(const struct smoe_training_result *result, double accuracy)
{
    for (uint64_t i = 0; i < result->glances; i++)
        if (result->glance[i] >= accuracy)
            return (i + 1) * SMOE_TRAINING_EVERY;
    return 0;
}

double smoe_training_joules_to(const struct smoe_training_result *result, double accuracy)
{
    uint64_t slots = smoe_training_slots_to(result, accuracy);
    return slots ? result->glance_joules[slots / SMOE_TRAINING_EVERY - 1] : 0;
}
