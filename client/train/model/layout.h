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
    size_t position;       /* [T,d]; empty for T = 1 */
    size_t embedding;      /* [V,d]; empty without a vocabulary */
    size_t n_params;
};

struct smoe_model_layout smoe_model_layout(const struct smoe_model_shape *shape);

static inline size_t smoe_model_tokens(const struct smoe_model_shape *shape)
{
    return shape->tokens > 1 ? shape->tokens : 1;
}

/* ---- gate.c: one row's part in pass.c's forward and backward ---- */

/* s[n,E] in pass->gate to g and scores. */
void smoe_gate_forward(struct smoe_pass *pass);
/* w of every row, for the experts in pass->used. */
void smoe_gate_mix(struct smoe_pass *pass);
/* pass->dgate becomes the balance loss's gradient by g. */
void smoe_gate_start_backward(struct smoe_pass *pass, double balance_weight);
/* One row: adds to its dgate what the gradients dw[K] by w are as gradients by g. */
void smoe_gate_unmix(struct smoe_pass *pass, size_t row, const smoe_real *dw);
/* pass->dgate, by g, becomes the gradient by s. */
void smoe_gate_finish_backward(struct smoe_pass *pass);
double smoe_gate_balance(const struct smoe_pass *pass, double balance_weight);

#endif
