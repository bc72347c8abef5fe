/* SPDX-License-Identifier: Apache-2.0
 *
 * An authority for tests: it certifies whatever it is asked to, and takes it back.
 */
#ifndef SMOE_TEST_AUTHORITY_H
#define SMOE_TEST_AUTHORITY_H

#include <openssl/evp.h>
#include <openssl/x509.h>

struct authority {
    X509 *certificate;
    EVP_PKEY *secret;
    X509_CRL *revoked; /* NULL: it has never revoked anything */
    long serial;
};

void authority_init(struct authority *a);
void authority_release(struct authority *a);

/* A file in PEM for a certificate with these alternative names ("URI:...,DNS:..."; NULL: none): key, certificate,
 * the authority `trusted`, and what it has revoked. The certificate ended a day ago. To be freed with free(). */
char *authority_certify(struct authority *a, const char *names, const struct authority *trusted);

/* Takes back the certificate that it gave last. */
void authority_revoke_last(struct authority *a);

#endif
