/* SPDX-License-Identifier: Apache-2.0
 *
 * TCP between the simulated processes, with the face that libuv shows to the shells
 * (common/io/conn.h): an owner is asked for bytes to write and told what came, and hears once that
 * the connection is over. Any process may listen and any may connect to any.
 *
 * Faults: a path can be cut, in one direction or both, for a while (what is on its way then arrives
 * after it heals, or the connection times out); a connection can be reset (what is on its way is
 * lost); a process can stop reading; a process can vanish with or without its system saying so.
 */
#ifndef SMOE_SIM_NETWORK_H
#define SMOE_SIM_NETWORK_H

#include "common/base/list.h"
#include "sim/pipe.h"

/* Status of a connection that ended, in the codes of libuv; 0: the peer closed it. */
#define SMOE_SIM_ECONNREFUSED (-111)
#define SMOE_SIM_ECONNRESET   (-104)
#define SMOE_SIM_ETIMEDOUT    (-110)

struct smoe_simnet;
struct smoe_sim_conn; /* one end of a connection */

/* As smoe_conn_owner. `direct` may be NULL. After `closed` the end is gone. */
struct smoe_sim_owner {
    void *context;
    uint8_t *(*direct)(void *context, size_t *ret_room);
    void (*received)(void *context, const uint8_t *data, size_t n);
    size_t (*peek)(void *context, struct iovec *iovecs, size_t max);
    void (*consume)(void *context, size_t bytes);
    void (*closed)(void *context, int status);
};

/* `seed` decides delays, portions and whether direct reads are used. */
struct smoe_simnet *smoe_simnet_new(struct smoe_sim_clock *clock, uint64_t seed);
void smoe_simnet_free(struct smoe_simnet *net);

/* Adds a process and its way to the others: a connection has the latencies and jitters of both ends,
 * the smaller bandwidth, portion and buffer. Returns its number, from 0. */
uint32_t smoe_simnet_add(struct smoe_simnet *net, const struct smoe_sim_profile *profile);

/* The process accepts connections: `accept` gives each (`from` whom it is) an owner, or returns false to
 * refuse it. */
void smoe_simnet_listen(struct smoe_simnet *net, uint32_t process,
                        bool (*accept)(void *context, uint32_t from, struct smoe_sim_conn *conn,
                                       struct smoe_sim_owner *ret_owner),
                        void *context);
void smoe_simnet_stop_listening(struct smoe_simnet *net, uint32_t process);

/* `connected` comes one round trip later, or `closed` with the reason. */
struct smoe_sim_conn *smoe_simnet_connect(struct smoe_simnet *net, uint32_t from, uint32_t to,
                                          const struct smoe_sim_owner *owner,
                                          void (*connected)(void *context));

/* Writes what the owner offers: now as far as there is room, the rest when there is. */
void smoe_sim_conn_flush(struct smoe_sim_conn *conn);
/* `closed` follows, in an event of its own. */
void smoe_sim_conn_close(struct smoe_sim_conn *conn, int status);
/* When everything is written, and in any case after `patience_ns`. */
void smoe_sim_conn_close_flushed(struct smoe_sim_conn *conn, uint64_t patience_ns);

/* ---- faults ---- */

/* The direct way from one process to the other is cut, or whole again. A connection over a path that
 * stays cut times out on both sides after SMOE_SIM_GIVE_UP_NS (keepalive and TCP_USER_TIMEOUT). */
#define SMOE_SIM_GIVE_UP_NS (5000 * SMOE_SIM_MS)
/* ... or after this time. */
void smoe_sim_conn_give_up_after(struct smoe_sim_conn *conn, uint64_t ns);
void smoe_simnet_cut(struct smoe_simnet *net, uint32_t from, uint32_t to, bool cut);

/* Every connection between the two is reset in the middle; both see it at once. */
void smoe_simnet_reset(struct smoe_simnet *net, uint32_t a, uint32_t b);

/* The process reads nothing from now on, or goes on reading. */
void smoe_simnet_read(struct smoe_simnet *net, uint32_t process, bool reads);
/* The process is stopped (SIGSTOP) or goes on: stopped, it neither reads nor writes nor accepts, and
 * hears of nothing, but its system keeps its connections. */
void smoe_simnet_freeze(struct smoe_simnet *net, uint32_t process, bool frozen);

/* One in so many segments from and to the process is lost, and comes again later; 0: none. Returns how many
 * have been so far, of connections that are still there. */
void smoe_simnet_lose(struct smoe_simnet *net, uint32_t process, uint32_t one_in);
uint64_t smoe_simnet_lost(const struct smoe_simnet *net);

/* The process died: its ends are gone without a word to their owners, it listens no more. If its
 * system lives on, peers see a reset; otherwise only silence. */
void smoe_simnet_crash(struct smoe_simnet *net, uint32_t process, bool silently);

/* Connections with at least one end open; bytes on their way or unread. */
uint32_t smoe_simnet_connections(const struct smoe_simnet *net);
uint64_t smoe_simnet_bytes(const struct smoe_simnet *net);

#endif
