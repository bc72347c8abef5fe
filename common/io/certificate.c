/* SPDX-License-Identifier: Apache-2.0
 *
 * The file is read twice: for the key, and for everything else. The certificate that the key belongs to is one's
 * own; each of the others is an anchor of trust by itself (X509_V_FLAG_PARTIAL_CHAIN), so that an intermediate
 * authority needs no chain to be sent. Revocation is looked at only where the file has a list: then each
 * issuer must have one, and OpenSSL refuses what it finds no list for.
 */
#include "common/io/certificate.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"
#include "common/base/wipe.h"
#include "common/io/keyring.h"

#define SCHEME  "stablemoe:"
#define GATEWAY "gateway"

void smoe_certificate_release(struct smoe_certificate *c)
{
    X509_free(c->own);
    EVP_PKEY_free(c->secret);
    X509_STORE_free(c->issuers);
    *c = (struct smoe_certificate){.own = NULL};
}

/* ---- who ---- */

/* `role:name` behind the scheme. */
static bool parse_name(const char *text, size_t len, struct smoe_key *key, bool *ret_is_gateway)
{
    const char *colon = memchr(text, ':', len);
    size_t role_len = colon ? (size_t)(colon - text) : 0;
    size_t name_len = colon ? len - role_len - 1 : 0;
    *ret_is_gateway = role_len == sizeof GATEWAY - 1 && memcmp(text, GATEWAY, role_len) == 0;
    if (!colon || !smoe_name_valid(colon + 1, name_len) ||
        (!*ret_is_gateway && !smoe_role_parse(text, role_len, &key->role)))
        return false;
    memcpy(key->name, colon + 1, name_len);
    key->name[name_len] = 0;
    return true;
}

static void set_print(X509 *certificate, struct smoe_key *key)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (X509_digest(certificate, EVP_sha256(), digest, &n) == 1)
        smoe_hex_encode(digest, SMOE_KEY_PRINT_DIGITS / 2, key->print);
    key->print[n ? SMOE_KEY_PRINT_DIGITS : 0] = 0;
}

int smoe_certificate_who(X509 *certificate, struct smoe_key *ret, bool *ret_is_gateway,
                         struct smoe_why *why)
{
    struct smoe_key key = {.role = SMOE_ROLE_WORKER};
    bool is_gateway = false, good = true;
    int found = 0;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        const char *uri = (const char *)ASN1_STRING_get0_data(name->d.ia5);
        size_t len = (size_t)ASN1_STRING_length(name->d.ia5), scheme = sizeof SCHEME - 1;
        if (len <= scheme || memcmp(uri, SCHEME, scheme) != 0)
            continue;
        found++;
        good &= parse_name(uri + scheme, len - scheme, &key, &is_gateway);
    }
    GENERAL_NAMES_free(names);
    if (found != 1 || !good)
        return smoe_fail(why, SMOE_EDATA,
                         "a certificate needs one name of the form URI:" SCHEME "ROLE:NAME, ROLE "
                         "worker, trainer, admin or " GATEWAY);
    set_print(certificate, &key);
    *ret = key;
    *ret_is_gateway = is_gateway;
    return 0;
}

/* ---- the file ---- */

/* Without a terminal there is nobody to ask. */
static int no_password(char *to, int size, int writing, void *context)
{
    (void)to, (void)size, (void)writing, (void)context;
    return -1;
}

static int take_secret(const char *text, size_t len, struct smoe_certificate *c,
                       struct smoe_why *why)
{
    BIO *bio = BIO_new_mem_buf(text, (int)len);
    c->secret = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    ERR_clear_error();
    return c->secret ? 0 : smoe_fail(why, SMOE_EDATA, "no private key, or one with a password");
}

static bool take_certificate(const uint8_t *der, long len, struct smoe_certificate *c)
{
    X509 *x = d2i_X509(NULL, &der, len);
    bool good = x != NULL;
    if (good && !c->own && X509_check_private_key(x, c->secret) == 1)
        c->own = x;
    else if (good) {
        good = X509_STORE_add_cert(c->issuers, x) == 1;
        X509_free(x);
    }
    return good;
}

static bool take_list(const uint8_t *der, long len, struct smoe_certificate *c)
{
    X509_CRL *list = d2i_X509_CRL(NULL, &der, len);
    bool good = list && X509_STORE_add_crl(c->issuers, list) == 1 &&
                X509_STORE_set_flags(c->issuers, X509_V_FLAG_CRL_CHECK) == 1;
    X509_CRL_free(list);
    return good;
}

/* Everything but the key. How many certificates and lists there were, or -1: one is broken. */
static int take_rest(const char *text, size_t len, struct smoe_certificate *c)
{
    BIO *bio = BIO_new_mem_buf(text, (int)len);
    char *kind = NULL, *header = NULL;
    unsigned char *der = NULL;
    long bytes = 0;
    int n = 0;
    while (bio && n >= 0 && PEM_read_bio(bio, &kind, &header, &der, &bytes) == 1) {
        bool good = true;
        if (strcmp(kind, PEM_STRING_X509) == 0)
            good = take_certificate(der, bytes, c);
        else if (strcmp(kind, PEM_STRING_X509_CRL) == 0)
            good = take_list(der, bytes, c);
        n = good ? n + 1 : -1;
        OPENSSL_free(kind);
        OPENSSL_free(header);
        OPENSSL_clear_free(der, (size_t)bytes); /* it may have been the key */
    }
    BIO_free(bio);
    ERR_clear_error();
    return n;
}

static int parse(const char *text, size_t len, struct smoe_certificate *c, struct smoe_why *why)
{
    int rc = take_secret(text, len, c, why);
    if (rc)
        return rc;
    c->issuers = X509_STORE_new();
    if (!c->issuers ||
        !X509_STORE_set_flags(c->issuers, X509_V_FLAG_NO_CHECK_TIME | X509_V_FLAG_PARTIAL_CHAIN))
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    if (take_rest(text, len, c) < 0)
        return smoe_fail(why, SMOE_EDATA, "a certificate or list of revoked ones is broken");
    if (!c->own)
        return smoe_fail(why, SMOE_EDATA, "no certificate of the private key");
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(c->issuers);
    if (sk_X509_OBJECT_num(objects) == 0)
        return smoe_fail(why, SMOE_EDATA, "no certificate of an authority to trust");
    return smoe_certificate_who(c->own, &c->who, &c->is_gateway, why);
}

int smoe_certificate_read(int dir, const char *name, struct smoe_certificate *ret,
                          struct smoe_why *why)
{
    struct smoe_certificate c = {.own = NULL};
    size_t len = 0;
    char *text = malloc(SMOE_CERTIFICATE_BYTES_MAX);
    if (!text)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", name);
    int rc = smoe_private_read(dir, name, text, SMOE_CERTIFICATE_BYTES_MAX, &len, why);
    if (rc == 0 && (rc = parse(text, len, &c, why)))
        smoe_fail_at(why, rc, "%s", name);
    smoe_wipe(text, SMOE_CERTIFICATE_BYTES_MAX);
    free(text);
    if (rc)
        smoe_certificate_release(&c);
    else
        *ret = c;
    return rc;
}

/* ---- others ---- */

bool smoe_certificate_good(const struct smoe_certificate *mine, X509 *other)
{
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    bool good = context && X509_STORE_CTX_init(context, mine->issuers, other, NULL) == 1 &&
                X509_verify_cert(context) == 1;
    X509_STORE_CTX_free(context);
    ERR_clear_error();
    return good;
}

static bool begins_as_pem(const char *path)
{
    char text[12] = "";
    size_t len = 0;
    struct smoe_why unused;
    int rc = smoe_private_read(AT_FDCWD, path, text, sizeof text, &len, &unused);
    bool pem = (rc == 0 || rc == SMOE_ETOOBIG) && memcmp(text, "-----BEGIN", 10) == 0;
    smoe_wipe(text, sizeof text);
    return pem;
}

int smoe_credential_read(const char *path, struct smoe_key *ret_key,
                         struct smoe_certificate *ret_certificate, struct smoe_why *why)
{
    struct smoe_certificate c = {.own = NULL};
    *ret_certificate = c;
    if (!begins_as_pem(path))
        return smoe_key_read(path, ret_key, why);
    int rc = smoe_certificate_read(AT_FDCWD, path, &c, why);
    if (rc == 0 && c.is_gateway)
        rc = smoe_fail(why, SMOE_EDATA, "%s: is a gateway's certificate", path);
    if (rc) {
        smoe_certificate_release(&c);
        return rc;
    }
    *ret_key = c.who;
    *ret_certificate = c;
    return 0;
}
