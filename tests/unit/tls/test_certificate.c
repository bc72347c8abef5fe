/* SPDX-License-Identifier: Apache-2.0
 *
 * Certificates in place of keys: what a file must have in it, and who is let in by whom. All of them ended
 * yesterday, since nobody looks at dates.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/io/scratch_dir.h"
#include "tests/unit/tls/authority.h"
#include "tests/unit/tls/tls_pair.h"

static struct stage {
    struct scratch_dir dir;
    struct authority ours, others;
    struct smoe_keyring no_keys;
    struct smoe_tls_context *server_context, *client_context;
    struct tls_end server, client;
} s;

static void set_up(void)
{
    scratch_dir_init(&s.dir);
    authority_init(&s.ours);
    authority_init(&s.others);
}

static void tear_down(void)
{
    if (s.server_context) {
        tls_end_release(&s.server);
        tls_end_release(&s.client);
    }
    smoe_tls_context_free(s.server_context);
    smoe_tls_context_free(s.client_context);
    authority_release(&s.ours);
    authority_release(&s.others);
    scratch_dir_release(&s.dir);
}

TestSuite(certificate, .init = set_up, .fini = tear_down);

/* A private file with this text, which is freed. */
static const char *file_of(char *text)
{
    const char *path = scratch_text(&s.dir, "file.pem", text);
    cr_assert_eq(chmod(path, 0600), 0);
    free(text);
    return path;
}

static struct smoe_certificate certificate_of(char *text)
{
    struct smoe_certificate c;
    struct smoe_why why;
    cr_assert_eq(smoe_certificate_read(AT_FDCWD, file_of(text), &c, &why), 0, "%s", why.text);
    return c;
}

static struct smoe_certificate by(struct authority *a, const char *names,
                                  const struct authority *trusted)
{
    return certificate_of(authority_certify(a, names, trusted));
}

/* ---- the file ---- */

Test(certificate, says_in_one_name_who_one_is)
{
    static const struct {
        const char *names;
        enum smoe_role role;
        const char *name; /* NULL: nobody */
        bool is_gateway;
    } cases[] = {
        {"URI:stablemoe:worker:pi-4", SMOE_ROLE_WORKER, "pi-4", false},
        {"URI:stablemoe:trainer:t", SMOE_ROLE_TRAINER, "t", false},
        {"DNS:a.example,URI:https://a.example,URI:stablemoe:admin:ops", SMOE_ROLE_ADMIN, "ops",
         false},
        {"URI:stablemoe:gateway:g", SMOE_ROLE_WORKER, "g", true},
        {NULL, 0, NULL, false},
        {"DNS:stablemoe", 0, NULL, false},
        {"DNS:stablemoe:worker:pi-4", 0, NULL, false},
        {"URI:stablemoe:worker", 0, NULL, false},
        {"URI:stablemoe:worker:", 0, NULL, false},
        {"URI:stablemoe:worker:a:b", 0, NULL, false},
        {"URI:stablemoe:root:a", 0, NULL, false},
        {"URI:stablemoe:worker:a,URI:stablemoe:worker:b", 0, NULL, false},
        {"URI:stablemoe:worker:a,URI:stablemoe:x", 0, NULL, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_certificate c;
        struct smoe_why why = {""};
        const char *path = file_of(authority_certify(&s.ours, cases[i].names, &s.ours));
        int rc = smoe_certificate_read(AT_FDCWD, path, &c, &why);
        cr_assert_eq(rc, cases[i].name ? 0 : SMOE_EDATA, "%s: %s", cases[i].names, why.text);
        if (rc) {
            cr_assert(strstr(why.text, "URI:stablemoe:ROLE:NAME"), "%s", why.text);
            continue;
        }
        cr_assert_str_eq(c.who.name, cases[i].name);
        cr_assert_eq(c.is_gateway, cases[i].is_gateway);
        cr_assert(c.is_gateway || c.who.role == cases[i].role);
        cr_assert_eq(strlen(c.who.print), SMOE_KEY_PRINT_DIGITS);
        smoe_certificate_release(&c);
    }
}

/* The text without its `nth` block of that kind, counted from 0. */
static char *without(const char *text, const char *kind, int nth)
{
    char begin[64], end[64];
    snprintf(begin, sizeof begin, "-----BEGIN %s-----", kind);
    snprintf(end, sizeof end, "-----END %s-----\n", kind);
    const char *from = strstr(text, begin);
    while (from && nth-- > 0)
        from = strstr(from + 1, begin);
    cr_assert(from != NULL, "%s", kind);
    const char *to = strstr(from, end) + strlen(end);
    char *rest = calloc(1, strlen(text) + 1);
    memcpy(rest, text, (size_t)(from - text));
    strcat(rest, to);
    return rest;
}

Test(certificate, is_a_private_file_with_everything_in_it)
{
    struct smoe_certificate c;
    struct smoe_why why;
    char *whole = authority_certify(&s.ours, "URI:stablemoe:worker:w", &s.ours);
    const struct {
        char *text;
        const char *says;
    } cases[] = {
        {without(whole, "PRIVATE KEY", 0), "no private key"},
        {without(whole, "CERTIFICATE", 0), "no certificate of an authority"},
        {without(whole, "CERTIFICATE", 1), "no certificate of the private key"},
        {strdup("-----BEGIN nonsense"), "no private key"},
        {strdup(""), "no private key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(smoe_certificate_read(AT_FDCWD, file_of(cases[i].text), &c, &why), SMOE_EDATA);
        cr_assert(strstr(why.text, cases[i].says), "%zu: %s", i, why.text);
    }
    const char *path = file_of(whole);
    cr_assert_eq(chmod(path, 0640), 0);
    cr_assert_eq(smoe_certificate_read(AT_FDCWD, path, &c, &why), -EPERM);
    cr_assert_eq(smoe_certificate_read(AT_FDCWD, scratch_path(&s.dir, "none"), &c, &why), -ENOENT);
}

Test(certificate, or_a_key_is_what_a_node_is_given)
{
    struct smoe_certificate c;
    struct smoe_key key, made;
    struct smoe_why why;
    char line[SMOE_KEY_LINE_MAX];
    cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, "k", &made, &why), 0);
    smoe_key_format(&made, line);
    cr_assert_eq(smoe_credential_read(file_of(strdup(line)), &key, &c, &why), 0, "%s", why.text);
    cr_assert(!c.own && strcmp(key.name, "k") == 0);
    cr_assert_eq(
        smoe_credential_read(file_of(authority_certify(&s.ours, "URI:stablemoe:admin:c", &s.ours)),
                             &key, &c, &why),
        0, "%s", why.text);
    cr_assert(c.own && strcmp(key.name, "c") == 0 && key.role == SMOE_ROLE_ADMIN);
    smoe_certificate_release(&c);
    cr_assert_eq(smoe_credential_read(
                     file_of(authority_certify(&s.ours, "URI:stablemoe:gateway:g", &s.ours)), &key,
                     &c, &why),
                 SMOE_EDATA);
    cr_assert_eq(smoe_credential_read(file_of(strdup("nonsense")), &key, &c, &why), SMOE_EDATA);
    cr_assert_eq(smoe_credential_read(scratch_path(&s.dir, "none"), &key, &c, &why), -ENOENT);
}

/* ---- who is let in ---- */

/* Both are released here; `client.own` NULL: it has a key. */
static void meet(struct smoe_certificate server, struct smoe_certificate client)
{
    struct smoe_why why;
    struct smoe_key key = client.who;
    struct smoe_tls_options for_server = {
        .keys = &s.no_keys, .certificate = &server, .established = tls_end_established};
    struct smoe_tls_options for_client = {.key = &key,
                                          .certificate = client.own ? &client : NULL,
                                          .established = tls_end_established};
    if (!client.own)
        cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, "w", &key, &why), 0);
    cr_assert_eq(smoe_tls_context_new(&for_server, &s.server_context, &why), 0, "%s", why.text);
    cr_assert_eq(smoe_tls_context_new(&for_client, &s.client_context, &why), 0, "%s", why.text);
    smoe_certificate_release(&server);
    smoe_certificate_release(&client);
    cr_assert_eq(tls_end_init(&s.server, s.server_context, 4096), 0);
    cr_assert_eq(tls_end_init(&s.client, s.client_context, 4096), 0);
    tls_pump(&s.client, &s.server, 0);
}

static void expect_refused(const char *server_why, const char *client_why)
{
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.client.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.server.n_established, 0);
    cr_assert(strstr(s.server.tls.why.text, server_why), "%s", s.server.tls.why.text);
    cr_assert(strstr(s.client.tls.why.text, client_why), "%s", s.client.tls.why.text);
}

Test(certificate, of_the_same_authority_lets_both_know_each_other)
{
    meet(by(&s.ours, "URI:stablemoe:gateway:g", &s.ours),
         by(&s.ours, "URI:stablemoe:trainer:t", &s.ours));
    cr_assert_eq(s.server.tls.state, SMOE_TLS_OPEN, "%s", s.server.tls.why.text);
    cr_assert_eq(s.client.tls.state, SMOE_TLS_OPEN, "%s", s.client.tls.why.text);
    cr_assert_eq(s.server.who.role, SMOE_ROLE_TRAINER);
    cr_assert_str_eq(s.server.who.name, "t");
    cr_assert_eq(SSL_version(s.server.tls.ssl), TLS1_3_VERSION);
    cr_assert_not(SSL_session_reused(s.server.tls.ssl));
}

Test(certificate, of_another_authority_lets_nobody_in)
{
    meet(by(&s.ours, "URI:stablemoe:gateway:g", &s.ours),
         by(&s.others, "URI:stablemoe:worker:w", &s.ours));
    expect_refused("shows a certificate that is not trusted here", "does not trust");
}

Test(certificate, of_a_gateway_of_another_authority_is_no_gateways)
{
    meet(by(&s.others, "URI:stablemoe:gateway:g", &s.ours),
         by(&s.ours, "URI:stablemoe:worker:w", &s.ours));
    expect_refused("", "it is not the gateway");
}

Test(certificate, of_a_node_makes_no_gateway)
{
    meet(by(&s.ours, "URI:stablemoe:worker:rogue", &s.ours),
         by(&s.ours, "URI:stablemoe:worker:w", &s.ours));
    cr_assert_eq(s.client.tls.state, SMOE_TLS_OVER);
    cr_assert_eq(s.client.n_established, 0);
    cr_assert(strstr(s.client.tls.why.text, "the certificate of rogue is no gateway's"), "%s",
              s.client.tls.why.text);
}

Test(certificate, of_a_gateway_makes_no_node)
{
    meet(by(&s.ours, "URI:stablemoe:gateway:g", &s.ours),
         by(&s.ours, "URI:stablemoe:gateway:h", &s.ours));
    cr_assert_eq(s.server.n_established, 0);
    cr_assert(strstr(s.server.tls.why.text, "the certificate of h is a gateway's"), "%s",
              s.server.tls.why.text);
}

Test(certificate, and_a_key_do_not_meet)
{
    meet(by(&s.ours, "URI:stablemoe:gateway:g", &s.ours), (struct smoe_certificate){.own = NULL});
    cr_assert_eq(s.server.n_established, 0);
    cr_assert_eq(s.client.n_established, 0);
    cr_assert(strstr(s.client.tls.why.text, "it is not the gateway"), "%s", s.client.tls.why.text);
}

Test(certificate, that_is_revoked_ends_what_is_open_and_lets_nobody_in)
{
    struct smoe_certificate gateway = by(&s.ours, "URI:stablemoe:gateway:g", &s.ours);
    char *node = authority_certify(&s.ours, "URI:stablemoe:worker:w", &s.ours);
    meet(gateway, certificate_of(strdup(node)));
    cr_assert(smoe_tls_is_welcome(&s.server.tls), "%s", s.server.tls.why.text);
    authority_revoke_last(&s.ours);
    gateway = by(&s.ours, "URI:stablemoe:gateway:g", &s.ours);
    cr_assert_eq(smoe_tls_context_renew(s.server_context, &gateway), 0);
    smoe_certificate_release(&gateway);
    cr_assert_not(smoe_tls_is_welcome(&s.server.tls));
    tls_end_release(&s.server);
    tls_end_release(&s.client);
    s.server.n_established = s.client.n_established = 0;
    cr_assert_eq(tls_end_init(&s.server, s.server_context, 4096), 0);
    cr_assert_eq(tls_end_init(&s.client, s.client_context, 4096), 0);
    tls_pump(&s.client, &s.server, 0);
    expect_refused("shows a certificate that is not trusted here, or was revoked", "revoked");
    free(node);
}
