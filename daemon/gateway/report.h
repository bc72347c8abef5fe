/* SPDX-License-Identifier: Apache-2.0
 *
 * What the gateway tells about itself, as JSON. Every number comes from the core's own counters;
 * counters are printed as exact integers whatever their size.
 */
#ifndef SMOE_GATEWAY_REPORT_H
#define SMOE_GATEWAY_REPORT_H

#include "daemon/gateway/gateway.h"

enum smoe_report {
    SMOE_REPORT_STATUS, /* everything: the daemon, its workers, experts and trainers */
    SMOE_REPORT_WORKERS,
    SMOE_REPORT_EXPERTS,
};

/* The recording of a trace. */
struct smoe_report_trace {
    const char *file;
    uint64_t bytes, records; /* in the file */
    uint64_t lost;           /* records that are not */
    const char *trouble;     /* why it is not being written now, or "" */
};

/* What only the shell knows. */
struct smoe_report_context {
    const char *version;
    uint64_t now_ns, started_ns;
    const char *listen;                    /* address trainers and workers connect to */
    const char *waiting;                   /* why new connections wait now, or "" */
    const char *journal_trouble;           /* why the journal cannot be written now, or "" */
    const struct smoe_report_trace *trace; /* NULL: none is recorded */
    const char *security;                  /* "tls", "insecure", or NULL */
    uint64_t keys;                         /* that are valid */
    uint64_t refused;                      /* connections without a key that is */
};

/* One line of JSON without a newline, or NULL when memory is out. The caller frees it with free(). */
char *smoe_report_json(const struct smoe_gateway *gateway, enum smoe_report what,
                       const struct smoe_report_context *context);

#endif
