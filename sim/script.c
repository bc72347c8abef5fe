/* SPDX-License-Identifier: Apache-2.0
 *
 * `smoe_script_advance` tries, again and again until nothing moves: take the step's result; look at
 * batches; submit; begin the step. A step's result comes first, because results that came with it
 * in one read belong to the new parameters.
 *
 * Recorded routes: the experts that the tickets name when their results are complete.
 */
#include "sim/script.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

#define ASK_AGAIN_MIN_NS (50 * SMOE_SIM_MS)
#define ASK_AGAIN_MAX_NS (4000 * SMOE_SIM_MS)

static uint64_t now_of(const struct smoe_script *s)
{
    return s->process->world->clock.now_ns;
}

static enum smoe_sim_arithmetic arithmetic_of(const struct smoe_script *s)
{
    return s->process->world->options.arithmetic;
}

/* ---- batches ---- */

static struct smoe_script_batch *batch_of(struct smoe_list *link)
{
    return smoe_container_of(link, struct smoe_script_batch, link);
}

static struct smoe_script_batch *new_batch(const struct smoe_script *s, uint32_t number)
{
    const struct smoe_sim_trainer_options *o = s->options;
    struct smoe_script_batch *b = smoe_sim_alloc(1, sizeof *b);
    size_t row = o->shape.d_model;
    b->layer = number % o->n_layers;
    b->step = s->target;
    b->x = smoe_sim_alloc(o->tokens * row, sizeof *b->x);
    b->dy = smoe_sim_alloc(o->tokens * row * o->top_k, sizeof *b->dy);
    b->scores = smoe_sim_alloc((size_t)o->tokens * o->shape.experts, sizeof *b->scores);
    b->codes = smoe_sim_alloc(o->tokens, sizeof *b->codes);
    smoe_list_init(&b->link);
    smoe_script_draw(s, b, number);
    return b;
}

static void free_batch(struct smoe_script_batch *b)
{
    smoe_list_remove(&b->link);
    free(b->x);
    free(b->dy);
    free(b->scores);
    free(b->codes);
    free(b);
}

/* The ticket goes back to the uplink. */
static void end_batch(struct smoe_script_batch *b)
{
    smoe_uplink_ticket_release(b->ticket);
    free_batch(b);
}

static struct smoe_oracle_batch recorded(const struct smoe_script *s,
                                         const struct smoe_script_batch *b)
{
    return (struct smoe_oracle_batch){.n = s->options->tokens,
                                      .top_k = s->options->top_k,
                                      .x = b->x,
                                      .dy = b->dy,
                                      .experts = b->ticket->experts,
                                      .ahead = b->ticket->ahead,
                                      .base = b->ticket->base};
}

/* ---- beginning and end ---- */

void smoe_script_init(struct smoe_script *s, struct smoe_sim_process *process,
                      struct smoe_uplink *uplink, const struct smoe_sim_trainer_options *options)
{
    *s =
        (struct smoe_script){.process = process, .uplink = uplink, .options = options, .target = 1};
    smoe_list_init(&s->batches);
    for (uint32_t l = 0; l < SMOE_SIM_LAYERS_MAX; l++)
        s->layers[l] = UINT32_MAX;
    for (uint32_t l = 0; l < options->n_layers && !options->evaluate; l++)
        smoe_oracle_init(&s->oracles[l], arithmetic_of(s), &options->shape, options->top_k,
                         options->tokens);
    s->has_oracles = !options->evaluate;
}

void smoe_script_release(struct smoe_script *s)
{
    smoe_list_for_each_safe (it, &s->batches)
        free_batch(batch_of(it)); /* tickets go with the uplink */
    for (uint32_t l = 0; l < SMOE_SIM_LAYERS_MAX; l++)
        smoe_oracle_release(&s->oracles[l]);
    s->has_oracles = false;
}

bool smoe_script_over(const struct smoe_script *s)
{
    return s->state >= SMOE_SCRIPT_DONE;
}

void smoe_script_give_up(struct smoe_script *s, int code, const char *sentence)
{
    if (smoe_script_over(s))
        return;
    s->state = SMOE_SCRIPT_FAILED;
    s->view.failed = code;
    smoe_why_set(&s->view.why, "%s", sentence);
    smoe_sim_trace_say(&s->process->world->trace, "%s gives up: %s", s->process->name, sentence);
}

static void finish(struct smoe_script *s)
{
    s->state = SMOE_SCRIPT_DONE;
    s->view.done = true;
    smoe_sim_trace_say(&s->process->world->trace, "%s is done", s->process->name);
}

/* Something is not what it must be. */
static void check_error(struct smoe_script *s, const char *what, uint64_t number, double error)
{
    double tolerance = smoe_oracle_tolerance(&s->oracles[0]); /* all layers are alike */
    if (error > s->view.error_max)
        s->view.error_max = error;
    if (!(error <= tolerance))
        smoe_world_fail(s->process->world, SMOE_ESTATE, "%s: %s %llu is wrong by %g",
                        s->process->name, what, (unsigned long long)number, error);
}

/* ---- layers ---- */

static void declare(struct smoe_script *s, uint32_t l)
{
    const struct smoe_sim_trainer_options *o = s->options;
    struct smoe_why why = {""};
    char name[SMOE_NAME_MAX + 1];
    snprintf(name, sizeof name, "%.40s-%u", o->layer_name, l);
    int rc = smoe_uplink_declare(s->uplink, name, o->evaluate ? NULL : &o->shape, o->evaluate,
                                 &s->layers[l], &why);
    if (rc)
        smoe_script_give_up(s, rc, why.text);
}

/* The layer is not there yet: asked again later and later, for the uplink remembers each answer. */
static void declare_later(struct smoe_script *s)
{
    s->declare_pause_ns =
        s->declare_pause_ns ? 2 * s->declare_pause_ns : (uint64_t)ASK_AGAIN_MIN_NS;
    if (s->declare_pause_ns > ASK_AGAIN_MAX_NS)
        s->declare_pause_ns = ASK_AGAIN_MAX_NS;
    s->declare_at_ns = now_of(s) + s->declare_pause_ns;
}

/* True when all layers are ready. A layer that an evaluator finds nowhere may come. */
static bool layers_ready(struct smoe_script *s)
{
    bool ready = true;
    if (now_of(s) < s->declare_at_ns)
        return false;
    s->declare_at_ns = 0;
    for (uint32_t l = 0; l < s->options->n_layers && !smoe_script_over(s); l++) {
        if (s->layers[l] == UINT32_MAX)
            declare(s, l);
        if (smoe_script_over(s))
            return false;
        const struct smoe_uplink_layer *layer = smoe_uplink_layer(s->uplink, s->layers[l]);
        ready = ready && layer->state == SMOE_ULAYER_READY;
        if (layer->state != SMOE_ULAYER_FAILED)
            continue;
        if (!s->options->evaluate || layer->code != SMOE_EUNKNOWN) {
            smoe_script_give_up(s, layer->code, layer->why.text);
            return false;
        }
        s->layers[l] = UINT32_MAX;
        declare_later(s);
    }
    return ready;
}

/* ---- results and gradients ---- */

static void look_at_results(struct smoe_script *s, struct smoe_script_batch *b)
{
    struct smoe_oracle_batch r = recorded(s, b);
    b->answered = true;
    b->think_until_ns = now_of(s) + s->options->think_ns;
    s->view.batches++;
    if (b->by_codes && !smoe_script_as_frozen(s, b))
        smoe_world_fail(s->process->world, SMOE_ESTATE,
                        "%s: step %llu was not routed as its router was frozen", s->process->name,
                        (unsigned long long)b->step);
    if (s->has_oracles)
        check_error(s, "a result of step", b->step,
                    smoe_oracle_forward_error(&s->oracles[b->layer], &r, b->ticket->y));
}

static void give_gradient(struct smoe_script *s, struct smoe_script_batch *b)
{
    const struct smoe_sim_trainer_options *o = s->options;
    struct smoe_why why = {""};
    double loss = smoe_script_loss(s, b, b->dy);
    if (b->step == o->poison_step && !s->poisoned) {
        b->dy[0] = (smoe_real)NAN;
        s->poisoned = true;
    }
    int rc = smoe_uplink_gradient(b->ticket, b->dy, &why);
    smoe_assert(rc == 0 || rc == SMOE_ENOMEMORY);
    if (rc)
        return; /* there may be memory the next time */
    s->loss_sum += loss;
    b->given = true;
}

static bool look_at_batch(struct smoe_script *s, struct smoe_script_batch *b)
{
    if (b->ticket->state == SMOE_TICKET_FAILED) {
        s->view.failed_batches++;
        if (b->ticket->code == SMOE_ELOST)
            smoe_script_give_up(s, SMOE_ELOST, b->ticket->why.text);
        end_batch(b);
        return true;
    }
    if (!b->answered && b->ticket->has_results) {
        look_at_results(s, b);
        return true;
    }
    if (b->answered && s->options->evaluate) {
        end_batch(b);
        return true;
    }
    if (b->answered && !b->given && now_of(s) >= b->think_until_ns) {
        give_gradient(s, b);
        return true;
    }
    return false;
}

static bool look_at_batches(struct smoe_script *s)
{
    bool moved = false;
    smoe_list_for_each_safe (it, &s->batches)
        moved |= look_at_batch(s, batch_of(it));
    return moved;
}

/* ---- submitting ---- */

static uint32_t without_gradient(const struct smoe_script *s)
{
    uint32_t n = 0;
    smoe_list_for_each (it, &s->batches)
        n += !batch_of(it)->given;
    return n;
}

static bool submit(struct smoe_script *s)
{
    const struct smoe_sim_trainer_options *o = s->options;
    struct smoe_why why = {""};
    if (s->target > o->steps || s->submitted == o->batches || s->restoring ||
        without_gradient(s) >= o->in_flight || (s->stepping && !o->pipelined))
        return false;
    struct smoe_script_batch *b = new_batch(s, s->submitted++);
    struct smoe_uplink_submit m = {.layer = s->layers[b->layer],
                                   .tokens = o->tokens,
                                   .top_k = o->top_k,
                                   .scores = b->by_codes ? NULL : b->scores,
                                   .codes = b->by_codes ? b->codes : NULL,
                                   .x = b->x,
                                   .evaluate = o->evaluate};
    if (b->by_codes && !s->frozen[b->layer])
        smoe_script_freeze(s, b->layer);
    int rc = smoe_uplink_submit(s->uplink, &m, &b->ticket, &why);
    if (rc && o->evaluate) { /* a new gateway does not know its layer yet: declare it again */
        free_batch(b);
        s->submitted--;
        s->state = SMOE_SCRIPT_DECLARING;
        declare_later(s);
        return false;
    }
    if (rc) {
        bool by_codes = b->by_codes;
        free_batch(b);
        s->submitted--;
        if (rc != SMOE_ENOMEMORY || by_codes) /* a router that was refused is refused for good */
            smoe_script_give_up(s, rc, why.text);
        return rc == SMOE_ENOMEMORY; /* then once more */
    }
    smoe_list_push_back(&s->batches, &b->link);
    return true;
}

/* ---- steps ---- */

/* All batches of the target are there and have what they need before a step. */
static bool may_step(const struct smoe_script *s)
{
    if (s->stepping || s->restoring || s->submitted < s->options->batches)
        return false;
    smoe_list_for_each (it, &s->batches) {
        const struct smoe_script_batch *b = batch_of(it);
        if (!b->given || (!b->ticket->has_input_gradient && !s->options->hasty))
            return false;
    }
    return true;
}

static bool begin_step(struct smoe_script *s)
{
    const struct smoe_sim_trainer_options *o = s->options;
    struct smoe_why why = {""};
    if (s->target > o->steps || !may_step(s))
        return false;
    if (o->evaluate) { /* a round is over */
        s->target++;
        s->submitted = 0;
        return true;
    }
    struct smoe_msg_step m = {.optimizer = o->optimizer,
                              .gradient_divisor = (double)o->tokens * o->batches,
                              .clip_norm = o->clip_norm,
                              .dense_square_norm = o->dense_square_norm};
    int rc = smoe_uplink_step(s->uplink, &m, &why);
    if (rc) {
        smoe_script_give_up(s, rc, why.text);
        return false;
    }
    s->stepping = true;
    s->view.last_loss = s->loss_sum / ((double)o->tokens * o->batches);
    if (s->target == 1)
        s->view.first_loss = s->view.last_loss;
    s->loss_sum = 0;
    s->target++;
    s->submitted = 0;
    return true;
}

static struct smoe_optimizer optimizer_of(const struct smoe_script *s, double clip_scale)
{
    const struct smoe_step_optimizer *o = &s->options->optimizer;
    double divisor = (double)s->options->tokens * s->options->batches;
    return (struct smoe_optimizer){.kind = (enum smoe_optimizer_kind)o->kind,
                                   .learning_rate = o->learning_rate,
                                   .momentum = o->momentum,
                                   .beta1 = o->beta1,
                                   .beta2 = o->beta2,
                                   .epsilon = o->epsilon,
                                   .weight_decay = o->weight_decay,
                                   .gradient_scale = clip_scale / divisor,
                                   .t = s->view.steps};
}

/* Norm and clip scale must be those of all experts and the dense part together. */
static void check_norm(struct smoe_script *s, const struct smoe_msg_step_done *done)
{
    double divisor = (double)s->options->tokens * s->options->batches;
    double square = s->options->dense_square_norm, clip = s->options->clip_norm;
    for (uint32_t l = 0; l < s->options->n_layers; l++)
        square += smoe_oracle_square_norm(&s->oracles[l], divisor);
    double norm = sqrt(done->square_norm);
    double scale = clip > 0 && norm > clip ? clip / norm : 1;
    check_error(s, "the square norm of step", done->step,
                fabs(done->square_norm - square) / (square + 1e-30));
    if (done->clip_scale < scale || done->clip_scale > scale)
        smoe_world_fail(s->process->world, SMOE_ESTATE, "%s: the clip scale of step %llu is wrong",
                        s->process->name, (unsigned long long)done->step);
}

/* The step is committed: the oracle makes it too. */
static void commit(struct smoe_script *s, const struct smoe_msg_step_done *done)
{
    s->view.steps++;
    s->view.clip_scale = done->clip_scale;
    if (done->step != s->view.steps)
        smoe_world_fail(s->process->world, SMOE_ESTATE, "%s: step %llu was answered, not %llu",
                        s->process->name, (unsigned long long)done->step,
                        (unsigned long long)s->view.steps);
    smoe_list_for_each_safe (it, &s->batches) {
        struct smoe_script_batch *b = batch_of(it);
        if (b->step != done->step)
            continue;
        struct smoe_oracle_batch r = recorded(s, b);
        const smoe_real *dx = b->ticket->has_input_gradient ? b->ticket->dx : NULL;
        check_error(s, "an input gradient of step", done->step,
                    smoe_oracle_add(&s->oracles[b->layer], &r, dx));
        end_batch(b);
    }
    check_norm(s, done);
    struct smoe_optimizer optimizer = optimizer_of(s, done->clip_scale);
    for (uint32_t l = 0; l < s->options->n_layers; l++)
        smoe_oracle_step(&s->oracles[l], &optimizer);
}

/* True if one of its batches has failed: the step is made again of all that is left. */
static bool make_again(struct smoe_script *s)
{
    bool any = false;
    smoe_list_for_each_safe (it, &s->batches) {
        struct smoe_script_batch *b = batch_of(it);
        b->step = s->view.steps + 1;
        if (b->ticket->state == SMOE_TICKET_FAILED)
            any |= look_at_batch(s, b);
    }
    s->target = s->view.steps + 1;
    s->submitted = s->options->batches;
    return any;
}

/* A step that was refused is made again; or what is uncommitted is dropped as soon as the link allows. */
static bool take_step(struct smoe_script *s)
{
    const struct smoe_step_state *step = smoe_uplink_step_state(s->uplink);
    if (!s->stepping || step->pending || !step->done)
        return false;
    s->stepping = false;
    if (step->code) {
        s->view.failed_steps++;
        s->view.step_why = step->why;
        bool passing = step->code == SMOE_ENOTFINITE; /* no other failure goes away by itself */
        s->restoring = passing && !make_again(s);
        if (!passing)
            smoe_script_give_up(s, step->code, step->why.text);
    } else {
        commit(s, &step->result);
    }
    smoe_uplink_step_taken(s->uplink);
    return true;
}

static bool restore(struct smoe_script *s)
{
    struct smoe_why why = {""};
    if (!s->restoring || smoe_uplink_restore(s->uplink, s->view.steps, &why))
        return false;
    s->restoring = false;
    s->target = s->view.steps + 1;
    s->submitted = 0;
    s->loss_sum = 0;
    smoe_list_for_each_safe (it, &s->batches)
        end_batch(batch_of(it));
    return true;
}

/* ---- the door ---- */

void smoe_script_advance(struct smoe_script *s)
{
    const char *sentence;
    int failed = smoe_uplink_failed(s->uplink, &sentence);
    if (failed)
        smoe_script_give_up(s, failed, sentence);
    if (s->state == SMOE_SCRIPT_DECLARING && layers_ready(s))
        s->state = SMOE_SCRIPT_WORKING;
    while (s->state == SMOE_SCRIPT_WORKING) {
        bool moved = take_step(s) || restore(s) || look_at_batches(s) || submit(s) || begin_step(s);
        if (s->state == SMOE_SCRIPT_WORKING && s->target > s->options->steps && !s->stepping &&
            !s->restoring)
            finish(s);
        if (!moved)
            break;
    }
}

uint64_t smoe_script_wake_ns(const struct smoe_script *s)
{
    uint64_t wake =
        s->state == SMOE_SCRIPT_DECLARING && s->declare_at_ns ? s->declare_at_ns : SMOE_SIM_NEVER;
    smoe_list_for_each (it, &s->batches) {
        const struct smoe_script_batch *b = batch_of(it);
        if (s->state == SMOE_SCRIPT_WORKING && b->answered && !b->given && b->think_until_ns < wake)
            wake = b->think_until_ns;
    }
    return wake;
}
