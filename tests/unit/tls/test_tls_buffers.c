/* SPDX-License-Identifier: Apache-2.0
 *
 * Who keeps OpenSSL's buffers: the busy, and not many of them.
 */
#include <criterion/criterion.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/tls/tls_pair.h"

#define PAIRS      40
#define KEEPERS    32 /* at most */
#define MANY       16
#define MS         UINT64_C(1000000)
#define ROOM_BYTES ((size_t)1 << 16)

static uint64_t now_ns;

static uint64_t now(void)
{
    return now_ns;
}

static struct stage {
    struct smoe_keyring keys;
    struct smoe_tls_context *servers, *clients;
    struct tls_end server[PAIRS], client[PAIRS];
} s;

static void begin(void)
{
    struct smoe_key key;
    struct smoe_why why;
    struct smoe_tls_options server = {.keys = &s.keys, .now_ns = now}, client = {.key = &key};
    now_ns = 1000 * MS;
    cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, "pi-1", &key, &why), 0);
    cr_assert_eq(smoe_keyring_add(&s.keys, &key, &why), 0);
    cr_assert_eq(smoe_tls_context_new(&server, &s.servers, &why), 0);
    cr_assert_eq(smoe_tls_context_new(&client, &s.clients, &why), 0);
    for (int i = 0; i < PAIRS; i++) {
        cr_assert_eq(tls_end_init(&s.server[i], s.servers, ROOM_BYTES), 0);
        cr_assert_eq(tls_end_init(&s.client[i], s.clients, ROOM_BYTES), 0);
        tls_pump(&s.client[i], &s.server[i], 0);
        cr_assert_eq(s.server[i].tls.state, SMOE_TLS_OPEN);
    }
}

static void end(void)
{
    for (int i = 0; i < PAIRS; i++) {
        tls_end_release(&s.server[i]);
        tls_end_release(&s.client[i]);
    }
    smoe_tls_context_free(s.servers);
    smoe_tls_context_free(s.clients);
    smoe_keyring_release(&s.keys);
}

/* A message of that size from client `i` to its server, `ms` after the last one. */
static void say(int i, uint64_t ms, size_t bytes)
{
    static uint8_t message[ROOM_BYTES];
    now_ns += ms * MS;
    s.server[i].n_in = 0;
    s.client[i].out = message;
    s.client[i].out_begin = 0;
    s.client[i].out_end = bytes;
    while (tls_move(&s.client[i], &s.server[i], 0))
        ;
    cr_assert_eq(s.server[i].n_in, bytes);
}

/* So many, each soon after another. */
static void say_often(int i, int times)
{
    while (times-- > 0)
        say(i, 0, 100);
}

static int keepers(void)
{
    int n = 0;
    for (int i = 0; i < PAIRS; i++) {
        bool releases = SSL_get_mode(s.server[i].tls.ssl) & SSL_MODE_RELEASE_BUFFERS;
        cr_assert_neq(s.server[i].tls.keeps, releases);
        n += s.server[i].tls.keeps;
    }
    return n;
}

Test(tls_buffers, who_hears_little_keeps_none, .init = begin, .fini = end)
{
    for (int times = 0; times < 3; times++)
        for (int i = 0; i < PAIRS; i++)
            say(i, 20, 100);
    cr_assert_eq(keepers(), 0);
}

Test(tls_buffers, who_hears_much_keeps_them_until_it_hears_little, .init = begin, .fini = end)
{
    say(3, 20, 100);
    say_often(3, MANY - 1);
    cr_assert_eq(keepers(), 0);
    say(3, 19, 40000);
    cr_assert_eq(keepers(), 1);
    cr_assert(s.server[3].tls.keeps);
    say(3, 20, 100);
    cr_assert_eq(keepers(), 0);
    say_often(3, MANY - 1);
    cr_assert_eq(keepers(), 0);
    say(3, 19, 100);
    cr_assert_eq(keepers(), 1);
}

Test(tls_buffers, no_more_than_some_keep_them, .init = begin, .fini = end)
{
    for (int i = 0; i < PAIRS; i++)
        say_often(i, 1 + MANY);
    cr_assert_eq(keepers(), KEEPERS);
    for (int i = 0; i < PAIRS; i++)
        cr_assert_eq(s.server[i].tls.keeps, i >= PAIRS - KEEPERS, "%d", i);
    say(PAIRS - KEEPERS, 0, 100); /* heard again: now the next one has been silent longest */
    say(0, 0, 100);
    cr_assert(s.server[0].tls.keeps);
    cr_assert(s.server[PAIRS - KEEPERS].tls.keeps);
    cr_assert_not(s.server[PAIRS - KEEPERS + 1].tls.keeps);
    cr_assert_eq(keepers(), KEEPERS);
}

Test(tls_buffers, a_record_that_is_half_there_is_not_lost_with_them, .init = begin, .fini = end)
{
    struct iovec sealed;
    say_often(0, 1 + MANY);
    s.server[0].n_in = 0;
    s.client[0].out_begin = 0;
    cr_assert_eq(s.client[0].wire.peek(&s.client[0].tls, &sealed, 1), 1);
    tls_feed(&s.server[0], sealed.iov_base, 10, 0);
    cr_assert(s.server[0].tls.keeps);
    now_ns += 100 * MS;
    tls_feed(&s.server[0], (uint8_t *)sealed.iov_base + 10, sealed.iov_len - 10, 0);
    cr_assert_eq(s.server[0].n_in, 100);
    cr_assert_not(s.server[0].tls.keeps);
}
