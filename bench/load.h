/* SPDX-License-Identifier: Apache-2.0
 *
 * A load of reports: many workers, each of which sends a report, waits for its answer and sends the next
 * at once. It never sleeps, so that no server pays for waking it, and does as little as it can for a
 * message: frames are encoded before, and a connection is asked only when epoll says that something came
 * (once, edge-triggered). The same load drives the daemon and the echo.
 */
#ifndef SMOE_BENCH_LOAD_H
#define SMOE_BENCH_LOAD_H

#include "bench/peer.h"

struct smoe_load {
    int epoll;
    struct smoe_load_end *ends; /* [n], owned */
    unsigned n;                 /* connected so far */
    uint8_t reports[2][256];    /* frames, in turn: the second asks for another frequency */
    size_t report_bytes;
    unsigned outstanding; /* answers awaited */
    bool stopping;        /* no more reports are sent */
    uint64_t answers;     /* of the last run */
    uint64_t idle_ns;     /* of the last run: there was nothing to do but wait for the server */
};

/* One worker. */
struct smoe_load_end {
    struct smoe_peer peer;
    struct smoe_load *load;
    unsigned turn; /* which report is next */
};

/* Room for n workers. 0, or SMOE_ENOMEMORY. Release in any case. */
int smoe_load_init(struct smoe_load *load, unsigned n, struct smoe_wire *wire);
void smoe_load_release(struct smoe_load *load);

/* Puts the connected workers [from, n) under epoll. */
void smoe_load_watch(struct smoe_load *load, unsigned from);

/* Reads what is there until nothing came for 100 ms; nothing is awaited. */
void smoe_load_settle(struct smoe_load *load);

/* Loads the server for `duration_ns` and waits for the last answers. Returns the wall time, and counts in
 * load->answers and load->idle_ns. 0: an answer did not come within five seconds. */
uint64_t smoe_load_run(struct smoe_load *load, uint64_t duration_ns);

#endif
