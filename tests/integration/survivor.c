/* SPDX-License-Identifier: Apache-2.0
 *
 * integration_survivor GATEWAY [KEY_FILE]
 *
 * Trains a small model through a fleet that keeps dying, and repeats every committed step in this
 * process from the same state, batch and routes. After each it prints how far the two are apart, as one
 * JSON object a line. Ends with 0 when it is asked to, by SIGTERM; ends with 1 and a sentence when
 * training can not go on.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#include "tests/integration/halves.h"
#include "tests/integration/images.h"

enum { WIDTH = 16, HIDDEN = 32, EXPERTS = 8 };

static volatile sig_atomic_t asked_to_end;

static void on_term(int signal)
{
    (void)signal;
    asked_to_end = 1;
}

static double worst_of(const struct half *fleet, const struct half *local)
{
    double worst = tensor_distance(fleet->model.n_params, fleet->model.params, local->model.params);
    for (size_t v = 0; v < (size_t)EXPERTS * fleet->vectors; v++) {
        double d = tensor_distance(fleet->n_params, fleet->expert_states + v * fleet->n_params,
                                   local->expert_states + v * fleet->n_params);
        worst = d > worst ? d : worst;
    }
    return worst;
}

int main(int argc, char **argv)
{
    const struct halves_setup setup = {
        .model = {.pixels = IMAGE_PIXELS,
                  .d_model = WIDTH,
                  .experts = EXPERTS,
                  .top_k = 2,
                  .classes = IMAGE_CLASSES,
                  .balance_weight = 0.01},
        .expert = {WIDTH, HIDDEN, SMOE_GELU},
        .rows = IMAGE_ROWS,
        .seed = 11,
        .patient = true,
        .key_file = argc == 3 ? argv[2] : NULL,
        .step = {.kind = SMOE_LAYER_ADAMW,
                 .learning_rate = 0.003,
                 .beta1 = 0.9,
                 .beta2 = 0.999,
                 .epsilon = 1e-8,
                 .weight_decay = 0.01,
                 .gradient_divisor = 1,
                 .clip_norm = 0.5},
    };
    struct half fleet, local;
    struct images images;
    struct half_batch batch = {IMAGE_ROWS, images.x, images.labels};
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: integration_survivor GATEWAY [KEY_FILE]\n");
        return 2;
    }
    signal(SIGTERM, on_term);
    half_start(&local, &setup, NULL, NULL);
    half_start(&fleet, &setup, argv[1], "survivor");
    halves_equalize(&local, &fleet);
    for (uint64_t t = 1; !asked_to_end; t++) {
        draw_images(&images, setup.seed, t);
        half_step(&fleet, &batch, NULL, t);
        half_step(&local, &batch, fleet.experts, t);
        half_read_experts(&local);
        halves_equalize(&local, &fleet); /* reads the fleet's; the next step starts from there */
        printf("{\"step\":%" PRIu64 ",\"loss\":%.6g,\"distance\":%.3g}\n", t, fleet.loss,
               worst_of(&fleet, &local));
        fflush(stdout);
    }
    half_release(&fleet);
    half_release(&local);
    return 0;
}
