/* SPDX-License-Identifier: Apache-2.0
 *
 * A core and its sessions, as a test plays them: workers that compute nothing and answer rightly
 * when they are told to, trainers that say what the test says. Everything the core sends is kept
 * as mail; what it asks its shell to keep and free is kept and freed, so a batch used after its
 * end shows under AddressSanitizer. After every event all invariants are walked, and every
 * Decision is checked: each visit of a batch is given once, the visits of a token go to distinct
 * experts.
 */
#ifndef SMOE_TEST_SCENE_H
#define SMOE_TEST_SCENE_H

#include "daemon/core/core.h"
#include "tests/unit/core/journal.h"
#include "tests/unit/mail/mail.h"

enum { SCENE_BATCHES = 64, SCENE_SESSIONS = 32, SCENE_LETTERS = 1 << 16 };
#define MS UINT64_C(1000000)

struct scene_batch {
    float *scores;
    uint16_t *experts;
    uint32_t *room;
    uint16_t *expert_of; /* [tokens, top_k] where each visit was routed to; NOT_ROUTED before */
};
#define NOT_ROUTED UINT16_MAX

struct scene {
    struct smoe_core *core;
    uint64_t now_ns, wake_ns;
    uint32_t n_sessions;
    bool closed[SCENE_SESSIONS];
    struct mail mail;
    bool answered[SCENE_LETTERS]; /* by letter */
    struct scene_batch batches[SCENE_BATCHES], arriving;
    uint32_t inputs_freed, batches_freed;
    bool drained;
    struct journal journal; /* records so far; what is durable of them the test says */
    uint32_t traced;        /* decisions that were told */
    void (*on_trace)(const struct smoe_trace_entry *entry);
    bool bad_numbers;   /* as the gateway says of the raw parts that come from now on */
    bool old_workers;   /* that know of no staleness */
    double square_norm; /* every expert's gradient has it, as the workers say */
};

/* Small and quick: slots of 20 ms, 16 workers, V 50, mu 1, lyapunov. */
struct smoe_core_options scene_options(void);
void scene_begin(struct scene *s, const struct smoe_core_options *options);
void scene_end(struct scene *s);

/* Time passes, to the moment or by the amount; a tick follows. */
void scene_tick_at(struct scene *s, uint64_t now_ns);
void scene_tick(struct scene *s, uint64_t ns);
/* The same with a tick at every slot's end, as a daemon does that is not stopped. */
void scene_pass(struct scene *s, uint64_t ns);
void scene_configure(struct scene *s, const struct smoe_core_settings *settings);
void scene_drain(struct scene *s, const char *worker, bool drain);
void scene_shutdown(struct scene *s);
void scene_close(struct scene *s, uint32_t session);
/* The journal's records up to this number are durable. */
void scene_journalled(struct scene *s, uint64_t sequence);
/* The daemon dies and starts again with what the records up to `durable` say; nobody is connected. */
void scene_restart(struct scene *s, const struct smoe_core_options *options, uint64_t durable);

/* A new session that says hello; its number. A worker that is welcomed sends an empty inventory. */
struct smoe_msg_hello scene_hello(enum smoe_role role, const char *name);
uint32_t scene_join(struct scene *s, const struct smoe_msg_hello *hello);
uint32_t scene_worker(struct scene *s, const char *name);
/* One that comes back and still holds experts of one layer. */
uint32_t scene_worker_with(struct scene *s, const char *name,
                           const struct smoe_inventory_layer *held);
uint32_t scene_trainer(struct scene *s, const char *name);
/* The core's index of a worker. */
uint32_t scene_index(const struct scene *s, const char *worker);

/* A message as the gateway hands it in: expected first if it has a raw part, and delivered if it is
 * taken. What is refused is answered, as the gateway does. */
struct smoe_verdict scene_say(struct scene *s, uint32_t session, const struct smoe_message *m);

/* Experts e have parameters d_model 4, d_ff 8 unless the shape says otherwise. */
struct smoe_layer_shape scene_shape(uint32_t experts);
/* Declares a layer; workers host what they are told. Its number: it must become ready. */
uint32_t scene_layer(struct scene *s, uint32_t trainer, const char *name,
                     const struct smoe_layer_shape *shape);

struct scene_submit {
    uint64_t batch, attempt; /* attempt 0: the trainer's present one */
    uint32_t layer, tokens, top_k;
    bool evaluate;
    const float *scores;     /* [tokens, experts]; NULL: random */
    const uint16_t *experts; /* [tokens, top_k]: a replay */
    bool ahead;              /* by the weights of step `base` */
    uint64_t base;
};
struct smoe_verdict scene_submit(struct scene *s, uint32_t trainer, const struct scene_submit *b);
struct smoe_verdict scene_gradient(struct scene *s, uint32_t trainer, uint64_t batch);
/* A Step that names these batches; SGD, divisor 1. */
struct smoe_message scene_step_message(const struct scene *s, uint32_t trainer, uint64_t step,
                                       const uint64_t *batches, size_t n);
void scene_step(struct scene *s, uint32_t trainer, uint64_t step, const uint64_t *batches,
                size_t n);
uint64_t scene_attempt(const struct scene *s, uint32_t trainer);
/* The attempt in which that step was staged last; 0: it never was. */
uint64_t scene_staged_attempt(const struct scene *s, uint64_t step);

/* A worker answers what it was told and has not answered yet: letters of one type, or all. */
size_t scene_answer(struct scene *s, uint32_t worker, enum smoe_message_type type);
void scene_work(struct scene *s, uint32_t worker);
/* All workers, until nobody has anything to answer. */
void scene_work_all(struct scene *s);

/* Visits in Decisions to the session so far, or only those for one expert. */
uint32_t scene_visits(const struct scene *s, uint32_t session);
uint32_t scene_visits_of(const struct scene *s, uint32_t session, uint32_t expert);

struct smoe_core_totals scene_totals(const struct scene *s);

/* The last Error to the session has this code, and its sentence contains `part`. */
void scene_assert_error(const struct scene *s, uint32_t session, int code, const char *part);

#endif
