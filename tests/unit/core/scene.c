/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/scene.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"

struct smoe_core_options scene_options(void)
{
    return (struct smoe_core_options){
        .limits = {.workers_max = 16,
                   .trainers_max = 4,
                   .batches_max = SCENE_BATCHES,
                   .parcels_max = 1024,
                   .slot_tokens_max = 4096},
        .settings = {.slot_ns = 20 * MS,
                     .policy = SMOE_POLICY_LYAPUNOV,
                     .plan = SMOE_PLAN_WORK,
                     .v = 50,
                     .mu = 1,
                     .workers_min = 1,
                     .silence_ns = 3000 * MS,
                     .worker_lease_ns = 10000 * MS,
                     .strikes_max = 3,
                     .quarantine_ns = 60000 * MS,
                     .trainer_lease_ns = 10000 * MS,
                     .window_bytes = 1 << 20,
                     .window_visits = 4096,
                     .iteration_bytes_max = 1 << 22,
                     .worker_budget_w = (double)INFINITY,
                     .worker_cap_w = (double)INFINITY},
        .epoch = 7,
        .seed = 1,
        .now_ns = 1000 * MS,
        .software = "scene",
        .tensor_bytes_max = 1 << 20,
    };
}

void scene_begin(struct scene *s, const struct smoe_core_options *options)
{
    struct smoe_core_options standard = scene_options();
    const struct smoe_core_options *o = options ? options : &standard;
    struct smoe_why why;
    memset(s, 0, sizeof *s);
    cr_assert_eq(smoe_core_new(o, &s->core, &why), 0);
    s->now_ns = o->now_ns;
    s->square_norm = 1;
    cr_assert_leq(o->limits.batches_max, SCENE_BATCHES);
}

static void free_batch(struct scene_batch *b)
{
    free(b->scores);
    free(b->experts);
    free(b->room);
    free(b->expert_of);
    *b = (struct scene_batch){0};
}

void scene_end(struct scene *s)
{
    smoe_core_free(s->core);
    for (int i = 0; i < SCENE_BATCHES; i++)
        free_batch(&s->batches[i]);
    free_batch(&s->arriving);
    mail_clear(&s->mail);
    journal_clear(&s->journal);
}

/* ---- events ---- */

static void take_batch(struct scene *s, uint32_t batch)
{
    struct smoe_batch_view view = smoe_core_batch(s->core, batch);
    size_t visits = (size_t)view.tokens * view.top_k;
    cr_assert_null(s->batches[batch].room, "a batch index is given twice");
    s->batches[batch] = s->arriving;
    s->arriving = (struct scene_batch){0};
    s->batches[batch].expert_of = malloc(visits * sizeof(uint16_t));
    for (size_t i = 0; i < visits; i++)
        s->batches[batch].expert_of[i] = NOT_ROUTED;
}

static void check_route(struct scene *s, uint32_t parcel, const struct smoe_parcel_head *head)
{
    struct smoe_parcel_view view = smoe_core_parcel(s->core, parcel);
    struct smoe_batch_view batch = smoe_core_batch(s->core, view.batch);
    uint16_t *expert_of = s->batches[view.batch].expert_of;
    cr_assert_eq(head->rows, view.rows);
    for (uint32_t i = 0; i < view.rows; i++) {
        uint32_t visit = view.visits[i], token = visit / batch.top_k;
        cr_assert_lt(token, batch.tokens);
        cr_assert_eq(expert_of[visit], NOT_ROUTED, "a visit is given twice");
        for (uint32_t k = 0; k < batch.top_k; k++)
            cr_assert_neq(expert_of[token * batch.top_k + k], head->expert,
                          "token %u visits expert %u twice", token, head->expert);
        expert_of[visit] = (uint16_t)head->expert;
    }
}

static void sent(struct scene *s, const struct smoe_action *a)
{
    cr_assert_lt(s->mail.n, (size_t)SCENE_LETTERS);
    if (a->session == SMOE_NO_SESSION)
        return;
    cr_assert_not(s->closed[a->session], "a message to a session that is closed");
    mail_add(&s->mail, a->session, &a->message, NULL, 0);
    for (uint32_t i = 0; i < a->n_parcels && a->message.type == SMOE_MSG_DECISION; i++)
        check_route(s, a->parcels[i], &a->message.decision.parcels[i]);
}

static void carry_out(struct scene *s, const struct smoe_action *a)
{
    switch (a->type) {
    case SMOE_ACT_SEND:
        sent(s, a);
        break;
    case SMOE_ACT_CLOSE:
        s->closed[a->session] = true;
        break;
    case SMOE_ACT_BATCH_TAKEN:
        take_batch(s, a->batch);
        break;
    case SMOE_ACT_INPUT_FREED:
        s->inputs_freed++;
        free(s->batches[a->batch].scores);
        s->batches[a->batch].scores = NULL;
        break;
    case SMOE_ACT_BATCH_FREED:
        cr_assert_not_null(s->batches[a->batch].room, "a batch is freed that nobody has");
        s->batches_freed++;
        free_batch(&s->batches[a->batch]);
        break;
    case SMOE_ACT_INPUTS_TAKEN:
    case SMOE_ACT_GRADIENT_TAKEN:
    case SMOE_ACT_GRADIENT_FREED:
    case SMOE_ACT_ROUTER_TAKEN: /* the gateway's: tests/unit/gateway/test_freezing.c */
    case SMOE_ACT_ROUTER_IN_FORCE:
    case SMOE_ACT_ROUTER_FREED:
        break;
    case SMOE_ACT_JOURNAL:
        journal_add(&s->journal, a->record);
        break;
    case SMOE_ACT_TRACE:
        s->traced++;
        if (s->on_trace)
            s->on_trace(a->trace);
        break;
    case SMOE_ACT_DRAINED:
        s->drained = true;
        break;
    }
}

/* One event; then, for every session that the core closed, that it is closed. */
static void happen(struct scene *s, struct smoe_event *event)
{
    bool was_closed[SCENE_SESSIONS];
    struct smoe_update update;
    memcpy(was_closed, s->closed, sizeof was_closed);
    event->now_ns = s->now_ns;
    smoe_core_step(s->core, event, &update);
    for (size_t i = 0; i < update.n_actions; i++)
        carry_out(s, &update.actions[i]);
    s->wake_ns = update.wake_ns;
    smoe_core_check(s->core);
    for (uint32_t i = 0; i < SCENE_SESSIONS; i++)
        if (s->closed[i] && !was_closed[i])
            happen(s, &(struct smoe_event){.type = SMOE_EVENT_CLOSED, .session = i});
}

void scene_tick_at(struct scene *s, uint64_t now_ns)
{
    s->now_ns = now_ns;
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_TICK});
}

void scene_tick(struct scene *s, uint64_t ns)
{
    scene_tick_at(s, s->now_ns + ns);
}

void scene_pass(struct scene *s, uint64_t ns)
{
    const uint64_t slot_ns = scene_options().settings.slot_ns;
    for (; ns > slot_ns; ns -= slot_ns)
        scene_tick(s, slot_ns);
    scene_tick(s, ns);
}

void scene_configure(struct scene *s, const struct smoe_core_settings *settings)
{
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_CONFIGURE, .settings = settings});
}

void scene_drain(struct scene *s, const char *worker, bool drain)
{
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_DRAIN, .worker_id = worker, .drain = drain});
}

void scene_shutdown(struct scene *s)
{
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_SHUTDOWN});
}

void scene_close(struct scene *s, uint32_t session)
{
    s->closed[session] = true;
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_CLOSED, .session = session});
}

void scene_journalled(struct scene *s, uint64_t sequence)
{
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_JOURNALLED, .sequence = sequence});
}

void scene_restart(struct scene *s, const struct smoe_core_options *options, uint64_t durable)
{
    struct smoe_core_options o = *options;
    struct smoe_why why;
    o.epoch = smoe_core_epoch(s->core) + 1;
    o.now_ns = s->now_ns;
    o.restored = &s->journal.base;
    journal_reopen(&s->journal, durable);
    smoe_core_free(s->core);
    for (int i = 0; i < SCENE_BATCHES; i++)
        free_batch(&s->batches[i]);
    for (uint32_t i = 0; i < s->n_sessions; i++)
        s->closed[i] = true;
    cr_assert_eq(smoe_core_new(&o, &s->core, &why), 0, "%s", why.text);
}

/* ---- joining ---- */

struct smoe_msg_hello scene_hello(enum smoe_role role, const char *name)
{
    struct smoe_msg_hello hello = {.protocol_min = 1,
                                   .protocol_max = 1,
                                   .role = role,
                                   .incarnation = 99,
                                   .freq_max_hz = 1e9,
                                   .inbox_bytes_max = 1 << 20,
                                   .lanes = 1,
                                   .freq_driver = "null"};
    snprintf(hello.name, sizeof hello.name, "%s", name);
    return hello;
}

uint32_t scene_join(struct scene *s, const struct smoe_msg_hello *hello)
{
    uint32_t session = s->n_sessions++;
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    cr_assert_lt(session, SCENE_SESSIONS);
    m.hello = *hello;
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_HELLO, .session = session, .message = &m});
    return session;
}

uint32_t scene_worker(struct scene *s, const char *name)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, name);
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    uint32_t session = scene_join(s, &hello);
    cr_assert_not(s->closed[session], "worker %s is not welcome", name);
    scene_say(s, session, &inventory);
    return session;
}

uint32_t scene_worker_with(struct scene *s, const char *name,
                           const struct smoe_inventory_layer *held)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, name);
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    uint32_t session = scene_join(s, &hello);
    cr_assert_not(s->closed[session], "worker %s is not welcome", name);
    inventory.inventory = (struct smoe_msg_inventory){held, 1};
    scene_say(s, session, &inventory);
    return session;
}

uint32_t scene_trainer(struct scene *s, const char *name)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_TRAINER, name);
    uint32_t session = scene_join(s, &hello);
    cr_assert_not(s->closed[session], "trainer %s is not welcome", name);
    return session;
}

uint32_t scene_index(const struct scene *s, const char *worker)
{
    uint32_t index = UINT32_MAX;
    cr_assert(smoe_fleet_find(smoe_core_fleet(s->core), worker, &index));
    return index;
}

/* ---- saying ---- */

static bool has_raw_part(enum smoe_message_type type)
{
    return type == SMOE_MSG_GRADIENT || type == SMOE_MSG_INPUTS || type == SMOE_MSG_OUTPUT ||
           type == SMOE_MSG_PARCEL_GRADIENT || type == SMOE_MSG_STEP_GRADIENT ||
           type == SMOE_MSG_EXPERT_STATE || type == SMOE_MSG_EXPERT_STORE;
}

/* What the gateway does with a message whose raw part has `bytes`. */
static struct smoe_verdict judge(struct scene *s, uint32_t session, const struct smoe_message *m,
                                 uint64_t bytes)
{
    struct smoe_why why = {""};
    struct smoe_verdict v = smoe_core_expect(s->core, session, m, bytes, &why);
    if (v.kind != SMOE_REFUSE && v.kind != SMOE_FATAL)
        return v;
    struct smoe_message error = {.type = SMOE_MSG_ERROR};
    error.error = (struct smoe_msg_error){
        .code = v.code, .fatal = v.kind == SMOE_FATAL, .batch = v.batch, .request = v.request};
    snprintf(error.error.message, sizeof error.error.message, "%s", why.text);
    mail_add(&s->mail, session, &error, NULL, 0);
    if (v.kind == SMOE_FATAL)
        scene_close(s, session);
    else
        scene_tick(s, 0);
    return v;
}

struct smoe_verdict scene_say(struct scene *s, uint32_t session, const struct smoe_message *m)
{
    struct smoe_verdict v = {.kind = SMOE_TAKE};
    if (has_raw_part(m->type))
        v = judge(s, session, m, 0);
    if (v.kind == SMOE_TAKE)
        happen(s, &(struct smoe_event){.type = SMOE_EVENT_MESSAGE,
                                       .session = session,
                                       .message = m,
                                       .bad_numbers = s->bad_numbers && has_raw_part(m->type)});
    return v;
}

struct smoe_layer_shape scene_shape(uint32_t experts)
{
    return (struct smoe_layer_shape){.experts = experts,
                                     .d_model = 4,
                                     .d_ff = 8,
                                     .activation = 1,
                                     .dtype = SMOE_DTYPE_F32,
                                     .optimizer = 1,
                                     .seed = 5};
}

uint32_t scene_layer(struct scene *s, uint32_t trainer, const char *name,
                     const struct smoe_layer_shape *shape)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){.request = 1, .run = 42, .shape = *shape};
    snprintf(m.layer_declare.name, sizeof m.layer_declare.name, "%s", name);
    scene_say(s, trainer, &m);
    for (uint32_t i = 0; i < s->n_sessions; i++)
        scene_answer(s, i, SMOE_MSG_HOST);
    const struct letter *ready = mail_last(&s->mail, trainer, SMOE_MSG_LAYER_READY);
    cr_assert_not_null(ready, "layer %s does not become ready", name);
    return ready->m.layer_ready.layer;
}

uint64_t scene_attempt(const struct scene *s, uint32_t trainer)
{
    const struct letter *welcome = mail_last(&s->mail, trainer, SMOE_MSG_WELCOME);
    const struct letter *need = mail_last(&s->mail, trainer, SMOE_MSG_NEED);
    return need ? need->m.need.attempt : welcome->m.welcome.attempt;
}

uint64_t scene_staged_attempt(const struct scene *s, uint64_t step)
{
    for (size_t i = s->mail.n; i > 0; i--) {
        const struct smoe_message *m = &s->mail.letters[i - 1].m;
        if (m->type == SMOE_MSG_STEP_STAGE && m->step_stage.step == step)
            return m->step_stage.attempt;
    }
    return 0;
}

static void fill_input(struct scene *s, const struct scene_submit *b, uint32_t width)
{
    size_t visits = (size_t)b->tokens * b->top_k, n = (size_t)b->tokens * width;
    struct smoe_rng rng;
    free_batch(&s->arriving);
    s->arriving.room = calloc(smoe_core_batch_room(b->tokens, b->top_k), sizeof(uint32_t));
    if (b->experts) {
        s->arriving.experts = calloc(visits, sizeof(uint16_t));
        memcpy(s->arriving.experts, b->experts, visits * sizeof(uint16_t));
        return;
    }
    s->arriving.scores = calloc(n, sizeof(float));
    smoe_rng_init(&rng, b->batch, 0);
    for (size_t i = 0; i < n; i++)
        s->arriving.scores[i] = b->scores ? b->scores[i] : (float)smoe_rng_unit(&rng);
}

struct smoe_verdict scene_submit(struct scene *s, uint32_t trainer, const struct scene_submit *b)
{
    const struct smoe_layer_view layer = smoe_core_layer(s->core, b->layer);
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    m.submit =
        (struct smoe_msg_submit){.batch = b->batch,
                                 .attempt = b->attempt ? b->attempt : scene_attempt(s, trainer),
                                 .layer = b->layer,
                                 .tokens = b->tokens,
                                 .top_k = b->top_k,
                                 .needs_gradient = !b->evaluate,
                                 .routed = b->experts != NULL,
                                 .ahead = b->ahead,
                                 .base = b->base};
    uint64_t choice = b->experts ? ((uint64_t)b->tokens * b->top_k * 2 + 7) / 8 * 8
                                 : (uint64_t)b->tokens * layer.shape.experts * 4;
    uint64_t bytes = choice + (uint64_t)b->tokens * layer.shape.d_model * 4;
    struct smoe_verdict v = judge(s, trainer, &m, bytes);
    if (v.kind != SMOE_TAKE)
        return v;
    cr_assert_eq(v.bytes, bytes);
    fill_input(s, b, layer.shape.experts);
    happen(s, &(struct smoe_event){.type = SMOE_EVENT_MESSAGE,
                                   .session = trainer,
                                   .message = &m,
                                   .bad_numbers = s->bad_numbers,
                                   .scores = s->arriving.scores,
                                   .experts = s->arriving.experts,
                                   .room = s->arriving.room});
    return v;
}

struct smoe_verdict scene_gradient(struct scene *s, uint32_t trainer, uint64_t batch)
{
    struct smoe_message m = {.type = SMOE_MSG_GRADIENT};
    m.gradient = (struct smoe_msg_gradient){batch, scene_attempt(s, trainer)};
    return scene_say(s, trainer, &m);
}

struct smoe_message scene_step_message(const struct scene *s, uint32_t trainer, uint64_t step,
                                       const uint64_t *batches, size_t n)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP};
    m.step = (struct smoe_msg_step){.step = step,
                                    .attempt = scene_attempt(s, trainer),
                                    .batches = batches,
                                    .n_batches = n,
                                    .optimizer = {.kind = 1, .learning_rate = 0.1},
                                    .gradient_divisor = 1};
    return m;
}

void scene_step(struct scene *s, uint32_t trainer, uint64_t step, const uint64_t *batches, size_t n)
{
    struct smoe_message m = scene_step_message(s, trainer, step, batches, n);
    scene_say(s, trainer, &m);
}

/* ---- workers ---- */

/* The sums that followers need come before the norms. */
static void say_sums(struct scene *s, uint32_t session, const struct smoe_msg_step_prepare *asked)
{
    for (size_t i = 0; i < asked->n_gradients; i++)
        for (size_t j = 0; j < asked->gradients[i].n; j++) {
            struct smoe_message m = {.type = SMOE_MSG_STEP_GRADIENT};
            m.step_gradient = (struct smoe_msg_step_gradient){
                asked->step, asked->attempt, asked->gradients[i].layer,
                asked->gradients[i].experts[j], asked->owner};
            scene_say(s, session, &m);
        }
}

static void say_norms(struct scene *s, uint32_t session, const struct smoe_msg_step_prepare *asked)
{
    struct smoe_layer_norms layers[SMOE_LAYERS_MAX];
    static uint32_t experts[SMOE_EXPERTS_MAX];
    static double norms[SMOE_EXPERTS_MAX];
    size_t listed = 0;
    struct smoe_message m = {.type = SMOE_MSG_STEP_NORM};
    for (size_t i = 0; i < asked->n_layers; i++) {
        struct smoe_layer_view view = smoe_core_layer(s->core, asked->layers[i]);
        layers[i] =
            (struct smoe_layer_norms){asked->layers[i], experts + listed, norms + listed, 0};
        for (uint32_t e = 0; e < view.shape.experts; e++) {
            uint32_t host = view.experts[e].worker;
            if (host == UINT32_MAX || smoe_core_fleet(s->core)->workers[host].session != session)
                continue;
            experts[listed] = e;
            norms[listed++] = s->square_norm;
            layers[i].n++;
        }
    }
    m.step_norm = (struct smoe_msg_step_norm){asked->step,     asked->attempt, layers,
                                              asked->n_layers, asked->owner,   0};
    scene_say(s, session, &m);
}

static void say_outputs(struct scene *s, uint32_t session, const struct smoe_msg_decision *d)
{
    for (size_t i = 0; i < d->n_parcels; i++) {
        struct smoe_message m = {.type = SMOE_MSG_OUTPUT};
        m.output.parcel = d->parcels[i].id;
        scene_say(s, session, &m);
    }
}

static void say_gradients(struct scene *s, uint32_t session, const struct smoe_msg_backprop *b)
{
    for (size_t i = 0; i < b->n_parcels; i++) {
        struct smoe_message m = {.type = SMOE_MSG_PARCEL_GRADIENT};
        m.parcel_gradient.parcel = b->parcels[i];
        scene_say(s, session, &m);
    }
}

/* False if the letter needs no answer. */
static bool answer(struct scene *s, uint32_t session, struct smoe_message asked)
{
    struct smoe_message m = {0};
    switch ((unsigned)asked.type) {
    case SMOE_MSG_HOST:
        if (!asked.host.n_experts && !asked.host.n_copies && !asked.host.pieces.n)
            return false;
        m.type = SMOE_MSG_HOSTED;
        m.hosted.layer = asked.host.layer;
        m.hosted.staleness = s->old_workers ? 0 : asked.host.shape.staleness;
        scene_say(s, session, &m);
        return true;
    case SMOE_MSG_DECISION:
        say_outputs(s, session, &asked.decision);
        return true;
    case SMOE_MSG_BACKPROP:
        say_gradients(s, session, &asked.backprop);
        return true;
    case SMOE_MSG_STEP_PREPARE:
        say_sums(s, session, &asked.step_prepare);
        say_norms(s, session, &asked.step_prepare);
        return true;
    case SMOE_MSG_EXPERT_FETCH:
        m.type = SMOE_MSG_EXPERT_STATE;
        m.expert_state =
            (struct smoe_msg_expert_state){asked.expert_fetch.request,
                                           asked.expert_fetch.layer,
                                           asked.expert_fetch.expert,
                                           asked.expert_fetch.parts,
                                           smoe_core_layer(s->core, asked.expert_fetch.layer).step,
                                           0,
                                           0,
                                           0};
        scene_say(s, session, &m);
        return true;
    case SMOE_MSG_EXPERT_STORE:
        m.type = SMOE_MSG_EXPERT_STORED;
        m.expert_stored = (struct smoe_msg_expert_stored){
            asked.expert_store.request, asked.expert_store.layer, asked.expert_store.expert};
        scene_say(s, session, &m);
        return true;
    case SMOE_MSG_STEP_STAGE:
        m.type = SMOE_MSG_STEP_STAGED;
        m.step_staged = (struct smoe_msg_step_staged){
            asked.step_stage.step, asked.step_stage.attempt, asked.step_stage.owner};
        scene_say(s, session, &m);
        return true;
    default:
        return false;
    }
}

size_t scene_answer(struct scene *s, uint32_t worker, enum smoe_message_type type)
{
    size_t n = 0, end = s->mail.n; /* what comes as a consequence is for the next time */
    for (size_t i = 0; i < end && !s->closed[worker]; i++) {
        const struct letter *l = &s->mail.letters[i];
        if (l->session != worker || l->m.type != type || s->answered[i])
            continue;
        s->answered[i] = true;
        n += answer(s, worker, l->m);
    }
    return n;
}

static size_t work(struct scene *s, uint32_t worker)
{
    static const enum smoe_message_type types[] = {
        SMOE_MSG_HOST,     SMOE_MSG_EXPERT_FETCH, SMOE_MSG_EXPERT_STORE, SMOE_MSG_BACKPROP,
        SMOE_MSG_DECISION, SMOE_MSG_STEP_PREPARE, SMOE_MSG_STEP_STAGE};
    size_t n = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        n += scene_answer(s, worker, types[i]);
    return n;
}

void scene_work(struct scene *s, uint32_t worker)
{
    while (work(s, worker))
        ;
}

void scene_work_all(struct scene *s)
{
    for (size_t n = 1; n;) {
        n = 0;
        for (uint32_t i = 0; i < s->n_sessions; i++)
            n += work(s, i);
    }
}

/* ---- looking ---- */

uint32_t scene_visits_of(const struct scene *s, uint32_t session, uint32_t expert)
{
    uint32_t n = 0;
    for (size_t i = 0; i < s->mail.n; i++) {
        const struct letter *l = &s->mail.letters[i];
        if (l->session != session || l->m.type != SMOE_MSG_DECISION)
            continue;
        for (size_t p = 0; p < l->m.decision.n_parcels; p++)
            if (expert == ANYONE || l->m.decision.parcels[p].expert == expert)
                n += l->m.decision.parcels[p].rows;
    }
    return n;
}

uint32_t scene_visits(const struct scene *s, uint32_t session)
{
    return scene_visits_of(s, session, ANYONE);
}

struct smoe_core_totals scene_totals(const struct scene *s)
{
    struct smoe_core_totals totals;
    smoe_core_totals(s->core, &totals);
    return totals;
}

void scene_assert_error(const struct scene *s, uint32_t session, int code, const char *part)
{
    const struct letter *l = mail_last(&s->mail, session, SMOE_MSG_ERROR);
    cr_assert_not_null(l, "no error, expected one with \"%s\"", part);
    cr_assert_eq(l->m.error.code, code, "code %d, expected %d: %s", l->m.error.code, code,
                 l->m.error.message);
    cr_assert(strstr(l->m.error.message, part), "\"%s\" lacks \"%s\"", l->m.error.message, part);
}
