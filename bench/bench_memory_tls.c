/* SPDX-License-Identifier: Apache-2.0
 *
 * Resident memory of a gateway, with so many connections more than before:
 *
 *     session.key, .certificate   workers that have joined, and are idle
 *     stranger.begun              connections that have sent nearly all of the longest hello a stranger may begin with
 *     stranger.shaken             whoever has shaken hands (he has a key) and does not say hello
 *
 * Of strangers there are as many as a gateway bears at a time, and it is looked at before their two seconds are over.
 * Every part has a gateway of its own, since memory that was given back stays resident; what OpenSSL needs once is
 * there after one connection that is not counted.
 */
#include "bench/bench_memory_tls.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/authority.h"
#include "bench/caller.h"
#include "bench/child.h"

#define SESSIONS  500
#define STRANGERS 96
#define SETTLE_US 300000 /* far below what strangers are given */

static const char *const settings[] = {"fleet.workers_max=1000", "fleet.silence=10min", NULL};

/* One gateway, and those who connect to it. */
struct crowd {
    struct smoe_bench_fleet fleet;
    struct smoe_keyring keys;
    struct smoe_authority authority;
    struct smoe_wire *wire;
    uv_loop_t loop;
    unsigned n; /* below, of SESSIONS + 1 */
    struct smoe_caller *callers;
    struct smoe_tls_context **contexts; /* of each its own, for each has a name */
    struct smoe_peer *peers;            /* without TLS */
    uint8_t *scratch;
};

static void name_of(unsigned i, char ret[32])
{
    snprintf(ret, 32, "idle-%u", i);
}

/* ---- beginning and end ---- */

static int make_keys(struct crowd *c, unsigned n, struct smoe_why *why)
{
    struct smoe_key key;
    char name[32];
    int rc = 0;
    for (unsigned i = 0; i < n && !rc; i++) {
        struct smoe_tls_options options = {.key = &key};
        name_of(i, name);
        rc = smoe_key_make(SMOE_ROLE_WORKER, name, &key, why);
        rc = rc ? rc : smoe_keyring_add(&c->keys, &key, why);
        rc = rc ? rc : smoe_tls_context_new(&options, &c->contexts[i], why);
    }
    return rc;
}

static int make_certificates(struct crowd *c, unsigned n, struct smoe_why *why)
{
    int rc = smoe_authority_init(&c->authority);
    for (unsigned i = 0; i < n && !rc; i++) {
        struct smoe_certificate own;
        char name[32];
        name_of(i, name);
        rc = smoe_authority_certify(&c->authority, name, &own);
        if (rc)
            break;
        struct smoe_tls_options options = {.key = &own.who, .certificate = &own};
        rc = smoe_tls_context_new(&options, &c->contexts[i], why);
        smoe_certificate_release(&own);
    }
    return rc ? smoe_fail(why, rc, "memory: no certificates: %s", smoe_strerror(rc)) : 0;
}

/* A gateway that lets in n of them. */
static int begin(const struct smoe_bench *bench, struct crowd *c, unsigned n, bool certified,
                 struct smoe_why *why)
{
    *c = (struct crowd){.callers = calloc(n, sizeof *c->callers),
                        .contexts = calloc(n, sizeof *c->contexts),
                        .peers = calloc(n, sizeof *c->peers),
                        .scratch = malloc(SMOE_CONN_SCRATCH_BYTES)};
    if (uv_loop_init(&c->loop) || !c->callers || !c->contexts || !c->peers || !c->scratch ||
        smoe_wire_new(&c->wire))
        return smoe_fail(why, SMOE_ENOMEMORY, "memory: out of memory");
    c->n = n;
    for (unsigned i = 0; i < n; i++)
        c->peers[i].fd = -1;
    int rc = certified ? make_certificates(c, n, why) : make_keys(c, n, why);
    char *pem = certified && !rc ? smoe_authority_gateway(&c->authority, "bench") : NULL;
    if (rc == 0 && certified && !pem)
        rc = smoe_fail(why, SMOE_ENOMEMORY, "memory: out of memory");
    rc = rc ? rc : smoe_fleet_start_secure(bench, settings, &c->keys, pem, &c->fleet, why);
    free(pem);
    return rc;
}

static void end(struct crowd *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        smoe_caller_close(&c->callers[i]);
        smoe_peer_release(&c->peers[i]);
        smoe_tls_context_free(c->contexts[i]);
    }
    smoe_fleet_stop(&c->fleet);
    uv_loop_close(&c->loop);
    smoe_keyring_release(&c->keys);
    smoe_authority_release(&c->authority);
    smoe_wire_free(c->wire);
    free(c->callers);
    free(c->contexts);
    free(c->peers);
    free(c->scratch);
}

/* ---- who connects ---- */

static int join(struct crowd *c, unsigned i, struct smoe_why *why)
{
    char name[32];
    name_of(i, name);
    int rc = smoe_caller_connect(&c->callers[i], &c->loop, c->fleet.address, c->contexts[i],
                                 c->scratch, why);
    return rc ? rc : smoe_caller_hello(&c->callers[i], c->wire, SMOE_ROLE_WORKER, name, why);
}

static int shake(struct crowd *c, unsigned i, struct smoe_why *why)
{
    return smoe_caller_shake(&c->callers[i], &c->loop, c->fleet.address, c->contexts[i], c->scratch,
                             why);
}

/* A record of 8,000 bytes, of which a hello of 4,096 is to be the first, but for its last byte. */
static int begin_hello(struct crowd *c, unsigned i, struct smoe_why *why)
{
    uint8_t bytes[5 + 8000 - 1] = "\x16\x03\x01\x1f\x40\x01\x00\x10\x00";
    int rc = smoe_peer_connect(&c->peers[i], c->fleet.address, why);
    if (rc)
        return rc;
    return send(c->peers[i].fd, bytes, sizeof bytes, MSG_NOSIGNAL) == (ssize_t)sizeof bytes
               ? 0
               : smoe_fail(why, SMOE_ECLOSED, "memory: a stranger was cut off");
}

/* ---- the figures ---- */

typedef int (*connect_fn)(struct crowd *, unsigned i, struct smoe_why *);

static int measure(struct smoe_bench *bench, const char *what, unsigned n, bool certified,
                   connect_fn connect_one, struct smoe_why *why)
{
    struct crowd c;
    int rc = begin(bench, &c, n + 1, certified, why);
    rc = rc ? rc : join(&c, 0, why);
    uint64_t before = smoe_child_rss(c.fleet.gateway);
    for (unsigned i = 1; i <= n && !rc; i++)
        rc = connect_one(&c, i, why);
    usleep(SETTLE_US);
    uint64_t after = rc ? 0 : smoe_child_rss(c.fleet.gateway);
    end(&c);
    if (rc)
        return rc;
    if (!after)
        return smoe_fail(why, SMOE_ECLOSED, "memory: the gateway is gone");
    double each = after > before ? (double)(after - before) / 1024 / n : 0;
    smoe_report_value(bench->report, "KiB", each, "memory.tls.%s", what);
    return 0;
}

int smoe_bench_memory_tls(struct smoe_bench *bench, struct smoe_why *why)
{
    unsigned sessions = bench->quick ? 50 : SESSIONS;
    int rc = measure(bench, "session.key", sessions, false, join, why);
    rc = rc ? rc : measure(bench, "session.certificate", sessions, true, join, why);
    rc = rc ? rc : measure(bench, "stranger.begun", STRANGERS, false, begin_hello, why);
    rc = rc ? rc : measure(bench, "stranger.shaken.key", STRANGERS, false, shake, why);
    return rc ? rc : measure(bench, "stranger.shaken.certificate", STRANGERS, true, shake, why);
}
