/* SPDX-License-Identifier: Apache-2.0
 *
 * A server has no certificate, so whoever offers no key that it knows gets no further. A client accepts no
 * certificate (SSL_VERIFY_PEER, with nothing to verify by) and asks afterwards whether its key was
 * used: somebody in between with a certificate of its own is refused by both.
 *
 * With certificates the same callbacks are not set, both sides ask for one and verify it by what their own file
 * trusts, and whom it is of is asked afterwards, as with keys: a node speaks to a gateway only, and a gateway to
 * whoever has a role.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#ifdef __aarch64__
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "common/base/wipe.h"
#include "common/io/clock.h"
#include "common/io/tls_internal.h"

#define SHAKING_BYTES 2048 /* of OpenSSL's buffer for writing, until the handshake is done */

/* Lists for ALPN, each name behind its length: what a server knows, and what a client offers. */
#define PEER_ALPN  "\x0b" SMOE_TLS_PROTOCOL
#define ADMIN_ALPN "\x11" SMOE_TLS_ADMIN_PROTOCOL
#define LINK_ALPN  "\x10" SMOE_TLS_LINK_PROTOCOL
static const unsigned char peer_alpn[] = PEER_ALPN, admin_alpn[] = ADMIN_ALPN,
                           link_alpn[] = LINK_ALPN, known_alpn[] = PEER_ALPN ADMIN_ALPN LINK_ALPN;

/* ---- what is wrong, for people ---- */

static const char *name_of(const struct smoe_tls *tls)
{
    return *tls->who.name ? tls->who.name : "stranger";
}

/* What a server says about a client that failed. */
static const char *server_sentence(int reason)
{
    switch (reason) {
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
        return "speaks no TLS 1.3";
    case SSL_R_BINDER_DOES_NOT_VERIFY:
        return "has a wrong key";
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS:
    case SSL_R_MISSING_SIGALGS_EXTENSION:
        return "offers no key that is known here";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return "shows no certificate";
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        return "shows a certificate that is not trusted here, or was revoked";
    case SSL_R_NO_APPLICATION_PROTOCOL:
        return "does not speak " SMOE_TLS_PROTOCOL;
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
        return "speaks no TLS";
    default:
        return NULL;
    }
}

/* What a client says about a server that refused it. */
static const char *client_sentence(int reason)
{
    switch (reason) {
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        return "the gateway does not know this key: it was revoked, or is another gateway's";
    case SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER:
    case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
        return "the gateway has another key of this name";
    case SSL_R_WRONG_VERSION_NUMBER:
        return "the gateway speaks no TLS (its security.insecure?)";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        return "the gateway does not trust this certificate, or it was revoked";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return "the gateway asks for a certificate";
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        return "the other side does not have this key: it is not the gateway";
    default:
        return NULL;
    }
}

void smoe_tls_say_why(struct smoe_tls *tls)
{
    unsigned long code = ERR_peek_error();
    int reason = code ? ERR_GET_REASON(code) : 0;
    bool untrusted = tls->context->certificate.own && SSL_get_verify_result(tls->ssl) != X509_V_OK;
    if (untrusted) /* whatever it was that libcrypto found */
        reason = SSL_R_CERTIFICATE_VERIFY_FAILED;
    else if (tls->context->certificate.own && reason == SSL_R_TLSV1_ALERT_DECRYPT_ERROR)
        reason = SSL_R_TLSV1_ALERT_UNKNOWN_CA; /* an authority of the same name */
    const char *text = smoe_tls_is_server(tls) ? server_sentence(reason) : client_sentence(reason);
    if (!smoe_tls_is_server(tls) && untrusted)
        text = "the other side's certificate is not trusted here: it is not the gateway";
    if (!text)
        text = code ? ERR_reason_error_string(code) : NULL;
    if (smoe_tls_is_server(tls))
        smoe_fail(&tls->why, 0, "TLS: %s %s", name_of(tls), text ? text : "made a mistake");
    else
        smoe_fail(&tls->why, 0, "TLS: %s", text ? text : "the gateway made a mistake");
}

/* ---- the handshake ---- */

/* The session that a key stands for. OpenSSL wipes it when it frees it. */
static SSL_SESSION *session_of(SSL *ssl, const struct smoe_key *key)
{
    static const unsigned char aes_128_gcm_sha256[] = {0x13, 0x01};
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, aes_128_gcm_sha256);
    SSL_SESSION *session = SSL_SESSION_new();
    if (session && cipher && SSL_SESSION_set1_master_key(session, key->secret, SMOE_KEY_BYTES) &&
        SSL_SESSION_set_cipher(session, cipher) &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int on_client_key(SSL *ssl, const EVP_MD *md, const unsigned char **ret_identity,
                         size_t *ret_len, SSL_SESSION **ret)
{
    struct smoe_tls *tls = SSL_get_app_data(ssl);
    struct smoe_tls_context *c = tls->context;
    *ret = NULL;
    if (md && EVP_MD_get_type(md) != NID_sha256)
        return 1; /* after a HelloRetryRequest: none of ours */
    if (tls->key)
        smoe_key_identity(tls->key, c->identity); /* OpenSSL copies it before it asks for another */
    *ret = session_of(ssl, tls->key ? tls->key : &c->key);
    *ret_identity = (const unsigned char *)c->identity;
    *ret_len = strlen(c->identity);
    return *ret != NULL;
}

static void note_who(struct smoe_tls *tls, const struct smoe_key *key)
{
    tls->who = *key;
    smoe_wipe(tls->who.secret, sizeof tls->who.secret);
}

static int on_server_key(SSL *ssl, const unsigned char *identity, size_t len, SSL_SESSION **ret)
{
    struct smoe_tls *tls = SSL_get_app_data(ssl);
    const struct smoe_key *key =
        smoe_keyring_find(tls->context->options.keys, (const char *)identity, len);
    *ret = NULL;
    if (!key) { /* goes on without one, and ends for want of a certificate */
        smoe_fail(&tls->why, 0, "TLS: no key \"%.*s\" here", (int)(len < 80 ? len : 80),
                  (const char *)identity);
        return 1;
    }
    note_who(tls, key);
    *ret = session_of(ssl, key);
    return *ret != NULL;
}

/* Whether our group is among the shares of a key exchange: list of {group, length, share}. */
static bool has_our_share(const unsigned char *list, size_t n)
{
    for (size_t at = 2; at + 4 <= n; at += 4 + ((size_t)list[at + 2] << 8 | list[at + 3]))
        if (list[at] == 0 && list[at + 1] == 0x1d) /* X25519 */
            return true;
    return false;
}

/* Of a client without the share that it should have OpenSSL would ask for a second hello, of any length. */
static int on_client_hello(SSL *ssl, int *ret_alert, void *unused)
{
    struct smoe_tls *tls = SSL_get_app_data(ssl);
    const unsigned char *shares;
    size_t n;
    (void)unused;
    tls->understood = true;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_key_share, &shares, &n) ||
        has_our_share(shares, n))
        return SSL_CLIENT_HELLO_SUCCESS;
    *ret_alert = SSL_AD_HANDSHAKE_FAILURE;
    smoe_fail(&tls->why, 0, "TLS: stranger offers no X25519");
    return SSL_CLIENT_HELLO_ERROR;
}

static int on_alpn(SSL *ssl, const unsigned char **ret, unsigned char *ret_len,
                   const unsigned char *offered, unsigned n_offered, void *unused)
{
    unsigned char *chosen = NULL;
    (void)ssl, (void)unused;
    if (SSL_select_next_proto(&chosen, ret_len, known_alpn, sizeof known_alpn - 1, offered,
                              n_offered) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *ret = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static const char *protocol_of(enum smoe_role role)
{
    return role == SMOE_ROLE_ADMIN  ? SMOE_TLS_ADMIN_PROTOCOL
           : role == SMOE_ROLE_PEER ? SMOE_TLS_LINK_PROTOCOL
                                    : SMOE_TLS_PROTOCOL;
}

/* The other side's certificate, which OpenSSL has verified, is of somebody who belongs there. */
static bool is_certified(struct smoe_tls *tls)
{
    bool is_gateway = false;
    struct smoe_key who;
    struct smoe_why why = {""};
    X509 *other = SSL_get0_peer_certificate(tls->ssl);
    if (!other)
        return smoe_fail(&tls->why, false, "TLS: no certificate was shown");
    if (smoe_certificate_who(other, &who, &is_gateway, &why))
        return smoe_fail(&tls->why, false, "TLS: %s", why.text);
    if (is_gateway == smoe_tls_is_server(tls))
        return smoe_fail(&tls->why, false, "TLS: the certificate of %s is %s gateway's", who.name,
                         is_gateway ? "a" : "no");
    if (!smoe_tls_is_server(tls))
        return true;
    note_who(tls, &who);
    if (!smoe_tls_is_welcome(tls)) /* as of now: what is trusted may have changed meanwhile */
        return smoe_fail(&tls->why, false, "TLS: the certificate of %s was revoked", name_of(tls));
    return true;
}

static bool is_known(struct smoe_tls *tls)
{
    if (!SSL_session_reused(tls->ssl))
        return smoe_fail(&tls->why, false, "TLS: no key was used");
    if (smoe_tls_is_server(tls) && !smoe_tls_is_welcome(tls))
        return smoe_fail(&tls->why, false, "TLS: the key of %s was revoked", name_of(tls));
    return true;
}

bool smoe_tls_is_welcome(const struct smoe_tls *tls)
{
    char identity[SMOE_KEY_IDENTITY_MAX];
    const struct smoe_tls_context *c = tls->context;
    if (c->certificate.own)
        return smoe_certificate_good(&c->certificate, SSL_get0_peer_certificate(tls->ssl));
    smoe_key_identity(&tls->who, identity);
    return smoe_keyring_find(c->options.keys, identity, strlen(identity)) != NULL;
}

/* What OpenSSL leaves to be asked: who it is, and our protocol. */
static bool is_as_agreed(struct smoe_tls *tls)
{
    const unsigned char *protocol;
    unsigned n;
    SSL_get0_alpn_selected(tls->ssl, &protocol, &n);
    if (tls->context->certificate.own ? !is_certified(tls) : !is_known(tls))
        return false;
    const char *due = protocol_of(tls->who.role);
    if (n != strlen(due) || memcmp(protocol, due, n) != 0)
        return smoe_fail(&tls->why, false, "TLS: %s does not speak %s", name_of(tls), due);
    return true;
}

/* OpenSSL keeps the key as long as the session, and has no use for it once there are keys for the records. */
static void forget_key(SSL *ssl)
{
    static const uint8_t nothing[SMOE_KEY_BYTES];
    SSL_SESSION *session = SSL_get_session(ssl);
    if (session)
        (void)SSL_SESSION_set1_master_key(session, nothing, sizeof nothing);
}

void smoe_tls_shake(struct smoe_tls *tls)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(tls->ssl);
    if (rc != 1) {
        if (SSL_get_error(tls->ssl, rc) != SSL_ERROR_WANT_READ)
            smoe_tls_fail(tls);
        else if (tls->received > SMOE_TLS_HANDSHAKE_BYTES_MAX)
            smoe_tls_end_because(tls, "a handshake of too many bytes");
        return;
    }
    if (!is_as_agreed(tls)) {
        smoe_tls_end(tls);
        return;
    }
    forget_key(tls->ssl);
    *tls->why.text = 0; /* of a key that it offered beside the right one */
    /* the small buffer is released by now, else OpenSSL would go on to use it */
    SSL_set_max_send_fragment(tls->ssl, SMOE_TLS_RECORD_BYTES);
    SSL_set_split_send_fragment(tls->ssl, SMOE_TLS_RECORD_BYTES);
    tls->state = SMOE_TLS_OPEN;
    if (tls->context->options.established)
        tls->context->options.established(tls->owner.context, &tls->who);
}

/* The first bytes must be of a ClientHello of bearable length, in one record: OpenSSL takes memory for what it
 * is promised. True: so far they are. */
bool smoe_tls_begins_well(struct smoe_tls *tls, const uint8_t *data, size_t n)
{
    const uint8_t *h = tls->head;
    for (size_t i = 0; i < n && tls->received + i < sizeof tls->head; i++)
        tls->head[tls->received + i] = data[i];
    if (h[0] != SSL3_RT_HANDSHAKE || (tls->received + n > 1 && h[1] != 3)) {
        smoe_tls_end_because(tls, "stranger speaks no TLS");
        return false;
    }
    if (tls->received + n < sizeof tls->head)
        return true;
    size_t hello = (size_t)h[6] << 16 | (size_t)h[7] << 8 | h[8];
    if (h[5] == SSL3_MT_CLIENT_HELLO && (h[3] || h[4] >= 4) && hello <= SMOE_TLS_HELLO_BYTES_MAX)
        return true;
    smoe_tls_end_because(tls, "stranger begins with no hello, or too long a one");
    return false;
}

/* ---- beginning ---- */

SSL *smoe_tls_new_ssl(struct smoe_tls *tls)
{
    SSL *ssl = SSL_new(tls->context->ssl);
    if (!ssl || !SSL_set_app_data(ssl, tls)) {
        SSL_free(ssl);
        return NULL;
    }
    SSL_set_max_send_fragment(ssl, SHAKING_BYTES);
    tls->understood = !smoe_tls_is_server(tls);
    if (smoe_tls_is_server(tls)) {
        SSL_set_accept_state(ssl);
        return ssl;
    }
    SSL_set_connect_state(ssl);
    note_who(tls, &tls->context->key);
    return ssl;
}

/* A client without instructions for AES is several times faster with ChaCha20, and a server obeys. */
static const char *ciphers(void)
{
    bool has_aes = true;
#if defined(__x86_64__) || defined(__i386__)
    has_aes = __builtin_cpu_supports("aes");
#elif defined(__aarch64__)
    has_aes = getauxval(AT_HWCAP) & HWCAP_AES;
#endif
    return has_aes ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
                   : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
}

static bool offer_protocol(SSL_CTX *ssl, enum smoe_role role)
{
    if (role == SMOE_ROLE_PEER)
        return SSL_CTX_set_alpn_protos(ssl, link_alpn, sizeof link_alpn - 1) == 0;
    bool admin = role == SMOE_ROLE_ADMIN;
    return SSL_CTX_set_alpn_protos(ssl, admin ? admin_alpn : peer_alpn,
                                   admin ? sizeof admin_alpn - 1 : sizeof peer_alpn - 1) == 0;
}

static bool use_certificate(SSL_CTX *ssl, const struct smoe_certificate *c)
{
    if (SSL_CTX_use_certificate(ssl, c->own) != 1 || SSL_CTX_use_PrivateKey(ssl, c->secret) != 1)
        return false;
    SSL_CTX_set1_cert_store(ssl, c->issuers);
    return true;
}

static void ask_by_keys(SSL_CTX *ssl, bool server)
{
    SSL_CTX_set_verify(ssl, server ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (server)
        SSL_CTX_set_psk_find_session_callback(ssl, on_server_key);
    else
        SSL_CTX_set_psk_use_session_callback(ssl, on_client_key);
}

static bool configure(SSL_CTX *ssl, bool server, enum smoe_role role,
                      const struct smoe_certificate *certificate)
{
    int groups[] = {NID_X25519};
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    if (!certificate)
        ask_by_keys(ssl, server);
    else if (!use_certificate(ssl, certificate))
        return false;
    else
        SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    if (server) {
        SSL_CTX_set_client_hello_cb(ssl, on_client_hello, NULL);
        SSL_CTX_set_alpn_select_cb(ssl, on_alpn, NULL);
    }
    return SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) &&
           SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION) &&
           SSL_CTX_set_ciphersuites(ssl, ciphers()) && SSL_CTX_set1_groups(ssl, groups, 1) &&
           SSL_CTX_set_num_tickets(ssl, 0) && (server || offer_protocol(ssl, role));
}

/* What it points to is counted by OpenSSL. */
static void share(struct smoe_certificate *to, const struct smoe_certificate *from)
{
    X509_up_ref(from->own);
    EVP_PKEY_up_ref(from->secret);
    X509_STORE_up_ref(from->issuers);
    *to = *from;
}

int smoe_tls_context_renew(struct smoe_tls_context *c, const struct smoe_certificate *certificate)
{
    if (!use_certificate(c->ssl, certificate)) {
        (void)use_certificate(c->ssl, &c->certificate);
        return SMOE_ENOMEMORY;
    }
    smoe_certificate_release(&c->certificate);
    share(&c->certificate, certificate);
    return 0;
}

int smoe_tls_context_new(const struct smoe_tls_options *options, struct smoe_tls_context **ret,
                         struct smoe_why *why)
{
    bool server = options->keys != NULL;
    struct smoe_tls_context *c = calloc(1, sizeof *c);
    if (!c)
        return smoe_fail(why, SMOE_ENOMEMORY, "TLS: out of memory");
    smoe_list_init(&c->waiting);
    smoe_list_init(&c->keepers);
    c->options = *options;
    c->options.key = NULL;
    c->options.certificate = NULL;
    if (options->certificate)
        share(&c->certificate, options->certificate);
    if (!c->options.records_max)
        c->options.records_max = SMOE_TLS_RECORDS_MAX;
    if (!c->options.now_ns)
        c->options.now_ns = smoe_clock_monotonic_ns;
    if (!server) {
        c->key = *options->key;
        smoe_key_identity(&c->key, c->identity);
    }
    c->bio = smoe_tls_bio_method();
    c->ssl = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (!c->bio || !c->ssl || !configure(c->ssl, server, c->key.role, options->certificate)) {
        smoe_tls_context_free(c);
        return smoe_fail(why, SMOE_ENOMEMORY, "TLS: OpenSSL cannot be set up: %s",
                         ERR_reason_error_string(ERR_get_error()));
    }
    *ret = c;
    return 0;
}

void smoe_tls_context_free(struct smoe_tls_context *c)
{
    if (!c)
        return;
    SSL_CTX_free(c->ssl);
    BIO_meth_free(c->bio);
    smoe_certificate_release(&c->certificate);
    smoe_wipe(&c->key, sizeof c->key);
    smoe_wipe(c->scratch, sizeof c->scratch);
    free(c->spare);
    free(c);
}
