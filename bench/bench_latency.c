/* SPDX-License-Identifier: Apache-2.0
 *
 * How long one remote forward takes: submit a batch through libstablemoe, the daemon routes it, one
 * worker computes it, the outputs come back; nothing else is under way. Beside it the same bytes go
 * through a bare relay to a bare responder and back: two hops each way, four sleeping processes woken,
 * which is the floor under any gateway. p50 and p99 are over the calls of a round.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "bench/bench.h"
#include "bench/child.h"
#include "bench/peer.h"
#include "bench/servers.h"
#include "common/base/rng.h"
#include "common/io/clock.h"
#include "stablemoe/stablemoe.h"

#define D_MODEL   64
#define D_FF      256
#define EXPERTS   8
#define ROWS_MAX  64
#define CALLS_MAX 400

/* Bytes of a call on the wire: frames with a small protobuf part, rows of x or y, scores or visits. */
#define REQUEST_BYTES(n) (40 + (n) * (D_MODEL + EXPERTS) * sizeof(float))
#define REPLY_BYTES(n)   (40 + (n) * (D_MODEL + 2) * sizeof(float))

struct remote {
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    float scores[ROWS_MAX * EXPERTS];
    smoe_real x[ROWS_MAX * D_MODEL];
};

/* A relay with a responder behind it. */
struct bare {
    struct smoe_server relay, responder;
    struct smoe_peer peer;
    size_t request_bytes, reply_bytes;
};

/* ---- one call ---- */

static int call_remote(struct remote *r, unsigned rows)
{
    struct smoe_ticket *ticket;
    struct smoe_submit_options o = {
        .tokens = rows, .top_k = 1, .scores = r->scores, .x = r->x, .evaluate = true};
    int rc = smoe_submit(r->layer, &o, &ticket);
    if (rc)
        return rc;
    rc = smoe_wait(ticket);
    smoe_ticket_release(ticket);
    return rc;
}

static int call_bare(const struct bare *b)
{
    static uint8_t bytes[REQUEST_BYTES(ROWS_MAX)];
    size_t have = 0;
    if (send(b->peer.fd, bytes, b->request_bytes, MSG_NOSIGNAL) != (ssize_t)b->request_bytes)
        return SMOE_ECLOSED;
    while (have < b->reply_bytes) {
        ssize_t n = recv(b->peer.fd, bytes, sizeof bytes, 0);
        if (n <= 0)
            return SMOE_ECLOSED;
        have += (size_t)n;
    }
    return 0;
}

/* ---- a round ---- */

struct quantiles {
    struct smoe_sample p50, p99; /* [us] */
};

static int compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* `calls` of one kind: through the daemon, or bare if `remote` is NULL. */
static int run_round(struct remote *remote, const struct bare *bare, unsigned rows, unsigned calls,
                     struct quantiles *ret)
{
    double us[CALLS_MAX];
    for (unsigned i = 0; i < calls; i++) {
        uint64_t began = smoe_clock_monotonic_ns();
        int rc = remote ? call_remote(remote, rows) : call_bare(bare);
        if (rc)
            return rc;
        us[i] = (double)(smoe_clock_monotonic_ns() - began) * 1e-3;
    }
    qsort(us, calls, sizeof *us, compare);
    smoe_sample_add(&ret->p50, smoe_quantile(us, calls, 0.5));
    smoe_sample_add(&ret->p99, smoe_quantile(us, calls, 0.99));
    return 0;
}

static int bench_rows(struct smoe_bench *bench, struct remote *remote, const struct bare *bare,
                      unsigned rows)
{
    unsigned calls = bench->quick ? 50 : CALLS_MAX;
    struct quantiles ours = {{.n = 0}, {.n = 0}}, theirs = ours, warm = ours;
    int rc = run_round(remote, bare, rows, 20, &warm);
    for (int round = 0; round < (bench->quick ? 3 : 11) && !rc; round++) {
        rc = run_round(NULL, bare, rows, calls, &theirs);
        rc = rc ? rc : run_round(remote, bare, rows, calls, &ours);
    }
    if (rc)
        return rc;
    struct smoe_sample ratio = smoe_sample_ratio(&ours.p50, &theirs.p50);
    smoe_report_add(bench->report, "us", &ours.p50, "latency.n%u.p50", rows);
    smoe_report_add(bench->report, "us", &ours.p99, "latency.n%u.p99", rows);
    smoe_report_add(bench->report, "us", &theirs.p50, "latency.n%u.bare.p50", rows);
    smoe_report_add(bench->report, "us", &theirs.p99, "latency.n%u.bare.p99", rows);
    smoe_report_add(bench->report, "x", &ratio, "latency.n%u.to_bare", rows);
    return 0;
}

/* ---- beginning and end ---- */

static int open_remote(struct remote *r, const char *address, struct smoe_why *why)
{
    struct smoe_client_options client = {.gateway = address, .name = "bench", .patience_ms = 10000};
    struct smoe_layer_options layer = {.name = "bench",
                                       .experts = EXPERTS,
                                       .d_model = D_MODEL,
                                       .d_ff = D_FF,
                                       .activation = SMOE_LAYER_RELU,
                                       .optimizer = SMOE_LAYER_SGD,
                                       .seed = 1};
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, 0);
    for (size_t i = 0; i < sizeof r->scores / sizeof *r->scores; i++)
        r->scores[i] = (float)smoe_rng_unit(&rng);
    for (size_t i = 0; i < sizeof r->x / sizeof *r->x; i++)
        r->x[i] = (smoe_real)smoe_rng_normal(&rng);
    int rc = smoe_client_open(&client, &r->client);
    rc = rc ? rc : smoe_layer_declare(r->client, &layer, &r->layer);
    return rc ? smoe_fail(why, rc, "%s", smoe_client_error(r->client)) : 0;
}

static int open_bare(struct bare *b, unsigned rows, struct smoe_why *why)
{
    b->request_bytes = REQUEST_BYTES(rows);
    b->reply_bytes = REPLY_BYTES(rows);
    int rc = smoe_server_relay(&b->relay, why);
    rc = rc ? rc : smoe_peer_connect(&b->peer, b->relay.address, why);
    return rc ? rc
              : smoe_server_responder(b->relay.address, b->request_bytes, b->reply_bytes,
                                      &b->responder, why);
}

static void close_bare(struct bare *b)
{
    smoe_peer_release(&b->peer);
    smoe_child_stop(b->responder.pid);
    smoe_child_stop(b->relay.pid);
}

static int measure(struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                   struct smoe_why *why)
{
    static const unsigned rows[] = {1, ROWS_MAX};
    struct remote remote = {.client = NULL};
    int rc = open_remote(&remote, fleet->address, why);
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !rc; i++) {
        struct bare bare = {.peer = {.fd = -1}};
        rc = open_bare(&bare, rows[i], why);
        if (rc == 0 && (rc = bench_rows(bench, &remote, &bare, rows[i])))
            smoe_fail(why, rc, "latency: %s", smoe_strerror(rc));
        close_bare(&bare);
    }
    smoe_client_close(remote.client);
    return rc;
}

int smoe_bench_latency(struct smoe_bench *bench, struct smoe_why *why)
{
    struct smoe_bench_fleet fleet;
    int rc = smoe_fleet_start(bench, NULL, 1, &fleet, why);
    rc = rc ? rc : measure(bench, &fleet, why);
    smoe_fleet_stop(&fleet);
    return rc;
}
