/* SPDX-License-Identifier: Apache-2.0
 *
 * One training run: the model and the router here, its experts on the fleet.
 */
#ifndef SMOE_TRAIN_RUN_H
#define SMOE_TRAIN_RUN_H

#include "client/train/data/feed.h"
#include "client/train/experts.h"
#include "client/train/model/model.h"
#include "client/train/options.h"
#include "client/train/router/router.h"
#include "client/train/watch.h"

/* What the run came to; filled as it goes. */
struct smoe_train_result {
    char policy[64];
    double test_accuracy, test_loss, train_loss; /* last epoch's; NAN: there was none */
    double seconds;                              /* of training, evaluation not counted */
    uint64_t samples;                            /* trained on, in those seconds */
    uint64_t steps, epochs;                      /* made by this process */
    uint64_t visits;                             /* of experts, training and evaluation */
    uint64_t visits_of[SMOE_EXPERTS_MAX];
    struct smoe_watch_result routing;
};

/* A batch on its way. */
struct smoe_train_part {
    struct smoe_pass pass;
    struct smoe_feed_batch in; /* borrowed from the run */
    smoe_real *dy;             /* [tokens, K, d] */
};

/* A step that was begun. */
struct smoe_train_stepping {
    bool under_way;
    double divisor;              /* of its gradients */
    struct smoe_optimizer dense; /* of the trainer's own parameters, but for the scale */
    smoe_real *
        grads; /* [model.n_params], owned; NULL without staleness: gradients of the step, or zeros */
};

struct smoe_train_run {
    const struct smoe_train_options *options;
    struct smoe_feed feed;
    struct smoe_model model;
    struct smoe_router router;
    struct smoe_experts *experts;
    struct smoe_watch watch;
    struct smoe_train_stepping stepping;
    struct smoe_train_part *parts; /* [n_parts], rows_max samples each */
    size_t n_parts, rows_max;
    struct smoe_feed_batch batch; /* one whole batch, as filled */
    uint64_t epoch, next;         /* where the run is: the epoch's batch to come */
    uint64_t step; /* committed since the beginning of the run, resumed part included */
    struct smoe_train_result result;
};

/* Loads the data, connects, declares the layer, and takes up the checkpoint if one is to be resumed. */
int smoe_train_start(struct smoe_train_run *run, const struct smoe_train_options *options,
                     struct smoe_why *why);
/* Trains all epochs; the result is in run->result. SMOE_ECANCELED if it was interrupted: the checkpoint, if
 * there is to be one, is then of the last step. */
int smoe_train_all(struct smoe_train_run *run, struct smoe_why *why);
/* Makes a step of the batch that was computed, in so many parts, once the one before it is made; with staleness it is
 * only begun. */
int smoe_train_step(struct smoe_train_run *run, size_t parts, struct smoe_why *why);
/* Waits for the step that was begun, if one was: then `step` counts all there were. */
int smoe_train_settle(struct smoe_train_run *run, struct smoe_why *why);
/* Asks the run to end after the present step. May be called by a signal handler. */
void smoe_train_interrupt(int signal);
void smoe_train_release(struct smoe_train_run *run);

uint64_t smoe_train_batches(const struct smoe_train_run *run); /* of an epoch */
uint64_t smoe_train_steps_in_all(const struct smoe_train_run *run);
/* Steps after which the router is frozen; UINT64_MAX: never. */
uint64_t smoe_train_freeze_step(const struct smoe_train_run *run);

/* The router is frozen: tells those who compute the experts. */
int smoe_train_begin_stage_2(struct smoe_train_run *run, struct smoe_why *why);

/* The first half of a forward pass of n samples: encoder, gate, and the scores of the router in force. In
 * training it is also where stage 1 learns. */
void smoe_train_score(struct smoe_train_run *run, struct smoe_train_part *part, size_t n,
                      bool training);

#endif
