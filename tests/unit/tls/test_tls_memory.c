/* SPDX-License-Identifier: Apache-2.0
 *
 * What a session costs, counted to the byte, and what happens when there is no memory: OpenSSL's
 * allocations go through here. A plain program, since Criterion brings an OpenSSL that has begun already.
 */
#include <malloc.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/threads/must.h"
#include "tests/unit/tls/tls_pair.h"

#define SESSION_BYTES_MAX  ((size_t)40 << 10)
#define STRANGER_BYTES_MAX ((size_t)64 << 10)

static size_t held, peak, allocations, fail_at;

static void count(const void *p, int sign)
{
    size_t n = malloc_usable_size((void *)(uintptr_t)p);
    held = sign > 0 ? held + n : held - n;
    peak = held > peak ? held : peak;
}

static void *counted_malloc(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    void *p = ++allocations == fail_at ? NULL : malloc(n);
    if (p)
        count(p, 1);
    return p;
}

static void counted_free(void *p, const char *file, int line)
{
    (void)file, (void)line;
    if (p)
        count(p, -1);
    free(p);
}

static void *counted_realloc(void *p, size_t n, const char *file, int line)
{
    if (!p)
        return counted_malloc(n, file, line);
    if (!n) {
        counted_free(p, file, line);
        return NULL;
    }
    if (++allocations == fail_at)
        return NULL;
    count(p, -1);
    void *more = realloc(p, n);
    count(more ? more : p, 1);
    return more;
}

static struct smoe_keyring keys;
static struct smoe_tls_context *server_context, *client_context;
static struct smoe_key key;

static void begin(void)
{
    struct smoe_why why;
    must(CRYPTO_set_mem_functions(counted_malloc, counted_realloc, counted_free) == 1);
    must(smoe_key_make(SMOE_ROLE_WORKER, "pi-1", &key, &why) == 0);
    must(smoe_keyring_add(&keys, &key, &why) == 0);
    struct smoe_tls_options server = {.keys = &keys}, client = {.key = &key};
    must(smoe_tls_context_new(&server, &server_context, &why) == 0);
    must(smoe_tls_context_new(&client, &client_context, &why) == 0);
}

static void end(void)
{
    smoe_tls_context_free(server_context);
    smoe_tls_context_free(client_context);
    smoe_keyring_release(&keys);
}

/* One handshake and some traffic; what OpenSSL and we hold for the server's end afterwards. */
static size_t cost_of_a_session(size_t traffic)
{
    struct tls_end client, *server = calloc(1, sizeof *server);
    uint8_t *bytes = calloc(1, traffic + 1);
    size_t before = held;
    must(tls_end_init(server, server_context, traffic + 1) == 0);
    must(tls_end_init(&client, client_context, traffic + 1) == 0);
    client.out = server->out = bytes;
    client.out_end = server->out_end = traffic;
    tls_pump(&client, server, 0);
    must(server->n_in == traffic);
    must(client.n_in == traffic);
    tls_end_release(&client);
    size_t after = held - before + server->tls.cap_out + sizeof server->tls;
    tls_end_release(server);
    free(server);
    free(bytes);
    return after;
}

static void an_idle_session_takes_40_KiB_at_most(void)
{
    cost_of_a_session(1000); /* what OpenSSL keeps for itself */
    for (size_t traffic = 0; traffic <= 1 << 20; traffic = traffic * 32 + 32) {
        size_t cost = cost_of_a_session(traffic);
        fprintf(stderr, "after %zu bytes each way: %zu bytes\n", traffic, cost);
        must(cost <= SESSION_BYTES_MAX);
    }
}

static void a_stranger_takes_64_KiB_at_most(void)
{
    struct tls_end server;
    uint8_t record[5 + 8000] = "\x16\x03\x01\x1f\x40\x01\x00\x10\x00"; /* as long as may be */
    cost_of_a_session(1000);
    size_t before = held;
    peak = held;
    must(tls_end_init(&server, server_context, 1) == 0);
    for (int i = 0; i < 10; i++) {
        tls_feed(&server, record, sizeof record, 1000);
        memset(record + 5, 0, 4);
    }
    must(server.tls.state == SMOE_TLS_OVER);
    size_t most = peak - before + sizeof server.tls;
    fprintf(stderr, "at most %zu bytes\n", most);
    must(most <= STRANGER_BYTES_MAX);
    tls_end_release(&server);
}

static void nothing_is_left_behind(void)
{
    cost_of_a_session(1000);
    size_t before = held;
    for (int i = 0; i < 20; i++)
        cost_of_a_session(100000);
    must(held == before);
}

static void without_memory_a_session_ends_and_the_next_one_succeeds(void)
{
    cost_of_a_session(1000);
    for (size_t n = 1, failed = 1; failed; n++) {
        struct tls_end client, server;
        static const uint8_t bytes[1000];
        allocations = 0;
        fail_at = n;
        bool made = tls_end_init(&server, server_context, 2000) == 0;
        bool both = made && tls_end_init(&client, client_context, 2000) == 0;
        if (both) {
            client.out = bytes;
            client.out_end = sizeof bytes;
            tls_pump(&client, &server, 0);
            must(server.n_in == 0 || server.n_in == sizeof bytes);
        }
        failed = allocations >= n;
        fail_at = 0;
        if (both)
            tls_end_release(&client);
        if (made)
            tls_end_release(&server);
    }
    cost_of_a_session(1000);
}

int main(void)
{
    begin();
    an_idle_session_takes_40_KiB_at_most();
    a_stranger_takes_64_KiB_at_most();
    nothing_is_left_behind();
    without_memory_a_session_ends_and_the_next_one_succeeds();
    end();
    return 0;
}
