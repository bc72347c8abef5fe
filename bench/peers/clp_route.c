/* SPDX-License-Identifier: Apache-2.0
 *
 * The peer of `stablemoe-bench route` that solves the slot's problem as a linear program with CLP, COIN-OR's
 * simplex code. A program of its own, built where the library is found, so that neither its C++ runtime nor
 * its licence (EPL) enters anything of ours. It speaks bench/rival.h; its argument is the descriptor of the
 * memory that holds the program (bench/lp.h). A job is the word "solve".
 *
 * Written to be fast: the model is built and loaded outside the time that is reported; the dual simplex method,
 * and presolve or none, whichever a trial finds faster on the problem at hand. At 1000 x 8 x 2 and
 * 10000 x 64 x 2 that is 18 ms and 3.5 s; the barrier method without crossover takes 46 ms and 9.4 s, primal,
 * sprint and "automatic" 280 ms and more at the first.
 */
#include <coin/Clp_C_Interface.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "bench/lp.h"

/* Of ClpSolve.hpp, which is C++. */
#define DUAL        0
#define PRESOLVE    0
#define NO_PRESOLVE 1

/* ---- the model, by columns: x_ij token by token, then the segments ---- */

struct model {
    int n_rows, n_columns; /* rows: tokens, then nodes */
    CoinBigIndex *first;   /* [n_columns + 1] */
    int *row;
    double *value;
    double *lower, *upper, *cost;  /* [n_columns] */
    double *row_lower, *row_upper; /* [n_rows] */
};

static void add_entry(struct model *m, CoinBigIndex at, size_t row, double value)
{
    m->row[at] = (int)row;
    m->value[at] = value;
}

static void build(const struct smoe_lp *lp, struct model *m)
{
    const struct smoe_lp_segment *segments = smoe_lp_segments(lp);
    const float *scores = smoe_lp_scores(lp);
    size_t n_x = (size_t)lp->n_tokens * lp->n_nodes, c = 0;
    CoinBigIndex at = 0;
    for (; c < n_x; c++) {
        m->first[c] = at;
        m->cost[c] = -lp->score_weight * (double)scores[c];
        m->upper[c] = 1;
        add_entry(m, at++, c / lp->n_nodes, 1);
        add_entry(m, at++, lp->n_tokens + c % lp->n_nodes, 1);
    }
    for (uint32_t s = 0; s < lp->n_segments; s++, c++) {
        m->first[c] = at;
        m->cost[c] = segments[s].cost;
        m->upper[c] = segments[s].length;
        add_entry(m, at++, lp->n_tokens + segments[s].node, -1);
    }
    m->first[c] = at;
    for (uint32_t i = 0; i < lp->n_tokens; i++)
        m->row_lower[i] = m->row_upper[i] = lp->top_k;
}

static bool model_init(const struct smoe_lp *lp, struct model *m)
{
    size_t n_x = (size_t)lp->n_tokens * lp->n_nodes, columns = n_x + lp->n_segments;
    size_t entries = 2 * n_x + lp->n_segments, rows = lp->n_tokens + lp->n_nodes;
    *m = (struct model){.n_rows = (int)rows,
                        .n_columns = (int)columns,
                        .first = calloc(columns + 1, sizeof *m->first),
                        .row = calloc(entries, sizeof *m->row),
                        .value = calloc(entries, sizeof *m->value),
                        .lower = calloc(columns, sizeof *m->lower),
                        .upper = calloc(columns, sizeof *m->upper),
                        .cost = calloc(columns, sizeof *m->cost),
                        .row_lower = calloc(rows, sizeof *m->row_lower),
                        .row_upper = calloc(rows, sizeof *m->row_upper)};
    return m->first && m->row && m->value && m->lower && m->upper && m->cost && m->row_lower &&
           m->row_upper;
}

static void model_release(struct model *m)
{
    free(m->first);
    free(m->row);
    free(m->value);
    free(m->lower);
    free(m->upper);
    free(m->cost);
    free(m->row_lower);
    free(m->row_upper);
}

/* ---- solving ---- */

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* all threads, if it ever has more than one */
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* From nothing. CPU time in ns; 0 if it is not solved to optimality. */
static uint64_t solve(const struct model *m, int presolve, double *ret_value)
{
    Clp_Simplex *simplex = Clp_newModel();
    Clp_Solve *how = ClpSolve_new();
    Clp_setLogLevel(simplex, 0);
    Clp_loadProblem(simplex, m->n_columns, m->n_rows, m->first, m->row, m->value, m->lower,
                    m->upper, m->cost, m->row_lower, m->row_upper);
    ClpSolve_setSolveType(how, DUAL, -1);
    ClpSolve_setPresolveType(how, presolve, -1);
    uint64_t began = cpu_ns();
    Clp_initialSolveWithOptions(simplex, how);
    uint64_t ns = cpu_ns() - began;
    bool optimal = Clp_status(simplex) == 0;
    *ret_value = Clp_objectiveValue(simplex);
    ClpSolve_delete(how);
    Clp_deleteModel(simplex);
    return optimal ? ns : 0;
}

/* Whether presolve pays; -1: not solved. */
static int try_presolve(const struct model *m)
{
    double value;
    uint64_t with = solve(m, PRESOLVE, &value), without = solve(m, NO_PRESOLVE, &value);
    if (!with || !without)
        return -1;
    return with < without ? PRESOLVE : NO_PRESOLVE;
}

static bool answer(const struct model *m, int presolve, unsigned long calls)
{
    uint64_t sum = 0, ns = 1;
    double value = 0;
    for (unsigned long i = 0; i < calls && ns; i++) {
        ns = solve(m, presolve, &value);
        sum += ns;
    }
    if (!ns)
        printf("not solved\n");
    else
        printf("%" PRIu64 " %.17g\n", sum, value);
    fflush(stdout);
    return ns;
}

static const struct smoe_lp *map(const char *descriptor)
{
    struct stat info;
    int fd = atoi(descriptor);
    if (fstat(fd, &info))
        return NULL;
    void *at = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

int main(int argc, char **argv)
{
    struct model m;
    unsigned long calls;
    const struct smoe_lp *lp = argc == 2 ? map(argv[1]) : NULL;
    if (!lp) {
        fprintf(stderr, "%s: give the descriptor of a problem (bench/lp.h)\n", argv[0]);
        return 2;
    }
    int presolve = -1;
    if (model_init(lp, &m)) {
        build(lp, &m);
        presolve = try_presolve(&m);
    }
    bool ok = presolve >= 0;
    if (ok) {
        printf("ready %s\n", Clp_Version());
        fflush(stdout);
    }
    while (ok && scanf(" solve %lu", &calls) == 1)
        ok = answer(&m, presolve, calls);
    model_release(&m);
    return !ok;
}
