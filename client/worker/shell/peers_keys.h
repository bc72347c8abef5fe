/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS of direct links: who listens knows the keys of the links that others dial, as a gateway knows its nodes'; who
 * dials brings the key of the one link.
 */
#ifndef SMOE_WORKER_PEERS_KEYS_H
#define SMOE_WORKER_PEERS_KEYS_H

#include "client/worker/agent/peers.h"
#include "common/io/keyring.h"
#include "common/io/tls.h"

/* Zeroed: plaintext. Not to be moved once it is not. */
struct smoe_worker_keys {
    struct smoe_tls_context *dialling, *listening;
    struct smoe_keyring ring;
    uint64_t version; /* 1 + that of the agent's peers */
};

/* `established`: as struct smoe_tls_options has it, for connections that were accepted. */
int smoe_worker_keys_init(struct smoe_worker_keys *keys,
                          void (*established)(void *context, const struct smoe_key *peer),
                          struct smoe_why *why);
/* Knows the keys of the agent's peers, and no others. */
void smoe_worker_keys_renew(struct smoe_worker_keys *keys, const struct smoe_agent *agent);
void smoe_worker_keys_release(struct smoe_worker_keys *keys);

/* The key with which this worker dials the peer. */
void smoe_worker_key(const struct smoe_agent *agent, const struct smoe_peer_view *peer,
                     struct smoe_key *ret);

#endif
