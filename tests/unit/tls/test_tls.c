/* SPDX-License-Identifier: Apache-2.0
 *
 * A gateway's end and a node's, and where somebody else must be played, OpenSSL itself.
 */
#include <criterion/criterion.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/tls/tls_pair.h"

#define BIG ((size_t)1 << 20)

static struct stage {
    struct smoe_keyring keys;
    struct smoe_tls_context *server_context, *client_context;
    struct tls_end server, client;
    uint8_t *bytes; /* [BIG] to be sent */
} s;

static struct smoe_key key_of(enum smoe_role role, const char *name)
{
    struct smoe_key key;
    struct smoe_why why;
    cr_assert_eq(smoe_key_make(role, name, &key, &why), 0, "%s", why.text);
    return key;
}

static void add(const struct smoe_key *key)
{
    struct smoe_why why;
    cr_assert_eq(smoe_keyring_add(&s.keys, key, &why), 0, "%s", why.text);
}

static void begin_with(const struct smoe_key *client_key, uint64_t records_max)
{
    struct smoe_why why;
    struct smoe_tls_options server = {
        .keys = &s.keys, .established = tls_end_established, .records_max = records_max};
    struct smoe_tls_options client = {
        .key = client_key, .established = tls_end_established, .records_max = records_max};
    s.bytes = malloc(BIG);
    for (size_t i = 0; i < BIG; i++)
        s.bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    cr_assert_eq(smoe_tls_context_new(&server, &s.server_context, &why), 0, "%s", why.text);
    cr_assert_eq(smoe_tls_context_new(&client, &s.client_context, &why), 0, "%s", why.text);
    cr_assert_eq(tls_end_init(&s.server, s.server_context, BIG), 0);
    cr_assert_eq(tls_end_init(&s.client, s.client_context, BIG), 0);
}

static void begin(void)
{
    struct smoe_key key = key_of(SMOE_ROLE_WORKER, "pi-1");
    add(&key);
    begin_with(&key, 0);
}

static void begin_shaken(void)
{
    begin();
    tls_pump(&s.client, &s.server, 0);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OPEN);
    cr_assert_eq(s.client.tls.state, SMOE_TLS_OPEN);
}

static void end(void)
{
    tls_end_release(&s.server);
    tls_end_release(&s.client);
    smoe_tls_context_free(s.server_context);
    smoe_tls_context_free(s.client_context);
    smoe_keyring_release(&s.keys);
    free(s.bytes);
}

static void send_bytes(struct tls_end *from, size_t n)
{
    from->out = s.bytes;
    from->out_begin = 0;
    from->out_end = n;
}

static void expect_refused(const char *server_why, const char *client_why)
{
    tls_pump(&s.client, &s.server, 0);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.client.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.server.n_established, 0);
    cr_assert(strstr(s.server.tls.why.text, server_why), "%s", s.server.tls.why.text);
    cr_assert(strstr(s.client.tls.why.text, client_why), "%s", s.client.tls.why.text);
}

/* ---- what it is for ---- */

Test(tls, both_know_each_other_by_their_key, .init = begin_shaken, .fini = end)
{
    cr_assert_eq(s.server.n_established, 1);
    cr_assert_eq(s.client.n_established, 1);
    cr_assert_eq(s.server.who.role, SMOE_ROLE_WORKER);
    cr_assert_str_eq(s.server.who.name, "pi-1");
    static const uint8_t zeros[SMOE_KEY_BYTES];
    cr_assert_arr_eq(s.server.who.secret, zeros, sizeof zeros, "the secret was handed on");
    cr_assert_eq(SSL_version(s.server.tls.ssl), TLS1_3_VERSION);
    cr_assert_eq(SSL_SESSION_has_ticket(SSL_get_session(s.client.tls.ssl)), 0);
}

/* The client has a key of `role`, and offers `protocol` by OpenSSL's own means. */
static void begin_as(enum smoe_role role, const char *alpn)
{
    struct smoe_key key = key_of(role, "n");
    add(&key);
    begin_with(&key, 0);
    if (alpn)
        cr_assert_eq(SSL_set_alpn_protos(s.client.tls.ssl, (const unsigned char *)alpn,
                                         (unsigned)strlen(alpn)),
                     0);
    tls_pump(&s.client, &s.server, 0);
}

#define PEER_PROTOCOL  "\x0b" SMOE_TLS_PROTOCOL
#define ADMIN_PROTOCOL "\x11" SMOE_TLS_ADMIN_PROTOCOL

Test(tls, an_administrator_has_a_protocol_of_its_own, .fini = end)
{
    begin_as(SMOE_ROLE_ADMIN, NULL);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OPEN, "%s", s.server.tls.why.text);
    cr_assert_eq(s.server.who.role, SMOE_ROLE_ADMIN);
}

Test(tls, an_administrator_sends_no_messages, .fini = end)
{
    begin_as(SMOE_ROLE_ADMIN, PEER_PROTOCOL);
    expect_refused("n does not speak stablemoe-admin/1", "n does not speak stablemoe-admin/1");
}

Test(tls, a_worker_does_not_administer, .fini = end)
{
    begin_as(SMOE_ROLE_WORKER, ADMIN_PROTOCOL);
    expect_refused("n does not speak stablemoe/1", "n does not speak stablemoe/1");
}

Test(tls, who_offers_both_protocols_gets_the_first_and_is_judged_by_it, .fini = end)
{
    begin_as(SMOE_ROLE_ADMIN, ADMIN_PROTOCOL PEER_PROTOCOL);
    expect_refused("n does not speak stablemoe-admin/1", "");
}

Test(tls, bytes_come_as_they_were_whatever_their_number_and_pieces, .init = begin_shaken,
     .fini = end)
{
    static const size_t sizes[] = {1, 2, 100, 16383, 16384, 16385, 65536, 200000, BIG};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t first = 0; first < 40000; first = first * 7 + 1) {
            s.server.n_in = s.client.n_in = 0;
            s.server.first_piece = s.client.first_piece = first;
            send_bytes(&s.client, sizes[i]);
            send_bytes(&s.server, sizes[i]);
            tls_pump(&s.client, &s.server, i % 2 ? 1000 : 0);
            cr_assert_eq(s.server.n_in, sizes[i]);
            cr_assert_eq(s.client.n_in, sizes[i]);
            cr_assert_eq(memcmp(s.server.in, s.bytes, sizes[i]), 0);
            cr_assert_eq(memcmp(s.client.in, s.bytes, sizes[i]), 0);
        }
}

Test(tls, everything_may_come_byte_by_byte, .init = begin, .fini = end)
{
    send_bytes(&s.client, 1000);
    send_bytes(&s.server, 1000);
    tls_pump(&s.client, &s.server, 1);
    cr_assert_eq(s.server.n_in, 1000);
    cr_assert_eq(s.client.n_in, 1000);
}

Test(tls, a_tensor_is_decrypted_into_its_place, .init = begin_shaken, .fini = end)
{
    s.server.direct_from = 100;
    s.server.direct_to = 100 + 300000;
    send_bytes(&s.client, 300200);
    s.client.first_piece = 100;
    tls_pump(&s.client, &s.server, 65536);
    cr_assert_eq(s.server.n_in, 300200);
    cr_assert_eq(memcmp(s.server.in, s.bytes, 300200), 0);
    cr_assert_gt(s.server.n_direct, 300000 - SSL3_RT_MAX_PLAIN_LENGTH);
}

Test(tls, no_more_is_encrypted_than_the_kernel_is_offered, .init = begin_shaken, .fini = end)
{
    struct iovec iovec;
    send_bytes(&s.client, BIG);
    cr_assert_eq(s.client.wire.peek(&s.client.tls, &iovec, 1), 1);
    size_t ahead = s.client.out_begin;
    cr_assert_leq(ahead, 262144, "%zu", ahead);
    cr_assert_eq(s.client.wire.peek(&s.client.tls, &iovec, 1), 1);
    s.client.wire.consume(&s.client.tls, iovec.iov_len - 1);
    cr_assert_eq(s.client.wire.peek(&s.client.tls, &iovec, 1), 1);
    cr_assert_eq(iovec.iov_len, 1);
    cr_assert_eq(s.client.out_begin, ahead, "it went on before the kernel had taken all");
}

Test(tls, keys_are_renewed_and_nothing_shows)
{
    struct smoe_key key = key_of(SMOE_ROLE_TRAINER, "t");
    add(&key);
    begin_with(&key, 3);
    for (int i = 0; i < 50; i++) {
        send_bytes(&s.client, 20000);
        send_bytes(&s.server, 10);
        s.server.n_in = s.client.n_in = 0;
        tls_pump(&s.client, &s.server, 0);
        cr_assert_eq(s.server.n_in, 20000);
        cr_assert_eq(s.client.n_in, 10);
        cr_assert_lt(s.client.tls.records, 6);
    }
    end();
}

/* ---- whoever does not belong ---- */

Test(tls, a_key_that_is_not_known_is_refused, .fini = end)
{
    struct smoe_key mine = key_of(SMOE_ROLE_WORKER, "pi-1"),
                    other = key_of(SMOE_ROLE_WORKER, "pi-2");
    add(&mine);
    begin_with(&other, 0);
    expect_refused("no key \"worker:pi-2:", "does not know this key");
}

Test(tls, a_wrong_key_of_a_known_name_is_refused, .fini = end)
{
    struct smoe_key mine = key_of(SMOE_ROLE_WORKER, "pi-1"), wrong = mine;
    add(&mine);
    wrong.secret[31] ^= 1;
    begin_with(&wrong, 0);
    expect_refused("pi-1 has a wrong key", "has another key of this name");
}

Test(tls, a_name_under_another_role_is_no_name, .fini = end)
{
    struct smoe_key mine = key_of(SMOE_ROLE_WORKER, "pi-1"), other = mine;
    add(&mine);
    other.role = SMOE_ROLE_TRAINER;
    begin_with(&other, 0);
    expect_refused("no key \"trainer:pi-1:", "does not know this key");
}

Test(tls, a_key_revoked_during_the_handshake_is_refused, .init = begin, .fini = end)
{
    struct smoe_why why;
    tls_move(&s.client, &s.server, 0);
    tls_move(&s.server, &s.client, 0);
    cr_assert_eq(smoe_keyring_revoke(&s.keys, "pi-1", NULL, &why), 0);
    tls_move(&s.client, &s.server, 0);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.server.n_established, 0);
    cr_assert(strstr(s.server.tls.why.text, "revoked"), "%s", s.server.tls.why.text);
}

Test(tls, garbage_gets_no_answer, .init = begin, .fini = end)
{
    static const struct {
        const char *bytes;
        size_t n;
    } garbage[] = {
#define G(text) {text, sizeof(text) - 1}
        G("GET / HTTP/1.1\r\n\r\n"),
        G("SMOE\x01\x00\x01\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        G("\x16\x03\x01\x00\x10garbagegarbagega"),
        G("\x15\x03\x03\x00\x02\x02\x28"),
        G("\x17\x03\x03\x00\x05hello"),
        G("\x80\x2e\x01\x03\x01 an old hello, of SSL 2, and some more bytes behind it"),
#undef G
    };
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        struct iovec iovec;
        tls_end_release(&s.server);
        cr_assert_eq(tls_end_init(&s.server, s.server_context, BIG), 0);
        tls_feed(&s.server, (const uint8_t *)garbage[i].bytes, garbage[i].n, 0);
        cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER, "%zu", i);
        cr_assert_eq(s.server.wire.peek(&s.server.tls, &iovec, 1), 0, "%zu", i);
        cr_assert_neq(*s.server.tls.why.text, 0);
    }
}

Test(tls, a_hello_longer_than_bearable_is_not_begun_with, .init = begin, .fini = end)
{
    for (unsigned n = SMOE_TLS_HELLO_BYTES_MAX; n <= SMOE_TLS_HELLO_BYTES_MAX + 1; n++) {
        const uint8_t head[] = {0x16, 3, 1, 0x10, 0, 1, 0, (uint8_t)(n >> 8), (uint8_t)n};
        tls_end_release(&s.server);
        cr_assert_eq(tls_end_init(&s.server, s.server_context, BIG), 0);
        tls_feed(&s.server, head, sizeof head, 2);
        cr_assert_eq(s.server.tls.state == SMOE_TLS_OVER, n > SMOE_TLS_HELLO_BYTES_MAX, "%u", n);
    }
}

Test(tls, a_handshake_that_does_not_end_is_ended, .init = begin, .fini = end)
{
    uint8_t record[5 + 1000] = "\x16\x03\x01\x03\xe8\x01\x00\x10\x00"; /* a ClientHello of 4 KiB */
    size_t fed = 0;
    for (; s.server.tls.state == SMOE_TLS_SHAKING && fed < BIG; fed += sizeof record) {
        tls_feed(&s.server, record, sizeof record, 100);
        memset(record + 5, 0, 4);
    }
    cr_assert_leq(fed, SMOE_TLS_HANDSHAKE_BYTES_MAX + 2 * sizeof record, "%zu", fed);
    cr_assert_eq(s.server.n_established, 0);
}

Test(tls, a_byte_that_was_changed_ends_it_and_is_not_delivered, .init = begin_shaken, .fini = end)
{
    struct iovec iovec;
    send_bytes(&s.client, 1000);
    cr_assert_eq(s.client.wire.peek(&s.client.tls, &iovec, 1), 1);
    ((uint8_t *)iovec.iov_base)[500] ^= 1;
    tls_move(&s.client, &s.server, 0);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.server.n_in, 0);
    cr_assert_eq(s.server.n_established, 1);
}

Test(tls, a_record_said_twice_ends_it, .init = begin_shaken, .fini = end)
{
    struct iovec iovec;
    uint8_t copy[200];
    send_bytes(&s.client, 100);
    cr_assert_eq(s.client.wire.peek(&s.client.tls, &iovec, 1), 1);
    cr_assert_leq(iovec.iov_len, sizeof copy);
    memcpy(copy, iovec.iov_base, iovec.iov_len);
    size_t n = tls_move(&s.client, &s.server, 0);
    cr_assert_eq(s.server.n_in, 100);
    tls_feed(&s.server, copy, n, 0);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.server.n_in, 100);
}

/* ---- OpenSSL itself as the other end ---- */

static SSL *stranger;

static void talk(struct tls_end *end)
{
    char bytes[4096];
    for (int i = 0; i < 10; i++) {
        struct iovec iovec;
        int n;
        (void)SSL_do_handshake(stranger);
        while ((n = BIO_read(SSL_get_wbio(stranger), bytes, sizeof bytes)) > 0)
            tls_feed(end, (const uint8_t *)bytes, (size_t)n, 0);
        while (end->wire.peek(&end->tls, &iovec, 1)) {
            BIO_write(SSL_get_rbio(stranger), iovec.iov_base, (int)iovec.iov_len);
            end->wire.consume(&end->tls, iovec.iov_len);
        }
    }
}

static void begin_stranger(SSL_CTX *context, bool server)
{
    stranger = SSL_new(context);
    SSL_set_bio(stranger, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (server)
        SSL_set_accept_state(stranger);
    else
        SSL_set_connect_state(stranger);
    SSL_CTX_free(context);
}

static void expect_stranger_refused(const char *why)
{
    talk(&s.server);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER);
    cr_assert(strstr(s.server.tls.why.text, why), "%s", s.server.tls.why.text);
    cr_assert_eq(SSL_is_init_finished(stranger), 0);
    SSL_free(stranger);
}

Test(tls, tls_1_2_is_refused, .init = begin, .fini = end)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
    begin_stranger(context, false);
    expect_stranger_refused("speaks no TLS 1.3");
}

Test(tls, a_second_hello_is_never_asked_for, .init = begin, .fini = end)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    char groups[] = "P-256:X25519"; /* a share of the first only */
    SSL_CTX_set1_groups_list(context, groups);
    begin_stranger(context, false);
    expect_stranger_refused("offers no X25519");
}

Test(tls, whoever_offers_no_key_is_refused, .init = begin, .fini = end)
{
    begin_stranger(SSL_CTX_new(TLS_client_method()), false);
    static const unsigned char ours[] = "\x0bstablemoe/1";
    SSL_set_alpn_protos(stranger, ours, sizeof ours - 1);
    expect_stranger_refused("offers no key that is known here");
}

static const struct smoe_key *stranger_key;
static char stranger_identity[SMOE_KEY_IDENTITY_MAX];

static int use_key(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *n,
                   SSL_SESSION **ret)
{
    static const unsigned char cipher[] = {0x13, 0x01};
    (void)md;
    *ret = SSL_SESSION_new();
    SSL_SESSION_set1_master_key(*ret, stranger_key->secret, SMOE_KEY_BYTES);
    SSL_SESSION_set_cipher(*ret, SSL_CIPHER_find(ssl, cipher));
    SSL_SESSION_set_protocol_version(*ret, TLS1_3_VERSION);
    smoe_key_identity(stranger_key, stranger_identity);
    *id = (const unsigned char *)stranger_identity;
    *n = strlen(stranger_identity);
    return 1;
}

Test(tls, another_protocol_is_refused_whatever_the_key, .init = begin, .fini = end)
{
    static const unsigned char other[] = "\x02h2";
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_psk_use_session_callback(context, use_key);
    SSL_CTX_set_alpn_protos(context, other, sizeof other - 1);
    stranger_key = &s.keys.keys[0];
    begin_stranger(context, false);
    expect_stranger_refused("does not speak stablemoe/1");
}

Test(tls, a_right_key_without_a_protocol_is_refused, .init = begin, .fini = end)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_psk_use_session_callback(context, use_key);
    stranger_key = &s.keys.keys[0];
    begin_stranger(context, false);
    talk(&s.server);
    cr_assert_eq(s.server.n_established, 0);
    cr_assert(strstr(s.server.tls.why.text, "does not speak stablemoe/1"), "%s",
              s.server.tls.why.text);
    SSL_free(stranger);
}

/* Somebody in between who lacks the key, and has a certificate instead. */
Test(tls, a_node_does_not_take_a_certificate_for_its_gateway, .init = begin, .fini = end)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    X509 *own = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(own), 0);
    X509_gmtime_adj(X509_getm_notAfter(own), 3600);
    X509_set_pubkey(own, pair);
    cr_assert_gt(X509_sign(own, pair, EVP_sha256()), 0);
    SSL_CTX_use_certificate(context, own);
    SSL_CTX_use_PrivateKey(context, pair);
    begin_stranger(context, true);
    send_bytes(&s.client, 100);
    talk(&s.client);
    cr_assert_eq(s.client.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.client.n_established, 0);
    cr_assert_eq(s.client.out_begin, 0, "plaintext was given away");
    cr_assert(strstr(s.client.tls.why.text, "it is not the gateway"), "%s", s.client.tls.why.text);
    SSL_free(stranger);
    X509_free(own);
    EVP_PKEY_free(pair);
}

Test(tls, a_goodbye_ends_it_without_a_complaint, .init = begin_shaken, .fini = end)
{
    SSL_shutdown(s.client.tls.ssl);
    tls_pump(&s.client, &s.server, 0);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER);
    cr_assert_str_eq(s.server.tls.why.text, "");
}

/* A host of libstablemoe uses OpenSSL, too, and does not read its errors. */
Test(tls, what_others_left_in_the_queue_of_errors_is_not_ours, .init = begin_shaken, .fini = end)
{
    ERR_raise(ERR_LIB_USER, ERR_R_INTERNAL_ERROR);
    send_bytes(&s.client, 40000);
    tls_pump(&s.client, &s.server, 1000);
    cr_assert_eq(s.server.n_in, 40000);
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OPEN);
    cr_assert_eq(s.client.tls.state, SMOE_TLS_OPEN);
    ERR_clear_error();
}
