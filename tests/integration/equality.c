/* SPDX-License-Identifier: Apache-2.0
 *
 * integration_equality [--few] GATEWAY STEP...
 *
 * For every activation, optimizer and top-k (`--few`: every optimizer): trains a small model through the
 * fleet, and at each STEP (rising) makes the local half equal to it bit for bit, lets both take the step on
 * the same batch and routes, and prints how far each kind of tensor is apart, as one JSON object a line.
 * Whoever started it judges. The last line is a control: there one weight of the local half was changed
 * before the step, and the distances must say so.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/integration/halves.h"
#include "tests/integration/images.h"

enum { WIDTH = 16, HIDDEN = 40, EXPERTS = 8 };

static struct halves_setup make_setup(enum smoe_activation activation,
                                      enum smoe_layer_optimizer kind, uint32_t top_k)
{
    return (struct halves_setup){
        .model = {.pixels = IMAGE_PIXELS,
                  .d_model = WIDTH,
                  .experts = EXPERTS,
                  .top_k = top_k,
                  .classes = IMAGE_CLASSES,
                  .balance_weight = 0.01},
        .expert = {WIDTH, HIDDEN, activation},
        .rows = IMAGE_ROWS,
        .seed = 7,
        .zero_output = kind == SMOE_LAYER_ADAMW,
        .step = {.kind = kind,
                 .learning_rate = kind == SMOE_LAYER_ADAMW ? 0.003 : 0.05,
                 .momentum = 0.9,
                 .beta1 = 0.9,
                 .beta2 = 0.999,
                 .epsilon = 1e-8,
                 .weight_decay = 0.01,
                 .gradient_divisor = 1,
                 .clip_norm = 0.5},
    };
}

/* The largest distance among all experts' vectors number `v` of `vectors`. */
static double expert_distance(size_t n, const smoe_real *got, const smoe_real *want,
                              unsigned vectors, unsigned v)
{
    double worst = 0;
    for (size_t e = 0; e < EXPERTS; e++) {
        double d = tensor_distance(n, got + (e * vectors + v) * n, want + (e * vectors + v) * n);
        worst = d > worst ? d : worst;
    }
    return worst;
}

static double scalar_distance(double got, double want)
{
    smoe_real g = (smoe_real)got, w = (smoe_real)want;
    return tensor_distance(1, &g, &w);
}

static void print_comparison(struct half *fleet, struct half *local, uint64_t step, bool control)
{
    const struct halves_setup *s = fleet->setup;
    size_t row = (size_t)IMAGE_ROWS * WIDTH;
    half_read_experts(fleet);
    half_read_experts(local);
    printf("{\"activation\":\"%s\",\"optimizer\":\"%s\",\"top_k\":%" PRIu32 ",\"step\":%" PRIu64
           ",\"control\":%s",
           smoe_activation_name(s->expert.activation),
           s->step.kind == SMOE_LAYER_ADAMW ? "adamw" : "sgd", s->model.top_k, step,
           control ? "true" : "false");
    printf(",\"distance\":{\"outputs\":%.3g,\"input gradients\":%.3g",
           tensor_distance(row * s->model.top_k, fleet->y, local->y),
           tensor_distance(row, fleet->dx, local->dx));
    printf(",\"dense gradients\":%.3g,\"dense parameters\":%.3g",
           tensor_distance(fleet->model.n_params, fleet->dense_grads, local->dense_grads),
           tensor_distance(fleet->model.n_params, fleet->model.params, local->model.params));
    if (!fleet->cut)
        printf(",\"expert gradients\":%.3g",
               expert_distance(fleet->n_params, fleet->expert_grads, local->expert_grads, 1, 0));
    static const char *const names[] = {"expert parameters", "first moments", "second moments"};
    for (unsigned v = 0; v < fleet->vectors; v++)
        printf(",\"%s\":%.3g", names[v],
               expert_distance(fleet->n_params, fleet->expert_states, local->expert_states,
                               fleet->vectors, v));
    printf(",\"clip scale\":%.3g,\"square norm\":%.3g}}\n",
           scalar_distance(fleet->clip_scale, local->clip_scale),
           scalar_distance(fleet->square_norm, local->square_norm));
}

static void compare(const struct halves_setup *setup, const char *gateway, char *const *steps,
                    int n_steps, bool control)
{
    struct half fleet, local;
    struct images images;
    struct half_batch batch = {IMAGE_ROWS, images.x, images.labels};
    half_start(&local, setup, NULL, NULL);
    half_start(&fleet, setup, gateway, "equality");
    uint64_t t = 1;
    for (int i = 0; i < n_steps; i++) {
        uint64_t at = strtoull(steps[i], NULL, 10);
        for (; t <= at; t++) {
            draw_images(&images, setup->seed, t);
            fleet.record = t == at;
            if (t == at)
                halves_equalize(&local, &fleet);
            if (t == at && control)
                local.moe.params[0] += (smoe_real)0.01;
            half_step(&fleet, &batch, NULL, t);
            if (t == at)
                half_step(&local, &batch, fleet.experts, t);
        }
        print_comparison(&fleet, &local, at, control);
    }
    half_release(&fleet);
    half_release(&local);
}

int main(int argc, char **argv)
{
    static const enum smoe_activation activations[] = {SMOE_RELU, SMOE_GELU, SMOE_SWIGLU};
    static const enum smoe_layer_optimizer optimizers[] = {SMOE_LAYER_ADAMW, SMOE_LAYER_SGD};
    static const uint32_t top_ks[] = {1, 2, 4};
    bool few = argc > 1 && strcmp(argv[1], "--few") == 0;
    if (argc < 3 + few) {
        fprintf(stderr, "usage: integration_equality [--few] GATEWAY STEP...\n");
        return 2;
    }
    argv += few;
    argc -= few;
    for (size_t a = 0; a < (few ? 1 : 3); a++)
        for (size_t o = 0; o < 2; o++)
            for (size_t k = 0; k < (few ? 1 : 3); k++) {
                struct halves_setup setup = make_setup(activations[a], optimizers[o], top_ks[k]);
                if (few)
                    setup = make_setup(SMOE_GELU, optimizers[o], 2);
                compare(&setup, argv[1], argv + 2, argc - 2, false);
            }
    struct halves_setup control = make_setup(SMOE_GELU, SMOE_LAYER_SGD, 4);
    compare(&control, argv[1], argv + 2, 1, true);
    return 0;
}
