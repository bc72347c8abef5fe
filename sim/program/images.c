/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/program/images.h"

static uint8_t image(void *context, bool test, uint64_t i, smoe_real *ret_x)
{
    const struct smoe_sim_images *images = context;
    uint16_t label = 0;
    (void)smoe_batches_fill(test ? &images->test : &images->train, i, ret_x, &label);
    return (uint8_t)label;
}

int smoe_sim_images_load(struct smoe_sim_images *m, const char *name, const char *dir,
                         struct smoe_why *why)
{
    *m = (struct smoe_sim_images){0};
    int rc = smoe_dataset_load(name, *dir ? dir : NULL, &m->dataset, why);
    if (rc)
        return rc;
    smoe_normalizer_init(&m->normalizer, &m->dataset);
    if (smoe_batches_init(&m->train, &m->dataset, &m->dataset.train, &m->normalizer, 1) ||
        smoe_batches_init(&m->test, &m->dataset, &m->dataset.test, &m->normalizer, 1)) {
        smoe_sim_images_release(m);
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    }
    m->data = (struct smoe_training_data){.context = m,
                                          .image = image,
                                          .train_n = m->dataset.train.n,
                                          .test_n = m->dataset.test.n,
                                          .pixels = (uint32_t)m->dataset.pixels,
                                          .classes = m->dataset.classes};
    return 0;
}

void smoe_sim_images_release(struct smoe_sim_images *m)
{
    smoe_batches_release(&m->train);
    smoe_batches_release(&m->test);
    smoe_dataset_release(&m->dataset);
    *m = (struct smoe_sim_images){0};
}
