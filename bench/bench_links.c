/* SPDX-License-Identifier: Apache-2.0
 *
 * What workers of a sharded layer give each other in a step, over real sockets: gradients of 16 slots to owners and
 * followers of the state, new weights to the slots. Two fleets of real programs, each a gateway and four workers, do
 * the same steps in turns: in one of them workers have direct links, in the other all goes through the gateway
 * (placement.links = no). Between the turns a bare TCP connection (pump.h) moves as many bytes. A step has one token
 * for each expert, so that nearly all of it is exchange; steps follow one another.
 *
 *     plain   loopback, without TLS
 *     tls     loopback, with keys
 *     1gbit   each worker, and the gateway, at a switch with a link of 1 Gbit/s (star.h), with keys
 *
 * `to_bare` is how long the bare connection takes for the bytes, to how long a step takes. On loopback these are all
 * bytes of a step, for all share the machine; at the switch those of the busiest link. GB/s are of all bytes that
 * workers had from each other, each counted once for each receiver, whichever way they went.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "bench/pump.h"
#include "bench/site.h"
#include "common/io/clock.h"
#include "stablemoe/stablemoe.h"

#define WORKERS     SMOE_FLEET_WORKERS_MAX
#define EXPERTS     8
#define D_MODEL     256
#define D_FF        1024
#define PATIENCE_MS 20000
#define POLL_MS     20

enum { DIRECT, GATEWAY, SIDES };
static const char *const ways[SIDES] = {"direct", "gateway"};

struct side {
    struct smoe_site site;
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    double bytes;   /* that workers have from each other, of a step */
    double busiest; /* of these, over the link that has most of them, in one direction */
    struct smoe_sample step_ns, rate, worker_cpu, gateway_cpu; /* GB/s, s/GB */
    struct smoe_sample faults;                                 /* of all workers, a step */
    double stepping_s, weights_s, iterations; /* as the gateway tells them, at the beginning */
};

struct mode {
    const char *name;
    bool secure;
    const struct smoe_star *star;
    unsigned rounds, steps; /* of a turn */
};

static float scores[EXPERTS * EXPERTS];
static smoe_real x[EXPERTS * D_MODEL];

/* ---- a step ---- */

static int forward(struct side *s, bool evaluate, struct smoe_ticket **ret)
{
    struct smoe_submit_options o = {
        .tokens = EXPERTS, .top_k = 1, .scores = scores, .x = x, .evaluate = evaluate};
    int rc = smoe_submit(s->layer, &o, ret);
    return rc ? rc : smoe_wait(*ret);
}

static int step(struct side *s)
{
    struct smoe_step_options o = {.kind = SMOE_LAYER_ADAMW,
                                  .learning_rate = 1e-4,
                                  .beta1 = 0.9,
                                  .beta2 = 0.999,
                                  .epsilon = 1e-8,
                                  .gradient_divisor = 1};
    struct smoe_ticket *ticket = NULL;
    const smoe_real *dx;
    int rc = forward(s, false, &ticket);
    rc = rc ? rc : smoe_gradient(ticket, x);
    rc = rc ? rc : smoe_wait_gradient(ticket, &dx);
    smoe_ticket_release(ticket);
    return rc ? rc : smoe_step(s->client, &o, NULL);
}

/* So many steps, and all that comes of them: no slot serves before all have their new weights. */
static int steps(struct side *s, unsigned n, struct smoe_why *why)
{
    struct smoe_ticket *ticket = NULL;
    int rc = 0;
    for (unsigned i = 0; i < n && !rc; i++)
        rc = step(s);
    rc = rc ? rc : forward(s, true, &ticket);
    smoe_ticket_release(ticket);
    return rc ? smoe_fail(why, rc, "%s", smoe_client_error(s->client)) : 0;
}

/* ---- what the gateway says ---- */

static double number(const cJSON *o, const char *name)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

static int ask(const struct side *s, const char *what, cJSON **ret, struct smoe_why *why)
{
    static char text[1 << 17];
    int rc = smoe_fleet_ask(&s->site.fleet, what, text, sizeof text, why);
    if (rc)
        return rc;
    *ret = cJSON_Parse(text);
    return *ret ? 0 : smoe_fail(why, SMOE_EDATA, "the gateway's %s are no JSON", what);
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Bytes of the last iteration, and the parts of all. */
static int look(struct side *s, struct smoe_why *why)
{
    const cJSON *shard;
    cJSON *o;
    double uploaded = 0;
    int rc = ask(s, "experts", &o, why);
    if (rc)
        return rc;
    const cJSON *layer = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(o, "layers"), 0);
    const cJSON *parts = cJSON_GetObjectItemCaseSensitive(layer, "parts_s");
    s->bytes = s->busiest = 0;
    cJSON_ArrayForEach(shard, cJSON_GetObjectItemCaseSensitive(layer, "shards"))
    {
        const cJSON *t = cJSON_GetObjectItemCaseSensitive(shard, "traffic");
        double sent =
            number(t, "gradient_sent") + number(t, "follow_sent") + number(t, "weight_sent");
        double received = number(t, "gradient_received") + number(t, "follow_received") +
                          number(t, "weight_received");
        s->bytes += sent;
        s->busiest = larger(s->busiest, larger(sent, received));
        uploaded += number(t, "uploaded");
    }
    if (uploaded > 0)
        s->busiest = larger(s->bytes, uploaded); /* the gateway's own link */
    s->stepping_s = number(parts, "stepping");
    s->weights_s = number(parts, "weights");
    s->iterations = number(layer, "iterations");
    cJSON_Delete(o);
    return 0;
}

static int count_links(const struct side *s, unsigned *ret, struct smoe_why *why)
{
    const cJSON *worker;
    cJSON *o;
    int rc = ask(s, "workers", &o, why);
    if (rc)
        return rc;
    *ret = 0;
    cJSON_ArrayForEach(worker, cJSON_GetObjectItemCaseSensitive(o, "workers")) *ret +=
        (unsigned)number(worker, "links_up");
    cJSON_Delete(o);
    return 0;
}

static int await_links(struct side *s, unsigned wanted, struct smoe_why *why)
{
    unsigned n = wanted + 1;
    int rc = 0;
    for (int ms = 0; ms < PATIENCE_MS && n != wanted && !rc; ms += POLL_MS) {
        (void)nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000}, NULL);
        rc = count_links(s, &n, why);
    }
    return rc || n == wanted ? rc
                             : smoe_fail(why, SMOE_ETIMEOUT, "%u links of %u are up", n, wanted);
}

/* ---- the two fleets ---- */

static int open_side(const struct smoe_bench *bench, const struct mode *mode, int way,
                     struct side *s, struct smoe_why *why)
{
    const char *const settings[] = {
        "placement.rule=static", "fleet.workers_min=4", "fleet.silence=30s",
        way == DIRECT ? "placement.links=yes" : "placement.links=no", NULL};
    static const char *const worker[] = {"--slots", "4", NULL};
    struct smoe_site_options o = {settings, worker, WORKERS, mode->star, mode->secure};
    struct smoe_layer_options layer = {.name = "links",
                                       .experts = EXPERTS,
                                       .d_model = D_MODEL,
                                       .d_ff = D_FF,
                                       .activation = SMOE_LAYER_RELU,
                                       .optimizer = SMOE_LAYER_ADAMW,
                                       .seed = 1};
    int rc = smoe_site_start(bench, &o, &s->site, why);
    if (rc == 0 && mode->star)
        rc = smoe_star_enter(mode->star, 0, why);
    if (rc)
        return rc;
    struct smoe_client_options client = {.gateway = s->site.fleet.address,
                                         .name = "bench",
                                         .patience_ms = PATIENCE_MS,
                                         .key_file =
                                             *s->site.trainer_key ? s->site.trainer_key : NULL};
    rc = smoe_client_open(&client, &s->client);
    rc = rc ? rc : smoe_layer_declare(s->client, &layer, &s->layer);
    if (mode->star)
        smoe_star_leave(mode->star);
    if (rc)
        return smoe_fail(why, rc, "%s", smoe_client_error(s->client));
    rc = await_links(s, way == DIRECT ? WORKERS * (WORKERS - 1) : 0, why);
    rc = rc ? rc : steps(s, 2, why);
    return rc ? rc : look(s, why);
}

static void close_side(struct side *s)
{
    smoe_client_close(s->client);
    smoe_site_stop(&s->site);
}

/* ---- the comparison ---- */

static uint64_t workers_cpu_ns(const struct side *s)
{
    uint64_t ns = 0;
    for (unsigned i = 0; i < s->site.fleet.n_workers; i++)
        ns += smoe_child_cpu_ns(s->site.fleet.workers[i]);
    return ns;
}

static uint64_t workers_faults(const struct side *s)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < s->site.fleet.n_workers; i++)
        n += smoe_child_faults(s->site.fleet.workers[i]);
    return n;
}

static int run_side(struct side *s, unsigned n, struct smoe_why *why)
{
    uint64_t workers = workers_cpu_ns(s), gateway = smoe_child_cpu_ns(s->site.fleet.gateway);
    uint64_t faults = workers_faults(s), began = smoe_clock_monotonic_ns();
    int rc = steps(s, n, why);
    double each = (double)(smoe_clock_monotonic_ns() - began) / n;
    smoe_sample_add(&s->step_ns, each);
    smoe_sample_add(&s->faults, (double)(workers_faults(s) - faults) / n);
    smoe_sample_add(&s->rate, s->bytes / each);
    smoe_sample_add(&s->worker_cpu, (double)(workers_cpu_ns(s) - workers) / n / s->bytes);
    smoe_sample_add(&s->gateway_cpu,
                    (double)(smoe_child_cpu_ns(s->site.fleet.gateway) - gateway) / n / s->bytes);
    return rc;
}

struct bare {
    struct smoe_pump pump;
    struct smoe_sample ns, rate, cpu; /* ns a byte, GB/s, s/GB */
};

static int run_bare(struct bare *b, double bytes, struct smoe_why *why)
{
    uint64_t wall, cpu;
    int rc = smoe_pump_run(&b->pump, (uint64_t)bytes, &wall, &cpu, why);
    if (rc)
        return rc;
    smoe_sample_add(&b->ns, (double)wall / bytes);
    smoe_sample_add(&b->rate, bytes / (double)wall);
    smoe_sample_add(&b->cpu, (double)cpu / bytes);
    return 0;
}

static struct smoe_sample scaled(const struct smoe_sample *a, double factor)
{
    struct smoe_sample ret = *a;
    for (unsigned i = 0; i < ret.n; i++)
        ret.values[i] *= factor;
    return ret;
}

static void report_side(struct smoe_bench *bench, const struct mode *mode, int way,
                        const struct side *s, const struct side *end, const struct bare *b)
{
    struct smoe_sample ms = scaled(&s->step_ns, 1e-6);
    struct smoe_sample ideal = scaled(&b->ns, mode->star ? s->busiest : s->bytes);
    struct smoe_sample to_bare = smoe_sample_ratio(&ideal, &s->step_ns);
    struct smoe_report *r = bench->report;
    const char *m = mode->name, *w = ways[way];
    double iterations = end->iterations - s->iterations;
    smoe_report_add(r, "GB/s", &s->rate, "links.%s.%s", m, w);
    smoe_report_add(r, "ms", &ms, "links.%s.%s.step", m, w);
    smoe_report_value(r, "ms", 1e3 * (end->stepping_s - s->stepping_s) / iterations,
                      "links.%s.%s.step.stepping", m, w);
    smoe_report_value(r, "ms", 1e3 * (end->weights_s - s->weights_s) / iterations,
                      "links.%s.%s.step.weights", m, w);
    smoe_report_add(r, "s/GB", &s->worker_cpu, "links.%s.%s.workers_cpu", m, w);
    smoe_report_add(r, "pages", &s->faults, "links.%s.%s.workers_faults", m, w);
    smoe_report_add(r, "s/GB", &s->gateway_cpu, "links.%s.%s.gateway_cpu", m, w);
    smoe_report_add(r, "x", &to_bare, "links.%s.%s.to_bare", m, w);
}

static int compare(struct smoe_bench *bench, const struct mode *mode, struct side *sides,
                   struct bare *bare, struct smoe_why *why)
{
    struct side ends[SIDES];
    int rc = 0;
    for (unsigned round = 0; round < mode->rounds && !rc; round++) {
        rc = run_bare(bare, mode->star ? sides[DIRECT].busiest : sides[DIRECT].bytes, why);
        for (int way = 0; way < SIDES && !rc; way++)
            rc = run_side(&sides[way], mode->steps, why);
    }
    for (int way = 0; way < SIDES && !rc; way++) {
        ends[way] = (struct side){.site = sides[way].site}; /* borrowed, to ask */
        rc = look(&ends[way], why);
    }
    if (rc)
        return rc;
    struct smoe_sample ratio = smoe_sample_ratio(&sides[GATEWAY].step_ns, &sides[DIRECT].step_ns);
    smoe_report_value(bench->report, "MB", 1e-6 * sides[DIRECT].bytes, "links.%s.bytes",
                      mode->name);
    smoe_report_add(bench->report, "GB/s", &bare->rate, "links.%s.bare", mode->name);
    smoe_report_add(bench->report, "s/GB", &bare->cpu, "links.%s.bare.cpu", mode->name);
    for (int way = 0; way < SIDES; way++)
        report_side(bench, mode, way, &sides[way], &ends[way], bare);
    smoe_report_add(bench->report, "x", &ratio, "links.%s.direct.to_gateway", mode->name);
    return 0;
}

/* From one worker's place to another's. */
static int open_bare(const struct mode *mode, struct bare *b, struct smoe_why *why)
{
    char listen[32] = SMOE_FLEET_HERE;
    int rc = 0;
    if (mode->star) {
        smoe_star_address(2, listen);
        rc = smoe_star_enter(mode->star, 2, why);
    }
    rc = rc ? rc : smoe_pump_start(listen, mode->star ? mode->star->leaves[1] : -1, &b->pump, why);
    if (mode->star)
        smoe_star_leave(mode->star);
    return rc;
}

static int bench_mode(struct smoe_bench *bench, const struct mode *mode, struct smoe_why *why)
{
    struct side *sides = calloc(SIDES, sizeof *sides);
    struct bare bare = {.ns = {.n = 0}};
    int rc = sides ? open_bare(mode, &bare, why) : SMOE_ENOMEMORY;
    for (int way = 0; sides && way < SIDES && !rc; way++)
        rc = open_side(bench, mode, way, &sides[way], why);
    rc = rc ? rc : compare(bench, mode, sides, &bare, why);
    for (int way = 0; sides && way < SIDES; way++)
        close_side(&sides[way]);
    smoe_pump_stop(&bare.pump);
    free(sides);
    return rc;
}

static int bench_star(struct smoe_bench *bench, struct smoe_why *why)
{
    struct smoe_star star;
    struct smoe_why missing;
    if (smoe_star_make(WORKERS + 1, "1gbit", &star, &missing)) {
        smoe_report_note(bench->report, "links.1gbit is left out: %s", missing.text);
        return 0;
    }
    struct mode mode = {"1gbit", true, &star, bench->quick ? 1 : 5, bench->quick ? 1 : 2};
    int rc = bench_mode(bench, &mode, why);
    smoe_star_release(&star);
    return rc;
}

int smoe_bench_links(struct smoe_bench *bench, struct smoe_why *why)
{
    const unsigned rounds = bench->quick ? 1 : 7, n = bench->quick ? 1 : 4;
    const struct mode plain = {"plain", false, NULL, rounds, n},
                      tls = {"tls", true, NULL, rounds, n};
    for (int e = 0; e < EXPERTS; e++) {
        scores[e * EXPERTS + e] = 1;
        for (int i = 0; i < D_MODEL; i++)
            x[e * D_MODEL + i] = (smoe_real)(1e-3 * (i % 7 - 3));
    }
    int rc = bench_mode(bench, &plain, why);
    rc = rc ? rc : bench_mode(bench, &tls, why);
    return rc ? rc : bench_star(bench, why);
}
