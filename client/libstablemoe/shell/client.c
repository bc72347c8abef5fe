/* SPDX-License-Identifier: Apache-2.0
 *
 * The C ABI over the uplink: a libuv loop that runs inside the caller's calls, one connection, made
 * again with a doubling pause when it breaks.
 *
 * Every waiting call is `wait_until(client, condition)`: run the loop until the condition holds, the
 * uplink has failed for good, or the gateway has been away for longer than the caller's patience.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "client/libstablemoe/core/uplink.h"
#include "common/base/rng.h"
#include "common/base/text.h"
#include "common/io/addr.h"
#include "common/io/clock.h"
#include "common/io/conn.h"
#include "stablemoe/stablemoe.h"
#include "stablemoe/version.h"

#define PATIENCE_MS  60000
#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 1000

struct smoe_expert_layer {
    struct smoe_client *client;
    uint32_t number;
    bool used;
};

struct smoe_client {
    uv_loop_t loop;
    uv_timer_t pause;  /* before the next attempt to connect */
    uv_timer_t waking; /* ends a wait */
    struct smoe_conn conn;
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
    struct smoe_uplink *uplink;
    struct smoe_expert_layer layers[SMOE_LAYERS_MAX];
    char gateway[SMOE_HOST_MAX + 10];
    uint64_t patience_ns;
    uint64_t away_since_ns; /* 0 while welcomed */
    uint64_t pause_ms;
    struct smoe_rng rng;
    bool conn_open, connected, closing, loop_open;
    struct smoe_why why;      /* of the last call */
    struct smoe_why link_why; /* of the last broken connection */
};

/* ---- the connection ---- */

static void attempt(uv_timer_t *timer);

static uint8_t *on_direct(void *context, size_t *ret_room)
{
    return smoe_uplink_direct(((struct smoe_client *)context)->uplink, ret_room);
}

static size_t on_peek(void *context, struct iovec *iovecs, size_t max)
{
    return smoe_uplink_peek(((struct smoe_client *)context)->uplink, iovecs, max);
}

static void on_consume(void *context, size_t bytes)
{
    smoe_uplink_consume(((struct smoe_client *)context)->uplink, bytes);
}

static void on_received(void *context, const uint8_t *data, size_t n)
{
    struct smoe_client *c = context;
    int rc = smoe_uplink_received(c->uplink, data, n, &c->link_why);
    if (smoe_uplink_welcomed(c->uplink)) {
        c->away_since_ns = 0;
        c->pause_ms = PAUSE_MIN_MS;
    }
    if (rc)
        smoe_conn_close_flushed(&c->conn);
    else
        smoe_conn_flush(&c->conn);
}

static void try_later(struct smoe_client *c)
{
    const char *unused;
    if (c->closing || smoe_uplink_failed(c->uplink, &unused))
        return;
    if (!c->away_since_ns)
        c->away_since_ns = smoe_clock_monotonic_ns();
    uint64_t jitter = smoe_rng_below(&c->rng, c->pause_ms + 1);
    uv_timer_start(&c->pause, attempt, c->pause_ms / 2 + jitter, 0);
    c->pause_ms = c->pause_ms * 2 < PAUSE_MAX_MS ? c->pause_ms * 2 : PAUSE_MAX_MS;
}

static void on_closed(void *context, int status)
{
    struct smoe_client *c = context;
    c->conn_open = false;
    if (c->connected)
        smoe_uplink_disconnected(c->uplink);
    c->connected = false;
    if (status && !*c->link_why.text)
        smoe_fail(&c->link_why, status, "%s: %s", c->gateway, uv_strerror(status));
    try_later(c);
}

static void on_connected(void *context, int status)
{
    struct smoe_client *c = context;
    if (status)
        return; /* closed follows */
    *c->link_why.text = 0;
    c->connected = true;
    smoe_uplink_connected(c->uplink);
}

static void attempt(uv_timer_t *timer)
{
    struct smoe_client *c = timer->data;
    struct smoe_addr address;
    struct smoe_conn_owner owner = {c, on_direct, on_received, on_peek, on_consume, on_closed};
    if (smoe_addr_resolve(c->gateway, &address, &c->link_why)) {
        try_later(c);
        return;
    }
    c->conn_open =
        smoe_conn_connect(&c->conn, &c->loop, &address.sa, &owner, c->scratch, on_connected) == 0;
    if (!c->conn_open)
        try_later(c);
}

/* ---- waiting ---- */

static void flush(struct smoe_client *c)
{
    if (c->connected)
        smoe_conn_flush(&c->conn);
}

static void tell_done(struct smoe_client *c)
{
    struct smoe_uplink_ticket *t;
    const char *unused;
    while ((t = smoe_uplink_next_done(c->uplink))) {
        int failed = smoe_uplink_failed(c->uplink, &unused);
        t->on_done(t->context, t,
                   t->state == SMOE_TICKET_FAILED ? t->code
                   : t->has_results               ? 0
                                                  : failed);
    }
}

static void on_waking(uv_timer_t *timer)
{
    (void)timer; /* its only use is to end uv_run(ONCE) */
}

/* Runs what is ready, waiting for it at most `ms`. */
static void run(struct smoe_client *c, uint64_t ms)
{
    flush(c);
    uv_update_time(&c->loop);
    if (ms)
        uv_timer_start(&c->waking, on_waking, ms, 0);
    uv_run(&c->loop, ms ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    uv_timer_stop(&c->waking);
    flush(c);
    tell_done(c);
}

static int check_alive(struct smoe_client *c)
{
    const char *sentence;
    int failed = smoe_uplink_failed(c->uplink, &sentence);
    if (failed)
        return smoe_fail(&c->why, failed, "%s", sentence);
    if (c->away_since_ns && smoe_clock_monotonic_ns() - c->away_since_ns > c->patience_ns)
        return smoe_fail(&c->why, SMOE_ETIMEOUT, "gateway %s is away: %s", c->gateway,
                         *c->link_why.text ? c->link_why.text : "no answer");
    return 0;
}

static int wait_until(struct smoe_client *c, bool (*over)(struct smoe_client *c, void *what),
                      void *what)
{
    while (!over(c, what)) {
        int rc = check_alive(c);
        if (rc)
            return rc;
        run(c, 1000);
    }
    return 0;
}

/* ---- client ---- */

static bool is_welcomed(struct smoe_client *c, void *what)
{
    (void)what;
    return smoe_uplink_welcomed(c->uplink);
}

static int make_uplink(struct smoe_client *c, const char *name)
{
    uint64_t random[3];
    struct smoe_uplink_options o = {.real_bytes = sizeof(smoe_real)};
    int rc = uv_random(NULL, NULL, random, sizeof random, 0, NULL);
    if (rc)
        return smoe_fail(&c->why, rc, "random numbers: %s", uv_strerror(rc));
    o.incarnation = random[0] | 1;
    o.run = random[1] | 1;
    smoe_rng_init(&c->rng, random[2], 0);
    if (!name)
        snprintf(o.name, sizeof o.name, "trainer-%08x", (unsigned)(random[0] >> 32));
    else if (smoe_name_valid(name, strnlen(name, SMOE_NAME_MAX + 1)))
        snprintf(o.name, sizeof o.name, "%s", name);
    else
        return smoe_fail(&c->why, SMOE_EFIELD, "name: must be 1..%d of [A-Za-z0-9._-]",
                         SMOE_NAME_MAX);
    snprintf(o.software, sizeof o.software, "libstablemoe %s", STABLEMOE_VERSION);
    rc = smoe_uplink_new(&o, &c->uplink);
    return rc ? smoe_fail(&c->why, rc, "out of memory") : 0;
}

SMOE_API int smoe_client_open(const struct smoe_client_options *options,
                              struct smoe_client **ret_client)
{
    char host[SMOE_HOST_MAX + 1];
    uint16_t port;
    *ret_client = NULL;
    struct smoe_client *c = calloc(1, sizeof *c);
    if (!c)
        return SMOE_ENOMEMORY;
    *ret_client = c;
    int rc = smoe_addr_split(options->gateway, host, &port, &c->why);
    if (rc)
        return rc;
    snprintf(c->gateway, sizeof c->gateway, "%s", options->gateway);
    c->patience_ns =
        (options->patience_ms ? options->patience_ms : PATIENCE_MS) * UINT64_C(1000000);
    c->pause_ms = PAUSE_MIN_MS;
    rc = make_uplink(c, options->name);
    if (rc)
        return rc;
    uv_loop_init(&c->loop);
    c->loop_open = true;
    uv_timer_init(&c->loop, &c->pause);
    uv_timer_init(&c->loop, &c->waking);
    c->pause.data = c->waking.data = c;
    c->away_since_ns = smoe_clock_monotonic_ns();
    attempt(&c->pause);
    return wait_until(c, is_welcomed, NULL);
}

SMOE_API void smoe_client_close(struct smoe_client *c)
{
    if (!c)
        return;
    c->closing = true;
    if (c->loop_open) {
        flush(c);
        if (c->conn_open)
            smoe_conn_close(&c->conn, 0);
        uv_close((uv_handle_t *)&c->pause, NULL);
        uv_close((uv_handle_t *)&c->waking, NULL);
        uv_run(&c->loop, UV_RUN_DEFAULT);
        uv_loop_close(&c->loop);
    }
    smoe_uplink_free(c->uplink);
    free(c);
}

SMOE_API const char *smoe_client_error(const struct smoe_client *c)
{
    return c ? c->why.text : "out of memory";
}

SMOE_API int smoe_poll(struct smoe_client *c, uint32_t timeout_ms)
{
    run(c, timeout_ms);
    return check_alive(c);
}

SMOE_API uint64_t smoe_client_step(const struct smoe_client *c)
{
    return smoe_uplink_steps(c->uplink);
}

SMOE_API const char *smoe_client_policy(const struct smoe_client *c)
{
    return smoe_uplink_policy(c->uplink);
}

/* ---- layer ---- */

static bool is_declared(struct smoe_client *c, void *what)
{
    return smoe_uplink_layer(c->uplink, *(const uint32_t *)what)->state != SMOE_ULAYER_WANTED;
}

SMOE_API int smoe_layer_declare(struct smoe_client *c, const struct smoe_layer_options *o,
                                struct smoe_expert_layer **ret_layer)
{
    struct smoe_layer_shape shape = {
        .experts = o->experts,
        .d_model = o->d_model,
        .d_ff = o->d_ff,
        .activation = (uint32_t)o->activation,
        .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
        .optimizer = (uint32_t)o->optimizer,
        .seed = o->seed,
        .zero_output = o->zero_output,
    };
    uint32_t number;
    int rc = smoe_uplink_declare(c->uplink, o->name, o->evaluate_only ? NULL : &shape,
                                 o->evaluate_only, &number, &c->why);
    if (rc == 0)
        rc = wait_until(c, is_declared, &number);
    if (rc)
        return rc;
    const struct smoe_uplink_layer *layer = smoe_uplink_layer(c->uplink, number);
    if (layer->state == SMOE_ULAYER_FAILED)
        return smoe_fail(&c->why, layer->code, "%s", layer->why.text);
    c->layers[number] = (struct smoe_expert_layer){.client = c, .number = number, .used = true};
    *ret_layer = &c->layers[number];
    return 0;
}

SMOE_API void smoe_layer_shape(const struct smoe_expert_layer *layer,
                               struct smoe_layer_options *ret)
{
    const struct smoe_uplink_layer *l = smoe_uplink_layer(layer->client->uplink, layer->number);
    *ret = (struct smoe_layer_options){
        .name = l->name,
        .experts = l->shape.experts,
        .d_model = l->shape.d_model,
        .d_ff = l->shape.d_ff,
        .activation = (enum smoe_layer_activation)l->shape.activation,
        .optimizer = (enum smoe_layer_optimizer)l->shape.optimizer,
        .seed = l->shape.seed,
        .zero_output = l->shape.zero_output,
        .evaluate_only = l->evaluate_only,
    };
}

/* ---- batches ---- */

/* A public ticket is the uplink's; the client is found through the shell that made the uplink. */
struct smoe_ticket {
    struct smoe_uplink_ticket *ticket;
    struct smoe_client *client;
    void (*on_done)(void *context, struct smoe_ticket *ticket, int status);
    void *context;
};

static void relay_done(void *context, void *ticket, int status)
{
    struct smoe_ticket *t = context;
    (void)ticket;
    if (t->on_done)
        t->on_done(t->context, t, status);
}

SMOE_API int smoe_submit(struct smoe_expert_layer *layer, const struct smoe_submit_options *o,
                         struct smoe_ticket **ret_ticket)
{
    struct smoe_client *c = layer->client;
    struct smoe_ticket *t = calloc(1, sizeof *t);
    if (!t)
        return smoe_fail(&c->why, SMOE_ENOMEMORY, "out of memory");
    *t = (struct smoe_ticket){.client = c, .on_done = o->on_done, .context = o->context};
    struct smoe_uplink_submit submit = {
        .layer = layer->number,
        .tokens = o->tokens,
        .top_k = o->top_k,
        .scores = o->scores,
        .x = o->x,
        .evaluate = o->evaluate,
        .on_done = relay_done,
        .context = t,
    };
    int rc = smoe_uplink_submit(c->uplink, &submit, &t->ticket, &c->why);
    if (rc) {
        free(t);
        return rc;
    }
    flush(c);
    *ret_ticket = t;
    return 0;
}

static bool has_outcome(struct smoe_client *c, void *what)
{
    const struct smoe_uplink_ticket *t = what;
    (void)c;
    return t->has_results || t->state == SMOE_TICKET_FAILED;
}

static int outcome(struct smoe_client *c, const struct smoe_uplink_ticket *t)
{
    return t->state == SMOE_TICKET_FAILED ? smoe_fail(&c->why, t->code, "%s", t->why.text) : 0;
}

SMOE_API int smoe_wait(struct smoe_ticket *t)
{
    int rc = wait_until(t->client, has_outcome, t->ticket);
    return rc ? rc : outcome(t->client, t->ticket);
}

SMOE_API const smoe_real *smoe_ticket_outputs(const struct smoe_ticket *t)
{
    return t->ticket->has_results ? t->ticket->y : NULL;
}

SMOE_API const uint16_t *smoe_ticket_experts(const struct smoe_ticket *t)
{
    return t->ticket->has_results ? t->ticket->experts : NULL;
}

SMOE_API const float *smoe_ticket_scores(const struct smoe_ticket *t)
{
    return t->ticket->has_results ? t->ticket->scores : NULL;
}

SMOE_API int smoe_gradient(struct smoe_ticket *t, const smoe_real *dy)
{
    int rc = smoe_uplink_gradient(t->ticket, dy, &t->client->why);
    flush(t->client);
    return rc;
}

static bool has_gradient(struct smoe_client *c, void *what)
{
    const struct smoe_uplink_ticket *t = what;
    (void)c;
    return t->has_input_gradient || t->state == SMOE_TICKET_FAILED;
}

SMOE_API int smoe_wait_gradient(struct smoe_ticket *t, const smoe_real **ret_dx)
{
    if (!t->ticket->dy && !t->ticket->has_input_gradient && t->ticket->state != SMOE_TICKET_FAILED)
        return smoe_fail(&t->client->why, SMOE_ESTATE, "wait_gradient: no gradient was given");
    int rc = wait_until(t->client, has_gradient, t->ticket);
    if (rc == 0)
        rc = outcome(t->client, t->ticket);
    if (rc == 0)
        *ret_dx = t->ticket->dx;
    return rc;
}

SMOE_API void smoe_ticket_release(struct smoe_ticket *t)
{
    if (!t)
        return;
    smoe_uplink_ticket_release(t->ticket);
    flush(t->client);
    free(t);
}

/* ---- step ---- */

SMOE_API int smoe_step_begin(struct smoe_client *c, const struct smoe_step_options *o)
{
    struct smoe_msg_step m = {
        .optimizer = {.kind = (uint32_t)o->kind,
                      .learning_rate = o->learning_rate,
                      .momentum = o->momentum,
                      .beta1 = o->beta1,
                      .beta2 = o->beta2,
                      .epsilon = o->epsilon,
                      .weight_decay = o->weight_decay},
        .gradient_divisor = o->gradient_divisor,
        .clip_norm = o->clip_norm,
        .dense_square_norm = o->dense_square_norm,
    };
    int rc = smoe_uplink_step(c->uplink, &m, &c->why);
    flush(c);
    return rc;
}

static bool is_stepped(struct smoe_client *c, void *what)
{
    (void)what;
    return !smoe_uplink_step_state(c->uplink)->pending;
}

SMOE_API int smoe_step_wait(struct smoe_client *c, struct smoe_step_result *ret)
{
    int rc = wait_until(c, is_stepped, NULL);
    if (rc)
        return rc;
    const struct smoe_step_state *s = smoe_uplink_step_state(c->uplink);
    if (!s->done)
        return smoe_fail(&c->why, SMOE_ESTATE, "step_wait: no step was begun");
    if (s->code)
        rc = smoe_fail(&c->why, s->code, "%s", s->why.text);
    else
        *ret =
            (struct smoe_step_result){s->result.step, s->result.clip_scale, s->result.square_norm};
    smoe_uplink_step_taken(c->uplink);
    return rc;
}

SMOE_API int smoe_step(struct smoe_client *c, const struct smoe_step_options *options,
                       struct smoe_step_result *ret_result)
{
    int rc = smoe_step_begin(c, options);
    return rc ? rc : smoe_step_wait(c, ret_result);
}

/* ---- expert state ---- */

static const struct smoe_layer_shape *shape_of(const struct smoe_expert_layer *layer)
{
    return &smoe_uplink_layer(layer->client->uplink, layer->number)->shape;
}

SMOE_API size_t smoe_expert_params(const struct smoe_expert_layer *layer)
{
    return smoe_uplink_params(shape_of(layer));
}

SMOE_API size_t smoe_expert_elements(const struct smoe_expert_layer *layer, unsigned parts)
{
    return smoe_uplink_elements(shape_of(layer), parts);
}

static bool is_answered(struct smoe_client *c, void *what)
{
    return smoe_uplink_request(c->uplink, *(const uint32_t *)what)->done;
}

static int exchange_state(struct smoe_expert_layer *layer, uint32_t expert, unsigned parts,
                          const smoe_real *values, smoe_real *ret_values)
{
    struct smoe_client *c = layer->client;
    uint32_t number;
    int rc = smoe_uplink_state(c->uplink, layer->number, expert, parts, values, &number, &c->why);
    if (rc)
        return rc;
    rc = wait_until(c, is_answered, &number);
    const struct smoe_uplink_request *r = smoe_uplink_request(c->uplink, number);
    if (rc == 0 && r->code)
        rc = smoe_fail(&c->why, r->code, "%s", r->why.text);
    if (rc == 0 && ret_values)
        memcpy(ret_values, r->values->data, r->bytes);
    smoe_uplink_request_release(c->uplink, number);
    return rc;
}

SMOE_API int smoe_expert_fetch(struct smoe_expert_layer *layer, uint32_t expert, unsigned parts,
                               smoe_real *ret_values)
{
    if (!parts || parts > 7)
        return smoe_fail(&layer->client->why, SMOE_EFIELD, "expert_fetch: parts %u: not in 1..7",
                         parts);
    return exchange_state(layer, expert, parts, NULL, ret_values);
}

SMOE_API int smoe_expert_store(struct smoe_expert_layer *layer, uint32_t expert,
                               const smoe_real *values)
{
    return exchange_state(layer, expert, SMOE_EXPERT_WEIGHTS | SMOE_EXPERT_MOMENTS, values, NULL);
}

SMOE_API int smoe_restore(struct smoe_client *c, uint64_t step)
{
    int rc = wait_until(c, is_welcomed, NULL);
    if (rc == 0)
        rc = smoe_uplink_restore(c->uplink, step, &c->why);
    flush(c);
    return rc;
}
