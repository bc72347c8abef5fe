/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/integration/images.h"

#include "common/base/rng.h"

void draw_images(struct images *images, uint64_t seed, uint64_t batch)
{
    struct smoe_rng means, noise;
    smoe_real mean[IMAGE_CLASSES * IMAGE_PIXELS];
    smoe_rng_init(&means, seed, 0);
    smoe_rng_init(&noise, seed, batch);
    for (size_t i = 0; i < IMAGE_CLASSES * IMAGE_PIXELS; i++)
        mean[i] = (smoe_real)smoe_rng_normal(&means);
    for (size_t row = 0; row < IMAGE_ROWS; row++) {
        size_t class = smoe_rng_below(&noise, IMAGE_CLASSES);
        images->labels[row] = (uint16_t) class;
        for (size_t i = 0; i < IMAGE_PIXELS; i++)
            images->x[row * IMAGE_PIXELS + i] =
                mean[class * IMAGE_PIXELS + i] + (smoe_real)smoe_rng_normal(&noise);
    }
}
