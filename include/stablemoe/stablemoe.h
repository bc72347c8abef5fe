/* SPDX-License-Identifier: Apache-2.0
 *
 * libstablemoe: a Mixture-of-Experts layer that lives on other machines.
 *
 * A trainer declares a layer at a gateway (stablemoed), submits tokens with their gate scores, gets
 * what the experts made of them, hands back gradients, and steps the experts' optimizer together with
 * its own:
 *
 *     smoe_client_open -> smoe_layer_declare -> { smoe_submit, smoe_wait, smoe_gradient,
 *     smoe_wait_gradient }* , smoe_step -> ... -> smoe_client_close
 *
 * Which experts serve a token is the gateway's decision: mostly those with the largest scores, others
 * when those are busy. So the outputs come with the experts that were really used, and the gates are
 * the caller's: it multiplies and sums.
 *
 * The library keeps what is not committed and sends it again by itself when the gateway restarts, a
 * connection breaks or a worker is lost; a call then only takes longer. No threads are started: all
 * I/O happens inside calls, and completion callbacks run inside smoe_poll and the waiting calls. A
 * client and its tickets belong to one thread at a time.
 *
 * Functions return 0 or a negative code (stablemoe/error.h, or a negated errno);
 * smoe_client_error gives the sentence that goes with the last one.
 */
#ifndef STABLEMOE_STABLEMOE_H
#define STABLEMOE_STABLEMOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stablemoe/error.h"
#include "stablemoe/frozen.h"
#include "stablemoe/placement.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SMOE_API __attribute__((visibility("default")))
#else
#define SMOE_API
#endif

/* The number type of activations, gradients and weights. */
#ifdef STABLEMOE_FLOAT64
typedef double smoe_real;
#else
typedef float smoe_real;
#endif

struct smoe_client;
struct smoe_expert_layer;
struct smoe_ticket;

/* ---- the client ---- */

struct smoe_client_options {
    const char *gateway;  /* HOST:PORT */
    const char *name;     /* of this trainer: 1..63 of [A-Za-z0-9._-]; NULL: made up */
    uint32_t patience_ms; /* how long calls wait for a gateway that is away; 0: 60,000 */
    const char *
        key_file; /* this trainer's key (stablemoectl key add trainer NAME), which is also its name if
                             `name` is NULL. NULL: plaintext, to a gateway of this machine only */
};

/* Connects and says hello. *ret_client is set even on failure, unless memory is out, so that
 * smoe_client_error can be asked; close it in any case. */
SMOE_API int smoe_client_open(const struct smoe_client_options *options,
                              struct smoe_client **ret_client);

/* Frees everything, tickets and layers included. What was not committed is lost. NULL is fine. */
SMOE_API void smoe_client_close(struct smoe_client *client);

/* The sentence of the last error; never NULL; valid until the next call. */
SMOE_API const char *smoe_client_error(const struct smoe_client *client);

/* The gateway's routing policy when the client connected ("lyapunov", ...). */
SMOE_API const char *smoe_client_policy(const struct smoe_client *client);

/* Runs I/O and callbacks for at most timeout_ms (0: what is ready now), or until something happened. */
SMOE_API int smoe_poll(struct smoe_client *client, uint32_t timeout_ms);

/* ---- the layer ---- */

enum smoe_layer_activation { SMOE_LAYER_RELU = 1, SMOE_LAYER_GELU = 2, SMOE_LAYER_SWIGLU = 3 };
enum smoe_layer_optimizer { SMOE_LAYER_SGD = 1, SMOE_LAYER_ADAMW = 2 };
enum smoe_layer_wire { SMOE_LAYER_WIRE_REAL = 0, SMOE_LAYER_WIRE_BF16 = 1 };

struct smoe_layer_options {
    const char *name; /* unique at the gateway: 1..63 of [A-Za-z0-9._-] */
    uint32_t experts; /* 1..1024 */
    uint32_t d_model; /* 1..65536 */
    uint32_t d_ff;    /* 1..65536 */
    enum smoe_layer_activation activation;
    enum smoe_layer_optimizer optimizer;
    uint64_t seed;      /* of the initial weights */
    bool zero_output;   /* output matrices start at zero: each expert begins as the identity of its
                          residual block (StableMoE, section 4) */
    bool evaluate_only; /* use a layer that another trainer owns; only `name` is read then */
    enum smoe_layer_wire
        wire; /* how gradients and weights travel between workers, where the gateway shards
                                  layers (a layer that it does not is refused unless REAL): bf16 is half
                                  of the traffic; masters and optimizer state stay as they are */
    uint32_t
        staleness; /* 0: training batches submitted between smoe_step_begin and smoe_step_wait are
                           computed when that step is committed, by its weights. 1: at once, by the weights
                           before it, forward and backward; so workers compute the next batch while a step
                           is made, and keep two versions of the weights. Not where the gateway shards
                           layers: there it is refused (SMOE_ESHAPE) */
};

/* Declares the layer and waits until every expert has a worker. The layer belongs to the client. */
SMOE_API int smoe_layer_declare(struct smoe_client *client,
                                const struct smoe_layer_options *options,
                                struct smoe_expert_layer **ret_layer);

/* The shape in force (evaluate_only: the owner's). */
SMOE_API void smoe_layer_shape(const struct smoe_expert_layer *layer,
                               struct smoe_layer_options *ret_options);

/* ---- batches ---- */

struct smoe_submit_options {
    uint32_t tokens; /* n, 1..262144 */
    uint32_t top_k;  /* K, 1..min(experts, 8) */
    const float
        *scores; /* [n, experts] gate scores, finite, larger is better: softmax probabilities
                            for the gateway's trade-off against backlog to be meaningful. Copied.
                            NULL: the layer's frozen router scores the tokens (smoe_freeze), by */
    const uint32_t *codes; /* [n] their codes, if it is a table. Copied. Or by */
    const float *features; /* [n, inputs] their features, finite, if it is a linear map. Copied. */
    const smoe_real *x;    /* [n, d_model]. Copied. */
    bool evaluate;         /* no gradient will follow */
    /* Called once when the outputs are complete (status 0) or the batch failed; may be NULL. It must
     * not call back into the library except for the ticket's accessors. */
    void (*on_done)(void *context, struct smoe_ticket *ticket, int status);
    void *context;
};

/* Queues a batch and returns at once; it is sent as the gateway's credit allows, and what a frozen router scores
 * when that is in force. The ticket is the caller's until smoe_ticket_release. SMOE_ELIMIT when 4096 tickets
 * exist. The ticket fails with SMOE_EUNKNOWN, in a sentence that names both, if another router than the one
 * known here is in force by then. */
SMOE_API int smoe_submit(struct smoe_expert_layer *layer, const struct smoe_submit_options *options,
                         struct smoe_ticket **ret_ticket);

/* Waits for the outputs. */
SMOE_API int smoe_wait(struct smoe_ticket *ticket);

/* Results, once smoe_wait returned 0; the ticket's memory. */
SMOE_API const smoe_real *smoe_ticket_outputs(const struct smoe_ticket *ticket); /* y [n, K, d] */
SMOE_API const uint16_t *smoe_ticket_experts(const struct smoe_ticket *ticket);  /* [n, K] used */
SMOE_API const float *smoe_ticket_scores(const struct smoe_ticket *ticket);      /* [n, K] theirs */

/* Hands back the gradient with respect to the outputs, dy [n, K, d]; copied. Once per ticket. */
SMOE_API int smoe_gradient(struct smoe_ticket *ticket, const smoe_real *dy);

/* Waits for the gradient with respect to x: dx [n, d], summed over K; the ticket's memory. */
SMOE_API int smoe_wait_gradient(struct smoe_ticket *ticket, const smoe_real **ret_dx);

/* Gives the ticket back. A training batch that is not committed by then stays part of the next step
 * if it has its gradient, and is discarded if it has none: should it fail then, the next smoe_step does,
 * once. NULL is fine. */
SMOE_API void smoe_ticket_release(struct smoe_ticket *ticket);

/* ---- the frozen router (StableMoE, stage 2; stablemoe/frozen.h) ---- */

struct smoe_freeze_options {
    uint64_t version; /* >= 1, above that of the router in force: 1 is fine for the first */
    enum smoe_frozen_kind kind;
    uint32_t inputs;     /* codes of a table, features of a token */
    const float *values; /* TABLE [inputs, experts], LINEAR [experts, inputs]; finite. Copied. */
};

/* Gives the layer's router to the gateway and waits until it is in force there: from then on tokens may be
 * submitted by codes or features, and have the same scores, bit for bit, on every machine and after every
 * restart. Freezing the same again is fine. ret_head, its name, may be NULL. SMOE_EEXIST if another router of
 * that version, or a later one, is in force. The library keeps the values, and brings them again to a
 * gateway that came back without them. */
SMOE_API int smoe_freeze(struct smoe_expert_layer *layer, const struct smoe_freeze_options *options,
                         struct smoe_frozen_head *ret_head);

/* Asks the gateway which router is in force; version 0: none. */
SMOE_API int smoe_router_in_force(struct smoe_expert_layer *layer,
                                  struct smoe_frozen_head *ret_head);

/* How far the experts of a fixed set of held-out tokens have changed, for the gateway's status. Shares are 0..1, or
 * -1 where they are not known. */
struct smoe_routing_report {
    const char *router; /* who routes: 1..63 of [A-Za-z0-9._-] */
    uint64_t step, tokens;
    double changed;        /* since the last report */
    double agreement;      /* of the frozen router with the gate that it was distilled from */
    double fluctuation[3]; /* after 20, 50 and 80 % of all steps: against the final experts */
};
SMOE_API int smoe_report_routing(struct smoe_expert_layer *layer,
                                 const struct smoe_routing_report *report);

/* ---- the optimizer step ---- */

struct smoe_step_options {
    enum smoe_layer_optimizer kind; /* as declared */
    double learning_rate;
    double momentum;     /* SGD */
    double beta1, beta2; /* AdamW */
    double epsilon;
    double weight_decay;
    double
        gradient_divisor; /* each expert's gradient, a plain sum over tokens, is divided by it; > 0 */
    double clip_norm;     /* of all gradients together; 0: no clipping */
    double dense_square_norm; /* square norm of the trainer's own gradients, already divided: it
                                 shares the clip scale */
};

struct smoe_step_result {
    uint64_t step;      /* its number, from 1 */
    double clip_scale;  /* multiply your own gradients by it too */
    double square_norm; /* of everything, before clipping */
};

/* Commits the gradients of all batches since the last step, in all layers of this client, and waits
 * until that is done. Every training batch must have its gradient. `ret_result` may be NULL. */
SMOE_API int smoe_step(struct smoe_client *client, const struct smoe_step_options *options,
                       struct smoe_step_result *ret_result);

/* The same in two halves: batches submitted in between are of the next step, and are served with the new weights, or
 * with those before the step by a layer with staleness 1. The next step begins when this one has been waited for. */
SMOE_API int smoe_step_begin(struct smoe_client *client, const struct smoe_step_options *options);
SMOE_API int smoe_step_wait(struct smoe_client *client, struct smoe_step_result *ret_result);

/* ---- expert state, for checkpoints ---- */

enum smoe_expert_parts {
    SMOE_EXPERT_WEIGHTS = 1,
    SMOE_EXPERT_MOMENTS = 2,  /* SGD: momentum; AdamW: first, then second moment */
    SMOE_EXPERT_GRADIENT = 4, /* uncommitted sum; read only */
};

/* Elements of one expert's flat parameter vector: W_in [h,d], W_gate [h,d] (SwiGLU only), W_out [h,d],
 * b_in [h], b_out [d], in this order; moments and gradient have the same layout. */
SMOE_API size_t smoe_expert_params(const struct smoe_expert_layer *layer);

/* Elements that `parts` have together. */
SMOE_API size_t smoe_expert_elements(const struct smoe_expert_layer *layer, unsigned parts);

/* Reads committed state (and the gradient) of one expert into ret_values, smoe_expert_elements of them,
 * in the order weights, moments, gradient. */
SMOE_API int smoe_expert_fetch(struct smoe_expert_layer *layer, uint32_t expert, unsigned parts,
                               smoe_real *ret_values);

/* Replaces weights and moments (both) of one expert; use after smoe_restore. */
SMOE_API int smoe_expert_store(struct smoe_expert_layer *layer, uint32_t expert,
                               const smoe_real *values);

/* The placement of the layer, and what is known of its experts' popularity. Valid until the next call of these two, or
 * until the client is closed. */
SMOE_API int smoe_placement_fetch(struct smoe_expert_layer *layer,
                                  const struct smoe_placement **ret_placement);

/* Brings one back: use it between smoe_restore and smoe_expert_store. ret_in_force (may be NULL) is the placement that
 * there is then: the same if rule, workers and their slots are; else one that the gateway planned from the
 * popularity. A placement of a layer that is pinned now, or that was, changes nothing. SMOE_EFIELD, with the field
 * and its limit, for what no fleet can have. */
SMOE_API int smoe_placement_store(struct smoe_expert_layer *layer,
                                  const struct smoe_placement *placement,
                                  const struct smoe_placement **ret_in_force);

/* Begins the return to an older step: everything uncommitted is dropped, the next step will be
 * step + 1. Then store every expert. */
SMOE_API int smoe_restore(struct smoe_client *client, uint64_t step);

/* Last committed step. */
SMOE_API uint64_t smoe_client_step(const struct smoe_client *client);

#ifdef __cplusplus
}
#endif

#endif
