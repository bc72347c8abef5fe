/* SPDX-License-Identifier: Apache-2.0
 *
 * Who one is, by certificate instead of by key, for those who have an authority already. All of it is one file in PEM,
 * in any order: the private key, the certificate that belongs to it, and as many others as are trusted to have
 * signed the other side's; perhaps lists of what they have revoked. Role and name are in the certificate, as
 * its one alternative name (subjectAltName) of the form
 *
 *     URI:stablemoe:worker:pi-4        (trainer, admin; or URI:stablemoe:gateway:NAME)
 *
 * and nothing else in it says who it is. What this file trusts is all that is trusted: no authority of the
 * system's is. Nodes have no clock that could be relied on, so dates are not looked at: what is to end is revoked.
 */
#ifndef SMOE_IO_CERTIFICATE_H
#define SMOE_IO_CERTIFICATE_H

#include "common/io/key.h"

#define SMOE_CERTIFICATE_BYTES_MAX ((size_t)256 << 10) /* of the file */

struct x509_st;
struct x509_store_st;
struct evp_pkey_st;

struct smoe_certificate {
    struct x509_st *own;           /* owned, as all */
    struct evp_pkey_st *secret;    /* of `own` */
    struct x509_store_st *issuers; /* and what they revoked */
    struct smoe_key who;           /* without a secret: role, name, print of `own` */
    bool is_gateway;               /* then `who` has a name only */
};

/* Reads the file `name` of the directory `dir`, or AT_FDCWD: private as a file of keys (keyring.h). SMOE_EDATA and a
 * sentence if something is missing or does not fit. */
int smoe_certificate_read(int dir, const char *name, struct smoe_certificate *ret,
                          struct smoe_why *why);

/* May be zeroed. */
void smoe_certificate_release(struct smoe_certificate *certificate);

/* Whom a certificate of the other side is of. SMOE_EDATA: of nobody. */
int smoe_certificate_who(struct x509_st *certificate, struct smoe_key *ret, bool *ret_is_gateway,
                         struct smoe_why *why);

/* Whether one of the issuers has signed it, and not revoked it since. */
bool smoe_certificate_good(const struct smoe_certificate *mine, struct x509_st *other);

/* What a node is given as its file: a key's line (`ret_certificate` is zeroed), or a certificate (`ret_key` has no
 * secret). A gateway's certificate is no node's: SMOE_EDATA. */
int smoe_credential_read(const char *path, struct smoe_key *ret_key,
                         struct smoe_certificate *ret_certificate, struct smoe_why *why);

#endif
