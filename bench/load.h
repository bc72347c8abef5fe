/* SPDX-License-Identifier: Apache-2.0
 *
 * A load of reports: many workers, each sending one and waiting for its answer, in rounds. In a round
 * everybody reports at once, as after a slot's decisions, and the next begins when all are answered,
 * but no sooner than the interval. The same load drives the daemon and the echo.
 */
#ifndef SMOE_BENCH_LOAD_H
#define SMOE_BENCH_LOAD_H

#include "bench/peer.h"

struct smoe_load {
    int epoll;
    struct smoe_peer *peers; /* [n], owned */
    unsigned n;              /* connected so far */
    uint8_t reports[2][256]; /* frames, used in turn: the second asks for another frequency */
    size_t report_bytes;
    unsigned turn;
    unsigned outstanding; /* answers awaited in this round */
    uint64_t answers;
};

/* Room for n workers. 0, or SMOE_ENOMEMORY. Release in any case. */
int smoe_load_init(struct smoe_load *load, unsigned n, struct smoe_wire *wire);
void smoe_load_release(struct smoe_load *load);

/* Puts the connected workers [from, n) under epoll. */
void smoe_load_watch(struct smoe_load *load, unsigned from);

/* Reads what is there until nothing came for 100 ms; nothing is awaited. */
void smoe_load_settle(struct smoe_load *load);

/* Rounds for about `duration_ns`; returns the wall time, and counts in load->answers. 0: an answer did not
 * come within five seconds. */
uint64_t smoe_load_run(struct smoe_load *load, uint64_t interval_ns, uint64_t duration_ns);

#endif
