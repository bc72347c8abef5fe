/* SPDX-License-Identifier: Apache-2.0
 *
 * A run on disk, as one safetensors file: the backbone's tensors and moments by name, each expert's
 * flat weights and moments (`experts.3.weights`, `.m`, `.v`; layout in stablemoe.h), of a sharded layer its placement
 * (checkpoint_placement.h), and where the run was (metadata). It is written beside the old file and renamed over it, so
 * there is always a whole one; it resumes on any fleet, whichever worker held what. All of a file is looked at before
 * the fleet hears of it: one that is damaged changes nothing there.
 */
#ifndef SMOE_TRAIN_CHECKPOINT_H
#define SMOE_TRAIN_CHECKPOINT_H

#include "client/train/run.h"

#define SMOE_CHECKPOINT_BYTES_MAX (UINT64_C(1) << 40) /* written and read */

/* Would a checkpoint of this run be one that can be read again? SMOE_ETOOBIG if not: to be known before it trains. */
int smoe_checkpoint_fits(const struct smoe_train_run *run, struct smoe_why *why);

/* SMOE_ETOOBIG as above, before anything is fetched. */
int smoe_checkpoint_write(struct smoe_train_run *run, const char *path, struct smoe_why *why);

/* Puts model, experts and position back. The file must be of the same data set and shapes, and its numbers finite:
 * SMOE_EDATA, and then the experts' owner has been asked for nothing. */
int smoe_checkpoint_resume(struct smoe_train_run *run, const char *path, struct smoe_why *why);

#endif
