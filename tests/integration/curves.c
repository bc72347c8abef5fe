/* SPDX-License-Identifier: Apache-2.0
 *
 * integration_curves GATEWAY SEED IMAGES EPOCHS
 *
 * Trains on the first IMAGES images of Fashion-MNIST twice from one seed, through the fleet and in this
 * process with the gate's own top-K, and prints the loss of every step of both as one JSON object.
 */
#include <stdio.h>
#include <stdlib.h>

#include "client/train/data/batches.h"
#include "tests/integration/halves.h"

enum { WIDTH = 32, HIDDEN = 64, EXPERTS = 8, TOP_K = 2, ROWS = 100 };

static struct halves_setup make_setup(const struct smoe_dataset *set, uint64_t seed)
{
    return (struct halves_setup){
        .model = {.pixels = (uint32_t)set->pixels,
                  .d_model = WIDTH,
                  .experts = EXPERTS,
                  .top_k = TOP_K,
                  .classes = set->classes,
                  .balance_weight = 0.01},
        .expert = {WIDTH, HIDDEN, SMOE_GELU},
        .rows = ROWS,
        .seed = seed,
        .zero_output = true,
        .step = {.kind = SMOE_LAYER_ADAMW,
                 .learning_rate = 0.002,
                 .beta1 = 0.9,
                 .beta2 = 0.999,
                 .epsilon = 1e-8,
                 .weight_decay = 0.05,
                 .gradient_divisor = 1,
                 .clip_norm = 1},
    };
}

static void print_curve(struct half *half, struct smoe_batches *batches, size_t epochs)
{
    size_t count = smoe_batches_count(batches);
    smoe_real *x = malloc(ROWS * half->model.shape.pixels * sizeof *x);
    uint16_t labels[ROWS];
    for (size_t i = 0; x && i < epochs * count; i++) {
        if (i % count == 0)
            smoe_batches_shuffle(batches, half->setup->seed, i / count);
        struct half_batch batch = {smoe_batches_fill(batches, i % count, x, labels), x, labels};
        half_step(half, &batch, NULL, i + 1);
        printf("%s%.6f", i ? "," : "", half->loss);
    }
    free(x);
}

int main(int argc, char **argv)
{
    struct smoe_dataset set;
    struct smoe_normalizer normalizer;
    struct smoe_batches batches;
    struct smoe_why why;
    struct half fleet, local;
    if (argc != 5) {
        fprintf(stderr, "usage: integration_curves GATEWAY SEED IMAGES EPOCHS\n");
        return 2;
    }
    if (smoe_dataset_load("fashion-mnist", NULL, &set, &why)) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    struct halves_setup setup = make_setup(&set, strtoull(argv[2], NULL, 10));
    size_t images = strtoull(argv[3], NULL, 10), epochs = strtoull(argv[4], NULL, 10);
    smoe_normalizer_init(&normalizer, &set);
    set.train.n = images < set.train.n ? images : set.train.n;
    if (smoe_batches_init(&batches, &set, &set.train, &normalizer, ROWS))
        return 1;
    half_start(&local, &setup, NULL, NULL);
    half_start(&fleet, &setup, argv[1], "curves");
    printf("{\"fleet\":[");
    print_curve(&fleet, &batches, epochs);
    printf("],\"local\":[");
    print_curve(&local, &batches, epochs);
    printf("]}\n");
    half_release(&fleet);
    half_release(&local);
    smoe_batches_release(&batches);
    smoe_dataset_release(&set);
    return 0;
}
