/* SPDX-License-Identifier: Apache-2.0
 *
 * What a worker that is connected and idle costs the gateway in memory: resident memory before and
 * after many of them joined, and after the daemon's own walk over its invariants has touched whatever
 * it touches. The kernel's part of a connection (about 4 KiB at each end) is not the daemon's. Through TLS:
 * bench_memory_tls.c.
 */
#include <stdlib.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/bench_memory_tls.h"
#include "bench/child.h"
#include "bench/peer.h"
#include "bench/servers.h"

#define SESSIONS_MAX 4000
#define SETTLE_US    1500000 /* the invariants are walked once a second */

static int join(struct smoe_peer *peers, unsigned from, unsigned to, struct smoe_wire *wire,
                const char *address, struct smoe_why *why)
{
    char name[32];
    int rc = 0;
    for (unsigned i = from; i < to && !rc; i++) {
        snprintf(name, sizeof name, "idle-%u", i);
        rc = smoe_peer_connect(&peers[i], address, why);
        if (rc == 0)
            rc = smoe_peer_hello(&peers[i], wire, SMOE_ROLE_WORKER, name, why);
    }
    return rc;
}

static int measure(struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                   struct smoe_peer *peers, struct smoe_wire *wire, struct smoe_why *why)
{
    static const unsigned sizes[] = {1000, SESSIONS_MAX};
    uint64_t empty = smoe_child_rss(fleet->gateway);
    unsigned joined = 0;
    smoe_report_value(bench->report, "MiB", (double)empty / 0x1p20, "memory.gateway");
    for (size_t i = 0; i < (bench->quick ? 1 : sizeof sizes / sizeof *sizes); i++) {
        int rc = join(peers, joined, sizes[i], wire, fleet->address, why);
        if (rc)
            return rc;
        joined = sizes[i];
        usleep(SETTLE_US);
        uint64_t rss = smoe_child_rss(fleet->gateway);
        double each = rss > empty ? (double)(rss - empty) / 1024 / joined : 0;
        smoe_report_value(bench->report, "KiB", each, "memory.session.%u", joined);
    }
    return 0;
}

int smoe_bench_memory(struct smoe_bench *bench, struct smoe_why *why)
{
    static const char *const settings[] = {"fleet.workers_max=5000", "fleet.silence=10min", NULL};
    struct smoe_bench_fleet fleet;
    struct smoe_wire *wire = NULL;
    struct smoe_peer *peers = calloc(SESSIONS_MAX, sizeof *peers);
    smoe_raise_descriptors();
    int rc = peers ? smoe_wire_new(&wire) : SMOE_ENOMEMORY;
    if (rc) {
        free(peers);
        return smoe_fail(why, rc, "memory: out of memory");
    }
    for (unsigned i = 0; i < SESSIONS_MAX; i++)
        peers[i].fd = -1;
    rc = smoe_fleet_start(bench, settings, 0, &fleet, why);
    if (rc == 0)
        rc = measure(bench, &fleet, peers, wire, why);
    smoe_fleet_stop(&fleet);
    for (unsigned i = 0; i < SESSIONS_MAX; i++)
        smoe_peer_release(&peers[i]);
    free(peers);
    smoe_wire_free(wire);
    return rc ? rc : smoe_bench_memory_tls(bench, why);
}
