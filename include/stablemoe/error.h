/* SPDX-License-Identifier: Apache-2.0
 *
 * Error codes of stablemoe. Every function that can fail returns 0 or a negative number: an errno or
 * libuv code passes through as it is, and what only stablemoe can say lies in -1000..-1999, here.
 * The numbers are part of the ABI and of the protocol (Error.code carries them): append, never renumber.
 */
#ifndef STABLEMOE_ERROR_H
#define STABLEMOE_ERROR_H

#define SMOE_ERROR_MAP(X)                                      \
    X(SMOE_EMALFORMED, -1000, "malformed message")             \
    X(SMOE_ETOOBIG, -1001, "message too large")                \
    X(SMOE_EVERSION, -1002, "no protocol version in common")   \
    X(SMOE_ESTATE, -1003, "message not allowed in this state") \
    X(SMOE_EROLE, -1004, "message not allowed for this role")  \
    X(SMOE_EFIELD, -1005, "field out of range")                \
    X(SMOE_EUNKNOWN, -1006, "no such object")                  \
    X(SMOE_EEXIST, -1007, "already exists")                    \
    X(SMOE_ECREDIT, -1008, "more sent than was granted")       \
    X(SMOE_EITERATION, -1009, "iteration_bytes_max exceeded")  \
    X(SMOE_ENOTFINITE, -1010, "not a finite number")           \
    X(SMOE_ESHAPE, -1011, "shape does not fit")                \
    X(SMOE_ELOST, -1012, "state lost with its worker")         \
    X(SMOE_EDRAINING, -1013, "shutting down")                  \
    X(SMOE_ENOMEMORY, -1014, "out of memory")                  \
    X(SMOE_ECONFIG, -1015, "bad configuration")                \
    X(SMOE_EDATA, -1016, "bad data file")                      \
    X(SMOE_ETIMEOUT, -1017, "timed out")                       \
    X(SMOE_ECLOSED, -1018, "connection closed")                \
    X(SMOE_ELIMIT, -1019, "limit reached")                     \
    X(SMOE_ECANCELED, -1020, "discarded")                      \
    X(SMOE_ENOWORKERS, -1021, "not enough workers")            \
    X(SMOE_EQUARANTINED, -1022, "in quarantine")

enum smoe_error {
#define X(name, value, text) name = value,
    SMOE_ERROR_MAP(X)
#undef X
};

#endif
