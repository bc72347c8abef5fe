/* SPDX-License-Identifier: Apache-2.0
 *
 * Where each tensor of model.h begins in the flat parameter vector, in elements. Internal to the room.
 */
#ifndef SMOE_TRAIN_MODEL_LAYOUT_H
#define SMOE_TRAIN_MODEL_LAYOUT_H

#include "client/train/model/model.h"

struct smoe_model_layout {
    size_t encoder_weight; /* [d,P] */
    size_t encoder_bias;   /* [d] */
    size_t gate_weight;    /* [E,d] */
    size_t head_weight;    /* [C,d] */
    size_t head_bias;      /* [C] */
    size_t n_params;
};

struct smoe_model_layout smoe_model_layout(const struct smoe_model_shape *shape);

#endif
