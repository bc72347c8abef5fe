/* SPDX-License-Identifier: Apache-2.0
 *
 * The expert: a two-layer feed-forward network, forward and backward, one routine for workers, the
 * local reference and the simulator. All matrices are row-major and hidden-unit-major: row h of each
 * weight matrix belongs to hidden unit h, so a unit's weights lie together.
 *
 *     ReLU, GELU:  a = act(W_in x + b_in)                          y = W_out^T a + b_out
 *     SwiGLU:      a = silu(W_in x + b_in) * (W_gate x)            y = W_out^T a + b_out
 *
 * Shapes: x, y, dx, dy [n, d]; W_in, W_gate, W_out [h, d]; b_in [h]; b_out [d]. One flat parameter
 * vector holds them in the order W_in, W_gate (SwiGLU only), W_out, b_in, b_out; gradients and Adam
 * moments use the same layout. Checkpoints store that vector's pieces by name.
 */
#ifndef SMOE_KERNELS_FFN_H
#define SMOE_KERNELS_FFN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/rng.h"
#include "common/kernels/real.h"

enum smoe_activation {
    SMOE_RELU = 1,
    SMOE_GELU = 2, /* exact: x Phi(x), by erf */
    SMOE_SWIGLU = 3,
};

struct smoe_ffn_shape {
    uint32_t d_model; /* d, 1..SMOE_DIM_MAX */
    uint32_t d_ff;    /* h, 1..SMOE_DIM_MAX */
    enum smoe_activation activation;
};

/* Where each tensor begins in the flat parameter vector, in elements. */
struct smoe_ffn_layout {
    size_t w_in, w_gate, w_out, b_in, b_out;
    size_t n_params;
};

const char *smoe_activation_name(enum smoe_activation activation);
bool smoe_activation_parse(const char *name, enum smoe_activation *ret);

struct smoe_ffn_layout smoe_ffn_layout(const struct smoe_ffn_shape *shape);

/* Elements that a forward pass keeps for its backward pass, per row (pre-activations; x is kept by
 * the caller): h for ReLU and GELU, 2h for SwiGLU. */
size_t smoe_ffn_saved_per_row(const struct smoe_ffn_shape *shape);

/* Elements of scratch that a call with n rows needs (the larger of forward and backward). */
size_t smoe_ffn_scratch(const struct smoe_ffn_shape *shape, size_t n);

/* Deterministic initial parameters for expert `index` of a layer: W_in and W_gate normal with standard
 * deviation sqrt(2/d), biases 0, W_out 0 so that an expert starts as the identity of its residual
 * block (StableMoE, section 4) if zero_out, else normal with sqrt(1/h). Same bits on every machine. */
void smoe_ffn_init(const struct smoe_ffn_shape *shape, uint64_t seed, uint32_t index, bool zero_out,
                   smoe_real *ret_params);

/* The same vector from its beginning, as many elements at a time as are wanted: one after another is the only way
 * to have them. */
struct smoe_ffn_seed {
    struct smoe_ffn_shape shape;
    bool zero_out;
    struct smoe_rng rng;
    size_t at; /* elements so far */
};
void smoe_ffn_seed_begin(struct smoe_ffn_seed *ret, const struct smoe_ffn_shape *shape,
                         uint64_t seed, uint32_t index, bool zero_out);
/* The next n, of which there are so many. */
void smoe_ffn_seed_next(struct smoe_ffn_seed *seed, size_t n, smoe_real *ret_params);

/* y[n,d] from x[n,d]. `saved` [n, saved_per_row] is written for the backward pass; NULL if there will
 * be none. `scratch` holds smoe_ffn_scratch(shape, n) elements. No aliasing. */
void smoe_ffn_forward(const struct smoe_ffn_shape *shape, const smoe_real *params, size_t n,
                      const smoe_real *x, smoe_real *saved, smoe_real *scratch, smoe_real *ret_y);

/* Gradients from dy[n,d]: dx[n,d] is written, dparams (flat layout) is added to as a plain sum over
 * rows. x and saved as in the forward pass with the same params. */
void smoe_ffn_backward(const struct smoe_ffn_shape *shape, const smoe_real *params, size_t n,
                       const smoe_real *x, const smoe_real *saved, const smoe_real *dy,
                       smoe_real *scratch, smoe_real *dparams, smoe_real *ret_dx);

/* The same two in plain loops, for tests: the definition the fast ones are held to. */
void smoe_ffn_forward_reference(const struct smoe_ffn_shape *shape, const smoe_real *params,
                                size_t n, const smoe_real *x, smoe_real *ret_y);
void smoe_ffn_backward_reference(const struct smoe_ffn_shape *shape, const smoe_real *params,
                                 size_t n, const smoe_real *x, const smoe_real *dy,
                                 smoe_real *dparams, smoe_real *ret_dx);

#endif
