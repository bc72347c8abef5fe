/* SPDX-License-Identifier: Apache-2.0
 *
 * Do real workers keep to their budgets while they do all the work that the budgets sustain? Four workers
 * at the same speed, by duty cycle and the model meter, may draw 100, 60, 40 and 20 % of what they draw at
 * full speed. An open stream of evaluations (they come at random whether the last are done or not) is as
 * much as 0.8 of what the budgets pay for together; what a visit costs is measured first. What is
 * reported is joules over time against the budget, visits done against those that came (at this load the
 * simulator does them all), and what waits at the end.
 */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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
    uint64_t tokens; /* that came */
    uint64_t late;   /* that found no place */
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

static int ask(const struct smoe_bench_fleet *fleet, char *ret, size_t size, struct smoe_why *why)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t have = 0;
    ssize_t n = -1;
    snprintf(to.sun_path, sizeof to.sun_path, "%.80s/gateway/admin.sock", fleet->dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && !connect(fd, (const struct sockaddr *)&to, sizeof to) &&
        send(fd, "workers\n", 8, MSG_NOSIGNAL) == 8)
        while (have < size - 1 && (n = recv(fd, ret + have, size - 1 - have, 0)) > 0)
            have += (size_t)n;
    ret[have] = 0;
    if (fd >= 0)
        close(fd);
    return n == 0 ? 0 : smoe_fail(why, SMOE_ECLOSED, "%s: no answer", to.sun_path);
}

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
    int rc = ask(fleet, text, sizeof text, why);
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

static void report(struct smoe_bench *bench, const struct stream *s, uint64_t came, double paid,
                   const struct view *from, const struct view *to)
{
    double seconds = (double)(to->at_ns - from->at_ns) * 1e-9, done = 0, busy_s = 0;
    for (unsigned i = 0; i < WORKERS; i++) {
        struct smoe_sample share = {.n = 0};
        smoe_sample_add(&share, (to->joules[i] - from->joules[i]) / seconds / budgets_w[i]);
        smoe_report_add(bench->report, "x", &share, "budgets.%.0fpercent.to_budget",
                        100 * budgets_w[i] / FULL_W);
        done += to->visits[i] - from->visits[i];
        busy_s += (to->busy_ns[i] - from->busy_ns[i]) * 1e-9;
    }
    struct smoe_sample throughput = {.n = 0}, waiting = {.n = 0}, late = {.n = 0};
    struct smoe_sample load = {.n = 0};
    smoe_sample_add(&load, busy_s / seconds / paid);
    smoe_sample_add(&throughput, done / (double)came);
    smoe_sample_add(&waiting, to->backlog / ((double)came / seconds));
    smoe_sample_add(&late, (double)s->late);
    smoe_report_add(bench->report, "x", &load, "budgets.load");
    smoe_report_add(bench->report, "x", &throughput, "budgets.throughput");
    smoe_report_add(bench->report, "s", &waiting, "budgets.backlog");
    smoe_report_add(bench->report, "", &late, "budgets.refused");
}

/* CPU time of a visit while tokens come at that rate. [s] */
static int cost_at(const struct smoe_bench_fleet *fleet, struct stream *s, double rate,
                   double seconds, double *ret, struct smoe_why *why)
{
    struct view before, after;
    double busy_s = 0, visits = 0;
    int rc = look(fleet, &before, why);
    if (rc == 0 && (rc = run(s, rate, seconds)))
        smoe_fail(why, rc, "budgets: %s", smoe_strerror(rc));
    rc = rc ? rc : look(fleet, &after, why);
    for (unsigned i = 0; i < WORKERS && !rc; i++) {
        busy_s += (after.busy_ns[i] - before.busy_ns[i]) * 1e-9;
        visits += after.visits[i] - before.visits[i];
    }
    *ret = visits > 0 ? busy_s / visits : 0;
    return rc || *ret > 0 ? rc : smoe_fail(why, SMOE_EDATA, "budgets: nothing was computed");
}

/* What a visit costs depends on how many come together: measured by guess, and at what that comes to; by
 * then the gateway has learned costs and power too. */
static int measure(struct smoe_bench *bench, const struct smoe_bench_fleet *fleet, struct stream *s,
                   struct smoe_why *why)
{
    static const double seconds[] = {3, 6, 6, 6, 6};
    struct view before, after;
    double paid = 0, rate = 300, cost_s = 0; /* paid: CPU seconds a second, by all budgets */
    for (unsigned i = 0; i < WORKERS; i++)
        paid += budgets_w[i] / FULL_W * SPEED;
    int rc = 0;
    for (size_t k = 0; k < sizeof seconds / sizeof *seconds && !rc; k++) {
        rc = cost_at(fleet, s, rate, bench->quick ? 0.5 : seconds[k], &cost_s, why);
        rate = rc ? 0 : LOAD * paid / cost_s;
    }
    rc = rc ? rc : look(fleet, &before, why);
    uint64_t came = s->tokens;
    if (rc == 0 && (rc = run(s, rate, bench->quick ? 1 : 30)))
        smoe_fail(why, rc, "budgets: %s", smoe_strerror(rc));
    rc = rc ? rc : look(fleet, &after, why);
    if (rc == 0)
        report(bench, s, s->tokens - came, paid, &before, &after);
    return rc;
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
                                           "routing.slot=50ms", NULL};
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
