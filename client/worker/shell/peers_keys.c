/* SPDX-License-Identifier: Apache-2.0
 *
 * A key is that of its link and named after the worker that dials. The ring is made anew when a peer comes or
 * goes: of a connection whose key is no longer in it the link is over anyway.
 */
#include "client/worker/shell/peers_keys.h"

#include "common/base/wipe.h"

static void key_of(const char *dialler, const struct smoe_link_key *secret, struct smoe_key *ret)
{
    smoe_key_of_link(dialler, (const uint8_t *)secret->words, ret);
}

int smoe_worker_keys_init(struct smoe_worker_keys *k,
                          void (*established)(void *context, const struct smoe_key *peer),
                          struct smoe_why *why)
{
    const struct smoe_link_key none = {{0}};
    struct smoe_key role;
    struct smoe_tls_options listening = {.keys = &k->ring, .established = established};
    struct smoe_tls_options dialling = {.key = &role};
    key_of("link", &none, &role); /* each connection brings its own */
    int rc = smoe_tls_context_new(&listening, &k->listening, why);
    return rc ? rc : smoe_tls_context_new(&dialling, &k->dialling, why);
}

void smoe_worker_keys_renew(struct smoe_worker_keys *k, const struct smoe_agent *agent)
{
    uint64_t version = 1 + smoe_agent_peers_version(agent);
    struct smoe_peer_view peer;
    struct smoe_why unused;
    if (version == k->version || !k->listening)
        return;
    smoe_keyring_release(&k->ring);
    k->ring = (struct smoe_keyring){0};
    k->version = version;
    for (uint32_t from = 0; smoe_agent_peer_from(agent, from, &peer); from = peer.number + 1) {
        struct smoe_key key;
        if (peer.dial)
            continue;
        key_of(peer.name, peer.key, &key);
        (void)smoe_keyring_add(&k->ring, &key, &unused); /* without it the gateway relays */
        smoe_wipe(&key, sizeof key);
    }
}

void smoe_worker_keys_release(struct smoe_worker_keys *k)
{
    smoe_tls_context_free(k->dialling);
    smoe_tls_context_free(k->listening);
    smoe_keyring_release(&k->ring);
    *k = (struct smoe_worker_keys){0};
}

void smoe_worker_key(const struct smoe_agent *agent, const struct smoe_peer_view *peer,
                     struct smoe_key *ret)
{
    key_of(smoe_agent_id(agent), peer->key, ret);
}
