/* SPDX-License-Identifier: Apache-2.0
 *
 * Round trips, plain and through TLS. Asked are
 *
 *     bytes     a process that sends back what comes, 64 bytes: common/io at both ends, and nothing else
 *     control   a gateway, which answers a worker's Ping: frame, session, protobuf and the daemon's mind at its end
 *
 * and each of them has both connections open all the time and is asked on one and on the other in turns of 30 ms.
 * Turns are short and many because what is to be seen, some microseconds, is less than what the machine's mood changes
 * within a second. Both sides have a core of their own. And where a process happens to lie in memory makes a few
 * hundredths; so all processes are started anew a few times, and the turns of all of them are taken together.
 *
 * All of it is done twice. `awake`: a process that does nothing and gives way to everybody keeps either core
 * from falling asleep, as work does that a node has; what is seen is what TLS costs. `asleep`: between two
 * messages both cores have nothing to do. How long one takes to wake up then depends on how long it has
 * slept, and it wakes up with cold caches, so that a microsecond of anything, even of plain waiting, costs
 * the round trip more than two.
 */
#include "bench/bench_calls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "bench/caller.h"
#include "bench/child.h"
#include "common/io/listener.h"

#define BYTES    64
#define TURN_MS  30
#define STARTS   7
#define ROUNDS   13 /* of a start */
#define WARM_UPS 3

/* ---- a process that sends back what comes ---- */

struct echo {
    struct smoe_listener listener;
    struct smoe_conn conn;
    struct smoe_tls tls;
    struct smoe_tls_context *secure; /* NULL: plain */
    size_t owed;
    uint8_t bytes[BYTES];
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
};

static uint8_t *direct(void *context, size_t *ret_room)
{
    (void)context, (void)ret_room;
    return NULL;
}

static void received(void *context, const uint8_t *data, size_t n)
{
    struct echo *e = context;
    (void)data;
    e->owed += n;
    smoe_conn_flush(&e->conn);
}

static size_t peek(void *context, struct iovec *iovecs, size_t max)
{
    struct echo *e = context;
    (void)max;
    iovecs[0] = (struct iovec){e->bytes, e->owed < BYTES ? e->owed : BYTES};
    return e->owed > 0;
}

static void consume(void *context, size_t bytes)
{
    struct echo *e = context;
    e->owed -= bytes;
}

static void closed(void *context, int status)
{
    (void)context, (void)status;
    _exit(0);
}

static int arrived(void *context, uv_stream_t *server)
{
    struct echo *e = context;
    struct smoe_conn_owner owner = {.context = e,
                                    .direct = direct,
                                    .received = received,
                                    .peek = peek,
                                    .consume = consume,
                                    .closed = closed};
    if (e->secure && smoe_tls_wrap(&e->tls, e->secure, &e->conn, &owner, &owner))
        _exit(1);
    return smoe_conn_accept(&e->conn, server, &owner, e->scratch, NULL);
}

/* Listens twice, says where, and serves until it is ended. */
static _Noreturn void serve(const struct smoe_cores *cores, struct smoe_tls_context *secure, int to)
{
    static struct echo echoes[2];
    struct smoe_addr at[2];
    struct smoe_why why;
    uv_loop_t loop;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    smoe_cores_take(cores, 1);
    echoes[1].secure = secure;
    if (uv_loop_init(&loop))
        _exit(1);
    for (int i = 0; i < 2; i++) {
        struct smoe_listener_owner owner = {&echoes[i], arrived, NULL, 0};
        (void)smoe_addr_parse("127.0.0.1:0", &at[i], &why);
        if (smoe_listener_tcp(&echoes[i].listener, &loop, &at[i], 1, &owner))
            _exit(1);
        smoe_listener_address(&echoes[i].listener, &at[i]);
    }
    if (write(to, at, sizeof at) == (ssize_t)sizeof at)
        uv_run(&loop, UV_RUN_DEFAULT);
    _exit(1);
}

static int start_echo(const struct smoe_cores *cores, struct smoe_tls_context *secure,
                      char ret_addresses[2][SMOE_ADDR_TEXT_MAX], pid_t *ret, struct smoe_why *why)
{
    struct smoe_addr at[2];
    int pipes[2];
    if (pipe(pipes))
        return smoe_fail(why, -errno, "pipe: %s", strerror(errno));
    *ret = fork();
    if (*ret == 0)
        serve(cores, secure, pipes[1]);
    close(pipes[1]);
    bool told = *ret > 0 && read(pipes[0], at, sizeof at) == (ssize_t)sizeof at;
    close(pipes[0]);
    for (int i = 0; told && i < 2; i++)
        smoe_addr_format(&at[i], ret_addresses[i]);
    return told ? 0 : smoe_fail(why, SMOE_ECLOSED, "net: the echo does not listen");
}

/* ---- in turns ---- */

/* One loop, and two that ask: plain, and through TLS. */
struct pair {
    uv_loop_t loop;
    struct smoe_caller callers[2];
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
};

static struct pair *new_pair(void)
{
    struct pair *pair = calloc(1, sizeof *pair);
    if (pair && uv_loop_init(&pair->loop)) {
        free(pair);
        return NULL;
    }
    return pair;
}

static void free_pair(struct pair *pair)
{
    for (int i = 0; pair && i < 2; i++)
        smoe_caller_close(&pair->callers[i]);
    if (pair)
        uv_loop_close(&pair->loop);
    free(pair);
}

static int connect_pair(struct pair *pair, const char *const addresses[2],
                        struct smoe_tls_context *secure, struct smoe_why *why)
{
    int rc = 0;
    for (int i = 0; i < 2 && !rc; i++)
        rc = smoe_caller_connect(&pair->callers[i], &pair->loop, addresses[i], i ? secure : NULL,
                                 pair->scratch, why);
    return rc;
}

/* Of one kind of question, in microseconds: [asleep, awake][plain, tls]. */
struct answers {
    struct smoe_sample us[2][2];
};

static int turn_about(struct smoe_bench *bench, struct pair *pair, struct smoe_sample us[2],
                      struct smoe_why *why)
{
    int rounds = bench->quick ? 2 : ROUNDS;
    for (int round = -WARM_UPS; round < rounds; round++)
        for (int i = 0; i < 2; i++) {
            int which = (round + WARM_UPS) % 2 ? !i : i; /* neither is always the first */
            double took = smoe_caller_turn(&pair->callers[which], TURN_MS);
            if (!(took > 0))
                return smoe_fail(why, SMOE_ECLOSED, "net: no answer came");
            if (round >= 0)
                smoe_sample_add(&us[which], took);
        }
    return 0;
}

static int compare(struct smoe_bench *bench, const struct smoe_cores *cores, struct pair *pair,
                   struct answers *answers, struct smoe_why *why)
{
    pid_t wakers[2];
    int rc = turn_about(bench, pair, answers->us[0], why);
    for (unsigned i = 0; i < 2; i++)
        wakers[i] = smoe_cores_keep_awake(cores, i);
    rc = rc ? rc : turn_about(bench, pair, answers->us[1], why);
    for (unsigned i = 0; i < 2; i++)
        smoe_child_stop(wakers[i]);
    return rc;
}

static void report(struct smoe_bench *bench, const char *name, const struct answers *answers)
{
    static const char *const how[] = {"asleep", "awake"};
    for (int i = 0; i < 2; i++) {
        const struct smoe_sample *us = answers->us[i];
        struct smoe_sample to_plain = smoe_sample_ratio(&us[1], &us[0]);
        smoe_report_add(bench->report, "us", &us[0], "net.tls.%s.%s.plain", name, how[i]);
        smoe_report_add(bench->report, "us", &us[1], "net.tls.%s.%s.tls", name, how[i]);
        smoe_report_add(bench->report, "x", &to_plain, "net.tls.%s.%s.to_plain", name, how[i]);
    }
}

static int call_echo(struct smoe_bench *bench, const struct smoe_cores *cores, struct pair *pair,
                     struct smoe_tls_context *const contexts[2], struct answers *answers,
                     struct smoe_why *why)
{
    char addresses[2][SMOE_ADDR_TEXT_MAX];
    pid_t echo = 0;
    int rc = start_echo(cores, contexts[0], addresses, &echo, why);
    if (rc == 0)
        rc =
            connect_pair(pair, (const char *const[]){addresses[0], addresses[1]}, contexts[1], why);
    for (int i = 0; i < 2; i++)
        smoe_caller_ask_bytes(&pair->callers[i], BYTES);
    rc = rc ? rc : compare(bench, cores, pair, answers, why);
    smoe_child_stop(echo > 0 ? echo : 0);
    return rc;
}

static int call_gateways(struct smoe_bench *bench, const struct smoe_cores *cores,
                         struct pair *pair, const struct smoe_keyring *keys,
                         struct smoe_tls_context *node, struct answers *answers,
                         struct smoe_why *why)
{
    struct smoe_bench_fleet plain = {.gateway = 0}, secure = plain;
    struct smoe_wire *wire = NULL;
    int rc = smoe_wire_new(&wire);
    smoe_cores_take(cores, 1); /* for the gateways */
    rc = rc ? rc : smoe_fleet_start(bench, NULL, 0, &plain, why);
    rc = rc ? rc : smoe_fleet_start_secure(bench, NULL, keys, NULL, &secure, why);
    smoe_cores_take(cores, 0);
    if (rc == 0)
        rc = connect_pair(pair, (const char *const[]){plain.address, secure.address}, node, why);
    for (int i = 0; i < 2 && !rc; i++)
        rc = smoe_caller_hello(&pair->callers[i], wire, SMOE_ROLE_WORKER, keys->keys->name, why);
    rc = rc ? rc : compare(bench, cores, pair, answers, why);
    smoe_wire_free(wire);
    smoe_fleet_stop(&plain);
    smoe_fleet_stop(&secure);
    return rc;
}

int smoe_bench_calls(struct smoe_bench *bench, const struct smoe_cores *cores,
                     const struct smoe_keyring *keys, struct smoe_tls_context *const contexts[2],
                     struct smoe_why *why)
{
    struct answers bytes = {0}, control = {0};
    int rc = 0;
    for (int i = 0; i < (bench->quick ? 2 : 2 * STARTS) && !rc; i++) {
        struct pair *pair = new_pair();
        if (!pair)
            return smoe_fail(why, SMOE_ENOMEMORY, "net: out of memory");
        rc = i % 2 ? call_gateways(bench, cores, pair, keys, contexts[1], &control, why)
                   : call_echo(bench, cores, pair, contexts, &bytes, why);
        free_pair(pair);
    }
    report(bench, "bytes", &bytes);
    report(bench, "control", &control);
    return rc;
}
