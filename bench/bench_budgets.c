/* SPDX-License-Identifier: Apache-2.0
 *
 * Do real workers keep to their budgets while they do all the work that the budgets sustain? Four workers
 * at the same speed, by duty cycle and the model meter, may draw 100, 60, 40 and 20 % of what they draw at
 * full speed. An open stream of evaluations (they come at random whether the last are done or not) is as
 * much as 0.8 of what the budgets pay for together. What a visit costs is measured all the time, and the
 * rate follows: it depends on how many come together, and on who else uses the machine.
 *
 * What is reported is joules over time against the budget, visits done against those that came, what waits at the
 * end, and what the simulator's whole daemon does with the same fleet, cost, and rate (stablemoe-sim run --whole).
 */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/child.h"
#include "common/base/rng.h"
#include "common/io/clock.h"
#include "stablemoe/stablemoe.h"

#define WORKERS    SMOE_FLEET_WORKERS_MAX
#define EXPERTS    8
#define D_MODEL    256
#define D_FF       1024
#define FULL_W     10.0 /* of a worker at its speed: --watts times --speed */
#define SPEED      0.2  /* all of them together leave a core for the rest */
#define LOAD       0.8
#define SLOT_S     0.05
#define RATE_FIRST 300  /* tokens a second, before anything is known */
#define SECOND     1000 /* ms between two looks at the cost */
#define MEMORY     0.7  /* of what was seen, at the next look */
#define CATCH_UP_S 4
#define NOISE      0.03 /* of the model meter, as stablemoe-worker has it */
#define TURN_MS    10
#define TURN_MAX   256  /* tokens of a turn */
#define FLIGHT_MAX 2048 /* batches on their way */

static const double budgets_w[WORKERS] = {10, 6, 4, 2};

struct stream {
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    struct smoe_rng rng;
    struct smoe_ticket *flight[FLIGHT_MAX]; /* [n_flight] */
    bool done[FLIGHT_MAX];
    size_t n_flight;
    uint64_t tokens;       /* that came */
    uint64_t late;         /* that found no place */
    double busy_s, visits; /* of late: what a visit costs */
    float scores[TURN_MAX * EXPERTS];
    smoe_real x[TURN_MAX * D_MODEL];
};

/* What the gateway says of its workers. */
struct view {
    uint64_t at_ns;
    double joules[WORKERS], visits[WORKERS], busy_ns[WORKERS], backlog;
};

/* ---- the stream ---- */

static void on_done(void *context, struct smoe_ticket *ticket, int status)
{
    (void)ticket, (void)status;
    *(bool *)context = true;
}

static void take_back(struct stream *s)
{
    for (size_t i = 0; i < FLIGHT_MAX; i++)
        if (s->flight[i] && s->done[i]) {
            smoe_ticket_release(s->flight[i]);
            s->flight[i] = NULL;
            s->n_flight--;
        }
}

/* Poisson, by counting exponential gaps. */
static uint32_t arrivals(struct stream *s, double mean)
{
    uint32_t n = 0;
    for (double left = mean - smoe_rng_exponential(&s->rng); left > 0 && n < TURN_MAX; n++)
        left -= smoe_rng_exponential(&s->rng);
    return n;
}

static int submit(struct stream *s, uint32_t tokens)
{
    size_t i = 0;
    while (i < FLIGHT_MAX && s->flight[i])
        i++;
    s->tokens += tokens;
    if (i == FLIGHT_MAX) {
        s->late += tokens;
        return 0;
    }
    for (uint32_t t = 0; t < tokens; t++) {
        float *g = s->scores + (size_t)t * EXPERTS, sum = 0;
        for (int e = 0; e < EXPERTS; e++)
            sum += g[e] = expf((float)smoe_rng_normal(&s->rng));
        for (int e = 0; e < EXPERTS; e++)
            g[e] /= sum;
    }
    struct smoe_submit_options o = {.tokens = tokens,
                                    .top_k = 1,
                                    .scores = s->scores,
                                    .x = s->x,
                                    .evaluate = true,
                                    .on_done = on_done,
                                    .context = &s->done[i]};
    s->done[i] = false;
    int rc = smoe_submit(s->layer, &o, &s->flight[i]);
    s->n_flight += rc == 0;
    return rc;
}

/* Tokens at `rate` a second for that long. */
static int run(struct stream *s, double rate, double seconds)
{
    uint64_t turn_ns = smoe_clock_monotonic_ns();
    uint64_t end_ns = turn_ns + (uint64_t)(seconds * 1e9);
    int rc = 0;
    for (; turn_ns < end_ns && !rc; turn_ns += TURN_MS * UINT64_C(1000000)) {
        uint32_t n = arrivals(s, rate * TURN_MS * 1e-3);
        rc = n ? submit(s, n) : 0;
        for (uint64_t now; !rc && (now = smoe_clock_monotonic_ns()) < turn_ns;)
            rc = smoe_poll(s->client, (uint32_t)((turn_ns - now) / 1000000) + 1);
        take_back(s);
    }
    return rc;
}

/* ---- the workers as the gateway sees them ---- */

static double number(const cJSON *o, const char *name)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

static int look(const struct smoe_bench_fleet *fleet, struct view *ret, struct smoe_why *why)
{
    static char text[1 << 16];
    const cJSON *w;
    unsigned n = 0;
    *ret = (struct view){.at_ns = smoe_clock_monotonic_ns()};
    int rc = smoe_fleet_ask(fleet, "workers", text, sizeof text, why);
    cJSON *o = rc ? NULL : cJSON_Parse(text);
    cJSON_ArrayForEach(w, cJSON_GetObjectItemCaseSensitive(o, "workers"))
    {
        const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(w, "id"));
        unsigned i = id && id[0] == 'w' ? (unsigned)(id[1] - '1') : WORKERS; /* w1 .. w4 */
        if (i >= WORKERS)
            continue;
        ret->joules[i] = number(w, "joules");
        ret->visits[i] = number(w, "visits_done");
        ret->busy_ns[i] = number(w, "busy_ns");
        ret->backlog += number(w, "backlog_visits");
        n++;
    }
    cJSON_Delete(o);
    return rc || n == WORKERS ? rc : smoe_fail(why, SMOE_EDATA, "%u workers, not 4", n);
}

/* ---- the bench ---- */

static int open_stream(struct stream *s, const char *address, struct smoe_why *why)
{
    struct smoe_client_options client = {.gateway = address, .name = "bench", .patience_ms = 20000};
    struct smoe_layer_options layer = {.name = "bench",
                                       .experts = EXPERTS,
                                       .d_model = D_MODEL,
                                       .d_ff = D_FF,
                                       .activation = SMOE_LAYER_RELU,
                                       .optimizer = SMOE_LAYER_SGD,
                                       .seed = 1};
    smoe_rng_init(&s->rng, 1, 0);
    for (size_t i = 0; i < sizeof s->x / sizeof *s->x; i++)
        s->x[i] = (smoe_real)smoe_rng_normal(&s->rng);
    int rc = smoe_client_open(&client, &s->client);
    rc = rc ? rc : smoe_layer_declare(s->client, &layer, &s->layer);
    return rc ? smoe_fail(why, rc, "%s", smoe_client_error(s->client)) : 0;
}

/* ---- the simulator ---- */

static int write_scenario(const char *path, double cost_s, double rate)
{
    FILE *f = fopen(path, "w");
    double hz = SPEED * 1e9;
    if (!f)
        return SMOE_EDATA;
    fprintf(f,
            "[fleet]\nworkers = %d\nbudgets = %g %g %g %g\nfreq_max = %.9g\ncycles = %.9g\n"
            "kappa = %.9g\npower = line\nmeter_noise = %g\n[tokens]\nnumber = %.9g\n"
            "[gate]\nexperts = %d\ntop_k = 1\nskew = 0\n[routing]\nslot = %gms\n",
            WORKERS, budgets_w[0], budgets_w[1], budgets_w[2], budgets_w[3], hz, cost_s * 1e9,
            FULL_W / (hz * hz * hz), NOISE, rate * SLOT_S, EXPERTS, SLOT_S * 1e3);
    return fclose(f) ? SMOE_EDATA : 0;
}

/* Share of the visits that came which the simulator does, and the largest power over budget. */
static int predict(const struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                   double cost_s, double rate, double seconds, double *ret_done,
                   double *ret_overdraft, struct smoe_why *why)
{
    char program[1100], scenario[160], output[160], slots[24];
    static char text[1 << 16];
    pid_t pid;
    snprintf(program, sizeof program, "%s/stablemoe-sim", bench->bin_dir);
    snprintf(scenario, sizeof scenario, "%.120s/scenario.conf", fleet->dir);
    snprintf(output, sizeof output, "%.120s/predicted.json", fleet->dir);
    snprintf(slots, sizeof slots, "%.0f", seconds / SLOT_S);
    const char *argv[] = {program,    "run",     "--whole", "--scenario", scenario, "--policy",
                          "lyapunov", "--slots", slots,     "--json",     NULL};
    int rc = write_scenario(scenario, cost_s, rate);
    rc = rc ? rc : smoe_child_start(argv, output, &pid, why);
    if (rc || smoe_child_wait(pid) || !smoe_read_text_file(output, text, sizeof text))
        return smoe_fail(why, SMOE_EDATA, "budgets: stablemoe-sim: %.150s", text);
    cJSON *o = cJSON_Parse(text);
    const cJSON *run = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(o, "policies"), 0);
    double tokens = number(run, "tokens");
    *ret_done = tokens > 0 ? number(run, "visits") / tokens : 0;
    *ret_overdraft = number(run, "energy_overdraft");
    cJSON_Delete(o);
    return tokens > 0 ? 0 : smoe_fail(why, SMOE_EDATA, "budgets: the simulator did nothing");
}

/* ---- the bench ---- */

/* CPU seconds a second that all budgets together pay for. */
static double paid(void)
{
    double sum = 0;
    for (unsigned i = 0; i < WORKERS; i++)
        sum += budgets_w[i] / FULL_W * SPEED;
    return sum;
}

static double cost_of(const struct stream *s)
{
    return s->visits > 0 ? s->busy_s / s->visits : 0;
}

/* CPU seconds that the workers were busy between two looks. */
static double busy_between(const struct view *from, const struct view *to)
{
    double busy_s = 0;
    for (unsigned i = 0; i < WORKERS; i++)
        busy_s += (to->busy_ns[i] - from->busy_ns[i]) * 1e-9;
    return busy_s;
}

static void learn_cost(struct stream *s, const struct view *from, const struct view *to)
{
    s->busy_s = s->busy_s * MEMORY + busy_between(from, to);
    s->visits *= MEMORY;
    for (unsigned i = 0; i < WORKERS; i++)
        s->visits += to->visits[i] - from->visits[i];
}

/* Tokens a second that are LOAD of what is paid for, as the cost is of late; what was too little or too much
 * since the beginning is made up for in a few seconds. */
static double rate_now(const struct stream *s, const struct view *began, const struct view *now)
{
    double due_s = LOAD * paid() * (double)(now->at_ns - began->at_ns) * 1e-9;
    double missing_s = (due_s - busy_between(began, now)) / CATCH_UP_S;
    if (!(cost_of(s) > 0))
        return RATE_FIRST;
    return fmax(LOAD * paid() + missing_s, LOAD * paid() / 2) / cost_of(s);
}

static int run_at_load(const struct smoe_bench_fleet *fleet, struct stream *s, double seconds,
                       struct smoe_why *why)
{
    struct view began, before, after;
    int rc = look(fleet, &began, why);
    before = began;
    for (double left_s = seconds; left_s > 0 && !rc; left_s -= SECOND * 1e-3) {
        double rate = rate_now(s, &began, &before);
        if ((rc = run(s, rate, fmin(left_s, SECOND * 1e-3)))) {
            smoe_fail(why, rc, "budgets: %s", smoe_strerror(rc));
            break;
        }
        rc = look(fleet, &after, why);
        if (rc == 0)
            learn_cost(s, &before, &after);
        before = after;
    }
    return rc;
}

static void add(struct smoe_bench *bench, const char *unit, double value, const char *key)
{
    struct smoe_sample sample = {.n = 0};
    smoe_sample_add(&sample, value);
    smoe_report_add(bench->report, unit, &sample, "budgets.%s", key);
}

static int report(struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                  const struct stream *s, uint64_t came, const struct view *from,
                  const struct view *to, struct smoe_why *why)
{
    double seconds = (double)(to->at_ns - from->at_ns) * 1e-9, done = 0;
    double predicted, overdraft, busy_s = busy_between(from, to);
    char key[32];
    for (unsigned i = 0; i < WORKERS; i++) {
        snprintf(key, sizeof key, "%.0fpercent.to_budget", 100 * budgets_w[i] / FULL_W);
        add(bench, "x", (to->joules[i] - from->joules[i]) / seconds / budgets_w[i], key);
        done += to->visits[i] - from->visits[i];
    }
    int rc = predict(bench, fleet, busy_s / fmax(done, 1), (double)came / seconds, seconds,
                     &predicted, &overdraft, why);
    if (rc)
        return rc;
    add(bench, "x", busy_s / seconds / paid(), "load");
    add(bench, "x", done / (double)came, "throughput");
    add(bench, "x", predicted, "throughput.predicted");
    add(bench, "x", done / (double)came / predicted, "throughput.to_predicted");
    add(bench, "x", 1 + overdraft, "to_budget.predicted");
    add(bench, "s", to->backlog / ((double)came / seconds), "backlog");
    add(bench, "", (double)s->late, "refused");
    return 0;
}

static int measure(struct smoe_bench *bench, const struct smoe_bench_fleet *fleet, struct stream *s,
                   struct smoe_why *why)
{
    struct view before, after;
    int rc = run_at_load(fleet, s, bench->quick ? 2 : 24, why); /* it learns costs and power */
    rc = rc ? rc : look(fleet, &before, why);
    uint64_t came = s->tokens;
    rc = rc ? rc : run_at_load(fleet, s, bench->quick ? 1 : 25, why);
    rc = rc ? rc : look(fleet, &after, why);
    return rc ? rc : report(bench, fleet, s, s->tokens - came, &before, &after, why);
}

static int start_workers(const struct smoe_bench *bench, struct smoe_bench_fleet *fleet,
                         struct smoe_why *why)
{
    char speed[32], watts[32], budget[32];
    const char *options[] = {"--speed", speed, "--watts", watts, "--budget", budget, NULL};
    int rc = 0;
    snprintf(speed, sizeof speed, "%g", SPEED);
    snprintf(watts, sizeof watts, "%g", FULL_W / SPEED);
    for (unsigned i = 0; i < WORKERS && !rc; i++) {
        snprintf(budget, sizeof budget, "%g", budgets_w[i]);
        rc = smoe_fleet_add_worker(bench, options, fleet, why);
    }
    return rc;
}

int smoe_bench_budgets(struct smoe_bench *bench, struct smoe_why *why)
{
    static const char *const settings[] = {"fleet.workers_min=4", "routing.plan=slot",
                                           "routing.slot=50ms", NULL}; /* SLOT_S */
    struct smoe_bench_fleet fleet;
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    int rc = smoe_fleet_start(bench, settings, 0, &fleet, why);
    rc = rc ? rc : start_workers(bench, &fleet, why);
    rc = rc ? rc : open_stream(s, fleet.address, why);
    rc = rc ? rc : measure(bench, &fleet, s, why);
    for (size_t i = 0; i < FLIGHT_MAX; i++)
        smoe_ticket_release(s->flight[i]);
    smoe_client_close(s->client);
    smoe_fleet_stop(&fleet);
    free(s);
    return rc;
}
