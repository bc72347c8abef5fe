/* SPDX-License-Identifier: Apache-2.0
 *
 * An authority that certifies a gateway and its nodes, for as long as a bench runs.
 */
#ifndef SMOE_BENCH_AUTHORITY_H
#define SMOE_BENCH_AUTHORITY_H

#include "common/io/certificate.h"

struct smoe_authority {
    struct x509_st *certificate; /* owned, as all */
    struct evp_pkey_st *secret;
    long serial;
};

int smoe_authority_init(struct smoe_authority *ret);

/* May be zeroed. */
void smoe_authority_release(struct smoe_authority *a);

/* What a worker of this name has; to be released. */
int smoe_authority_certify(struct smoe_authority *a, const char *name,
                           struct smoe_certificate *ret);

/* A gateway's file, in PEM; to be freed. NULL: no memory. */
char *smoe_authority_gateway(struct smoe_authority *a, const char *name);

#endif
