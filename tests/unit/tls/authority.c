/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tls/authority.h"

#include <criterion/criterion.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#define DAY 86400

static X509 *make(struct authority *a, EVP_PKEY *key, const char *common_name)
{
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), ++a->serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -2 * DAY);
    X509_gmtime_adj(X509_getm_notAfter(x), -DAY);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               (const unsigned char *)common_name, -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(a->certificate ? a->certificate : x));
    return x;
}

static void extend(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    cr_assert(e && X509_add_ext(x, e, -1) == 1, "%s", value);
    X509_EXTENSION_free(e);
}

void authority_init(struct authority *a)
{
    *a = (struct authority){.secret = EVP_EC_gen("P-256")};
    X509 *x = make(a, a->secret, "authority");
    extend(x, NID_basic_constraints, "critical,CA:TRUE");
    cr_assert_gt(X509_sign(x, a->secret, EVP_sha256()), 0);
    a->certificate = x;
}

void authority_release(struct authority *a)
{
    X509_free(a->certificate);
    X509_CRL_free(a->revoked);
    EVP_PKEY_free(a->secret);
    *a = (struct authority){.serial = 0};
}

char *authority_certify(struct authority *a, const char *names, const struct authority *trusted)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = make(a, key, "somebody");
    BIO *bio = BIO_new(BIO_s_mem());
    char *text;
    if (names)
        extend(x, NID_subject_alt_name, names);
    cr_assert_gt(X509_sign(x, a->secret, EVP_sha256()), 0);
    PEM_write_bio_X509(bio, trusted->certificate);
    PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    PEM_write_bio_X509(bio, x);
    if (trusted->revoked)
        PEM_write_bio_X509_CRL(bio, trusted->revoked);
    long n = BIO_get_mem_data(bio, &text);
    char *copy = strndup(text, (size_t)n);
    BIO_free(bio);
    X509_free(x);
    EVP_PKEY_free(key);
    return copy;
}

void authority_revoke_last(struct authority *a)
{
    X509_CRL *list = X509_CRL_new();
    X509_REVOKED *entry = X509_REVOKED_new();
    ASN1_INTEGER *serial = ASN1_INTEGER_new();
    ASN1_TIME *then = X509_gmtime_adj(NULL, -2 * DAY);
    ASN1_INTEGER_set(serial, a->serial);
    X509_REVOKED_set_serialNumber(entry, serial);
    X509_REVOKED_set_revocationDate(entry, then);
    X509_CRL_set_version(list, 1);
    X509_CRL_set_issuer_name(list, X509_get_subject_name(a->certificate));
    X509_CRL_set1_lastUpdate(list, then);
    X509_CRL_set1_nextUpdate(list, then);
    X509_CRL_add0_revoked(list, entry);
    cr_assert_gt(X509_CRL_sign(list, a->secret, EVP_sha256()), 0);
    ASN1_INTEGER_free(serial);
    ASN1_TIME_free(then);
    X509_CRL_free(a->revoked);
    a->revoked = list;
}
