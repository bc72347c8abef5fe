/* SPDX-License-Identifier: Apache-2.0
 *
 * Synthetic data. A float world learns by least squares: with gates s (the scores of the experts that
 * were visited, as the gateway returned them) the output is o = sum_k s_k y_k, the target a fixed
 * shuffle of x, the loss |o - t|^2 / 2 and so dy_k = s_k (o - t). An exact world draws numbers below
 * the prime; dy depends on y, so that a wrong result spoils everything after it.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/detmath.h"
#include "sim/script.h"

static void draw_scores(struct smoe_rng *rng, double skew, uint32_t first, uint32_t experts,
                        float *ret)
{
    double sum = 0;
    for (uint32_t e = 0; e < experts; e++) {
        double g = smoe_exp(smoe_rng_normal(rng) - skew * ((e + first) % experts));
        ret[e] = (float)g;
        sum += g;
    }
    for (uint32_t e = 0; e < experts; e++)
        ret[e] = (float)((double)ret[e] / sum);
}

float smoe_script_table(const struct smoe_script *s, uint32_t layer, uint32_t code, uint32_t expert)
{
    uint64_t seed = s->process->world->options.seed;
    uint64_t number = ((uint64_t)layer << 32) + code * SMOE_EXPERTS_MAX + expert;
    return (float)(smoe_mix64(smoe_mix64(seed) ^ number) % 1024) / 1024; /* ties are welcome */
}

/* The scores of a step in which a frozen table scores are its rows. */
static void draw_codes(const struct smoe_script *s, struct smoe_script_batch *b,
                       struct smoe_rng *rng)
{
    uint32_t experts = s->options->shape.experts;
    b->by_codes = true;
    for (uint32_t t = 0; t < s->options->tokens; t++) {
        b->codes[t] = (uint32_t)smoe_rng_below(rng, SMOE_SCRIPT_CODES);
        for (uint32_t e = 0; e < experts; e++)
            b->scores[t * experts + e] = smoe_script_table(s, b->layer, b->codes[t], e);
    }
}

void smoe_script_draw(const struct smoe_script *s, struct smoe_script_batch *b, uint32_t number)
{
    const struct smoe_sim_trainer_options *o = s->options;
    bool exact = s->process->world->options.arithmetic == SMOE_SIM_EXACT;
    struct smoe_rng rng;
    uint64_t stream = (uint64_t)s->process->number << 48 | b->step << 20 | number;
    smoe_rng_init(&rng, ~s->process->world->options.seed, stream);
    for (size_t i = 0; i < (size_t)o->tokens * o->shape.d_model; i++)
        b->x[i] = exact ? (smoe_real)smoe_rng_below(&rng, SMOE_SIM_PRIME)
                        : (smoe_real)smoe_rng_normal(&rng);
    for (uint32_t t = 0; t < o->tokens; t++)
        draw_scores(&rng, o->skew, o->turns ? (uint32_t)b->step : 0, o->shape.experts,
                    b->scores + (size_t)t * o->shape.experts);
    if (o->freeze_step && b->step >= o->freeze_step)
        draw_codes(s, b, &rng);
}

void smoe_script_freeze(struct smoe_script *s, uint32_t l)
{
    uint32_t experts = s->options->shape.experts;
    const struct smoe_frozen_head head = {
        .version = 1, .kind = SMOE_FROZEN_TABLE, .inputs = SMOE_SCRIPT_CODES};
    float *values = smoe_sim_alloc(SMOE_SCRIPT_CODES * experts, sizeof *values);
    struct smoe_why why = {""};
    for (uint32_t i = 0; i < SMOE_SCRIPT_CODES * experts; i++)
        values[i] = smoe_script_table(s, l, i / experts, i % experts);
    int rc = smoe_uplink_freeze(s->uplink, s->layers[l], &head, values, &why);
    free(values);
    s->frozen[l] = rc == 0;
    if (rc)
        smoe_script_give_up(s, rc, why.text);
}

bool smoe_script_as_frozen(const struct smoe_script *s, const struct smoe_script_batch *b)
{
    const struct smoe_uplink_ticket *t = b->ticket;
    uint32_t experts = s->options->shape.experts, k = t->top_k;
    for (uint32_t v = 0; v < t->tokens * k; v++) {
        const float *row = b->scores + v / k * experts;
        uint32_t e = t->experts[v], before = 0;
        for (uint32_t other = 0; other < experts; other++)
            before += row[other] > row[e] || (row[other] == row[e] && other < e);
        if (before >= k || t->scores[v] != row[e])
            return false;
    }
    return true;
}

/* (3 y + a hash of the visit and i) mod p */
static void exact_gradient(const struct smoe_uplink_ticket *t, size_t d, smoe_real *ret_dy)
{
    const smoe_real *y = t->y;
    for (size_t i = 0; i < (size_t)t->tokens * t->top_k * d; i++) {
        uint64_t noise = smoe_mix64(t->tokens + i) % SMOE_SIM_PRIME;
        ret_dy[i] = (smoe_real)((3 * smoe_sim_residue(y[i]) + noise) % SMOE_SIM_PRIME);
    }
}

/* One token; returns its loss. */
static double token_loss(const struct smoe_uplink_ticket *t, size_t token, size_t d,
                         const float *gates, const smoe_real *x, smoe_real *ret_dy)
{
    const smoe_real *y = (const smoe_real *)t->y + token * t->top_k * d;
    double loss = 0;
    for (size_t i = 0; i < d; i++) {
        double out = 0;
        for (size_t k = 0; k < t->top_k; k++)
            out += (double)gates[k] * (double)y[k * d + i];
        double residue = out - 0.5 * (double)x[(i + 1) % d];
        loss += residue * residue / 2;
        for (size_t k = 0; k < t->top_k; k++)
            ret_dy[k * d + i] = (smoe_real)((double)gates[k] * residue);
    }
    return loss;
}

double smoe_script_loss(const struct smoe_script *s, struct smoe_script_batch *b, smoe_real *ret_dy)
{
    const struct smoe_uplink_ticket *t = b->ticket;
    size_t d = s->options->shape.d_model, experts = s->options->shape.experts;
    double loss = 0;
    if (s->process->world->options.arithmetic == SMOE_SIM_EXACT) {
        exact_gradient(t, d, ret_dy);
        return 0;
    }
    for (size_t token = 0; token < t->tokens; token++) {
        float gates[SMOE_TOP_K_MAX];
        for (size_t k = 0; k < t->top_k; k++)
            gates[k] = b->scores[token * experts + t->experts[token * t->top_k + k]];
        loss += token_loss(t, token, d, gates, b->x + token * d, ret_dy + token * t->top_k * d);
    }
    return loss;
}
