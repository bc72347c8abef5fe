/* SPDX-License-Identifier: Apache-2.0
 *
 * The real daemon on the network. Control plane: workers report, the daemon answers each report with
 * a Decision at the end of the slot (a new frequency, because the report names another ceiling); an
 * epoll echo answers requests of the same size with replies of the same size, under the same load: as
 * many reports as there are answers. Load and server have a core each. Printed are the rate, the share of
 * the time in which the load had nothing to do, and the server's CPU time a message; that is what is
 * compared, because a load that is never idle is itself what the rate measures (it needs as many system
 * calls as the echo). The tensor relay is in bench_relay.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/bench_relay.h"
#include "bench/bench_tls.h"
#include "bench/child.h"
#include "bench/cores.h"
#include "bench/load.h"
#include "bench/servers.h"

#define STAGE 1000 /* workers that one layer is spread over: a layer has at most 1024 experts */
#define SLOT  "routing.slot=1ms" /* the shortest there is: a worker is answered once a slot */

/* ---- the workers of the daemon ---- */

static int host_one(struct smoe_peer *peer, struct smoe_wire *wire, struct smoe_why *why)
{
    struct smoe_message m;
    int rc = smoe_peer_await(peer, wire, SMOE_MSG_HOST, &m, why);
    if (rc)
        return rc;
    uint32_t layer = m.host.layer;
    m = (struct smoe_message){.type = SMOE_MSG_HOSTED};
    m.hosted.layer = layer;
    return smoe_peer_send(peer, wire, &m, why);
}

/* A layer with an expert for each of n workers: a worker without one gets no frequency. */
static int declare(struct smoe_peer *trainer, struct smoe_wire *wire, unsigned stage, unsigned n,
                   struct smoe_why *why)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = stage + 1,
        .run = stage + 1,
        .shape = {.experts = n,
                  .d_model = 1,
                  .d_ff = 1,
                  .activation = 1,
                  .dtype = SMOE_DTYPE_F32,
                  .optimizer = 1},
    };
    snprintf(m.layer_declare.name, sizeof m.layer_declare.name, "layer-%u", stage);
    return smoe_peer_send(trainer, wire, &m, why);
}

/* Experts go to workers in the order of their names, so those of a later stage have names that come
 * first, and the stage's layer is spread over exactly them. */
static int join_stage(struct smoe_load *load, struct smoe_peer *trainer, struct smoe_wire *wire,
                      const char *address, unsigned n, struct smoe_why *why)
{
    unsigned from = load->n, stage = from / STAGE;
    char name[32];
    struct smoe_message m;
    int rc = 0;
    for (unsigned i = from; i < from + n && !rc; i++) {
        snprintf(name, sizeof name, "w%02u-%04u", 99 - stage, i - from);
        rc = smoe_peer_connect(&load->ends[i].peer, address, why);
        load->n += rc == 0;
        if (rc == 0)
            rc = smoe_peer_hello(&load->ends[i].peer, wire, SMOE_ROLE_WORKER, name, why);
    }
    rc = rc ? rc : declare(trainer, wire, stage, n, why);
    for (unsigned i = from; i < from + n && !rc; i++)
        rc = host_one(&load->ends[i].peer, wire, why);
    rc = rc ? rc : smoe_peer_await(trainer, wire, SMOE_MSG_LAYER_READY, &m, why);
    return rc;
}

static int join_daemon(struct smoe_load *load, struct smoe_peer *trainer, struct smoe_wire *wire,
                       const char *address, unsigned n, struct smoe_why *why)
{
    int rc = smoe_peer_connect(trainer, address, why);
    if (rc == 0)
        rc = smoe_peer_hello(trainer, wire, SMOE_ROLE_TRAINER, "bench", why);
    while (load->n < n && !rc)
        rc = join_stage(load, trainer, wire, address, n - load->n < STAGE ? n - load->n : STAGE,
                        why);
    smoe_load_watch(load, 0);
    smoe_load_settle(load); /* everybody's first frequency */
    return rc;
}

static int join_echo(struct smoe_load *load, const char *address, unsigned n, struct smoe_why *why)
{
    int rc = 0;
    for (unsigned i = 0; i < n && !rc; i++) {
        rc = smoe_peer_connect(&load->ends[i].peer, address, why);
        load->n += rc == 0;
    }
    smoe_load_watch(load, 0);
    return rc;
}

/* ---- the comparison ---- */

struct side {
    struct smoe_load load;
    pid_t pid;
    struct smoe_sample cpu_ns; /* of the server, a message answered */
    struct smoe_sample rate;   /* messages answered a second of wall time */
    struct smoe_sample idle;   /* share of the wall time that the load had nothing to do */
};

static int run_side(struct side *side, uint64_t duration_ns, struct smoe_why *why)
{
    uint64_t before = smoe_child_cpu_ns(side->pid);
    uint64_t wall = smoe_load_run(&side->load, duration_ns);
    uint64_t cpu = smoe_child_cpu_ns(side->pid) - before;
    if (!wall)
        return smoe_fail(why, SMOE_ETIMEOUT, "net: an answer did not come");
    smoe_sample_add(&side->cpu_ns, (double)cpu / (double)side->load.answers);
    smoe_sample_add(&side->rate, (double)side->load.answers / (double)wall * 1e9);
    smoe_sample_add(&side->idle, (double)side->load.idle_ns / (double)wall);
    return 0;
}

static int compare(struct smoe_bench *bench, struct side *daemon, struct side *echo, unsigned n,
                   struct smoe_why *why)
{
    uint64_t turn_ns = bench->quick ? 100000000 : 700000000;
    int rc = 0;
    for (int round = 0; round < (bench->quick ? 2 : 7) && !rc; round++) {
        rc = run_side(echo, turn_ns, why);
        rc = rc ? rc : run_side(daemon, turn_ns, why);
    }
    if (rc)
        return rc;
    struct smoe_sample ratio = smoe_sample_ratio(&echo->cpu_ns, &daemon->cpu_ns);
    struct smoe_sample rates = smoe_sample_ratio(&daemon->rate, &echo->rate);
    smoe_report_add(bench->report, "1/s", &daemon->rate, "net.control.%u.rate", n);
    smoe_report_add(bench->report, "1/s", &echo->rate, "net.control.%u.echo_rate", n);
    smoe_report_add(bench->report, "x", &rates, "net.control.%u.rate_to_echo", n);
    smoe_report_add(bench->report, "x", &daemon->idle, "net.control.%u.load_idle", n);
    smoe_report_add(bench->report, "x", &echo->idle, "net.control.%u.echo_load_idle", n);
    smoe_report_add(bench->report, "ns", &daemon->cpu_ns, "net.control.%u.cpu", n);
    smoe_report_add(bench->report, "ns", &echo->cpu_ns, "net.control.%u.echo_cpu", n);
    smoe_report_add(bench->report, "x", &ratio, "net.control.%u.to_echo", n);
    return 0;
}

static int start_sides(struct smoe_bench *bench, struct smoe_wire *wire, unsigned n,
                       struct smoe_bench_fleet *fleet, struct smoe_peer *trainer,
                       struct side *daemon, struct side *echo, struct smoe_why *why)
{
    const char *const settings[] = {"fleet.workers_max=5000", "fleet.copies=1",
                                    "fleet.silence=10min", SLOT, NULL};
    struct smoe_message decision = {.type = SMOE_MSG_DECISION};
    struct smoe_server server = {.pid = 0};
    uint8_t reply[64];
    decision.decision =
        (struct smoe_msg_decision){.sequence = 200, .epoch = 1, .freq_khz = 2000000};
    size_t reply_bytes = smoe_peer_encode(wire, &decision, 0, reply, sizeof reply);
    int rc = smoe_fleet_start(bench, settings, 0, fleet, why);
    if (rc || (rc = smoe_load_init(&daemon->load, n, wire)) ||
        (rc = smoe_load_init(&echo->load, n, wire)))
        return rc;
    daemon->pid = fleet->gateway;
    rc = smoe_server_echo(echo->load.report_bytes, reply, reply_bytes, &server, why);
    echo->pid = server.pid;
    rc = rc ? rc : join_echo(&echo->load, server.address, n, why);
    return rc ? rc : join_daemon(&daemon->load, trainer, wire, fleet->address, n, why);
}

static int bench_control(struct smoe_bench *bench, struct smoe_wire *wire, unsigned n,
                         const struct smoe_cores *cores, struct smoe_why *why)
{
    struct smoe_bench_fleet fleet = {.gateway = 0};
    struct side daemon = {.load = {.epoll = -1}}, echo = {.load = {.epoll = -1}};
    struct smoe_peer trainer = {.fd = -1};
    smoe_cores_take(cores, 1); /* for the servers, */
    int rc = start_sides(bench, wire, n, &fleet, &trainer, &daemon, &echo, why);
    smoe_cores_take(cores, 0); /* for the load alone */
    rc = rc ? rc : compare(bench, &daemon, &echo, n, why);
    smoe_cores_give(cores);
    smoe_peer_release(&trainer);
    smoe_load_release(&daemon.load);
    smoe_load_release(&echo.load);
    smoe_child_stop(echo.pid);
    smoe_fleet_stop(&fleet);
    return rc;
}

int smoe_bench_net(struct smoe_bench *bench, struct smoe_why *why)
{
    struct smoe_wire *wire;
    struct smoe_cores cores;
    smoe_raise_descriptors();
    int rc = smoe_cores_find(&cores, why);
    if (rc)
        return rc;
    rc = smoe_wire_new(&wire);
    if (rc)
        return smoe_fail(why, rc, "net: out of memory");
    rc = smoe_bench_tls(bench, &cores, why);
    rc = rc ? rc : smoe_bench_relay(bench, wire, why);
    rc = rc ? rc : bench_control(bench, wire, 100, &cores, why);
    rc = rc ? rc : bench_control(bench, wire, 1000, &cores, why);
    if (!bench->quick)
        rc = rc ? rc : bench_control(bench, wire, 5000, &cores, why);
    smoe_wire_free(wire);
    return rc;
}
