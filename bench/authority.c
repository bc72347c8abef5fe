/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/authority.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY_S 86400

static bool extend(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    bool done = extension && X509_add_ext(x, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

/* A certificate of `key`, signed; NULL: no memory. */
static X509 *make(struct smoe_authority *a, EVP_PKEY *key, int nid, const char *value)
{
    X509 *x = X509_new();
    const unsigned char *common_name = (const unsigned char *)(a->certificate ? "node" : "bench");
    if (x && key && X509_set_version(x, 2) &&
        ASN1_INTEGER_set(X509_get_serialNumber(x), ++a->serial) &&
        X509_gmtime_adj(X509_getm_notBefore(x), -DAY_S) &&
        X509_gmtime_adj(X509_getm_notAfter(x), DAY_S) && X509_set_pubkey(x, key) &&
        X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, common_name, -1,
                                   -1, 0) &&
        X509_set_issuer_name(x, X509_get_subject_name(a->certificate ? a->certificate : x)) &&
        extend(x, nid, value) && X509_sign(x, a->secret, EVP_sha256()) > 0)
        return x;
    X509_free(x);
    return NULL;
}

int smoe_authority_init(struct smoe_authority *ret)
{
    *ret = (struct smoe_authority){.secret = EVP_EC_gen("P-256")};
    X509 *x = make(ret, ret->secret, NID_basic_constraints, "critical,CA:TRUE");
    ret->certificate = x;
    return x ? 0 : SMOE_ENOMEMORY;
}

void smoe_authority_release(struct smoe_authority *a)
{
    X509_free(a->certificate);
    EVP_PKEY_free(a->secret);
    *a = (struct smoe_authority){.serial = 0};
}

int smoe_authority_certify(struct smoe_authority *a, const char *name, struct smoe_certificate *ret)
{
    char uri[128];
    snprintf(uri, sizeof uri, "URI:stablemoe:worker:%s", name);
    *ret = (struct smoe_certificate){.secret = EVP_EC_gen("P-256"), .issuers = X509_STORE_new()};
    ret->own = make(a, ret->secret, NID_subject_alt_name, uri);
    ret->who.role = SMOE_ROLE_WORKER;
    snprintf(ret->who.name, sizeof ret->who.name, "%s", name);
    if (ret->own && ret->issuers && X509_STORE_add_cert(ret->issuers, a->certificate))
        return 0;
    smoe_certificate_release(ret);
    return SMOE_ENOMEMORY;
}

char *smoe_authority_gateway(struct smoe_authority *a, const char *name)
{
    char uri[128], *text, *copy = NULL;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    BIO *bio = BIO_new(BIO_s_mem());
    snprintf(uri, sizeof uri, "URI:stablemoe:gateway:%s", name);
    X509 *x = make(a, key, NID_subject_alt_name, uri);
    if (x && bio && PEM_write_bio_X509(bio, a->certificate) &&
        PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) &&
        PEM_write_bio_X509(bio, x)) {
        long n = BIO_get_mem_data(bio, &text);
        copy = strndup(text, (size_t)n);
    }
    BIO_free(bio);
    X509_free(x);
    EVP_PKEY_free(key);
    return copy;
}
