/* SPDX-License-Identifier: Apache-2.0
 *
 * Attempts to get in, by OpenSSL alone: integration_attempts HOST PORT COUNT AT_ONCE IDENTITY SECRET
 *
 * As openssl s_client would make them, one kind after the other: no TLS, TLS 1.2, TLS 1.3 without a key, with
 * a wrong key for IDENTITY, and with SECRET (hexadecimal), which is another node's. AT_ONCE processes make COUNT
 * together. Exit status 0: each was refused, and to whom spoke no TLS nothing was answered.
 */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECRET_BYTES 32
#define PATIENCE_S   30

enum kind { GARBAGE, TLS_1_2, NO_KEY, WRONG_KEY, ANOTHER_KEY, N_KINDS };

static struct sockaddr_in gateway;
static const char *identity;
static unsigned char secrets[2][SECRET_BYTES]; /* a wrong one, and the other node's */
static SSL_CTX *contexts[N_KINDS];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int use_key(const unsigned char *secret, const unsigned char **ret_id, size_t *ret_len,
                   SSL *ssl, SSL_SESSION **ret)
{
    static const unsigned char aes_128_gcm_sha256[] = {0x13, 0x01};
    SSL_SESSION *session = SSL_SESSION_new();
    SSL_SESSION_set1_master_key(session, secret, SECRET_BYTES);
    SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, aes_128_gcm_sha256));
    SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION);
    *ret_id = (const unsigned char *)identity;
    *ret_len = strlen(identity);
    *ret = session;
    return 1;
}

static int on_wrong_key(SSL *ssl, const EVP_MD *md, const unsigned char **ret_id, size_t *ret_len,
                        SSL_SESSION **ret)
{
    (void)md;
    return use_key(secrets[0], ret_id, ret_len, ssl, ret);
}

static int on_another_key(SSL *ssl, const EVP_MD *md, const unsigned char **ret_id, size_t *ret_len,
                          SSL_SESSION **ret)
{
    (void)md;
    return use_key(secrets[1], ret_id, ret_len, ssl, ret);
}

static void make_contexts(void)
{
    static const unsigned char alpn[] = "\x0bstablemoe/1";
    for (int kind = TLS_1_2; kind < N_KINDS; kind++) {
        SSL_CTX *c = contexts[kind] = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_verify(c, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_alpn_protos(c, alpn, sizeof alpn - 1);
        SSL_CTX_set_max_proto_version(c, kind == TLS_1_2 ? TLS1_2_VERSION : TLS1_3_VERSION);
    }
    SSL_CTX_set_psk_use_session_callback(contexts[WRONG_KEY], on_wrong_key);
    SSL_CTX_set_psk_use_session_callback(contexts[ANOTHER_KEY], on_another_key);
}

static int connect_to(void)
{
    struct timeval patience = {PATIENCE_S, 0};
    struct linger abruptly = {1, 0}; /* so that ports do not run out */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&gateway, sizeof gateway))
        fail("connect");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &abruptly, sizeof abruptly);
    return fd;
}

static bool garbage_is_refused(int fd)
{
    static const char words[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    char answer[16];
    (void)send(fd, words, sizeof words - 1, MSG_NOSIGNAL);
    return recv(fd, answer, sizeof answer, 0) <= 0;
}

static bool is_refused(enum kind kind)
{
    int fd = connect_to();
    bool refused;
    if (kind == GARBAGE) {
        refused = garbage_is_refused(fd);
    } else {
        SSL *ssl = SSL_new(contexts[kind]);
        SSL_set_fd(ssl, fd);
        refused = SSL_connect(ssl) != 1;
        SSL_free(ssl);
    }
    close(fd);
    return refused;
}

static int attempt(unsigned count)
{
    make_contexts();
    for (unsigned i = 0; i < count; i++)
        if (!is_refused(i % N_KINDS)) {
            fprintf(stderr, "attempt %u, of kind %u, was not refused\n", i, i % N_KINDS);
            return 1;
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    unsigned count = (unsigned)atoi(argv[3]), at_once = (unsigned)atoi(argv[4]);
    int status = 0, failed = 0;
    gateway.sin_family = AF_INET;
    gateway.sin_port = htons((unsigned short)atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &gateway.sin_addr);
    identity = argv[5];
    for (size_t i = 0; i < SECRET_BYTES; i++)
        sscanf(argv[6] + 2 * i, "%2hhx", &secrets[1][i]);
    signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < at_once; i++)
        if (fork() == 0)
            return attempt(count / at_once);
    while (wait(&status) > 0)
        failed |= status;
    return failed != 0;
}
