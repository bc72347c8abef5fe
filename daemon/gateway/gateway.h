/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon without its sockets: bytes of many connections in, bytes out, the core in between. It
 * knows sessions (who has said hello, what may be sent when), keeps the tensors of batches that are on
 * their way, and carries out the core's updates: rows of a trainer's x are gathered once into one
 * frame per worker; what workers answer goes on as it came, without a copy.
 *
 * No I/O and no clock: the libuv shell (daemon/shell) and the simulator (sim/) drive the same code.
 */
#ifndef SMOE_GATEWAY_GATEWAY_H
#define SMOE_GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/err.h"
#include "daemon/core/core.h"

struct smoe_gateway;

struct smoe_gateway_options {
    struct smoe_core_options core;
    size_t tensors_bytes_max; /* all raw parts held at a time, and frozen routers */
    size_t outbox_bytes_max; /* waiting for one peer: a peer that lets it fill up is disconnected */
    uint64_t hello_timeout_ns; /* a connection that has not said hello by then is closed */
    /* Writes a record (copies it) and says later, in order, that it is durable:
     * smoe_gateway_journalled. NULL: nothing outlives this gateway. */
    void (*journal)(void *context, const struct smoe_record *record, uint64_t epoch);
    /* Sees to it that the next record has room for so many bytes of values, or gives that room back (0).
     * SMOE_ENOMEMORY: then there will be no such record. May be NULL. */
    int (*journal_room)(void *context, size_t bytes);
    void *journal_context;
    /* Takes in (copies) what was decided, if core.trace_bytes_max is set. */
    void (*trace)(void *context, const struct smoe_trace_entry *entry);
    void *trace_context;
    /* Random bytes for the keys of direct links; nonzero: there are none now. NULL: there are no links. */
    int (*draw)(void *context, void *bytes, size_t n);
    void *draw_context;
};

int smoe_gateway_new(const struct smoe_gateway_options *options, struct smoe_gateway **ret,
                     struct smoe_why *why);
void smoe_gateway_free(struct smoe_gateway *gateway);

/* Session numbers are 0 .. this - 1. */
uint32_t smoe_gateway_sessions_max(const struct smoe_gateway *gateway);

/* ---- the transport tells ---- */

#define SMOE_GATE_STRANGERS_MAX    96 /* sessions that have not said hello, */
#define SMOE_GATE_STRANGERS_OF_ONE 32 /* of one origin */

/* A connection came. Where too many have not said hello the one that is there longest is closed for it.
 * SMOE_ELIMIT when that one has just come, or too many still close: let it wait. */
int smoe_gateway_opened(struct smoe_gateway *gateway, uint64_t now_ns, uint32_t *ret_session);

/* Where it came from, as a number; 0 (which is also what is not told) is not counted. Of one origin that
 * has too many strangers the oldest is closed, or this one, if that has just come, too. */
void smoe_gateway_came_from(struct smoe_gateway *gateway, uint32_t session, uint64_t origin,
                            uint64_t now_ns);

/* Whose key it has shown; from then on it may say hello as nobody else. */
void smoe_gateway_identify(struct smoe_gateway *gateway, uint32_t session, enum smoe_role role,
                           const char *name);

#define SMOE_GATE_ADMINS_MAX 16 /* sessions of administrators at a time */

/* It is an administrator, after smoe_gateway_identify: it has no more to do with the gateway until it is dismissed
 * or closed, and none of its bytes come here. SMOE_ELIMIT, and it is to be closed: there are as many as may be.
 * SMOE_ECLOSED: it is being closed already. */
int smoe_gateway_administered(struct smoe_gateway *gateway, uint32_t session);

/* Where to read the session's next bytes into to save a copy, or NULL for anywhere. */
uint8_t *smoe_gateway_direct(const struct smoe_gateway *gateway, uint32_t session,
                             size_t *ret_room);

/* Bytes of the session follow soon: brings what they will touch near. */
void smoe_gateway_coming(const struct smoe_gateway *gateway, uint32_t session);

void smoe_gateway_received(struct smoe_gateway *gateway, uint32_t session, const uint8_t *data,
                           size_t n, uint64_t now_ns);

/* The connection is closed for good; the session number may be used again. */
void smoe_gateway_closed(struct smoe_gateway *gateway, uint32_t session, uint64_t now_ns);

/* Time passed: call at smoe_gateway_wake_ns at the latest. */
void smoe_gateway_tick(struct smoe_gateway *gateway, uint64_t now_ns);
uint64_t smoe_gateway_wake_ns(const struct smoe_gateway *gateway);

/* Records up to this number are durable. Not from within `journal`. */
void smoe_gateway_journalled(struct smoe_gateway *gateway, uint64_t sequence, uint64_t now_ns);

/* ---- the transport asks ---- */

/* Sessions with something to do for the transport (bytes to write, or to be closed), each once;
 * false when there is none left. */
bool smoe_gateway_next_dirty(struct smoe_gateway *gateway, uint32_t *ret_session);

/* What to write next to the session, and that it was written. */
size_t smoe_gateway_peek(const struct smoe_gateway *gateway, uint32_t session, struct iovec *iovecs,
                         size_t max);
void smoe_gateway_consume(struct smoe_gateway *gateway, uint32_t session, size_t bytes);

/* True once the session is to be closed; write what is left first if that goes quickly. */
bool smoe_gateway_closing(const struct smoe_gateway *gateway, uint32_t session);

/* Why it is being closed ("" if by the peer), and who it was ("worker pi-1", "" before
 * its hello), for the log. */
const char *smoe_gateway_close_reason(const struct smoe_gateway *gateway, uint32_t session);
const char *smoe_gateway_peer_name(const struct smoe_gateway *gateway, uint32_t session);

/* ---- administration ---- */

void smoe_gateway_configure(struct smoe_gateway *gateway, const struct smoe_core_settings *settings,
                            uint64_t now_ns);
/* SMOE_EUNKNOWN if there is no such worker; SMOE_ESTATE if it is to be drained and is not there: a drain is of a
 * connection. */
int smoe_gateway_drain(struct smoe_gateway *gateway, const char *worker_id, bool drain,
                       uint64_t now_ns);
/* The mean power of one worker, known or not; +inf: what is set for all. SMOE_ELIMIT if as many others as
 * there may be workers have one. */
int smoe_gateway_set_budget(struct smoe_gateway *gateway, const char *worker_id, double watts,
                            uint64_t now_ns);
/* Closes a session, with an Error if it has said hello. */
void smoe_gateway_dismiss(struct smoe_gateway *gateway, uint32_t session, int code,
                          const char *sentence, uint64_t now_ns);
/* Take nothing new; smoe_gateway_drained tells when nothing is in flight any more. */
void smoe_gateway_shutdown(struct smoe_gateway *gateway, uint64_t now_ns);
bool smoe_gateway_drained(const struct smoe_gateway *gateway);
/* Says Bye to everybody and marks all sessions for closing. */
void smoe_gateway_goodbye(struct smoe_gateway *gateway, const char *reason);

const struct smoe_core *smoe_gateway_core(const struct smoe_gateway *gateway);

struct smoe_gateway_stats {
    uint64_t tensor_bytes;      /* held now of raw parts, */
    uint64_t router_bytes;      /* of frozen routers, */
    uint64_t tensor_bytes_peak; /* at most so far of both */
    uint64_t frames_in, frames_out, bytes_in, bytes_out;
    uint64_t crowded_out, hello_timeouts, slow_peers;
    uint32_t sessions;
};
void smoe_gateway_stats(const struct smoe_gateway *gateway, struct smoe_gateway_stats *ret);

/* Walks the gateway's invariants, and the core's if it took an event since it was looked at last; asserts. */
void smoe_gateway_check(struct smoe_gateway *gateway);

#endif
