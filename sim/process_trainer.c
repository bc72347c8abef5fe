/* SPDX-License-Identifier: Apache-2.0
 *
 * A trainer as a process: stands in for the loop in client/libstablemoe/shell/client.c and for the
 * program that calls it, which is the script or what the world's owner puts in its place.
 */
#include <stdio.h>
#include <stdlib.h>

#include "common/base/assert.h"
#include "sim/link.h"
#include "sim/script.h"

#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 1000

struct trainer_process {
    struct smoe_sim_process process;
    struct smoe_sim_trainer_options options;
    struct smoe_uplink *uplink;
    struct smoe_sim_link link;
    struct smoe_script script;
    struct smoe_sim_event wake;
    uint64_t away_since_ns; /* 0 while welcomed */
    bool stopping;
};

static struct trainer_process *self_of(const struct smoe_sim_process *p)
{
    uintptr_t address = (uintptr_t)p;
    return (struct trainer_process *)address; /* the first member */
}

static uint64_t now_of(const struct trainer_process *t)
{
    return t->process.world->clock.now_ns;
}

/* ---- what it runs: its program, or the script ---- */

static void advance(struct trainer_process *t)
{
    const struct smoe_sim_program *program = t->options.program;
    if (program)
        program->advance(t->options.program_context, now_of(t));
    else
        smoe_script_advance(&t->script);
}

/* As client.c calls back. */
static void tell_done(struct trainer_process *t)
{
    struct smoe_uplink_ticket *ticket;
    while ((ticket = smoe_uplink_next_done(t->uplink)))
        ticket->on_done(ticket->context, ticket, ticket->code);
}

static uint64_t wake_ns(const struct trainer_process *t)
{
    const struct smoe_sim_program *program = t->options.program;
    return program ? program->wake_ns(t->options.program_context) : smoe_script_wake_ns(&t->script);
}

/* ---- the loop ---- */

static uint64_t patience_ends_ns(const struct trainer_process *t)
{
    return t->away_since_ns && !t->options.program && !smoe_script_over(&t->script)
               ? t->away_since_ns + t->options.patience_ns
               : SMOE_SIM_NEVER;
}

static void settle(struct trainer_process *t)
{
    if (t->stopping)
        return;
    if (now_of(t) >= patience_ends_ns(t))
        smoe_script_give_up(&t->script, SMOE_ETIMEOUT, "the gateway is away");
    tell_done(t);
    advance(t);
    if (smoe_uplink_speechless(t->uplink))
        smoe_sim_link_break(&t->link);
    else
        smoe_sim_link_flush(&t->link);
    uint64_t wake = wake_ns(t), patience = patience_ends_ns(t);
    smoe_process_set(&t->process, &t->wake, wake < patience ? wake : patience);
}

static void on_wake(struct smoe_sim_event *event)
{
    struct trainer_process *t = smoe_container_of(event, struct trainer_process, wake);
    if (smoe_world_due(&t->process, event))
        settle(t);
}

/* ---- the link's machine ---- */

static uint8_t *uplink_direct(void *context, size_t *ret_room)
{
    return smoe_uplink_direct(((struct trainer_process *)context)->uplink, ret_room);
}

static int uplink_received(void *context, const uint8_t *data, size_t n, struct smoe_why *why)
{
    struct trainer_process *t = context;
    int rc = smoe_uplink_received(t->uplink, data, n, why);
    if (smoe_uplink_welcomed(t->uplink))
        t->away_since_ns = 0;
    return rc;
}

static size_t uplink_peek(void *context, struct iovec *iovecs, size_t max)
{
    return smoe_uplink_peek(((struct trainer_process *)context)->uplink, iovecs, max);
}

static void uplink_consume(void *context, size_t bytes)
{
    smoe_uplink_consume(((struct trainer_process *)context)->uplink, bytes);
}

static void uplink_connected(void *context)
{
    smoe_uplink_connected(((struct trainer_process *)context)->uplink);
}

static void uplink_disconnected(void *context)
{
    struct trainer_process *t = context;
    smoe_uplink_disconnected(t->uplink);
    if (!t->away_since_ns)
        t->away_since_ns = now_of(t);
}

static bool uplink_welcomed(void *context)
{
    return smoe_uplink_welcomed(((struct trainer_process *)context)->uplink);
}

static bool uplink_gives_up(void *context)
{
    const struct trainer_process *t = context;
    const char *unused;
    return smoe_uplink_failed(t->uplink, &unused) || t->script.state == SMOE_SCRIPT_FAILED;
}

static void uplink_changed(void *context)
{
    settle(context);
}

static void uplink_closed(void *context);

static const struct smoe_sim_link_machine link_machine = {
    uplink_direct,       uplink_received, uplink_peek,     uplink_consume, uplink_connected,
    uplink_disconnected, uplink_welcomed, uplink_gives_up, uplink_changed, uplink_closed};

/* ---- beginning and end ---- */

static void trainer_start(struct smoe_sim_process *p)
{
    struct trainer_process *t = self_of(p);
    struct smoe_uplink_options o = {.software = "stablemoe-sim",
                                    .incarnation = smoe_process_identity(p),
                                    .run = smoe_process_identity(p),
                                    .real_bytes = sizeof(smoe_real)};
    snprintf(o.name, sizeof o.name, "%s", p->name);
    smoe_assert(smoe_uplink_new(&o, &t->uplink) == 0);
    t->stopping = false;
    t->away_since_ns = now_of(t);
    if (p->starts > 1)
        smoe_script_release(&t->script);
    smoe_script_init(&t->script, p, t->uplink, &t->options);
    if (t->options.program)
        t->options.program->start(t->options.program_context, t->uplink);
    smoe_sim_link_open(&t->link, p, &link_machine, t, PAUSE_MIN_MS, PAUSE_MAX_MS);
    settle(t);
}

/* The script stays, with what it has seen, until the process is started again. */
static void trainer_kill(struct smoe_sim_process *p)
{
    struct trainer_process *t = self_of(p);
    smoe_sim_link_forget(&t->link);
    smoe_process_cancel(p, &t->wake);
    if (t->options.program)
        t->options.program->end(t->options.program_context);
    smoe_uplink_free(t->uplink);
    t->uplink = NULL;
}

static void uplink_closed(void *context)
{
    struct trainer_process *t = context;
    trainer_kill(&t->process);
    smoe_world_ended(&t->process);
}

static void trainer_stop(struct smoe_sim_process *p)
{
    struct trainer_process *t = self_of(p);
    if (t->stopping)
        return;
    t->stopping = true;
    smoe_sim_link_close(&t->link);
}

static void trainer_check(const struct smoe_sim_process *p)
{
    smoe_uplink_check(self_of(p)->uplink);
}

static void trainer_free(struct smoe_sim_process *p)
{
    struct trainer_process *t = self_of(p);
    if (p->starts)
        smoe_script_release(&t->script);
}

/* ---- adding one ---- */

static void fill_shape(struct smoe_layer_shape *s, uint64_t seed)
{
    const struct smoe_layer_shape standard = {
        .experts = 4, .d_model = 4, .d_ff = 8, .activation = SMOE_RELU, .optimizer = SMOE_SGD};
    if (!s->experts)
        *s = standard;
    s->seed = seed;
    s->dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32;
}

static void fill_optimizer(struct smoe_step_optimizer *o, uint32_t kind)
{
    if (o->kind)
        return;
    *o = (struct smoe_step_optimizer){.kind = kind,
                                      .learning_rate = kind == SMOE_SGD ? 0.05 : 0.01,
                                      .momentum = 0.5,
                                      .beta1 = 0.9,
                                      .beta2 = 0.99,
                                      .epsilon = 0.1}; /* rounding errors stay small */
}

static void fill_options(struct smoe_sim_trainer_options *o, uint64_t seed)
{
    smoe_sim_default_path(&o->path, SMOE_SIM_MS);
    fill_shape(&o->shape, seed);
    o->shape.staleness = o->staleness;
    fill_optimizer(&o->optimizer, o->shape.optimizer);
    o->layer_name = o->layer_name ? o->layer_name : "moe";
    o->n_layers = o->n_layers ? o->n_layers : 1;
    o->steps = o->steps ? o->steps : 3;
    o->batches = o->batches ? o->batches : 1;
    o->in_flight = o->in_flight ? o->in_flight : o->batches;
    o->tokens = o->tokens ? o->tokens : 8;
    o->top_k = o->top_k ? o->top_k : 2;
    o->patience_ns = o->patience_ns ? o->patience_ns : 60000 * SMOE_SIM_MS;
}

uint32_t smoe_world_add_trainer(struct smoe_world *world, const struct smoe_sim_trainer_options *o)
{
    static const struct smoe_sim_kind_ops ops = {trainer_start, trainer_stop, trainer_kill,
                                                 trainer_check, trainer_free};
    struct smoe_sim_trainer_options options = *o;
    fill_options(&options, world->options.seed);
    smoe_assert(options.n_layers <= SMOE_SIM_LAYERS_MAX && options.top_k <= SMOE_TOP_K_MAX);
    struct smoe_sim_process *p =
        smoe_world_add(world, sizeof(struct trainer_process), &ops, SMOE_SIM_TRAINER,
                       *o->name ? o->name : "trainer", &options.path);
    struct trainer_process *t = self_of(p);
    p->gateway = o->gateway;
    t->options = options;
    t->wake.fire = on_wake;
    return p->number;
}

/* ---- views ---- */

struct smoe_uplink *smoe_sim_trainer_machine(const struct smoe_sim_process *p)
{
    return p->kind == SMOE_SIM_TRAINER && p->up ? self_of(p)->uplink : NULL;
}

struct smoe_sim_trainer_view smoe_sim_trainer_see(const struct smoe_sim_process *p)
{
    return self_of(p)->script.view;
}

bool smoe_sim_trainer_over(const struct smoe_sim_process *p)
{
    return !p->up || smoe_script_over(&self_of(p)->script);
}

const struct smoe_script *smoe_sim_trainer_script(const struct smoe_sim_process *p)
{
    return &self_of(p)->script;
}
