/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches, from submission to commit.
 *
 *     QUEUED -> SENT -> RESULTS -> GRADIENT -> SETTLED -> COMMITTED
 *       ^         |        |          |           |
 *       +---------+--------+----------+-----------+   a new attempt
 *
 * Two layers of truth: what this attempt has reached (`state`, `visits_in`, `seen`), and what the
 * caller has been given (`has_results`, `has_input_gradient`), which no attempt takes back: results of
 * a replay are counted but not looked at.
 */
#include <stdlib.h>
#include <string.h>

#include "client/libstablemoe/core/uplink_state.h"
#include "common/base/assert.h"

enum { SEEN_RESULT = 1, SEEN_GRADIENT = 2 };

size_t smoe_ticket_row_bytes(const struct smoe_uplink_ticket *t)
{
    return t->uplink->layers[t->layer].shape.d_model * t->uplink->options.real_bytes;
}

struct smoe_uplink_ticket *smoe_ticket_find(struct smoe_uplink *u, uint64_t batch)
{
    smoe_list_for_each (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (t->batch == batch)
            return t;
    }
    return NULL;
}

void smoe_ticket_free(struct smoe_uplink_ticket *t)
{
    smoe_list_remove(&t->link);
    t->uplink->n_tickets--;
    smoe_blob_unref(t->submit);
    smoe_blob_unref(t->replay);
    smoe_blob_unref(t->dy);
    free(t->y);
    free(t->experts);
    free(t->scores);
    free(t->dx);
    free(t->dx_parts);
    free(t->seen);
    free(t);
}

static void drop_replay(struct smoe_uplink_ticket *t)
{
    struct smoe_blob **blobs[] = {&t->submit, &t->replay, &t->dy};
    for (size_t i = 0; i < sizeof blobs / sizeof *blobs; i++) {
        smoe_blob_unref(*blobs[i]);
        *blobs[i] = NULL;
    }
    free(t->dx_parts);
    t->dx_parts = NULL;
}

static bool is_over(const struct smoe_uplink_ticket *t)
{
    return t->state == SMOE_TICKET_COMMITTED || t->state == SMOE_TICKET_FAILED ||
           (t->evaluate && t->has_results);
}

void smoe_ticket_fail(struct smoe_uplink_ticket *t, int code, const char *sentence)
{
    t->state = SMOE_TICKET_FAILED;
    t->code = code;
    smoe_fail(&t->why, code, "%s", sentence);
    drop_replay(t);
    if (t->released)
        smoe_ticket_free(t);
}

/* ---- sending ---- */

/* Bytes of the experts in a replay. */
static size_t replay_choices(const struct smoe_uplink_ticket *t)
{
    return (smoe_ticket_visits(t) * sizeof(uint16_t) + 7) / 8 * 8;
}

/* Experts and x as one raw part, made from what is kept. */
static bool make_replay(struct smoe_uplink_ticket *t)
{
    size_t choices = replay_choices(t), x_bytes = t->tokens * smoe_ticket_row_bytes(t);
    if (t->replay)
        return true;
    t->replay = smoe_blob_new(&t->uplink->budget, choices + x_bytes);
    if (!t->replay) { /* nothing might come that makes us try again: a new connection does */
        t->uplink->speechless = true;
        return false;
    }
    memset(t->replay->data, 0, choices);
    memcpy(t->replay->data, t->experts, smoe_ticket_visits(t) * sizeof(uint16_t));
    memcpy(t->replay->data + choices, t->submit->data + t->x_offset, x_bytes);
    return true;
}

/* What sending it costs: a router's tokens become scores at the gateway. */
static uint64_t credit_bytes(const struct smoe_uplink *u, const struct smoe_uplink_ticket *t)
{
    uint32_t experts = u->layers[t->layer].shape.experts;
    if (t->has_results)
        return replay_choices(t) + t->tokens * smoe_ticket_row_bytes(t);
    return t->submit->bytes +
           (t->router_version ? smoe_frozen_credit_bytes(t->tokens, experts) : 0);
}

/* True if it was sent; false if credit or memory must come first. */
static bool send_submit(struct smoe_uplink *u, struct smoe_uplink_ticket *t)
{
    bool routed = t->has_results;
    if ((!routed && !smoe_routers_ready(u, t)) || (routed && !make_replay(t)))
        return false;
    struct smoe_blob *raw = routed ? t->replay : t->submit;
    uint64_t bytes = credit_bytes(u, t);
    if (u->sent.bytes_total + bytes > u->granted.bytes_total ||
        u->sent.visits_total + smoe_ticket_visits(t) > u->granted.visits_total)
        return false;
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    m.submit = (struct smoe_msg_submit){
        .batch = t->batch,
        .attempt = u->attempt,
        .layer = u->layers[t->layer].wire,
        .tokens = t->tokens,
        .top_k = t->top_k,
        .needs_gradient = !t->evaluate,
        .routed = routed,
        .router_version = routed ? 0 : t->router_version,
        .router_digest = routed ? 0 : t->router_digest,
        .ahead = t->ahead,
        .base = t->base,
    };
    struct smoe_segment segment = {raw, raw->data, raw->bytes};
    if (smoe_uplink_send(u, &m, &segment, 1))
        return false;
    u->sent.bytes_total += bytes;
    u->sent.visits_total += smoe_ticket_visits(t);
    t->state = SMOE_TICKET_SENT;
    return true;
}

/* A batch that no credit could ever cover is refused here, in words, instead of waiting for ever. */
static bool too_large(struct smoe_uplink *u, struct smoe_uplink_ticket *t)
{
    struct smoe_why why;
    uint64_t bytes = credit_bytes(u, t);
    if (bytes <= u->window.bytes_total && smoe_ticket_visits(t) <= u->window.visits_total)
        return false;
    smoe_fail(&why, SMOE_ELIMIT,
              "submit: %llu bytes and %zu visits, the gateway's window is %llu bytes and "
              "%llu visits: submit fewer tokens at a time",
              (unsigned long long)bytes, smoe_ticket_visits(t),
              (unsigned long long)u->window.bytes_total,
              (unsigned long long)u->window.visits_total);
    smoe_ticket_fail(t, SMOE_ELIMIT, why.text);
    return true;
}

static bool send_gradient(struct smoe_uplink *u, struct smoe_uplink_ticket *t)
{
    struct smoe_message m = {.type = SMOE_MSG_GRADIENT};
    m.gradient = (struct smoe_msg_gradient){t->batch, u->attempt};
    struct smoe_segment segment = {t->dy, t->dy->data, t->dy->bytes};
    if (smoe_uplink_send(u, &m, &segment, 1))
        return false;
    t->state = SMOE_TICKET_GRADIENT;
    return true;
}

void smoe_tickets_pump(struct smoe_uplink *u)
{
    bool credit = true;
    smoe_list_for_each_safe (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        bool after_step = u->step.pending && !u->step.sent && t->step > u->step.message.step;
        bool committed_unheard = u->step.pending && t->step == u->step.message.step &&
                                 u->layers[t->layer].step == t->step;
        if (is_over(t) || after_step || committed_unheard)
            continue;
        if (t->state == SMOE_TICKET_QUEUED && credit && !send_submit(u, t))
            credit = too_large(u, t); /* in order: later ones wait too */
        else if (t->state == SMOE_TICKET_RESULTS && t->dy)
            (void)send_gradient(u, t);
    }
}

/* ---- results ---- */

/* The ticket a Result or InputGradient is for; NULL if it is of an older attempt or forgotten. */
static struct smoe_uplink_ticket *addressed(struct smoe_uplink *u, uint64_t batch, uint64_t attempt)
{
    struct smoe_uplink_ticket *t = attempt == u->attempt ? smoe_ticket_find(u, batch) : NULL;
    return t && t->state != SMOE_TICKET_FAILED ? t : NULL;
}

int smoe_ticket_inputs(struct smoe_uplink *u, const struct smoe_msg_need_inputs *m)
{
    struct smoe_uplink_ticket *t = addressed(u, m->batch, m->attempt);
    if (!t || !t->submit)
        return 0;
    struct smoe_message out = {.type = SMOE_MSG_INPUTS};
    out.inputs = (struct smoe_msg_inputs){t->batch, u->attempt};
    struct smoe_segment segment = {t->submit, t->submit->data + t->x_offset,
                                   t->submit->bytes - t->x_offset};
    return smoe_uplink_send(u, &out, &segment, 1);
}

int smoe_ticket_expect(struct smoe_uplink *u, const struct smoe_message *m, size_t bytes,
                       struct smoe_why *why)
{
    bool result = m->type == SMOE_MSG_RESULT;
    uint64_t batch = result ? m->result.batch : m->input_gradient.batch;
    uint64_t attempt = result ? m->result.attempt : m->input_gradient.attempt;
    size_t rows = result ? m->result.rows : m->input_gradient.rows;
    const struct smoe_uplink_ticket *t = addressed(u, batch, attempt);
    if (!t)
        return SMOE_CHANNEL_SKIP;
    size_t list = result ? rows * 8 : (rows * 4 + 7) / 8 * 8;
    size_t expected = list + rows * smoe_ticket_row_bytes(t);
    if (bytes != expected)
        return smoe_fail(why, SMOE_ESHAPE, "%s: raw part of %zu bytes, expected %zu",
                         smoe_message_name((uint16_t)m->type), bytes, expected);
    return 0;
}

/* Marks the visits of a frame as come; refuses a list that is not one of this batch. */
static int mark_visits(struct smoe_uplink_ticket *t, const uint8_t *list, uint32_t rows,
                       uint8_t bit, struct smoe_why *why)
{
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t visit;
        memcpy(&visit, list + i * sizeof visit, sizeof visit);
        if (visit >= smoe_ticket_visits(t) || (t->seen[visit] & bit))
            return smoe_fail(why, SMOE_EFIELD, "batch %llu: visit %u %s",
                             (unsigned long long)t->batch, visit,
                             visit >= smoe_ticket_visits(t) ? "is out of range" : "came twice");
        t->seen[visit] |= bit;
    }
    return 0;
}

static void scatter(void *to, const uint8_t *list, const uint8_t *rows, uint32_t n, size_t row)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t visit;
        memcpy(&visit, list + i * sizeof visit, sizeof visit);
        memcpy((uint8_t *)to + visit * row, rows + i * row, row);
    }
}

static void take_results(struct smoe_uplink_ticket *t, const struct smoe_msg_result *m,
                         const uint8_t *raw)
{
    for (uint32_t i = 0; i < m->rows; i++) {
        uint32_t visit;
        memcpy(&visit, raw + i * sizeof visit, sizeof visit);
        t->experts[visit] = (uint16_t)m->expert;
        memcpy(&t->scores[visit], raw + (m->rows + i) * sizeof(float), sizeof(float));
    }
    scatter(t->y, raw, raw + (size_t)m->rows * 8, m->rows, smoe_ticket_row_bytes(t));
}

int smoe_ticket_result(struct smoe_uplink *u, const struct smoe_msg_result *m,
                       const struct smoe_blob *blob, struct smoe_why *why)
{
    struct smoe_uplink_ticket *t = addressed(u, m->batch, m->attempt);
    if (!t)
        return 0;
    if (t->state != SMOE_TICKET_SENT)
        return smoe_fail(why, SMOE_ESTATE, "RESULT: batch %llu has all its results",
                         (unsigned long long)m->batch);
    int rc = mark_visits(t, blob->data, m->rows, SEEN_RESULT, why);
    if (rc)
        return rc;
    if (!t->has_results)
        take_results(t, m, blob->data);
    t->visits_in += m->rows;
    if (t->visits_in < smoe_ticket_visits(t))
        return 0;
    t->has_results = true;
    t->state = t->evaluate ? SMOE_TICKET_SETTLED : SMOE_TICKET_RESULTS;
    if (t->evaluate)
        drop_replay(t);
    if (t->evaluate && t->released)
        smoe_ticket_free(t);
    return 0;
}

/* ---- gradients ---- */

int smoe_uplink_gradient(struct smoe_uplink_ticket *t, const void *dy, struct smoe_why *why)
{
    if (t->state == SMOE_TICKET_FAILED)
        return smoe_fail(why, t->code, "%s", t->why.text);
    if (t->evaluate || !t->has_results || t->dx) /* dy goes with the commit */
        return smoe_fail(why, SMOE_ESTATE, "gradient: %s",
                         t->evaluate ? "the batch was submitted for evaluation"
                         : t->dx     ? "given already"
                                     : "the results are not complete");
    size_t bytes = smoe_ticket_visits(t) * smoe_ticket_row_bytes(t);
    t->dx = malloc(t->tokens * smoe_ticket_row_bytes(t));
    t->dx_parts = malloc(bytes);
    t->dy = smoe_blob_new(&t->uplink->budget, bytes);
    if (!t->dx || !t->dx_parts || !t->dy) {
        smoe_blob_unref(t->dy);
        free(t->dx);
        free(t->dx_parts);
        t->dy = NULL;
        t->dx = t->dx_parts = NULL;
        return smoe_fail(why, SMOE_ENOMEMORY, "gradient: out of memory for %zu bytes", bytes);
    }
    memcpy(t->dy->data, dy, bytes);
    smoe_uplink_pump(t->uplink);
    return 0;
}

/* dx[n] = sum over k of its parts, in the order of k: the same bits whoever answered first. */
static void sum_parts(struct smoe_uplink_ticket *t)
{
    size_t d = t->uplink->layers[t->layer].shape.d_model;
    for (size_t n = 0; n < t->tokens; n++) {
        for (size_t i = 0; i < d; i++) {
            size_t first = n * t->top_k * d + i;
            if (t->uplink->options.real_bytes == 8) {
                double sum = 0;
                for (size_t k = 0; k < t->top_k; k++)
                    sum += ((const double *)t->dx_parts)[first + k * d];
                ((double *)t->dx)[n * d + i] = sum;
            } else {
                float sum = 0;
                for (size_t k = 0; k < t->top_k; k++)
                    sum += ((const float *)t->dx_parts)[first + k * d];
                ((float *)t->dx)[n * d + i] = sum;
            }
        }
    }
}

int smoe_ticket_input_gradient(struct smoe_uplink *u, const struct smoe_msg_input_gradient *m,
                               const struct smoe_blob *blob, struct smoe_why *why)
{
    struct smoe_uplink_ticket *t = addressed(u, m->batch, m->attempt);
    if (!t)
        return 0;
    if (t->state != SMOE_TICKET_GRADIENT)
        return smoe_fail(why, SMOE_ESTATE, "INPUT_GRADIENT: batch %llu does not wait for one",
                         (unsigned long long)m->batch);
    int rc = mark_visits(t, blob->data, m->rows, SEEN_GRADIENT, why);
    if (rc)
        return rc;
    if (!t->has_input_gradient)
        scatter(t->dx_parts, blob->data, blob->data + ((size_t)m->rows * 4 + 7) / 8 * 8, m->rows,
                smoe_ticket_row_bytes(t));
    t->gradients_in += m->rows;
    if (t->gradients_in < smoe_ticket_visits(t))
        return 0;
    if (!t->has_input_gradient)
        sum_parts(t);
    t->has_input_gradient = true;
    t->state = SMOE_TICKET_SETTLED;
    return 0;
}

/* ---- attempts and commits ---- */

void smoe_tickets_start_over(struct smoe_uplink *u)
{
    smoe_list_for_each (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (is_over(t))
            continue;
        t->state = SMOE_TICKET_QUEUED;
        t->visits_in = t->gradients_in = 0;
        memset(t->seen, 0, smoe_ticket_visits(t));
    }
}

bool smoe_tickets_gradients_sent(const struct smoe_uplink *u, uint64_t step)
{
    smoe_list_for_each (it, &u->tickets) {
        const struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (!t->evaluate && t->step == step && t->state < SMOE_TICKET_GRADIENT)
            return false;
    }
    return true;
}

void smoe_tickets_commit(struct smoe_uplink *u, uint64_t step)
{
    smoe_list_for_each_safe (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (t->evaluate || t->step != step || t->state == SMOE_TICKET_FAILED ||
            t->state == SMOE_TICKET_COMMITTED)
            continue;
        t->state = SMOE_TICKET_COMMITTED;
        drop_replay(t);
        if (t->released)
            smoe_ticket_free(t);
    }
}

static void send_discard(struct smoe_uplink *u, const struct smoe_uplink_ticket *t)
{
    struct smoe_message m = {.type = SMOE_MSG_DISCARD};
    m.discard = (struct smoe_msg_discard){t->batch, u->attempt};
    if (u->link == SMOE_ULINK_UP && t->state != SMOE_TICKET_QUEUED)
        (void)smoe_uplink_send(u, &m, NULL, 0);
}

void smoe_uplink_ticket_release(struct smoe_uplink_ticket *t)
{
    struct smoe_uplink *u = t->uplink;
    t->on_done = NULL;
    if (is_over(t)) {
        smoe_ticket_free(t);
    } else if (t->dy) {
        t->released = true; /* part of the next step */
    } else {
        send_discard(u, t);
        smoe_ticket_free(t);
    }
}

struct smoe_uplink_ticket *smoe_uplink_next_done(struct smoe_uplink *u)
{
    smoe_list_for_each (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (t->told || !(t->has_results || t->state == SMOE_TICKET_FAILED || u->failed))
            continue;
        t->told = true;
        if (t->on_done)
            return t;
    }
    return NULL;
}
