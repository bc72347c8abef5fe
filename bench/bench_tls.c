/* SPDX-License-Identifier: Apache-2.0
 *
 * Two processes with one connection of common/io between them over loopback, in turn plain and through TLS.
 *
 * Bulk: a child writes a tensor over and over, this process reads it into its place. Each byte passes the
 * cipher once on each side, and each side is kept on a core of its own: left alone, the kernel at times puts
 * both on one, and then there are two passes on it. So what could be hoped for is 1/(1/plain + n/AES), with n
 * the passes on the busiest core (1; on a machine with one core 2) and AES measured between the rounds;
 * `to_model` is what of that is reached. Either side at times waits for the other, and its core falls asleep,
 * or is kept awake: both are measured (bench_calls.c says how). And once more in bulk over a cable of 1
 * Gbit/s (veth.h), where TLS should be noticed by nobody. Round trips are in bench_calls.c.
 */
#include "bench/bench_tls.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_calls.h"
#include "bench/child.h"
#include "bench/veth.h"
#include "common/io/clock.h"
#include "common/io/listener.h"
#include "common/io/tls.h"

#define BULK_BYTES   ((size_t)1 << 20)
#define RECORD_BYTES 16384
#define WARM_UP_MS   50

/* What is between the two. */
struct path {
    const struct smoe_cores *cores;
    const char *address; /* where the parent listens */
    int far;             /* the child's network namespace; -1: the same */
};

/* One end; the same struct in both processes. */
struct end {
    uv_loop_t loop;
    uv_timer_t timer;
    struct smoe_listener listener;
    struct smoe_conn conn;
    struct smoe_tls tls;
    struct smoe_tls_context *secure; /* NULL: plain */
    const struct path *path;
    bool writes, gone;
    uint64_t received, received_before, began_ns, ended_ns;
    uint8_t *bytes; /* [BULK_BYTES] */
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
};

/* ---- the owner ---- */

static uint8_t *direct(void *context, size_t *ret_room)
{
    struct end *e = context;
    *ret_room = BULK_BYTES - e->received % BULK_BYTES;
    return e->bytes + e->received % BULK_BYTES;
}

static void received(void *context, const uint8_t *data, size_t n)
{
    struct end *e = context;
    (void)data;
    e->received += n;
}

static size_t peek(void *context, struct iovec *iovecs, size_t max)
{
    struct end *e = context;
    (void)max;
    iovecs[0] = (struct iovec){e->bytes, BULK_BYTES};
    return e->writes;
}

static void consume(void *context, size_t bytes)
{
    (void)context, (void)bytes;
}

static void closed(void *context, int status)
{
    struct end *e = context;
    (void)status;
    e->gone = true;
    uv_stop(&e->loop);
}

static void connected(void *context, int status)
{
    (void)context, (void)status;
}

static struct smoe_conn_owner owner_of(struct end *e)
{
    struct smoe_conn_owner owner = {.context = e,
                                    .direct = direct,
                                    .received = received,
                                    .peek = peek,
                                    .consume = consume,
                                    .closed = closed};
    if (e->secure)
        (void)smoe_tls_wrap(&e->tls, e->secure, &e->conn, &owner, &owner);
    e->tls.connected = connected;
    return owner;
}

/* ---- the child: writes ---- */

static void run_child(struct end *e, const struct smoe_addr *to)
{
    struct smoe_conn_owner owner = owner_of(e);
    uv_loop_init(&e->loop);
    smoe_cores_take(e->path->cores, 1);
    if (e->path->far >= 0)
        (void)smoe_veth_enter(e->path->far);
    e->writes = true;
    if (smoe_conn_connect(&e->conn, &e->loop, &to->sa, &owner, e->scratch,
                          e->secure ? smoe_tls_connected : connected) == 0)
        uv_run(&e->loop, UV_RUN_DEFAULT); /* until it is ended */
    _exit(0);
}

/* ---- the parent ---- */

static int arrived(void *context, uv_stream_t *server)
{
    struct end *e = context;
    struct smoe_conn_owner owner = owner_of(e);
    return smoe_conn_accept(&e->conn, server, &owner, e->scratch, NULL);
}

static void on_end(uv_timer_t *timer)
{
    struct end *e = timer->data;
    e->ended_ns = smoe_clock_monotonic_ns();
    uv_stop(&e->loop);
}

static void on_warm(uv_timer_t *timer)
{
    struct end *e = timer->data;
    e->began_ns = smoe_clock_monotonic_ns();
    e->received_before = e->received;
}

static void on_listener_closed(void *context)
{
    (void)context;
}

static void close_all(struct end *e)
{
    if (e->received && !e->gone)
        smoe_conn_close(&e->conn, 0);
    smoe_listener_close(&e->listener, on_listener_closed);
    uv_close((uv_handle_t *)&e->timer, NULL);
    while (uv_run(&e->loop, UV_RUN_DEFAULT))
        ;
    uv_loop_close(&e->loop);
}

static void measure(struct end *e, uint64_t ms)
{
    uv_timer_start(&e->timer, on_warm, WARM_UP_MS, 0);
    while (!e->began_ns && !e->gone)
        uv_run(&e->loop, UV_RUN_ONCE);
    uv_timer_start(&e->timer, on_end, ms, 0);
    while (!e->ended_ns && !e->gone)
        uv_run(&e->loop, UV_RUN_DEFAULT);
}

/* Bytes a second that came in for that long; 0 if something failed. */
static double bytes_per_second(const struct path *path, struct smoe_tls_context *const contexts[2],
                               uint64_t ms)
{
    struct end *e = calloc(1, sizeof *e);
    struct smoe_addr address;
    struct smoe_why why;
    struct smoe_listener_owner owner = {e, arrived, NULL, 0};
    e->path = path;
    e->bytes = calloc(1, BULK_BYTES);
    uv_loop_init(&e->loop);
    uv_timer_init(&e->loop, &e->timer);
    e->timer.data = e;
    (void)smoe_addr_parse(path->address, &address, &why);
    int rc = smoe_listener_tcp(&e->listener, &e->loop, &address, 1, &owner);
    smoe_listener_address(&e->listener, &address);
    e->secure = contexts ? contexts[1] : NULL;
    pid_t child = rc ? -1 : fork();
    if (child == 0)
        run_child(e, &address);
    e->secure = contexts ? contexts[0] : NULL;
    if (child > 0)
        measure(e, ms);
    smoe_child_stop(child > 0 ? child : 0);
    close_all(e);
    double rate = e->ended_ns > e->began_ns && e->began_ns
                      ? (double)(e->received - e->received_before) /
                            ((double)(e->ended_ns - e->began_ns) * 1e-9)
                      : 0;
    free(e->bytes);
    free(e);
    return rate;
}

/* ---- the cipher alone ---- */

static double aes_bytes_per_second(uint64_t ms)
{
    static uint8_t from[RECORD_BYTES], to[RECORD_BYTES + 16], key[16], iv[12];
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    uint64_t began = smoe_clock_monotonic_ns(), now = began, bytes = 0;
    int n;
    EVP_EncryptInit_ex(cipher, EVP_aes_128_gcm(), NULL, key, iv);
    for (; now < began + ms * 1000000; now = smoe_clock_monotonic_ns())
        for (int i = 0; i < 64; i++, bytes += RECORD_BYTES) {
            EVP_EncryptInit_ex(cipher, NULL, NULL, NULL, iv);
            EVP_EncryptUpdate(cipher, to, &n, from, RECORD_BYTES);
            EVP_EncryptFinal_ex(cipher, to + n, &n);
        }
    EVP_CIPHER_CTX_free(cipher);
    return (double)bytes / ((double)(now - began) * 1e-9);
}

/* ---- the comparisons ---- */

static void compare_bulk_as(struct smoe_bench *bench, const struct path *path,
                            struct smoe_tls_context *const contexts[2], const char *how)
{
    struct smoe_sample plain = {.n = 0}, tls = {.n = 0}, model = {.n = 0}, aes = {.n = 0};
    uint64_t ms = bench->quick ? 50 : 300;
    double passes = path->cores->n > 1 ? 1 : 2;
    for (int round = 0; round < (bench->quick ? 1 : 9); round++) {
        double p = bytes_per_second(path, NULL, ms);
        double t = bytes_per_second(path, contexts, ms);
        double a = aes_bytes_per_second(ms / 4);
        smoe_sample_add(&plain, p * 1e-9);
        smoe_sample_add(&tls, t * 1e-9);
        smoe_sample_add(&aes, a * 1e-9);
        smoe_sample_add(&model, 1e-9 / (1 / p + passes / a));
    }
    struct smoe_sample to_model = smoe_sample_ratio(&tls, &model);
    struct smoe_sample to_plain = smoe_sample_ratio(&tls, &plain);
    smoe_report_add(bench->report, "GB/s", &plain, "net.tls.bulk.%s.plain", how);
    smoe_report_add(bench->report, "GB/s", &tls, "net.tls.bulk.%s.tls", how);
    smoe_report_add(bench->report, "GB/s", &aes, "net.tls.bulk.%s.aes", how);
    smoe_report_add(bench->report, "x", &to_plain, "net.tls.bulk.%s.to_plain", how);
    smoe_report_add(bench->report, "x", &to_model, "net.tls.bulk.%s.to_model", how);
}

static void compare_bulk(struct smoe_bench *bench, const struct path *path,
                         struct smoe_tls_context *const contexts[2])
{
    pid_t wakers[2];
    compare_bulk_as(bench, path, contexts, "asleep");
    for (unsigned i = 0; i < 2; i++)
        wakers[i] = smoe_cores_keep_awake(path->cores, i);
    compare_bulk_as(bench, path, contexts, "awake");
    for (unsigned i = 0; i < 2; i++)
        smoe_child_stop(wakers[i]);
}

static void compare_veth(struct smoe_bench *bench, struct path path,
                         struct smoe_tls_context *const contexts[2])
{
    struct smoe_sample plain = {.n = 0}, tls = {.n = 0};
    uint64_t ms = bench->quick ? 200 : 1000;
    struct smoe_veth veth;
    struct smoe_why why;
    if (smoe_veth_make(&veth, &why)) {
        smoe_report_note(bench->report, "net.tls.veth is left out: %s", why.text);
        return;
    }
    path.address = SMOE_VETH_NEAR;
    path.far = veth.far;
    for (int round = 0; round < (bench->quick ? 1 : 3); round++) {
        smoe_sample_add(&plain, 1e-9 * bytes_per_second(&path, NULL, ms));
        smoe_sample_add(&tls, 1e-9 * bytes_per_second(&path, contexts, ms));
    }
    smoe_veth_release(&veth);
    struct smoe_sample to_plain = smoe_sample_ratio(&tls, &plain);
    smoe_report_add(bench->report, "GB/s", &plain, "net.tls.veth.plain");
    smoe_report_add(bench->report, "GB/s", &tls, "net.tls.veth.tls");
    smoe_report_add(bench->report, "x", &to_plain, "net.tls.veth.to_plain");
}

int smoe_bench_tls(struct smoe_bench *bench, const struct smoe_cores *cores, struct smoe_why *why)
{
    struct smoe_keyring keys = {0};
    struct smoe_key key;
    struct smoe_tls_context *contexts[2] = {NULL, NULL};
    struct smoe_tls_options server = {.keys = &keys}, client = {.key = &key};
    struct path path = {cores, "127.0.0.1:0", -1};
    int rc = smoe_key_make(SMOE_ROLE_WORKER, "bench", &key, why);
    rc = rc ? rc : smoe_keyring_add(&keys, &key, why);
    rc = rc ? rc : smoe_tls_context_new(&server, &contexts[0], why);
    rc = rc ? rc : smoe_tls_context_new(&client, &contexts[1], why);
    if (rc == 0) {
        smoe_cores_take(cores, 0);
        compare_bulk(bench, &path, contexts);
        compare_veth(bench, path, contexts);
        rc = smoe_bench_calls(bench, cores, &keys, contexts, why);
        smoe_cores_give(cores);
    }
    smoe_tls_context_free(contexts[0]);
    smoe_tls_context_free(contexts[1]);
    smoe_keyring_release(&keys);
    return rc;
}
