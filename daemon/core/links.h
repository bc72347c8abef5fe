/* SPDX-License-Identifier: Apache-2.0
 *
 * Direct links between workers: who is told of whom (docs/protocol.md, "Direct links").
 */
#ifndef SMOE_CORE_LINKS_H
#define SMOE_CORE_LINKS_H

#include "daemon/core/core_state.h"

/* One end's view of a link. */
struct smoe_link_end {
    uint32_t peer;
    bool up;   /* as that end said last */
    bool gone; /* one of the two has left since: to be taken back */
    uint64_t link;
};

/* Zeroed, with n_max 0, there are none. */
struct smoe_links {
    uint32_t n_max; /* workers; 0: links are not brokered */
    struct smoe_link_end
        *ends;       /* [n_max, SMOE_WORKER_LINKS_MAX] of each worker, the first n[worker]; owned */
    uint32_t *n;     /* [n_max], owned */
    uint64_t *parts; /* [n_max] bit l: it takes part in layer l; scratch of one advance, owned */
    uint64_t *members; /* [n_max / 64 + 1] bit w: worker w takes part in a layer; the same */
    struct smoe_links_view *counted; /* [n_max] bytes, owned */
    uint64_t serial;                 /* the last link's identity */
    bool due;                        /* who needs whom may have changed, or not all has been said */
};

int smoe_links_init(struct smoe_links *links, uint32_t workers_max);
void smoe_links_release(struct smoe_links *links);

/* Tells workers what has changed, SMOE_LINKS_AT_ONCE pairs at a time; while more is to be said, `due`. */
#define SMOE_LINKS_AT_ONCE 128
void smoe_links_advance(struct smoe_core *core);
/* When the core is to be stepped next: at the slot's end, or now. */
uint64_t smoe_links_wake_ns(const struct smoe_core *core);
/* Somebody takes part in another layer, or no longer in one. */
void smoe_links_changed(struct smoe_core *core);
/* The worker's session is over: its peers shall close their links to it. */
void smoe_links_lost(struct smoe_core *core, uint32_t worker);
/* Of the takers, those to whom the worker has a link that is up, rising. */
void smoe_links_reach(const struct smoe_core *core, uint32_t from, const uint32_t *takers,
                      uint32_t n, struct smoe_peer_list *ret);
void smoe_links_state(struct smoe_core *core, uint32_t worker, const struct smoe_msg_link_state *m);
/* The worker has sent so many bytes over links, and so many through the daemon for somebody. */
void smoe_links_count(struct smoe_core *core, uint32_t worker, uint64_t direct, uint64_t relayed);
void smoe_links_check(const struct smoe_core *core);

/* ---- lists of peers ---- */
bool smoe_peers_have(const struct smoe_peer_list *list, uint32_t worker);
/* False: it was not in it. */
bool smoe_peers_drop(struct smoe_peer_list *list, uint32_t worker);

#endif
