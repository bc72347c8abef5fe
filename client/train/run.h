/* SPDX-License-Identifier: Apache-2.0
 *
 * One training run: the model here, its experts on the fleet.
 */
#ifndef SMOE_TRAIN_RUN_H
#define SMOE_TRAIN_RUN_H

#include "client/train/data/batches.h"
#include "client/train/model/model.h"
#include "client/train/options.h"
#include "stablemoe/stablemoe.h"

/* What the run came to; filled as it goes. */
struct smoe_train_result {
    char policy[64];
    double test_accuracy, test_loss, train_loss; /* last epoch's */
    double seconds;                              /* of training, evaluation not counted */
    uint64_t samples;                            /* trained on, in those seconds */
    uint64_t steps, epochs;                      /* made by this process */
    uint64_t visits;                             /* of experts, training and evaluation */
    uint64_t visits_of[SMOE_EXPERTS_MAX];
};

/* A batch on its way. */
struct smoe_train_part {
    struct smoe_pass pass;
    struct smoe_ticket *ticket;
    smoe_real *x;     /* [rows, pixels] */
    uint16_t *labels; /* [rows] */
    smoe_real *dy;    /* [rows, K, d] */
};

struct smoe_train_run {
    const struct smoe_train_options *options;
    struct smoe_dataset dataset;
    struct smoe_normalizer normalizer;
    struct smoe_batches train, test;
    struct smoe_model model;
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    struct smoe_train_part *parts; /* [n_parts], rows_max rows each */
    size_t n_parts, rows_max;
    smoe_real *x; /* one whole batch, as filled */
    uint16_t *labels;
    uint64_t epoch, batch; /* where the run is: batches of the epoch done */
    uint64_t step;         /* committed since the beginning of the run, resumed part included */
    struct smoe_train_result result;
};

/* Loads the data, connects, declares the layer, and takes up the checkpoint if one is to be resumed. */
int smoe_train_start(struct smoe_train_run *run, const struct smoe_train_options *options,
                     struct smoe_why *why);
/* Trains all epochs; the result is in run->result. SMOE_ECANCELED if it was interrupted: the checkpoint, if
 * there is to be one, is then of the last step. */
int smoe_train_all(struct smoe_train_run *run, struct smoe_why *why);
/* Asks the run to end after the present step. May be called by a signal handler. */
void smoe_train_interrupt(int signal);
void smoe_train_release(struct smoe_train_run *run);

uint64_t smoe_train_steps_in_all(const struct smoe_train_run *run);

#endif
