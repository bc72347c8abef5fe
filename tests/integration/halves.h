/* SPDX-License-Identifier: Apache-2.0
 *
 * One model twice: its expert layer on a fleet behind a gateway, and in this process. Both halves are
 * the product's own backbone (client/train/model); they differ in who computes the experts. The tests
 * set both to the same state, give both the same batch, and compare everything that comes out.
 */
#ifndef SMOE_TESTS_HALVES_H
#define SMOE_TESTS_HALVES_H

#include "client/train/model/local_moe.h"
#include "client/train/model/model.h"
#include "stablemoe/stablemoe.h"

/* What both halves are made of. */
struct halves_setup {
    struct smoe_model_shape model;
    struct smoe_ffn_shape expert;
    size_t rows; /* of a batch */
    uint64_t seed;
    const char *key_file; /* of trainer halves, or NULL: plaintext */
    bool zero_output;
    bool patient; /* the fleet may lose workers: what cannot be read now is read later */
    struct smoe_step_options step; /* without dense_square_norm, which each half finds out */
};

struct half {
    const struct halves_setup *setup;
    struct smoe_model model;
    struct smoe_pass pass;
    struct smoe_client *client;      /* the fleet's half: the experts are there; */
    struct smoe_expert_layer *layer; /* the local half: both NULL, and they are here: */
    struct smoe_local_moe moe;
    /* What the last step came by, for comparison */
    uint16_t *experts;        /* [n, K] used */
    smoe_real *y;             /* [n, K, d] */
    smoe_real *dy;            /* [n, K, d] */
    smoe_real *dx_visits;     /* [n, K, d], local half only */
    smoe_real *dx;            /* [n, d] */
    smoe_real *dense_grads;   /* [model.n_params] before the optimizer */
    smoe_real *expert_grads;  /* [E, n_params]; the fleet's half fetches them if `record` */
    smoe_real *expert_states; /* [E, 1 + moments, n_params] after halves_read_experts */
    size_t n_params;          /* of one expert */
    unsigned vectors;         /* of one expert's state: 2 (SGD) or 3 (AdamW) */
    bool record;
    bool
        cut; /* the fleet's half: its layer is sharded, and gradients are added up in a step only */
    double loss, clip_scale, square_norm;
};

/* Every function ends the program with a sentence on stderr when something fails: there is nothing
 * to compare then. */

/* `gateway` NULL makes the local half. The fleet's half declares its layer as `layer`. */
void half_start(struct half *half, const struct halves_setup *setup, const char *gateway,
                const char *layer);
void half_release(struct half *half);

/* A batch: x [n, P] and labels [n], n <= setup.rows. */
struct half_batch {
    size_t n;
    const smoe_real *x;
    const uint16_t *labels;
};

/* Step t = 1, 2, ... The fleet decides its routes itself. The local half follows `routes` [n, K], or its
 * own gate's top-K if that is NULL. */
void half_step(struct half *half, const struct half_batch *batch, const uint16_t *routes,
               uint64_t t);

/* Weights and moments of all experts into expert_states. */
void half_read_experts(struct half *half);

/* Makes the local half what the fleet's half is now, bit for bit. */
void halves_equalize(struct half *local, struct half *fleet);

/* |got - want| / |want| in the 2-norm; 0 where both are zero, +inf where anything is not finite. */
double tensor_distance(size_t n, const smoe_real *got, const smoe_real *want);

#endif
