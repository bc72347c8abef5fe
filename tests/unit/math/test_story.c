/* SPDX-License-Identifier: Apache-2.0
 *
 * The paper's scenario (MODEL.md section 6) in a loop of forty lines: ten nodes, 390 tokens a slot,
 * three experts a token, load 0.86. Every policy sees the same arrivals and the same scores. The laws
 * of the queues are checked in every slot, and the policies must come out in their order, by bounds
 * that a solver with a wrong price, a wrong sign or a wrong limit misses.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/detmath.h"
#include "daemon/core/freq.h"
#include "daemon/core/policy.h"

enum { NODES = 10, TOP_K = 3, TOKENS_MAX = 600, SLOTS = 300 };

static const double SKEW = 0.12;

struct world {
    enum smoe_policy policy;
    double penalty;     /* V */
    double consistency; /* mu */
    struct smoe_freq_node physics[NODES];
    double queue[NODES], debt[NODES], carry[NODES], spent[NODES];
    struct smoe_node nodes[NODES];
    float scores[TOKENS_MAX * NODES];
    uint16_t expert[TOKENS_MAX * TOP_K];
    uint32_t node[TOKENS_MAX * TOP_K], arrivals[NODES], first[NODES + 1], replica[NODES];
    struct smoe_rng gate, ties;
    struct smoe_route_scratch *scratch;
};

/* What one run of a policy gave. */
struct figures {
    double gate_mass, agreement, backlog, backlog_last, visits, overdraft, gap;
    double growth; /* visits a slot by which the backlog grew over the last half */
};

static bool is_lyapunov(enum smoe_policy policy)
{
    return strstr(smoe_policy_name(policy), "lyapunov") != NULL;
}

static void world_init(struct world *w, enum smoe_policy policy, double consistency, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->policy = policy;
    w->penalty = 50;
    w->consistency = consistency;
    for (uint32_t j = 0; j < NODES; j++) {
        w->physics[j] = (struct smoe_freq_node){.cycles_per_visit = 1e7,
                                                .freq_max_hz = 3e9,
                                                .kappa = 2e-27,
                                                .energy_max_w = 3 + 12.0 * j / 9,
                                                .energy_mean_w = 1.5 + 8.0 * j / 9};
        w->first[j] = w->replica[j] = j;
    }
    w->first[NODES] = NODES;
    smoe_rng_init(&w->gate, seed, 0);
    smoe_rng_init(&w->ties, seed, 1);
    cr_assert_eq(smoe_route_scratch_new(TOKENS_MAX, NODES, NODES, &w->scratch), 0);
}

/* g = softmax(skew r + N(0,1)) for a Poisson number of tokens. */
static uint32_t draw_scores(struct world *w)
{
    static const double rank[NODES] = {7, 2, 9, 0, 5, 3, 8, 1, 6, 4};
    uint32_t tokens = smoe_rng_poisson(&w->gate, 390);
    cr_assert_leq(tokens, TOKENS_MAX);
    for (uint32_t i = 0; i < tokens; i++) {
        double g[NODES], sum = 0;
        for (uint32_t j = 0; j < NODES; j++)
            sum += g[j] = smoe_exp(SKEW * rank[j] + smoe_rng_normal(&w->gate));
        for (uint32_t j = 0; j < NODES; j++)
            w->scores[i * NODES + j] = (float)(g[j] / sum);
    }
    return tokens;
}

/* Share of the chosen that are among the token's K largest scores, and their mass. */
static void judge(const struct world *w, uint32_t tokens, struct figures *f)
{
    double mass = 0, agree = 0;
    for (uint32_t i = 0; i < tokens; i++)
        for (uint32_t k = 0; k < TOP_K; k++) {
            float score = w->scores[i * NODES + w->expert[i * TOP_K + k]];
            int larger = 0;
            for (uint32_t j = 0; j < NODES; j++)
                larger += w->scores[i * NODES + j] > score;
            agree += larger < TOP_K;
            mass += (double)score;
        }
    f->gate_mass += mass / tokens / SLOTS;
    f->agreement += agree / (TOP_K * tokens) / SLOTS;
}

/* One node's slot of one second: serves, spends, queues. Baselines run at the frequency that their mean
 * budget sustains. */
static double serve(struct world *w, uint32_t j)
{
    bool lyapunov = is_lyapunov(w->policy);
    const struct smoe_freq_node *physics = &w->physics[j];
    const struct smoe_node *node = &w->nodes[j];
    double served, hz, before = w->queue[j] + w->arrivals[j];
    if (lyapunov) {
        smoe_cost(node, smoe_policy_cost_mode(w->policy), w->arrivals[j], &served);
        hz = smoe_freq_decide(physics, served, 1, node->energy_price);
    } else {
        double offered = smoe_freq_sustainable_rate(physics) + w->carry[j];
        hz = smoe_freq_sustainable_rate(physics) * physics->cycles_per_visit;
        w->carry[j] = offered - floor(offered);
        served = fmin(before, floor(offered));
    }
    double busy = hz > 0 ? fmin(1, served * physics->cycles_per_visit / hz) : 0;
    double joules = smoe_freq_energy(physics, hz, busy), old_debt = w->debt[j];
    w->queue[j] = before - served;
    w->debt[j] = smoe_freq_debt(old_debt, joules, physics->energy_mean_w, 1);
    w->spent[j] += joules;

    cr_assert(served >= 0 && served <= before && served == floor(served));
    cr_assert(!lyapunov || served <= node->service_max);
    cr_assert_leq(joules, physics->energy_max_w * (1 + 1e-9));
    cr_assert_eq(w->debt[j], fmax(old_debt + joules - physics->energy_mean_w, 0));
    return served;
}

/* MODEL.md (10): the drift of a slot is what the costs say it is. */
static void check_drift(const struct world *w, const double *before)
{
    for (uint32_t j = 0; j < NODES; j++) {
        double served, drift = (w->queue[j] * w->queue[j] - before[j] * before[j]) / 2;
        double phi = smoe_cost(&w->nodes[j], SMOE_COST_EXACT, w->arrivals[j], &served);
        double price = w->nodes[j].energy_price * served * served * served;
        cr_assert_float_eq(phi, drift - w->penalty * served + price, 1e-9 * (1 + fabs(phi)));
    }
}

static void prepare_nodes(struct world *w)
{
    bool lyapunov = is_lyapunov(w->policy);
    for (uint32_t j = 0; j < NODES; j++) {
        double unused = 0, *carry = lyapunov ? &w->carry[j] : &unused;
        w->nodes[j] = (struct smoe_node){
            .backlog = w->queue[j],
            .executable = w->queue[j],
            .penalty = w->penalty,
            .energy_price = smoe_freq_energy_price(&w->physics[j], w->debt[j], 1),
            .service_max = smoe_freq_service_max(&w->physics[j], 1, carry),
            .arrivals_max = UINT32_MAX};
    }
}

static double total(const double *values)
{
    double sum = 0;
    for (uint32_t j = 0; j < NODES; j++)
        sum += values[j];
    return sum;
}

static double slot(struct world *w, struct figures *f)
{
    double before[NODES], served = 0;
    uint32_t tokens = draw_scores(w);
    prepare_nodes(w);
    memcpy(before, w->queue, sizeof before);
    struct smoe_route_problem problem = {.n_tokens = tokens,
                                         .n_experts = NODES,
                                         .n_nodes = NODES,
                                         .top_k = TOP_K,
                                         .scores = w->scores,
                                         .score_weight = w->penalty * w->consistency,
                                         .replica_first = w->first,
                                         .replica_node = w->replica,
                                         .nodes = w->nodes};
    struct smoe_route_answer answer = {
        .expert = w->expert, .node = w->node, .arrivals = w->arrivals};
    smoe_policy_route(w->policy, &problem, w->debt, &w->ties, w->scratch, &answer);
    cr_assert_eq(answer.n_routed, tokens);
    if (answer.exact)
        f->gap = fmax(f->gap, (answer.primal - answer.bound) / (TOP_K * tokens * w->penalty));
    judge(w, tokens, f);
    for (uint32_t j = 0; j < NODES; j++)
        served += serve(w, j);
    if (w->policy == SMOE_POLICY_LYAPUNOV)
        check_drift(w, before);
    cr_assert_float_eq(total(w->queue), total(before) + TOP_K * tokens - served, 1e-6);
    return served;
}

static struct figures run(enum smoe_policy policy, double consistency, uint64_t seed)
{
    static struct world w;
    struct figures f = {0};
    double half = 0;
    world_init(&w, policy, consistency, seed);
    for (int t = 0; t < SLOTS; t++) {
        f.visits += slot(&w, &f) / SLOTS;
        f.backlog += total(w.queue) / SLOTS;
        half = t == SLOTS / 2 ? total(w.queue) : half;
    }
    f.backlog_last = total(w.queue);
    f.growth = (f.backlog_last - half) / (SLOTS / 2.0);
    for (uint32_t j = 0; j < NODES; j++)
        f.overdraft = fmax(f.overdraft, w.spent[j] / (SLOTS * w.physics[j].energy_mean_w) - 1);
    smoe_route_scratch_free(w.scratch);
    return f;
}

/* Runs a policy on three seeds and wants every figure of interest between two bounds. */
struct expected {
    enum smoe_policy policy;
    double mass[2], agreement[2], backlog[2], growth[2], visits[2];
};

static void check_between(double value, const double *bounds, enum smoe_policy policy,
                          const char *what)
{
    cr_assert(value >= bounds[0] && value <= bounds[1], "%s: %s %.4g, not %.4g .. %.4g",
              smoe_policy_name(policy), what, value, bounds[0], bounds[1]);
}

static void check_policy(const struct expected *want)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct figures f = run(want->policy, 1, seed);
        check_between(f.gate_mass, want->mass, want->policy, "gate mass");
        check_between(f.agreement, want->agreement, want->policy, "agreement");
        check_between(f.backlog, want->backlog, want->policy, "backlog");
        check_between(f.growth, want->growth, want->policy, "growth");
        check_between(f.visits, want->visits, want->policy, "visits");
        cr_assert_lt(f.overdraft, 1e-3, "%s overspends", smoe_policy_name(want->policy));
        cr_assert_lt(f.gap, 1e-9);
    }
}

/* 1,170 visits a slot are offered. */
Test(story, lyapunov_keeps_the_gates_wish_and_the_queues_short)
{
    check_policy(&(struct expected){.policy = SMOE_POLICY_LYAPUNOV,
                                    .mass = {0.595, 0.63},
                                    .agreement = {0.72, 0.78},
                                    .backlog = {100, 300},
                                    .growth = {-3, 3},
                                    .visits = {1150, 1180}});
}

Test(story, topk_drowns_the_popular_nodes)
{
    check_policy(&(struct expected){.policy = SMOE_POLICY_TOPK,
                                    .mass = {0.64, 0.67},
                                    .agreement = {0.9999, 1.0001},
                                    .backlog = {15000, 40000},
                                    .growth = {100, 250},
                                    .visits = {900, 1060}});
}

Test(story, random_and_energy_overload_the_weak_nodes)
{
    struct expected want = {.policy = SMOE_POLICY_RANDOM,
                            .mass = {0.28, 0.32},
                            .agreement = {0.28, 0.32},
                            .backlog = {3000, 9000},
                            .growth = {20, 60},
                            .visits = {1090, 1150}};
    check_policy(&want);
    want.policy = SMOE_POLICY_ENERGY;
    check_policy(&want);
}

/* Equal loads on unlike nodes: nearly all of the gate's wish, and the weak ones drown. */
Test(story, base_balances_what_should_not_be_equal)
{
    check_policy(&(struct expected){.policy = SMOE_POLICY_BASE,
                                    .mass = {0.61, 0.65},
                                    .agreement = {0.78, 0.83},
                                    .backlog = {3000, 9000},
                                    .growth = {20, 60},
                                    .visits = {1090, 1150}});
}

Test(story, queue_rules_are_stable_and_deaf_to_the_gate)
{
    struct expected want = {.policy = SMOE_POLICY_QUEUE,
                            .mass = {0.28, 0.32},
                            .agreement = {0.28, 0.32},
                            .backlog = {600, 1500},
                            .growth = {-5, 5},
                            .visits = {1145, 1180}};
    check_policy(&want);
    want.policy = SMOE_POLICY_QUEUE_JSQ;
    want.backlog[0] = 10;
    want.backlog[1] = 150;
    check_policy(&want);
}

/* What the exact solve is worth: the same queues as the greedy's at more gate mass. */
Test(story, the_greedy_gives_away_gate_mass)
{
    check_policy(&(struct expected){.policy = SMOE_POLICY_LYAPUNOV_GREEDY,
                                    .mass = {0.49, 0.565},
                                    .agreement = {0.54, 0.69},
                                    .backlog = {100, 320},
                                    .growth = {-3, 3},
                                    .visits = {1150, 1180}});
}

/* What exact drift is worth: the paper's bound, solved exactly, has longer queues and less mass. */
Test(story, the_linear_bound_herds)
{
    check_policy(&(struct expected){.policy = SMOE_POLICY_LYAPUNOV_LINEAR,
                                    .mass = {0.44, 0.51},
                                    .agreement = {0.5, 0.6},
                                    .backlog = {400, 900},
                                    .growth = {-5, 5},
                                    .visits = {1145, 1180}});
}

Test(story, fixed_prices_are_little_better_than_queues)
{
    check_policy(&(struct expected){.policy = SMOE_POLICY_LYAPUNOV_SEPARABLE,
                                    .mass = {0.29, 0.36},
                                    .agreement = {0.29, 0.38},
                                    .backlog = {600, 1500},
                                    .growth = {-5, 5},
                                    .visits = {1140, 1180}});
}

/* Drift plus penalty: more weight on the gate buys gate mass, less and less of it, and pays in backlog,
 * at most in proportion. */
Test(story, the_weight_trades_backlog_for_gate_mass)
{
    struct figures light = run(SMOE_POLICY_LYAPUNOV, 8, 4);
    struct figures middle = run(SMOE_POLICY_LYAPUNOV, 40, 4);
    struct figures heavy = run(SMOE_POLICY_LYAPUNOV, 200, 4);
    cr_assert_lt(light.gate_mass + 0.005, middle.gate_mass);
    cr_assert_lt(middle.gate_mass + 0.002, heavy.gate_mass);
    cr_assert_lt(heavy.gate_mass - middle.gate_mass, middle.gate_mass - light.gate_mass);
    cr_assert_lt(light.backlog, middle.backlog);
    cr_assert_lt(1.5 * middle.backlog, heavy.backlog);
    cr_assert_lt(heavy.backlog, 5 * middle.backlog);
}
