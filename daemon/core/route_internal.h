/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the routing solver share; nobody else includes it.
 *
 *     route.c         scratch, the problem seen from the nodes, value and dual value of an answer
 *     route_pick*.c   the hot pass, scalar and by vectors
 *     route_base.c    the policy `base`: equal loads, by the exact solve of another fleet
 *     route_order.c   tokens one after another: greedy, separable and the baselines of policy.c
 *     route_level.c   water-fill, uniform shift, loads shared over replicas
 *     route_market.c  what clears at one price: supply, demand, where they meet
 *     route_near.c    the hot pass over the tokens that prices may still concern
 *     route_price.c   price sweeps
 *     route_flow.c    an assignment as a flow: who holds what; placing tokens at given prices
 *     route_auction.c tokens bid for places, where each expert stands on a node of its own
 *     route_tide.c    shortest paths from where there is too much to where there is too little, many at once
 *     route_tide_rows.c  the slacks that these are found by
 *     route_grain.c   the auction and the tide after it in whole numbers, where a gap is allowed
 *     route_grain_places.c  who holds what in that, expert by expert
 *     route_grain_tide.c, route_grain_rows.c  the searches of that, and the loops over its rows
 *     route_arcs.c    rows of arcs and of scores, by vectors
 *     route_graph.c   the residual graph: its arcs, and carrying units around a cycle
 *     route_cancel.c  finding negative cycles
 *     route_strict.c  experts as they are scored, replicas by augmenting paths
 *     route_exact.c   the exact solve, put together from those above
 *
 * A visit is one of a token's K places: visit v = i K + k belongs to token i = v / K.
 * A replica is an index r into problem->replica_node: one expert on one node.
 * A node is live if it may take a visit (arrivals_max > 0), an expert is on offer if a replica is live.
 */
#ifndef SMOE_CORE_ROUTE_INTERNAL_H
#define SMOE_CORE_ROUTE_INTERNAL_H

#include "common/base/rng.h"
#include "daemon/core/route.h"
#include "daemon/core/route_grain.h"

#define SMOE_ROUTE_BUCKETS   64 /* half octaves of a demand curve, down from its widest margin */
#define SMOE_ROUTE_NO_VISIT  UINT32_MAX
#define SMOE_ROUTE_RUNGS     16 /* marginals remembered of a node, a power of two (route_level.c) */
#define SMOE_ROUTE_NEAR_PART 3  /* one in so many tokens can be gathered (route_near.c) */
#define SMOE_ROUTE_LEVELS    8  /* how often tokens are set aside (route_near.c) */
#define SMOE_ROUTE_GRAIN_CELLS \
    ((size_t)1 << 20)              /* most costs that are kept in grains (route_grain.c) */
#define SMOE_ROUTE_GRAIN_VISITS 24 /* most of an expert, in the mean, in grains */

struct smoe_route_scratch {
    uint32_t tokens_max, experts_max; /* N, E below */
    uint32_t nodes_max;               /* J below: not fewer than E, for the fleet of `base` */
    uint64_t work_max;                /* of smoe_policy_route, 0: no limit */
    double gap;                       /* of smoe_policy_route, of K N score_weight */
    uint32_t warm_nodes;              /* J of the solve that left warm_price, 0: none */
    double *warm_price;               /* [J] */
    size_t replicas_max;              /* R */

    /* Of the policy `base`: its fleet of one node an expert. */
    uint32_t base_warm;          /* E of the solve that left base_price, 0: none */
    double *base_price;          /* [E] */
    struct smoe_node *base_node; /* [E] */
    uint32_t *base_list;         /* [E+1] 0, 1, 2 .. */
    uint32_t *base_arrivals;     /* [E] */

    /* The problem from the nodes' side, remade by smoe_route_begin. */
    uint32_t *node_first;     /* [J+1] node j holds node_replica[first[j]..first[j+1]) */
    uint32_t *node_replica;   /* [R] replicas */
    uint16_t *replica_expert; /* [R] */

    double *rung_price;   /* [J, RUNGS] marginal price after rung_visit visits */
    uint32_t *rung_visit; /* [J, RUNGS] NO_VISIT: none yet */
    uint32_t *
        supplied; /* [J] the last supply asked for, of this solve or an earlier one: where to look first */

    double *node_price;   /* [J] p_j */
    double *expert_price; /* [E] q_e, +inf: not on offer */
    double *node_key;     /* [J] what replicas are compared by; the price of one more visit */
    double *node_down;    /* [J] the price of the last visit, -inf without any */
    double *row;          /* [E] costs of one token */

    /* One hot pass. */
    uint16_t *chosen;    /* [N, K] */
    uint16_t *runner_up; /* [N] */
    double *cutoff;      /* [N] */
    double *margin;      /* [N] */

    /* The flow: loads of experts and replicas; loads of nodes are answer->arrivals. */
    uint32_t *expert_load; /* [E] */
    uint32_t *flow;        /* [R] visits of this expert on this node */
    uint32_t *visit_head;  /* [E] list of the visits that hold e */
    uint32_t *visit_next;  /* [N, K] */
    uint32_t *visit_prev;  /* [N, K] */

    /* Markets, by their lowest expert (route_market.c); entries of other experts are not looked at. */
    uint16_t *market;       /* [E] of each expert */
    uint8_t *apart;         /* [E] no other market on its nodes */
    double *market_price;   /* [E] */
    double *best_price;     /* [E] of the sweep that came nearest */
    uint32_t *market_load;  /* [E] visits that tokens bring */
    int64_t *market_excess; /* [E] more (> 0) or fewer (< 0) than its nodes supply */
    uint32_t
        *leaving; /* [E, BUCKETS] tokens that hold it last: leave when its price rises by that */
    uint32_t
        *joining; /* [E, BUCKETS] that have it next in line: come when its price falls by that */

    /* Tokens near a tie (route_near.c). */
    uint32_t *near_token;     /* [N / NEAR_PART], near_max of the next ones */
    float *near_scores;       /* [near_max, E] */
    uint16_t *near_chosen;    /* [near_max, K] as of one hot pass over them, like the next three */
    uint16_t *near_runner_up; /* [near_max] */
    double *near_cutoff;      /* [near_max] */
    double *near_margin;      /* [near_max] */
    uint32_t *near_load;      /* [E] */
    double *pass_price;       /* [E] prices of the last pass */
    double *level_price;      /* [LEVELS, E] when the level's tokens were chosen */
    uint32_t *level_load;     /* [LEVELS, E] loads of all other tokens */

    /* The residual graph: vertices are experts 0..E-1, nodes E..E+J-1, the sink E+J. */
    double *arc_cost;     /* [E, E] the least w_ie - w_if over tokens in sight on e and not on f */
    uint8_t *row_made;    /* [E] this row is valid */
    uint16_t *found;      /* [E] experts that a search comes nearer to */
    double *label;        /* [E+J+1] */
    double *distance;     /* [E+J+1] +inf: not reached by the search */
    uint32_t *parent;     /* [E+J+1] */
    uint32_t *touched;    /* [E+J+1] vertices the search has reached */
    uint32_t *heap;       /* [E+J+1] of them, those not settled */
    uint32_t *heap_place; /* [E+J+1] where in it */
    uint32_t *queue;      /* [E+J+1] ring */
    uint8_t *queued;      /* [E+J+1] */
    uint32_t *moved;      /* [N, K] visits that a cycle moved */

    /* The auction (route_auction.c). */
    double *bid;        /* [N, K] what the visit would pay for its place */
    uint32_t *given_up; /* [N, K] visits that do not bid any more */
    uint32_t
        *lowest; /* [E] the visit of the lowest bid there, in grains its place; NO_VISIT: none */

    /* The tide (route_tide.c), by expert. */
    float *
        visit_margin; /* [N, K] no expert that its token lacks is nearer to the visit, at the prices it
                            began with; -inf: the token has moved. Where the token's margin is in sight */
    float *sight;     /* [E] its row has the visits of no greater margin */
    float *slack_row;   /* [E, E] the least slack of each arc at the prices it began with */
    float *first_price; /* [E] these, less the lowest */
    double *lifted;     /* [E] by how much the label has risen since */
    float *lift;        /* [E] the same, as searches see it */
    uint32_t *accepted; /* [E] visits the node takes at its price */
    float *up, *down; /* [E] slack of one more accepted, of one less; at the prices it began with */
    float *open_lift; /* [E] of a search: lift, +inf: settled, or not on offer */
    float *key,
        *far;      /* [E] distance so far, +inf: settled, or not reached; distance of the settled */
    int32_t *came; /* [E] from where */

    /* The solve in grains (route_grain.c); S: experts up to a multiple of SMOE_GRAIN_STEP. */
    size_t grain_cells;  /* room of the next */
    int16_t *grain_cost; /* [N, S] of each token, at the prices it began with, FAR: it holds that */
    int16_t *grain_own;  /* [N, K] of the expert that a visit holds */
    int16_t *grain_worth;               /* [N, K] what its place was worth to a visit in the pass */
    uint16_t *grain_place;              /* [N, K] which of its expert's */
    size_t grain_places;                /* P: room of the next two (route_grain_places.c) */
    uint16_t *grain_visit;              /* [P] */
    int16_t *grain_bid;                 /* [P] of these; FAR where there is none */
    uint32_t *grain_first, *grain_room; /* [E] an expert's places; how many */
    int16_t *grain_row;                 /* [E, S] the least slack of each arc, but for labels */
    float *grain_price;                 /* [S] at first, less the least; +inf: not on offer */
    int16_t *grain_lift; /* [S] by how much prices have risen since, FAR: not on offer */
    int16_t *grain_key;  /* [S] distance so far, FAR: not reached */
    int16_t *grain_open; /* [S] the same where a search has to go on from, otherwise FAR */
    int16_t *grain_came; /* [S] from where */
    int16_t *grain_none; /* [S] FAR */
    int16_t *grain_down; /* [S] less the price of the last visit accepted, from its first price */
    int16_t *grain_up;   /* [S] of one more */
    int16_t *grain_base; /* [S] working memory of a search */

    uint8_t *dirty; /* [E] experts whose rows may hold a negative cycle's arc */
};

/* One call of a solver. */
struct smoe_route_run {
    const struct smoe_route_problem *problem;
    struct smoe_route_scratch *scratch;
    struct smoe_route_answer *answer;
    uint32_t n_tokens;  /* tokens in play: the first that caps can possibly hold */
    uint32_t n_offered; /* experts on offer */
    uint32_t n_visits;  /* n_tokens K, the most any node can get */
    uint64_t work_max;  /* UINT64_MAX: no limit */
    double horizon;     /* margin within which cancelling looks at tokens first; >= window */
    double window;      /* two costs nearer than this are a tie that loads decide */
    double tolerance;   /* what rounding can do to a sum of costs; smaller gains are none */
    double enough;      /* a gap that is good enough, 0: none but rounding */
    bool shuffled;      /* an augmenting path has moved tokens that were already placed */
    double widest;      /* widest finite margin of the last pass */
    uint64_t over,
        under;   /* visits on markets with more, with fewer than they supply, as of the last pass */
    bool looked; /* a pass has been made over all tokens */
    bool mixed;  /* some nodes are in several markets */
    bool tidal;  /* what sweeps leave is left to the tide */
    uint32_t level; /* of the last pass: which tokens it looked at (route_near.c) */
    uint32_t level_tokens[SMOE_ROUTE_LEVELS + 1]; /* [0] is not used */
    double level_reach[SMOE_ROUTE_LEVELS + 1];
};

/* The results of the last pass, of the tokens that it looked at. */
struct smoe_route_view {
    uint32_t n_tokens;
    const uint16_t *chosen;    /* [n_tokens, K] */
    const uint16_t *runner_up; /* [n_tokens] */
    const double *margin;      /* [n_tokens] */
};

static inline double smoe_route_weight(const struct smoe_route_problem *problem, uint32_t token,
                                       uint32_t expert)
{
    return problem->score_weight *
           (double)problem->scores[(size_t)token * problem->n_experts + expert];
}

/* Where each expert stands on one node: that one. */
static inline uint32_t smoe_route_node_of(const struct smoe_route_run *run, uint32_t expert)
{
    return run->problem->replica_node[run->problem->replica_first[expert]];
}

/* Is there room for one more visit on the node? */
static inline bool smoe_route_room(const struct smoe_route_run *run, uint32_t node)
{
    return run->answer->arrivals[node] < run->problem->nodes[node].arrivals_max;
}

/* Price of one more visit after n; +inf at the node's cap. Prices near by are asked for again and again and
 * are remembered. */
static inline double smoe_route_marginal_at(const struct smoe_route_run *run, uint32_t node,
                                            uint32_t n)
{
    struct smoe_route_scratch *s = run->scratch;
    size_t rung = (size_t)node * SMOE_ROUTE_RUNGS + n % SMOE_ROUTE_RUNGS;
    if (s->rung_visit[rung] != n) {
        s->rung_visit[rung] = n;
        s->rung_price[rung] = smoe_cost_marginal(&run->problem->nodes[node], run->problem->mode, n);
    }
    return s->rung_price[rung];
}

/* Price of one more visit on the node as it is loaded now. */
static inline double smoe_route_marginal(const struct smoe_route_run *run, uint32_t node)
{
    return smoe_route_marginal_at(run, node, run->answer->arrivals[node]);
}

/* route.c */
void smoe_route_begin(struct smoe_route_run *run, const struct smoe_route_problem *problem,
                      struct smoe_route_scratch *scratch, struct smoe_route_answer *answer);
/* q_e = the smallest price of a live replica. */
void smoe_route_expert_prices(struct smoe_route_run *run, const double *node_price);
/* The hot pass over the tokens in play at expert_price, into `chosen` [N, K] and the scratch. */
void smoe_route_pass(struct smoe_route_run *run, uint16_t *chosen);
/* Sets n_routed and primal from the experts and arrivals of the answer. */
void smoe_route_finish(struct smoe_route_run *run);
/* min over n of Phi(n) - p n, a node's part of the dual value. */
double smoe_route_node_dual(const struct smoe_route_run *run, uint32_t node, double price);
/* The dual value of node_price, MODEL.md (18), after smoe_route_finish: looks only at tokens that may hold
 * something else than their K cheapest, where margins tell. */
double smoe_route_bound(struct smoe_route_run *run);

/* route_level.c */
/* The most visits a node can get: its cap, and every token once for each expert it holds. */
uint32_t smoe_route_limit(const struct smoe_route_run *run, uint32_t node);
/* Visits the node offers at no more than the price each, at most its limit. */
uint32_t smoe_route_supply(const struct smoe_route_run *run, uint32_t node, double price);
/* Is the supply met, between the visits cheaper than the prices [J] and those no dearer? */
bool smoe_route_level_fits(const struct smoe_route_run *run, const double *prices);
/* Shifts the prices of all markets by one amount so that supply meets the visits. */
void smoe_route_shift_prices(struct smoe_route_run *run);
/* The same for roughly as many: within a 256th. */
void smoe_route_shift_roughly(struct smoe_route_run *run);
/* Shares every expert's load out over its replicas by the marginals there. False if a cap was exceeded. */
bool smoe_route_split(struct smoe_route_run *run);

/* route_market.c */
void smoe_route_market_begin(struct smoe_route_run *run);
/* From the prices of markets to those of nodes and experts, or back and forth. */
void smoe_route_market_prices(struct smoe_route_run *run);
void smoe_route_market_from_nodes(struct smoe_route_run *run);
/* The highest price of the other markets on the node: below it the node has nothing to spare; -inf: no other. */
double smoe_route_rival(const struct smoe_route_run *run, uint32_t node, uint32_t market);
/* The highest price, at most this one, at which a node of the market offers one more visit; -inf if none. */
double smoe_route_market_step(const struct smoe_route_run *run, uint32_t market, double price);
/* Compares the loads of the last pass with supply; returns the visits that are in the wrong place. */
uint64_t smoe_route_market_excess(struct smoe_route_run *run);
/* Counts the tokens of the pass by margin: at the market they would leave and at the one they would join. */
void smoe_route_market_count(struct smoe_route_run *run, const struct smoe_route_view *view);
/* The margins below which so many tokens lie, for two numbers of them. */
void smoe_route_market_windows(const struct smoe_route_view *view, const uint64_t visits[2],
                               double ret_margin[2]);
/* Where demand meets supply, all other prices as they are; a plateau: for a range of loads. */
double smoe_route_market_clear(const struct smoe_route_run *run, uint32_t market,
                               bool *ret_plateau);

/* route_near.c */
/* The hot pass at expert_price over the tokens that it may concern; expert_load is of all tokens. */
void smoe_route_look(struct smoe_route_run *run);
struct smoe_route_view smoe_route_view(const struct smoe_route_run *run);
/* After the last pass: results of all tokens into answer->expert and the scratch. Margins may be too low. */
void smoe_route_look_up(struct smoe_route_run *run);
/* What a token would gain at expert_price by its K cheapest instead of what it holds: <= 0. */
struct smoe_route_arcs;
double smoe_route_change_of(struct smoe_route_run *run, const struct smoe_route_arcs *arcs,
                            uint32_t token);
/* The same of all tokens. `before`: the prices [E] that margins are of; a token placed otherwise has margin 0. */
double smoe_route_reduced_change(struct smoe_route_run *run, const double *before);
/* Marks the experts [E] of tokens without a margin that hold what is dearer than what they do not. */
void smoe_route_mark(struct smoe_route_run *run, uint8_t *dirty);

/* route_price.c */
/* Prices of the last slot at this slot's level, or the water-fill's; `roughly`: of nearly the right level. */
void smoe_route_start_prices(struct smoe_route_run *run, const struct smoe_route_options *options,
                             bool roughly);
/* Leaves node_price, expert_price, and their pass in answer->expert. */
void smoe_route_settle_prices(struct smoe_route_run *run, const struct smoe_route_options *options);

/* route_flow.c */
/* Gives a visit without an expert one, takes it; moves a visit that is listed; lists one. */
void smoe_route_link(struct smoe_route_run *run, uint32_t visit, uint16_t expert);
void smoe_route_unlink(struct smoe_route_run *run, uint32_t visit);
void smoe_route_move(struct smoe_route_run *run, uint32_t visit, uint16_t expert);
void smoe_route_list(struct smoe_route_run *run, uint32_t visit);
/* Visits of an expert on one of its nodes. */
uint32_t *smoe_route_flow(const struct smoe_route_run *run, uint32_t expert, uint32_t node);
bool smoe_route_holds(const struct smoe_route_run *run, uint32_t token, uint32_t expert);
/* From the pass in answer->expert to a feasible flow; lowers n_tokens to those that fit. `ret_dirty`
 * [E] marks experts held by a token that did not get its K cheapest. */
void smoe_route_assign(struct smoe_route_run *run, uint8_t *ret_dirty);
/* The same without looking at ties or caps, where experts and nodes are paired: tokens hold what the pass chose, and
 * no visit is listed. */
void smoe_route_keep_chosen(struct smoe_route_run *run);
/* Lists the visits of the tokens within the horizon: cancelling looks at them first. */
void smoe_route_list_in_sight(struct smoe_route_run *run);
/* Gives every visit its node, from the flow. */
void smoe_route_deal(struct smoe_route_run *run);

/* route_auction.c: in the place of smoe_route_settle_prices and smoe_route_assign, where experts and nodes are paired
 * and it pays. Every token holds its K cheapest at node_price, all visits are listed, no expert is dirty. */
bool smoe_route_paired(const struct smoe_route_run *run);
/* Few visits a node. */
bool smoe_route_bids_pay(const struct smoe_route_run *run);
void smoe_route_auction(struct smoe_route_run *run, const struct smoe_route_options *options);

/* route_tide.c: where experts and nodes are paired, many units at a time towards an optimal flow, in single precision;
 * `dirty` marks where that shows. After the auction (`listed`), or after smoe_route_keep_chosen. True: as near to
 * an optimum as was asked for. */
bool smoe_route_tide(struct smoe_route_run *run, bool listed, uint8_t *dirty);
/* After sweeps: many nodes, not too many tokens. */
bool smoe_route_tide_pays(const struct smoe_route_run *run);

/* route_grain.c: in the place of the auction and the tide after it, in whole numbers, where experts and nodes are
 * paired and a gap is allowed. False: it cannot be done so, and nothing has been. */
bool smoe_route_grains_pay(const struct smoe_route_run *run);
bool smoe_route_grains(struct smoe_route_run *run, const struct smoe_route_options *options);

/* route_cancel.c: from a feasible flow and prices towards an optimal flow and its prices (node_price).
 * `dirty` as from smoe_route_assign. False: out of work, or near enough; the flow is feasible all the same. */
bool smoe_route_cancel(struct smoe_route_run *run, const uint8_t *dirty);

/* route_base.c: the objective is the problem's, the bound none. */
void smoe_route_base(const struct smoe_route_problem *problem, struct smoe_route_scratch *scratch,
                     struct smoe_route_answer *answer);

/* route_order.c */
enum smoe_route_moves {
    SMOE_ROUTE_STILL,   /* node keys stay as they are */
    SMOE_ROUTE_COUNT,   /* a visit adds 1 to its node's key */
    SMOE_ROUTE_MARGINAL /* the key is the marginal price */
};

/* A rule for placing tokens one after another: the K experts of smallest (expert key - weight * g),
 * each on its live replica of smallest node key. The node keys stand in scratch->node_key. */
struct smoe_route_rule {
    double weight;
    bool by_node; /* an expert's key is that of its best replica, otherwise 0 */
    enum smoe_route_moves moves;
    struct smoe_rng *rng; /* ties at random per token; NULL: to the lowest index */
};

/* After smoe_route_begin and with node_key filled: routes everything and finishes the answer. */
void smoe_route_in_order(struct smoe_route_run *run, const struct smoe_route_rule *rule);

#endif
