/* SPDX-License-Identifier: Apache-2.0
 *
 * Which router scores the tokens of a run, and when. A gate has scored them already (model.h); a router
 * leaves that alone or puts its own scores in its place:
 *
 *     router       gate      training                  evaluation
 *     learned      softmax   the gate's top-K          the gate's top-K
 *     switch       softmax   the gate's top-1          the gate's top-1
 *     stablemoe    sigmoid   stage 1: the gate's       what is in force: in stage 1 the gate's,
 *                            stage 2: the frozen       in stage 2 the frozen router's
 *     base         sigmoid   balanced assignment       the gate's top-K
 *     hash         none      drawn once for each code  the same
 *
 * stablemoe is a state machine of two states, left once: stage 1 until smoe_router_freeze, stage 2 for ever.
 */
#ifndef SMOE_TRAIN_ROUTER_ROUTER_H
#define SMOE_TRAIN_ROUTER_ROUTER_H

#include <stdbool.h>

#include "client/train/router/frozen.h"

#define SMOE_ROUTER_MAP(X)    \
    X(LEARNED, "learned")     \
    X(SWITCH, "switch")       \
    X(STABLEMOE, "stablemoe") \
    X(BASE, "base")           \
    X(HASH, "hash")

enum smoe_router_kind {
#define X(symbol, name) SMOE_ROUTER_##symbol,
    SMOE_ROUTER_MAP(X)
#undef X
};

struct smoe_balancer;

struct smoe_router_options {
    enum smoe_router_kind kind;
    uint32_t experts, top_k; /* E, K */
    size_t rows_max;         /* tokens of a call */
    uint64_t seed;
    struct smoe_distilled_shape distilled; /* stablemoe */
    double distil_weight;                  /* stablemoe: of L_dis */
};

struct smoe_router {
    struct smoe_router_options options;
    struct smoe_distilled distilled; /* stablemoe */
    struct smoe_frozen frozen;       /* stablemoe in stage 2; values NULL before */
    struct smoe_frozen_tokens read;  /* stage 2: the tokens scored last */
    struct smoe_balancer *balancer;  /* base */
};

/* 0 or SMOE_ENOMEMORY. */
int smoe_router_init(struct smoe_router *router, const struct smoe_router_options *options);
void smoe_router_release(struct smoe_router *router);

/* 1 or 2; 0 for routers without stages. */
unsigned smoe_router_stage(const struct smoe_router *router);

/* scores [n, E], the gate's softmax, become those of the router in force. False if they are left alone. */
bool smoe_router_scores(struct smoe_router *router, const struct smoe_tokens *tokens, bool training,
                        float *scores);

/* Stage 1: learns the gate's choices top [n, K] and returns L_dis; otherwise does nothing, 0. */
double smoe_router_learn(struct smoe_router *router, const struct smoe_tokens *tokens,
                         const uint16_t *top);
/* Stage 1: a step of what has been learned since the last; otherwise does nothing. */
void smoe_router_step(struct smoe_router *router, const struct smoe_optimizer *optimizer);

/* Ends stage 1: with the distilled router as it is, or with the values [inputs * E] of an earlier freeze. 0,
 * SMOE_ENOTFINITE or SMOE_ENOMEMORY. */
int smoe_router_freeze(struct smoe_router *router);
int smoe_router_take_frozen(struct smoe_router *router, const float *values);

#endif
