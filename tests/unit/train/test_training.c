/* SPDX-License-Identifier: Apache-2.0
 *
 * All of it together on 2,000 real images: data, model, experts in process, AdamW.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/train/data/batches.h"
#include "client/train/model/local_moe.h"
#include "client/train/model/model.h"
#include "common/kernels/gemm.h"
#include "tests/unit/kernels/tensors.h"

enum { IMAGES = 2000, BATCH = 100, EPOCHS = 4, D = 32, H = 64, E = 8, K = 2, P = 784 };

struct trainer {
    struct smoe_model model;
    struct smoe_pass pass;
    struct smoe_local_moe moe;
    smoe_real *x, *y, *dy, *dx_visits, *dx;
    uint16_t labels[BATCH];
};

static void trainer_init(struct trainer *t, uint64_t seed)
{
    struct smoe_model_shape shape = {
        .pixels = P, .d_model = D, .experts = E, .top_k = K, .classes = 10, .balance_weight = 0.01};
    struct smoe_ffn_shape expert = {D, H, SMOE_RELU};
    smoe_gemm_setup();
    cr_assert_eq(smoe_model_init(&t->model, &shape, seed), 0);
    cr_assert_eq(smoe_pass_init(&t->pass, &shape, BATCH), 0);
    cr_assert_eq(smoe_local_moe_init(&t->moe, &expert, E, K, BATCH, seed, true), 0);
    t->x = tensor_nan(BATCH * P);
    t->y = tensor_nan(BATCH * K * D);
    t->dy = tensor_nan(BATCH * K * D);
    t->dx_visits = tensor_nan(BATCH * K * D);
    t->dx = tensor_nan(BATCH * D);
}

static void trainer_release(struct trainer *t)
{
    smoe_model_release(&t->model);
    smoe_pass_release(&t->pass);
    smoe_local_moe_release(&t->moe);
    free(t->x);
    free(t->y);
    free(t->dy);
    free(t->dx_visits);
    free(t->dx);
}

static struct smoe_model_result step(struct trainer *t, const struct smoe_batches *batches,
                                     size_t batch, uint64_t step)
{
    struct smoe_model_result result;
    size_t n = smoe_batches_fill(batches, batch, t->x, t->labels);
    smoe_model_forward_gate(&t->model, &t->pass, n, t->x);
    smoe_local_moe_forward(&t->moe, n, t->pass.h, t->pass.top, t->y);
    smoe_model_forward_head(&t->model, &t->pass, t->pass.top, t->y, t->labels, &result);
    smoe_model_backward_head(&t->model, &t->pass, t->y, t->dy);
    smoe_local_moe_backward(&t->moe, t->dy, t->dx_visits);
    smoe_visits_sum(n, K, D, t->dx_visits, t->dx);
    smoe_model_backward_gate(&t->model, &t->pass, t->dx);
    double norm = sqrt(smoe_square_norm(t->model.n_params, t->model.grads) +
                       smoe_local_moe_square_norm(&t->moe));
    struct smoe_optimizer adamw = {
        SMOE_ADAMW, 2e-3, 0, 0.9, 0.999, 1e-8, 0.05, norm > 1 ? 1 / norm : 1, step};
    smoe_model_step(&t->model, &adamw);
    smoe_local_moe_step(&t->moe, &adamw);
    return result;
}

struct curve {
    double first_loss, last_loss; /* mean cross entropy of the first batch and the last epoch */
    double last_accuracy;
};

static struct curve train(const struct smoe_dataset *set, const struct smoe_normalizer *normalizer)
{
    struct trainer t;
    struct smoe_batches batches;
    struct curve curve = {0};
    trainer_init(&t, 1);
    cr_assert_eq(smoe_batches_init(&batches, set, &set->train, normalizer, BATCH), 0);
    size_t count = smoe_batches_count(&batches);
    for (size_t i = 0; i < EPOCHS * count; i++) {
        if (i % count == 0)
            smoe_batches_shuffle(&batches, 1, i / count);
        struct smoe_model_result result = step(&t, &batches, i % count, i + 1);
        if (i == 0)
            curve.first_loss = result.cross_entropy;
        if (i / count < EPOCHS - 1)
            continue;
        curve.last_loss += result.cross_entropy / (double)count;
        curve.last_accuracy += (double)result.correct / IMAGES;
    }
    smoe_batches_release(&batches);
    trainer_release(&t);
    return curve;
}

Test(training, the_loss_falls_on_real_images_and_the_run_repeats_bit_for_bit)
{
    if (access("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz", R_OK) != 0)
        cr_skip_test("dataset-fashion-mnist is not installed");
    struct smoe_dataset set;
    struct smoe_normalizer normalizer;
    struct smoe_why why;
    cr_assert_eq(smoe_dataset_load("fashion-mnist", NULL, &set, &why), 0, "%s", why.text);
    smoe_normalizer_init(&normalizer, &set);
    set.train.n = IMAGES;
    struct curve curve = train(&set, &normalizer), again = train(&set, &normalizer);
    cr_assert_float_eq(curve.first_loss, log(10), 0.7, "%g", curve.first_loss);
    cr_assert_lt(curve.last_loss, 0.6, "%g", curve.last_loss);
    cr_assert_gt(curve.last_accuracy, 0.78, "%g", curve.last_accuracy);
    cr_assert_eq(curve.last_loss, again.last_loss);
    smoe_dataset_release(&set);
}
