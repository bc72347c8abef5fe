/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What stablemoe-freqd is asked and what it answers: one datagram of fixed size each way, on a Unix
 * SOCK_SEQPACKET socket, in the machine's own byte order. Under both licences, because both sides
 * include it: the worker is Apache-2.0, the helper links libcpupower and is GPL-2.0-only.
 *
 * A limit holds while its connection stands and its lease runs; asking again renews it. Where several
 * connections limit one policy the highest limit counts, since nobody asked to be slowed by others.
 */
#ifndef SMOE_IO_FREQMSG_H
#define SMOE_IO_FREQMSG_H

#include <stdint.h>

#define SMOE_FREQ_SOCKET  "/run/stablemoe-freqd.sock"
#define SMOE_FREQ_MAGIC   UINT32_C(0x71657266)
#define SMOE_FREQ_VERSION 1

#define SMOE_FREQ_CPU_MAX      4095 /* highest core that can be named */
#define SMOE_FREQ_ZONE_MAX     63   /* highest powercap zone */
#define SMOE_FREQ_LEASE_MS_MIN 100
#define SMOE_FREQ_LEASE_MS_MAX 60000

enum smoe_freq_kind {
    SMOE_FREQ_LIMIT = 1,   /* policy of core `subject`: scaling_max_freq = max_khz for lease_ms */
    SMOE_FREQ_RELEASE = 2, /* this connection limits that policy no longer */
    SMOE_FREQ_COUNTER = 3, /* a read-only descriptor of package zone `subject`'s energy_uj */
};

struct smoe_freq_request {
    uint32_t magic;
    uint16_t version;
    uint16_t kind;
    uint32_t subject;  /* core or zone */
    uint32_t lease_ms; /* LIMIT; clamped to SMOE_FREQ_LEASE_MS_MIN..MAX */
    uint64_t max_khz;  /* LIMIT; clamped to lowest..highest */
};

/* With COUNTER and no error one descriptor comes along (SCM_RIGHTS). */
struct smoe_freq_answer {
    uint32_t magic;
    uint16_t version;
    uint16_t kind;
    uint32_t subject;
    int32_t error;         /* 0 or a negative errno; the frequencies are told nevertheless */
    uint64_t asked_khz;    /* what was written, after clamping; 0: the policy is as it was found */
    uint64_t in_force_khz; /* scaling_max_freq as read back; 0: it cannot be read */
    uint64_t lowest_khz;   /* the hardware's lower limit */
    uint64_t highest_khz;  /* the hardware's upper limit, or the one found if that was lower */
};

#endif
