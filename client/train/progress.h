/* SPDX-License-Identifier: Apache-2.0
 *
 * What a person sees while a run trains: one line that changes on a terminal, a line every few seconds
 * elsewhere, and a line for each epoch; all on stderr.
 */
#ifndef SMOE_TRAIN_PROGRESS_H
#define SMOE_TRAIN_PROGRESS_H

#include "client/train/run.h"

struct smoe_progress {
    bool quiet, terminal;
    uint64_t shown_ns; /* when the last line was printed */
    uint64_t first_step;
    bool line_open; /* a changing line is on the screen */
};

void smoe_progress_start(struct smoe_progress *progress, const struct smoe_train_run *run);
/* `seconds` of training so far. */
void smoe_progress_step(struct smoe_progress *progress, const struct smoe_train_run *run,
                        double loss, double seconds);
void smoe_progress_epoch(struct smoe_progress *progress, const struct smoe_train_run *run);
void smoe_progress_end(struct smoe_progress *progress);

#endif
