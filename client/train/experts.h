/* SPDX-License-Identifier: Apache-2.0
 *
 * Who computes a run's experts: the fleet behind a gateway (experts_fleet.c), or this process with the
 * workers' kernels (experts_local.c, --local), which serves every token by its K largest scores, as a
 * gateway with the policy `topk` does. The two are compared in tests/integration.
 *
 * A run has parts 0..n-1, each a batch on its way: submit, wait, and for training backward, wait_backward;
 * then done. Here parts are computed one after another, so a part's backward follows its wait before
 * another part waits.
 */
#ifndef SMOE_TRAIN_EXPERTS_H
#define SMOE_TRAIN_EXPERTS_H

#include "client/train/options.h"
#include "client/train/router/frozen.h"
#include "common/kernels/real.h"
#include "stablemoe/stablemoe.h"

struct smoe_experts;

/* One batch of tokens, borrowed until `done`. */
struct smoe_experts_batch {
    size_t n;                                /* tokens */
    const float *scores;                     /* [n, E]; NULL: by the frozen router, from */
    const struct smoe_frozen_tokens *tokens; /* what it reads of them */
    const smoe_real *x;                      /* [n, d] */
    bool evaluate;                           /* no backward will follow */
};

/* Each returns 0 or an error with its sentence. */
struct smoe_experts_ops {
    int (*submit)(struct smoe_experts *, size_t part, const struct smoe_experts_batch *batch,
                  struct smoe_why *why);
    /* experts [n, K] that were used and what they said, y [n, K, d]; valid until `done` */
    int (*wait)(struct smoe_experts *, size_t part, const uint16_t **ret_experts,
                const smoe_real **ret_y, struct smoe_why *why);
    int (*backward)(struct smoe_experts *, size_t part, const smoe_real *dy, struct smoe_why *why);
    /* dx [n, d], summed over K; valid until `done` */
    int (*wait_backward)(struct smoe_experts *, size_t part, const smoe_real **ret_dx,
                         struct smoe_why *why);
    void (*done)(struct smoe_experts *, size_t part);
    /* A step in two halves. With staleness batches may come in between: they are computed by the weights before it. */
    int (*step_begin)(struct smoe_experts *, const struct smoe_step_options *options,
                      struct smoe_why *why);
    int (*step_wait)(struct smoe_experts *, struct smoe_step_result *ret, struct smoe_why *why);
    /* Weights, then moments of one expert. */
    int (*fetch)(struct smoe_experts *, uint32_t expert, smoe_real *ret_state,
                 struct smoe_why *why);
    /* Goes back to `step`; then every expert is stored. */
    int (*restore)(struct smoe_experts *, uint64_t step, struct smoe_why *why);
    int (*store)(struct smoe_experts *, uint32_t expert, const smoe_real *state,
                 struct smoe_why *why);
    /* NULL: batches come with scores, always. Else the router is frozen where the experts are, and once that is
     * done batches may come without: the same choices, made there. */
    int (*freeze)(struct smoe_experts *, const struct smoe_frozen *router, struct smoe_why *why);
    /* NULL: experts stand nowhere but here. The placement, valid until the next call; and, after `restore`, one brought
     * back: *ret_kept if it is in force. */
    int (*placement)(struct smoe_experts *, const struct smoe_placement **ret,
                     struct smoe_why *why);
    int (*place)(struct smoe_experts *, const struct smoe_placement *placement, bool *ret_kept,
                 struct smoe_why *why);
    /* NULL: there is nobody to tell. */
    int (*report)(struct smoe_experts *, const struct smoe_routing_report *report,
                  struct smoe_why *why);
    void (*close)(struct smoe_experts *);
};

/* What both kinds begin with. */
struct smoe_experts {
    const struct smoe_experts_ops *ops;
    char policy[64]; /* who routes */
    size_t n_params; /* of one expert */
};

/* Connects and declares the layer, or makes it here (options->local). Parts of at most rows_max tokens. */
int smoe_experts_open(const struct smoe_train_options *options, size_t rows_max,
                      struct smoe_experts **ret, struct smoe_why *why);
int smoe_experts_open_fleet(const struct smoe_train_options *options, struct smoe_experts **ret,
                            struct smoe_why *why);
int smoe_experts_open_local(const struct smoe_train_options *options, size_t rows_max,
                            struct smoe_experts **ret, struct smoe_why *why);
/* NULL is fine. */
void smoe_experts_close(struct smoe_experts *experts);

#endif
