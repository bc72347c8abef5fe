/* SPDX-License-Identifier: Apache-2.0
 *
 * The tokens near a tie. A token whose K-th choice beats the next one by a margin keeps its choices until
 * prices have moved against each other by that much: what one price has risen more than another is at most
 * the spread of the movement, greatest less least. As sweeps converge prices move less and less, and fewer
 * and fewer tokens are in doubt: only these are looked at again. Their scores are gathered, so that the hot
 * pass streams over them.
 *
 *     level 0   all tokens, where they lie; results in answer->expert and the scratch
 *     level l   those of level l-1 whose margin was within reach[l] when prices were those kept for l;
 *               gathered tokens 0..n[l]-1, so a level is a beginning of the one before
 *
 * Invariant: before a pass at level l, for each level up to it, prices have moved by a spread of at most
 * reach since: so every token set aside still holds its K cheapest, and kept loads are its visits. A
 * movement too far gives up levels, and the next pass looks at more tokens again.
 */
#include <math.h>
#include <string.h>

#include "common/base/limits.h"
#include "daemon/core/route_arcs.h"
#include "daemon/core/route_internal.h"
#include "daemon/core/route_pick.h"

/* A reach allows for so many movements as the last one: few where it costs passes, more later. */
static const double AHEAD_FIRST = 2, AHEAD = 4;

/* How far prices have moved against each other since. */
static double spread_since(const struct smoe_route_run *run, const double *before)
{
    const double *now = run->scratch->expert_price;
    double most = -(double)INFINITY, least = (double)INFINITY;
    for (uint32_t e = 0; e < run->problem->n_experts; e++) {
        if (isinf(now[e]))
            continue;
        double moved = now[e] - before[e];
        most = moved > most ? moved : most;
        least = moved < least ? moved : least;
    }
    return most - least;
}

static double *level_price(const struct smoe_route_run *run, uint32_t level)
{
    return run->scratch->level_price + (size_t)(level - 1) * run->problem->n_experts;
}

static uint32_t *level_load(const struct smoe_route_run *run, uint32_t level)
{
    return run->scratch->level_load + (size_t)(level - 1) * run->problem->n_experts;
}

struct smoe_route_view smoe_route_view(const struct smoe_route_run *run)
{
    const struct smoe_route_scratch *s = run->scratch;
    if (run->level == 0)
        return (struct smoe_route_view){run->n_tokens, run->answer->expert, s->runner_up,
                                        s->margin};
    return (struct smoe_route_view){run->level_tokens[run->level], s->near_chosen,
                                    s->near_runner_up, s->near_margin};
}

static void gather(struct smoe_route_run *run, uint32_t token, uint32_t to)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    size_t n_experts = problem->n_experts;
    s->near_token[to] = token;
    memcpy(s->near_scores + to * n_experts, problem->scores + token * n_experts,
           n_experts * sizeof *s->near_scores);
}

static void gather_result(struct smoe_route_run *run, uint32_t token, uint32_t to)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t top_k = run->problem->top_k;
    memcpy(s->near_chosen + (size_t)to * top_k, run->answer->expert + (size_t)token * top_k,
           top_k * sizeof *s->near_chosen);
    s->near_runner_up[to] = s->runner_up[token];
    s->near_cutoff[to] = s->cutoff[token];
    s->near_margin[to] = s->margin[token];
}

#define SWAP(type, x, y) \
    do {                 \
        type t = (x);    \
        (x) = (y);       \
        (y) = t;         \
    } while (0)

/* Two gathered tokens change places. Not their scores: those of the first `kept` move up, what was there is
 * gathered again when it is needed. */
static void swap_near(struct smoe_route_run *run, uint32_t kept, uint32_t from)
{
    struct smoe_route_scratch *s = run->scratch;
    size_t n_experts = run->problem->n_experts, top_k = run->problem->top_k;
    if (kept == from)
        return;
    memcpy(s->near_scores + kept * n_experts, s->near_scores + from * n_experts,
           n_experts * sizeof *s->near_scores);
    SWAP(uint32_t, s->near_token[kept], s->near_token[from]);
    for (uint32_t k = 0; k < top_k; k++)
        SWAP(uint16_t, s->near_chosen[kept * top_k + k], s->near_chosen[from * top_k + k]);
    SWAP(uint16_t, s->near_runner_up[kept], s->near_runner_up[from]);
    SWAP(double, s->near_cutoff[kept], s->near_cutoff[from]);
    SWAP(double, s->near_margin[kept], s->near_margin[from]);
}

static uint32_t count_within(const struct smoe_route_view *view, double reach)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < view->n_tokens; i++)
        n += view->margin[i] <= reach;
    return n;
}

/* Sets aside the tokens of the last pass that the movement since cannot concern, if they are many. */
static void narrow(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t top_k = run->problem->top_k, kept = 0;
    struct smoe_route_view view = smoe_route_view(run);
    double reach = (run->level == 0 ? AHEAD_FIRST : AHEAD) * spread_since(run, s->pass_price);
    uint32_t n = count_within(&view, reach);
    if (run->level == SMOE_ROUTE_LEVELS || n > view.n_tokens / 2 ||
        n > run->n_tokens / SMOE_ROUTE_NEAR_PART)
        return;
    for (uint32_t i = 0; i < view.n_tokens; i++) {
        if (!(view.margin[i] <= reach))
            continue;
        if (run->level == 0) {
            gather(run, i, kept);
            gather_result(run, i, kept);
        } else {
            swap_near(run, kept, i);
        }
        kept++;
    }
    run->level++;
    run->level_tokens[run->level] = n;
    run->level_reach[run->level] = reach;
    size_t n_experts = run->problem->n_experts;
    memcpy(level_price(run, run->level), s->pass_price, n_experts * sizeof *s->pass_price);
    uint32_t *aside = level_load(run, run->level);
    memcpy(aside, s->expert_load, n_experts * sizeof *aside);
    for (size_t v = 0; v < (size_t)n * top_k; v++)
        aside[s->near_chosen[v]]--;
}

/* The hot pass over the first n gathered tokens, at expert_price; its loads into near_load. */
static void pass_near(struct smoe_route_run *run, uint32_t n)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    struct smoe_route_pick pick = {
        .n_tokens = n,
        .n_experts = problem->n_experts,
        .top_k = problem->top_k,
        .scores = s->near_scores,
        .weight = problem->score_weight,
        .prices = s->expert_price,
        .row = s->row,
        .chosen = s->near_chosen,
        .runner_up = s->near_runner_up,
        .cutoff = s->near_cutoff,
        .margin = s->near_margin,
        .loads = s->near_load,
    };
    smoe_route_pick(&pick);
    run->answer->work += (uint64_t)n * problem->n_experts;
}

void smoe_route_look(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t n_experts = run->problem->n_experts, was = run->level;
    while (run->level > 0 &&
           spread_since(run, level_price(run, run->level)) > run->level_reach[run->level])
        run->level--;
    if (run->level == was && run->looked) /* else margins are of different passes */
        narrow(run);
    for (uint32_t i = 0; run->level < was && run->level > 0 && i < run->level_tokens[run->level];
         i++)
        gather(run, s->near_token[i], i);
    if (run->level == 0) {
        smoe_route_pass(run, run->answer->expert);
    } else {
        pass_near(run, run->level_tokens[run->level]);
        const uint32_t *aside = level_load(run, run->level);
        for (uint32_t e = 0; e < n_experts; e++)
            s->expert_load[e] = aside[e] + s->near_load[e];
    }
    memcpy(s->pass_price, s->expert_price, n_experts * sizeof *s->pass_price);
    run->looked = true;
}

/* The results of gathered tokens from..to-1 go where those of all tokens are. */
static void scatter(struct smoe_route_run *run, uint32_t from, uint32_t to, double moved)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t top_k = run->problem->top_k;
    for (uint32_t i = from; i < to; i++) {
        uint32_t token = s->near_token[i];
        memcpy(run->answer->expert + (size_t)token * top_k, s->near_chosen + (size_t)i * top_k,
               top_k * sizeof *s->near_chosen);
        s->runner_up[token] = s->near_runner_up[i];
        s->cutoff[token] = s->near_cutoff[i];
        s->margin[token] = s->near_margin[i] > moved ? s->near_margin[i] - moved : 0;
    }
}

void smoe_route_look_up(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    if (run->level == 0)
        return;
    double moved = spread_since(run, level_price(run, 1));
    for (uint32_t i = 0; i < run->n_tokens; i++)
        s->margin[i] = s->margin[i] > moved ? s->margin[i] - moved : 0;
    for (uint32_t level = 1; level < run->level; level++)
        scatter(run, run->level_tokens[level + 1], run->level_tokens[level],
                spread_since(run, level_price(run, level + 1)));
    scatter(run, 0, run->level_tokens[run->level], 0);
    run->level = 0;
}

/* The gain of a token that would exchange more than one visit. */
static double change_by_pick(struct smoe_route_run *run, uint32_t token, double held_cost)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    uint16_t chosen[SMOE_TOP_K_MAX], runner_up;
    double cutoff, margin, change = -held_cost;
    struct smoe_route_pick pick = {
        .n_tokens = 1,
        .n_experts = problem->n_experts,
        .top_k = problem->top_k,
        .scores = problem->scores + (size_t)token * problem->n_experts,
        .weight = problem->score_weight,
        .prices = s->expert_price,
        .row = s->row,
        .chosen = chosen,
        .runner_up = &runner_up,
        .cutoff = &cutoff,
        .margin = &margin,
        .loads = s->near_load,
    };
    smoe_route_pick_token(&pick, 0);
    for (uint32_t k = 0; k < problem->top_k; k++)
        change += s->expert_price[chosen[k]] - smoe_route_weight(problem, token, chosen[k]);
    return change;
}

/* What the token would gain by its K cheapest: where one visit costs more than the cheapest expert that it does
 * not hold, these two change places. */
double smoe_route_change_of(struct smoe_route_run *run, const struct smoe_route_arcs *arcs,
                            uint32_t token)
{
    const struct smoe_route_problem *problem = run->problem;
    double *price = run->scratch->expert_price, was[SMOE_TOP_K_MAX], change = 0, sum = 0;
    uint32_t top_k = problem->top_k, dearer = 0;
    const uint16_t *held = run->answer->expert + (size_t)token * top_k;
    for (uint32_t k = 0; k < top_k; k++) {
        was[k] = price[held[k]];
        price[held[k]] = (double)INFINITY;
    }
    double least =
        arcs->cheapest(price, problem->n_experts,
                       problem->scores + (size_t)token * problem->n_experts, problem->score_weight);
    for (uint32_t k = 0; k < top_k; k++) {
        price[held[k]] = was[k];
        double cost = was[k] - smoe_route_weight(problem, token, held[k]);
        sum += cost;
        if (least < cost) {
            change += least - cost;
            dearer++;
        }
    }
    run->answer->work += problem->n_experts;
    return dearer > 1 ? change_by_pick(run, token, sum) : change;
}

enum { CHUNK = 8 }; /* tokens whose scores are fetched together: they lie anywhere */

double smoe_route_reduced_change(struct smoe_route_run *run, const double *before)
{
    const struct smoe_route_arcs *arcs = smoe_route_arcs();
    double reach = spread_since(run, before), change = 0;
    uint32_t near[CHUNK], count = 0, n_experts = run->problem->n_experts;
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        if (!(run->scratch->margin[i] > reach)) { /* nor where the spread is not known */
            near[count++] = i;
            for (uint32_t e = 0; e < n_experts; e += 16)
                __builtin_prefetch(run->problem->scores + (size_t)i * n_experts + e);
        }
        if (count < CHUNK && i + 1 < run->n_tokens)
            continue;
        for (uint32_t n = 0; n < count; n++)
            change += smoe_route_change_of(run, arcs, near[n]);
        count = 0;
    }
    return change;
}

/* By rounding, mostly. */
void smoe_route_mark(struct smoe_route_run *run, uint8_t *dirty)
{
    const struct smoe_route_arcs *arcs = smoe_route_arcs();
    uint32_t top_k = run->problem->top_k;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        if (!(run->scratch->margin[i] > 0) && smoe_route_change_of(run, arcs, i) < 0)
            for (uint32_t k = 0; k < top_k; k++)
                dirty[run->answer->expert[(size_t)i * top_k + k]] = 1;
}
