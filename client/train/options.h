/* SPDX-License-Identifier: Apache-2.0
 *
 * What stablemoe-train is told on its command line.
 */
#ifndef SMOE_TRAIN_OPTIONS_H
#define SMOE_TRAIN_OPTIONS_H

#include "common/base/limits.h"
#include "common/io/cli.h"

struct smoe_train_options {
    char gateway[SMOE_HOST_MAX + 10];
    char dataset[32];
    char data_dir[256];            /* "": where Debian puts it */
    char name[SMOE_NAME_MAX + 1];  /* of the trainer; "": the key's, or made up */
    char key[256];                 /* file; "": plaintext, to this machine only */
    char layer[SMOE_NAME_MAX + 1]; /* of its layer at the gateway */
    char checkpoint[256], resume[256];
    uint64_t epochs, seed, batch, parts, limit, patience_ns;
    uint64_t staleness; /* 0 or 1: steps that the parameters of a batch lack */
    uint64_t experts, top_k, d_model, d_ff;
    unsigned activation; /* index: relu, gelu, swiglu */
    unsigned optimizer;  /* index: adamw, sgd */
    unsigned wire;       /* index: fp32, bf16; as enum smoe_layer_wire */
    double learning_rate, weight_decay, clip_norm, balance, momentum;
    uint64_t warmup;
    bool json, quiet;
    bool local;       /* experts in this process, no gateway */
    unsigned router;  /* enum smoe_router_kind */
    unsigned feature; /* enum smoe_feature: what the distilled router reads */
    double stage_share, alpha, distil;
    uint64_t router_dim, codes;   /* of the distilled router; of the codebook */
    uint64_t patches;             /* images: along a side */
    uint64_t vocabulary, context; /* texts */
};

extern const char *const smoe_train_routers[];  /* by enum smoe_router_kind, NULL-terminated */
extern const char *const smoe_train_features[]; /* by enum smoe_feature, NULL-terminated */

extern const struct smoe_cli smoe_train_cli;

/* What rows cannot check one by one. */
int smoe_train_options_check(const struct smoe_train_options *o, struct smoe_why *why);

#endif
