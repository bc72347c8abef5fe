/* SPDX-License-Identifier: Apache-2.0
 *
 * The residual graph of a flow (MODEL.md (19)): what one unit could do instead. route_graph.c keeps the
 * arcs and carries units around a cycle; route_cancel.c finds the cycles. The vertices:
 *
 *     0..E-1  experts      E..E+J-1  nodes      E+J  the sink
 *
 * and the arcs, with the cost of one unit:
 *
 *     expert e -> expert f   a token on e, not on f, moves over     least w_ie - w_if of such tokens
 *     expert e -> node j     e sends one more visit to its replica  0
 *     node j -> expert e     and takes one back (if it has one)     0
 *     node j -> sink         j takes one more visit                 Phi_j(A+1) - Phi_j(A)
 *     sink -> node j         and one less (if it has one)           Phi_j(A-1) - Phi_j(A)
 */
#ifndef SMOE_CORE_ROUTE_GRAPH_H
#define SMOE_CORE_ROUTE_GRAPH_H

#include "daemon/core/route_internal.h"

struct smoe_route_graph {
    struct smoe_route_run *run;
    uint32_t n_experts, n_vertices, sink;
    uint32_t read, waiting; /* the ring queue: tails of arcs that may be violated */

    uint32_t n_touched, n_heap; /* of one search: vertices reached, and those not settled yet */
    uint32_t wanted, head;      /* the vertex looked for, and whence */
    double radius;              /* nothing at this distance or farther is of interest */

    /* Lists and rows have the tokens whose margin in the sweeps' pass was at most `horizon`. */
    double horizon;
    double lifted; /* at least what experts' labels have risen against each other since */
    bool tidy;     /* every token holds its K cheapest at the labels */
    bool enough;   /* no need to go on, or no work left */
    const struct smoe_route_arcs *arcs; /* kernels of this machine */
};

/* What a negative cycle is made of. */
struct smoe_route_cycle {
    double token_cost;   /* sum over its token arcs */
    uint32_t token_arcs; /* how many */
    uint32_t from, to;   /* nodes before and after the sink, UINT32_MAX if it does not pass there */
    uint32_t most;       /* least flow on an arc node -> expert */
};

static inline bool smoe_route_is_expert(const struct smoe_route_graph *graph, uint32_t vertex)
{
    return vertex < graph->n_experts;
}

/* The costs of the arcs from one expert to all, once made; smoe_route_arc knows those that are not known. */
static inline double *smoe_route_row(const struct smoe_route_graph *graph, uint32_t from)
{
    return graph->run->scratch->arc_cost + (size_t)from * graph->n_experts;
}

/* How far label[to] lies below what an arc of this cost demands: > 0 is a violation, < 0 slack. */
static inline double smoe_route_violation(const struct smoe_route_graph *graph, uint32_t from,
                                          uint32_t to, double cost)
{
    const double *label = graph->run->scratch->label;
    return label[from] - cost - label[to];
}

/* Labels from the prices of the run; queues the sink, the nodes and the dirty experts. */
void smoe_route_graph_start(struct smoe_route_graph *graph, struct smoe_route_run *run,
                            const uint8_t *dirty);

void smoe_route_enqueue(struct smoe_route_graph *graph, uint32_t vertex);
uint32_t smoe_route_dequeue(struct smoe_route_graph *graph);

/* Widens the horizon, if need be, so that every arc with a slack below `slack` is in its row, if that is made. */
void smoe_route_look_out(struct smoe_route_graph *graph, double slack);

/* Makes the arcs of an expert, if that has not been done. */
void smoe_route_need_row(struct smoe_route_graph *graph, uint32_t expert);

/* The cost of an arc between experts, of a row that is made; +inf: there is none as far as matters. */
double smoe_route_arc(struct smoe_route_graph *graph, uint32_t from, uint32_t to);

/* The cycle that the parents of `start` close. */
struct smoe_route_cycle smoe_route_walk(const struct smoe_route_graph *graph, uint32_t start);

/* Cost of the m-th unit around the cycle, m >= 1; it only rises with m. */
double smoe_route_unit_cost(const struct smoe_route_run *run, const struct smoe_route_cycle *cycle,
                            uint32_t m);

/* Carries what pays around the cycle and queues the tails of arcs that this may have violated. */
void smoe_route_cancel_cycle(struct smoe_route_graph *graph, uint32_t start,
                             const struct smoe_route_cycle *cycle);

#endif
