/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/data/batches.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/assert.h"
#include "common/base/rng.h"

/* Streams of a seed are shared with weights and experts: this one is the data's. */
static const uint64_t SHUFFLE_STREAM = UINT64_C(0x5348554646) << 24;

/* Sums over a channel of all images; 2^22 images of 2^20 pixels of 2^16 fit 64 bits. */
static void sum_channel(const struct smoe_dataset *dataset, uint32_t channel, uint64_t *ret_sum,
                        uint64_t *ret_squares)
{
    size_t plane = (size_t)dataset->height * dataset->width;
    uint64_t sum = 0, squares = 0;
    for (size_t i = 0; i < dataset->train.n; i++) {
        const uint8_t *pixels = dataset->train.pixels + i * dataset->pixels + channel * plane;
        for (size_t j = 0; j < plane; j++) {
            sum += pixels[j];
            squares += (unsigned)pixels[j] * pixels[j];
        }
    }
    *ret_sum = sum;
    *ret_squares = squares;
}

void smoe_normalizer_init(struct smoe_normalizer *normalizer, const struct smoe_dataset *dataset)
{
    smoe_assert(dataset->channels <= SMOE_CHANNELS_MAX);
    double n = (double)dataset->train.n * dataset->height * dataset->width;
    for (uint32_t c = 0; c < dataset->channels; c++) {
        uint64_t sum, squares;
        sum_channel(dataset, c, &sum, &squares);
        double mean = (double)sum / n;
        double variance = (double)squares / n - mean * mean; /* of whole numbers up to 255 */
        double deviation = variance > 0 ? sqrt(variance) : 255;
        normalizer->mean[c] = mean / 255;
        normalizer->deviation[c] = deviation / 255;
        for (int p = 0; p < 256; p++)
            normalizer->table[c][p] = (smoe_real)((p - mean) / deviation);
    }
}

int smoe_batches_init(struct smoe_batches *batches, const struct smoe_dataset *dataset,
                      const struct smoe_image_set *set, const struct smoe_normalizer *normalizer,
                      size_t batch)
{
    smoe_assert(batch > 0 && set->n <= UINT32_MAX);
    uint32_t *order = malloc((set->n ? set->n : 1) * sizeof *order);
    if (!order)
        return SMOE_ENOMEMORY;
    for (size_t i = 0; i < set->n; i++)
        order[i] = (uint32_t)i;
    *batches = (struct smoe_batches){dataset, set, normalizer, batch, order};
    return 0;
}

void smoe_batches_release(struct smoe_batches *batches)
{
    free(batches->order);
    *batches = (struct smoe_batches){0};
}

/* Fisher and Yates, from the identity. */
void smoe_order_shuffle(uint32_t *order, size_t n, uint64_t seed, uint64_t epoch)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, seed, SHUFFLE_STREAM + epoch);
    for (size_t i = 0; i < n; i++) {
        size_t j = smoe_rng_below(&rng, i + 1);
        order[i] = order[j];
        order[j] = (uint32_t)i;
    }
}

void smoe_batches_shuffle(struct smoe_batches *batches, uint64_t seed, uint64_t epoch)
{
    smoe_order_shuffle(batches->order, batches->set->n, seed, epoch);
}

size_t smoe_batches_count(const struct smoe_batches *batches)
{
    return (batches->set->n + batches->batch - 1) / batches->batch;
}

size_t smoe_batches_fill(const struct smoe_batches *batches, size_t i, smoe_real *ret_x,
                         uint16_t *ret_labels)
{
    const struct smoe_dataset *dataset = batches->dataset;
    size_t plane = (size_t)dataset->height * dataset->width, first = i * batches->batch;
    size_t left = batches->set->n - first, n = left < batches->batch ? left : batches->batch;
    for (size_t row = 0; row < n; row++) {
        size_t image = batches->order[first + row];
        const uint8_t *pixels = batches->set->pixels + image * dataset->pixels;
        smoe_real *x = ret_x + row * dataset->pixels;
        ret_labels[row] = batches->set->labels[image];
        for (uint32_t c = 0; c < dataset->channels; c++, pixels += plane, x += plane)
            for (size_t j = 0; j < plane; j++)
                x[j] = batches->normalizer->table[c][pixels[j]];
    }
    return n;
}
