/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's mind alone: smoe_core_step driven in process, no bytes and no sockets. One turn is a
 * slot: every worker reports, a batch is submitted, the slot ends, every worker gets a Decision with its
 * parcels and answers each with an Output. Beside it the bare solve of a problem of that size, which
 * says how much of a slot is the mathematics and how much the bookkeeping: fleet, ledger, parcels.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/messages.h"
#include "bench/race.h"
#include "bench/slots.h"
#include "common/base/assert.h"
#include "daemon/core/core.h"

#define SLOT_NS   UINT64_C(20000000)
#define D_MODEL   64
#define D_FF      256
#define TOP_K     2
#define ANSWERS   4096 /* parcels of a slot, at most */
#define TRAINER   0    /* session numbers: the trainer, then the workers */
#define WORKER(i) (1 + (i))

struct drive {
    struct smoe_core *core;
    uint32_t n_workers, n_tokens;
    uint64_t now_ns, batch, attempt;
    uint64_t raw_bytes; /* of a Submit */
    struct smoe_slots slots;
    unsigned slot;
    uint32_t *room;
    struct smoe_message report;
    struct {
        uint32_t session;
        uint64_t parcel;
        uint64_t raw_bytes;
    } answers[ANSWERS]; /* what workers have to say to the last update */
    size_t n_answers;
    uint64_t parcels; /* in all */
    bool ready;       /* the layer is */
};

/* ---- events ---- */

/* What workers do with what they are told. */
static void obey(struct drive *d, const struct smoe_update *update)
{
    for (size_t i = 0; i < update->n_actions; i++) {
        const struct smoe_action *a = &update->actions[i];
        if (a->type != SMOE_ACT_SEND)
            continue;
        smoe_assert(a->message.type != SMOE_MSG_ERROR);
        d->ready |= a->message.type == SMOE_MSG_LAYER_READY;
        if (a->message.type == SMOE_MSG_WELCOME && a->session == TRAINER)
            d->attempt = a->message.welcome.attempt;
        const struct smoe_msg_decision *m = &a->message.decision;
        for (size_t k = 0; a->message.type == SMOE_MSG_DECISION && k < m->n_parcels; k++) {
            smoe_assert(d->n_answers < ANSWERS);
            d->answers[d->n_answers].session = a->session;
            d->answers[d->n_answers].parcel = m->parcels[k].id;
            d->answers[d->n_answers++].raw_bytes = m->parcels[k].rows * D_MODEL * sizeof(float);
        }
    }
}

static void step(struct drive *d, enum smoe_event_type type, uint32_t session,
                 const struct smoe_message *message)
{
    struct smoe_update update;
    struct smoe_event event = {
        .type = type, .now_ns = d->now_ns, .session = session, .message = message};
    smoe_core_step(d->core, &event, &update);
    obey(d, &update);
}

/* A message with a raw part is judged before it is handled, as the gateway does. */
static void expect(struct drive *d, uint32_t session, const struct smoe_message *message,
                   uint64_t raw_bytes)
{
    struct smoe_why why;
    struct smoe_verdict v = smoe_core_expect(d->core, session, message, raw_bytes, &why);
    smoe_assert(v.kind == SMOE_TAKE);
}

/* ---- a slot ---- */

static void submit(struct drive *d)
{
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    struct smoe_update update;
    d->slot = (d->slot + 1) % SMOE_SLOTS_MAX;
    m.submit = (struct smoe_msg_submit){
        .batch = ++d->batch, .attempt = d->attempt, .tokens = d->n_tokens, .top_k = TOP_K};
    expect(d, TRAINER, &m, d->raw_bytes);
    struct smoe_event event = {.type = SMOE_EVENT_MESSAGE,
                               .now_ns = d->now_ns,
                               .session = TRAINER,
                               .message = &m,
                               .scores = d->slots.problems[d->slot].scores,
                               .room = d->room};
    smoe_core_step(d->core, &event, &update);
    obey(d, &update);
}

static void one_slot(void *context)
{
    struct drive *d = context;
    for (uint32_t i = 0; i < d->n_workers; i++)
        step(d, SMOE_EVENT_MESSAGE, WORKER(i), &d->report);
    submit(d); /* ends the slot early: the workers idle */
    smoe_assert(d->n_answers > 0);
    d->now_ns += SLOT_NS;
    for (size_t i = 0; i < d->n_answers; i++) {
        struct smoe_message m = {.type = SMOE_MSG_OUTPUT};
        m.output.parcel = d->answers[i].parcel;
        expect(d, d->answers[i].session, &m, d->answers[i].raw_bytes);
        step(d, SMOE_EVENT_MESSAGE, d->answers[i].session, &m);
    }
    d->parcels += d->n_answers;
    d->n_answers = 0;
}

static void one_solve(void *context)
{
    struct drive *d = context;
    struct smoe_route_options options = {.prices = d->slots.prices, .warm = true};
    d->slot = (d->slot + 1) % SMOE_SLOTS_MAX;
    smoe_route_exact(&d->slots.problems[d->slot], &options, d->slots.scratch, &d->slots.answer);
}

/* ---- the beginning ---- */

static void hello(struct drive *d, enum smoe_role role, uint32_t session)
{
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    m.hello = (struct smoe_msg_hello){
        .protocol_min = SMOE_PROTOCOL_MIN,
        .protocol_max = SMOE_PROTOCOL_MAX,
        .role = role,
        .incarnation = session + 1,
        .freq_max_hz = 2e9,
        .inbox_bytes_max = 1u << 30,
        .lanes = 1,
        .freq_driver = "duty",
    };
    snprintf(m.hello.name, sizeof m.hello.name, "peer-%05u", session);
    step(d, SMOE_EVENT_HELLO, session, &m);
    if (role == SMOE_ROLE_TRAINER)
        return;
    m = (struct smoe_message){.type = SMOE_MSG_INVENTORY};
    step(d, SMOE_EVENT_MESSAGE, session, &m);
}

/* A layer with one expert for each worker. */
static void declare(struct drive *d)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1,
        .name = "layer",
        .run = 1,
        .shape = {.experts = d->n_workers,
                  .d_model = D_MODEL,
                  .d_ff = D_FF,
                  .activation = 1,
                  .dtype = SMOE_DTYPE_F32,
                  .optimizer = 1},
    };
    step(d, SMOE_EVENT_MESSAGE, TRAINER, &m);
    m = (struct smoe_message){.type = SMOE_MSG_HOSTED};
    for (uint32_t i = 0; i < d->n_workers; i++)
        step(d, SMOE_EVENT_MESSAGE, WORKER(i), &m);
    smoe_assert(d->ready);
}

static int start(struct drive *d, struct smoe_why *why)
{
    struct smoe_core_options o = {
        .limits = {.workers_max = d->n_workers,
                   .trainers_max = 1,
                   .batches_max = 16,
                   .parcels_max = 65536,
                   .slot_tokens_max = d->n_tokens},
        .settings = {.slot_ns = SLOT_NS,
                     .policy = SMOE_POLICY_LYAPUNOV,
                     .plan = SMOE_PLAN_WORK,
                     .v = 20,
                     .mu = 1,
                     .workers_min = 1,
                     .silence_ns = UINT64_C(1) << 60,
                     .worker_lease_ns = UINT64_C(1) << 60,
                     .trainer_lease_ns = UINT64_C(1) << 60,
                     .window_bytes = UINT64_C(1) << 40,
                     .window_visits = UINT64_C(1) << 40,
                     .iteration_bytes_max = UINT64_C(1) << 40,
                     .worker_budget_w = 1e9,
                     .worker_cap_w = 1e9},
        .epoch = 1,
        .seed = 1,
        .now_ns = d->now_ns,
        .tensor_bytes_max = 1u << 28,
    };
    int rc = smoe_core_new(&o, &d->core, why);
    if (rc)
        return rc;
    hello(d, SMOE_ROLE_TRAINER, TRAINER);
    for (uint32_t i = 0; i < d->n_workers; i++)
        hello(d, SMOE_ROLE_WORKER, WORKER(i));
    declare(d);
    return 0;
}

static void race(struct smoe_bench *bench, struct drive *d)
{
    struct smoe_lane lanes[] = {{.run = one_slot, .context = d}, {.run = one_solve, .context = d}};
    smoe_race(lanes, 2, bench->quick);
    struct smoe_sample slots = smoe_sample_inverse(&lanes[0].ns, 1e9);
    struct smoe_sample share = smoe_sample_ratio(&lanes[1].ns, &lanes[0].ns);
    smoe_report_add(bench->report, "slots/s", &slots, "core.w%u.n%u", d->n_workers, d->n_tokens);
    smoe_report_value(bench->report, "", (double)d->parcels / (double)d->batch,
                      "core.w%u.n%u.parcels", d->n_workers, d->n_tokens);
    smoe_report_add(bench->report, "x", &share, "core.w%u.n%u.solve_share", d->n_workers,
                    d->n_tokens);
}

static int bench_size(struct smoe_bench *bench, uint32_t workers, uint32_t tokens,
                      struct smoe_why *why)
{
    static struct drive d;
    memset(&d, 0, sizeof d);
    d.n_workers = workers;
    d.n_tokens = tokens;
    d.now_ns = 1;
    d.raw_bytes = (uint64_t)tokens * (workers + D_MODEL) * sizeof(float);
    d.report = smoe_example_report(0);
    d.room = malloc(smoe_core_batch_room(tokens, TOP_K) * sizeof *d.room);
    int rc = d.room ? smoe_slots_init(&d.slots, tokens, workers, TOP_K) : SMOE_ENOMEMORY;
    if (rc)
        smoe_fail(why, rc, "core: out of memory");
    else
        rc = start(&d, why);
    if (rc == 0)
        race(bench, &d);
    smoe_core_free(d.core);
    smoe_slots_release(&d.slots);
    free(d.room);
    return rc;
}

int smoe_bench_core(struct smoe_bench *bench, struct smoe_why *why)
{
    int rc = bench_size(bench, 4, 64, why);
    rc = rc ? rc : bench_size(bench, 4, 512, why);
    rc = rc ? rc : bench_size(bench, 64, 1024, why);
    if (!bench->quick)
        rc = rc ? rc : bench_size(bench, 256, 1024, why);
    return rc;
}
