/* SPDX-License-Identifier: Apache-2.0
 *
 * What a router may know of a token without the backbone (MODEL.md section 3: X_t): its place in a
 * vocabulary, words or codes of patches alike, or its raw values.
 */
#ifndef SMOE_TRAIN_ROUTER_FEATURE_H
#define SMOE_TRAIN_ROUTER_FEATURE_H

#include <stddef.h>
#include <stdint.h>

#include "common/kernels/real.h"

enum smoe_feature {
    SMOE_FEATURE_TABLE,  /* D(X) is a row of a learned table */
    SMOE_FEATURE_LINEAR, /* D(X) is a learned matrix times the values */
};

/* n tokens, borrowed. */
struct smoe_tokens {
    size_t n;
    const uint16_t *codes; /* [n] each below the vocabulary; what a table reads */
    const smoe_real *x;    /* [n, values] as the data set gives them; what a linear map reads */
};

#endif
