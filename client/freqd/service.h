/* SPDX-License-Identifier: GPL-2.0-only
 *
 * Who asks for what, and for how long: connections, their demands and leases.
 */
#ifndef SMOE_FREQD_SERVICE_H
#define SMOE_FREQD_SERVICE_H

#include "client/freqd/policies.h"

#define SMOE_FREQD_CLIENTS_MAX 64
#define SMOE_FREQD_DEMANDS_MAX 8192

struct smoe_demand {
    int client;   /* the connection's descriptor */
    uint32_t cpu; /* the policy's name */
    uint64_t khz;
    uint64_t ends_ns; /* of the lease, CLOCK_MONOTONIC */
};

struct smoe_freqd {
    struct smoe_policies policies;
    int listener;                        /* owned */
    int clients[SMOE_FREQD_CLIENTS_MAX]; /* [n_clients] owned */
    uint32_t n_clients;
    struct smoe_demand
        demands[SMOE_FREQD_DEMANDS_MAX]; /* [n_demands] at most one each client, policy */
    uint32_t n_demands;
};

/* A connection waits at the listener; one too many is closed. */
void smoe_freqd_accept(struct smoe_freqd *d);
/* Something came on a connection: a request is answered; the end, or what is no request, ends it and
 * its demands. */
void smoe_freqd_serve(struct smoe_freqd *d, int client, uint64_t now_ns);
/* Drops what is over, and tries again to restore what could not be. */
void smoe_freqd_expire(struct smoe_freqd *d, uint64_t now_ns);
/* When smoe_freqd_expire is due; UINT64_MAX: never. */
uint64_t smoe_freqd_wake_ns(const struct smoe_freqd *d, uint64_t now_ns);
/* Restores everything; the policies that could not be. */
uint32_t smoe_freqd_restore(struct smoe_freqd *d);

#endif
