/* SPDX-License-Identifier: Apache-2.0
 *
 * Several agents and the far end of each one's connection, for what happens between workers. A layer of
 * three experts (d_model 4, d_ff 6, GELU, AdamW) is what they hold.
 */
#ifndef SMOE_TEST_CREW_H
#define SMOE_TEST_CREW_H

#include "client/worker/agent/agent.h"
#include "tests/unit/mail/mail.h"

enum { CREW_D = 4, CREW_H = 6, CREW_EXPERTS = 3, CREW_LAYER = 2, CREW_ROWS_MAX = 300 };
#define CREW_PARAMS (2 * CREW_D * CREW_H + CREW_H + CREW_D)

struct member {
    struct smoe_agent *agent;
    struct far_end far;
    smoe_real *scratch;
    size_t scratch_elements;
    uint64_t now_ns, sequence;
    struct smoe_why why; /* of the last thing received */
};

struct smoe_agent_options crew_options(void);
struct smoe_layer_shape crew_shape(void);

/* An agent that is connected and welcome; told to host nothing yet. */
void member_begin(struct member *m, const struct smoe_agent_options *options);
void member_end(struct member *m);
void member_connect(struct member *m);
void member_disconnect(struct member *m);

/* Says something to it and hears what it says; the code with which it ends the connection, or 0. */
int member_say(struct member *m, const struct smoe_message *message, const void *raw,
               size_t raw_bytes);
/* Runs what it offers, to the end. */
struct smoe_task *member_start(struct member *m);
void member_finish(struct member *m, struct smoe_task *task);
void member_run(struct member *m);
/* Makes the experts that are still to be made, as far as lanes are free. */
void member_make(struct member *m);

const struct letter *member_last(const struct member *m, enum smoe_message_type type);
size_t member_count(const struct member *m, enum smoe_message_type type);

/* What a Host says beside its lists. */
struct crew_host {
    const uint32_t *experts, *copies;
    size_t n_experts, n_copies;
    uint64_t step, attempt;
    bool fresh;
};
/* Its code in Hosted. */
int member_host(struct member *m, const struct crew_host *host);

/* x or dy of a parcel: the same for everybody. */
void crew_rows(uint64_t parcel, uint32_t rows, bool dy, smoe_real *ret);
int member_decide(struct member *m, uint64_t parcel, uint32_t expert, uint32_t rows, bool keep);
/* ... at expert 0 of a layer with staleness, of the step that will commit it. */
int member_decide_of(struct member *m, uint64_t parcel, uint32_t rows, uint64_t step, bool older);
int member_backprop(struct member *m, uint64_t parcel, uint32_t rows);
int member_inputs(struct member *m, uint64_t parcel, uint32_t rows);

/* A step with AdamW; `gradients` (or NULL) are the experts whose sums others need. */
int member_prepare(struct member *m, uint64_t step, uint64_t attempt, const uint32_t *gradients,
                   size_t n);
/* ... of a sharded layer, with so many hosts of each expert. */
int member_prepare_shared(struct member *m, uint64_t step, uint64_t attempt,
                          const struct smoe_layer_hosts *hosts);
int member_stage(struct member *m, uint64_t step, uint64_t attempt, double scale);
int member_commit(struct member *m, uint64_t step, uint64_t attempt);
int member_reset(struct member *m, uint64_t attempt);
/* The last sum that `from` sent of the expert goes to `to`. */
int crew_pass_gradient(const struct member *from, struct member *to, uint32_t expert);

/* An expert's state as it is now: weights, and two moments. */
struct crew_state {
    smoe_real values[3 * CREW_PARAMS];
    uint64_t step;
};
struct crew_state member_state(struct member *m, uint32_t expert);
int member_store(struct member *m, uint32_t expert, const struct crew_state *state,
                 uint64_t attempt);

#endif
