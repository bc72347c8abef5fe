/* SPDX-License-Identifier: Apache-2.0
 *
 * A slot's tokens become several batches, so that results come back while the slot lasts. The library has
 * tickets for SMOE_TICKETS_MAX of them: once a good part is out, since the fleet cannot keep up, what is left
 * is spread over the slots that are left. Where tickets run out all the same, batches wait here in order.
 */
#include "sim/whole_stream.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"

#define BATCHES_A_SLOT 128
#define TICKETS_FREELY (SMOE_TICKETS_MAX / 4) /* out at a time */

struct batch {
    struct smoe_list link;
    struct smoe_whole_stream *stream;
    struct smoe_uplink_ticket *ticket; /* NULL while it is held */
    uint32_t tokens;
    uint32_t complete;  /* of them, counted */
    uint32_t visits_in; /* of the ticket when it was counted */
    float *scores;      /* [tokens, experts], owned while it is held */
};

static struct batch *batch_of(struct smoe_list *link)
{
    return smoe_container_of(link, struct batch, link);
}

static void free_batch(struct batch *b)
{
    smoe_list_remove(&b->link);
    free(b->scores);
    free(b);
}

/* ---- beginning and end ---- */

void smoe_whole_stream_init(struct smoe_whole_stream *s, const struct smoe_scenario *scenario,
                            uint64_t slots, uint64_t seed)
{
    *s = (struct smoe_whole_stream){
        .scenario = scenario,
        .shape = {.experts = (uint32_t)scenario->spec.experts,
                  .d_model = 1,
                  .d_ff = 1,
                  .activation = SMOE_RELU,
                  .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                  .optimizer = SMOE_SGD,
                  .seed = seed},
        .layer = UINT32_MAX,
        .slots_left = slots};
    smoe_sim_stream_init(&s->stream, scenario, seed);
    s->scores = smoe_sim_alloc((size_t)s->stream.tokens_max * s->shape.experts, sizeof *s->scores);
    s->x = smoe_sim_alloc(s->stream.tokens_max, sizeof(smoe_real));
    smoe_list_init(&s->held);
    smoe_list_init(&s->sent);
}

void smoe_whole_stream_release(struct smoe_whole_stream *s)
{
    smoe_list_for_each_safe (it, &s->held)
        free_batch(batch_of(it));
    smoe_list_for_each_safe (it, &s->sent)
        free_batch(batch_of(it)); /* tickets go with the uplink */
    smoe_sim_stream_release(&s->stream);
    free(s->scores);
    free(s->x);
}

static void fail(struct smoe_whole_stream *s, const char *sentence)
{
    s->state = SMOE_STREAM_FAILED;
    smoe_why_set(&s->why, "%s", sentence);
}

/* ---- the layer ---- */

static void declare(struct smoe_whole_stream *s, uint64_t now_ns)
{
    uint64_t slot_ns = s->scenario->spec.slot_ns;
    struct smoe_why why = {""};
    if (s->layer == UINT32_MAX &&
        smoe_uplink_declare(s->uplink, "stream", &s->shape, false, &s->layer, &why)) {
        fail(s, why.text);
        return;
    }
    const struct smoe_uplink_layer *layer = smoe_uplink_layer(s->uplink, s->layer);
    if (layer->state == SMOE_ULAYER_FAILED)
        fail(s, layer->why.text);
    if (layer->state != SMOE_ULAYER_READY)
        return;
    s->state = SMOE_STREAM_RUNS; /* from the next whole slot on */
    s->first_end_ns = now_ns + 2 * slot_ns - (now_ns - s->origin_ns) % slot_ns;
    s->next_draw_ns = s->first_end_ns - slot_ns / 2;
}

/* ---- what comes back ---- */

/* Tokens all of whose K visits have come. */
static uint32_t complete_of(const struct smoe_uplink_ticket *t)
{
    uint32_t complete = 0;
    for (uint32_t i = 0; i < t->tokens; i++) {
        uint32_t come = 0;
        for (uint32_t k = 0; k < t->top_k; k++)
            come += t->seen[(size_t)i * t->top_k + k] != 0;
        complete += come == t->top_k;
    }
    return complete;
}

static void count(struct smoe_whole_stream *s, struct batch *b)
{
    if (b->ticket->visits_in == b->visits_in)
        return;
    uint32_t complete = complete_of(b->ticket);
    s->complete += complete - b->complete;
    b->complete = complete;
    b->visits_in = b->ticket->visits_in;
}

/* A batch that is done, or was refused, gives its ticket back. */
static void on_done(void *context, void *ticket, int status)
{
    struct batch *b = context;
    struct smoe_whole_stream *s = b->stream;
    if (status) {
        fail(s, b->ticket->why.text);
        return;
    }
    count(s, b);
    smoe_uplink_ticket_release(ticket);
    free_batch(b);
    s->n_sent--;
}

void smoe_whole_stream_count(struct smoe_whole_stream *s)
{
    smoe_list_for_each (it, &s->sent)
        count(s, batch_of(it));
}

/* ---- submitting ---- */

/* Sum of the K largest of g[experts]; no score is taken twice. */
static double best_mass(const struct smoe_whole_stream *s, const float *g)
{
    double mass = 0;
    uint64_t taken[SMOE_EXPERTS_MAX / 64] = {0};
    for (uint64_t k = 0; k < s->scenario->spec.top_k; k++) {
        uint32_t best = 0;
        float largest = -1;
        for (uint32_t e = 0; e < s->shape.experts; e++)
            if (g[e] > largest && !(taken[e / 64] >> e % 64 & 1)) {
                best = e;
                largest = g[e];
            }
        taken[best / 64] |= UINT64_C(1) << best % 64;
        mass += (double)largest;
    }
    return mass;
}

static uint32_t batches_of_slot(const struct smoe_whole_stream *s)
{
    uint64_t left = s->n_sent < SMOE_TICKETS_MAX ? SMOE_TICKETS_MAX - s->n_sent : 0;
    uint64_t batches = s->n_sent < TICKETS_FREELY ? BATCHES_A_SLOT : left / s->slots_left;
    return batches < 1 ? 1 : batches < BATCHES_A_SLOT ? (uint32_t)batches : BATCHES_A_SLOT;
}

static void draw(struct smoe_whole_stream *s)
{
    uint32_t n = smoe_sim_stream_count(&s->stream), experts = s->shape.experts;
    uint32_t batches = batches_of_slot(s), each = (n + batches - 1) / batches;
    smoe_sim_stream_scores(&s->stream, n, s->scores);
    for (uint32_t i = 0; i < n; i++)
        s->mass_best += best_mass(s, s->scores + (size_t)i * experts);
    for (uint32_t first = 0; first < n; first += each) {
        struct batch *b = smoe_sim_alloc(1, sizeof *b);
        b->stream = s;
        b->tokens = n - first < each ? n - first : each;
        b->scores = smoe_sim_alloc((size_t)b->tokens * experts, sizeof *b->scores);
        memcpy(b->scores, s->scores + (size_t)first * experts,
               (size_t)b->tokens * experts * sizeof *b->scores);
        smoe_list_push_back(&s->held, &b->link);
    }
    s->tokens += n;
    s->last_tokens = n;
    s->slots_left--;
    s->next_draw_ns += s->scenario->spec.slot_ns;
}

static void submit(struct smoe_whole_stream *s, struct batch *b)
{
    struct smoe_why why = {""};
    struct smoe_uplink_submit m = {.layer = s->layer,
                                   .tokens = b->tokens,
                                   .top_k = (uint32_t)s->scenario->spec.top_k,
                                   .scores = b->scores,
                                   .x = s->x,
                                   .evaluate = true,
                                   .on_done = on_done,
                                   .context = b};
    if (smoe_uplink_submit(s->uplink, &m, &b->ticket, &why)) {
        fail(s, why.text);
        return;
    }
    free(b->scores); /* the ticket has its own */
    b->scores = NULL;
    smoe_list_remove(&b->link);
    smoe_list_push_back(&s->sent, &b->link);
    s->n_sent++;
}

/* ---- the program ---- */

static void start(void *context, struct smoe_uplink *uplink)
{
    ((struct smoe_whole_stream *)context)->uplink = uplink;
}

static void advance(void *context, uint64_t now_ns)
{
    struct smoe_whole_stream *s = context;
    const char *sentence;
    if (smoe_uplink_failed(s->uplink, &sentence))
        fail(s, sentence);
    if (s->state == SMOE_STREAM_DECLARING)
        declare(s, now_ns);
    if (s->state != SMOE_STREAM_RUNS)
        return;
    while (s->slots_left && now_ns >= s->next_draw_ns)
        draw(s);
    while (s->state == SMOE_STREAM_RUNS && !smoe_list_empty(&s->held) &&
           s->n_sent < SMOE_TICKETS_MAX)
        submit(s, batch_of(smoe_list_first(&s->held)));
}

static uint64_t wake_ns(const void *context)
{
    const struct smoe_whole_stream *s = context;
    return s->state == SMOE_STREAM_RUNS && s->slots_left ? s->next_draw_ns : SMOE_SIM_NEVER;
}

static void end(void *context)
{
    struct smoe_whole_stream *s = context;
    smoe_list_for_each_safe (it, &s->sent)
        free_batch(batch_of(it));
    s->uplink = NULL;
}

const struct smoe_sim_program smoe_whole_stream_program = {start, advance, wake_ns, end};
