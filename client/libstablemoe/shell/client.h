/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files behind stablemoe.h share: the client, and how a call waits.
 */
#ifndef SMOE_CLIENT_H
#define SMOE_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "client/libstablemoe/core/uplink.h"
#include "common/base/list.h"
#include "common/base/rng.h"
#include "common/io/addr.h"
#include "common/io/conn.h"
#include "common/io/tls.h"
#include "stablemoe/stablemoe.h"

struct smoe_expert_layer {
    struct smoe_client *client;
    uint32_t number;
    bool used;
};

struct smoe_client {
    uv_loop_t loop;
    uv_timer_t pause;  /* before the next attempt to connect */
    uv_timer_t waking; /* ends a wait */
    struct smoe_conn conn;
    struct smoe_tls_context *secure; /* owned; NULL: plaintext */
    struct smoe_tls tls;
    char key_name[SMOE_NAME_MAX + 1]; /* "": no key */
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
    struct smoe_uplink *uplink;
    struct smoe_expert_layer layers[SMOE_LAYERS_MAX];
    struct smoe_list tickets; /* that the caller has not released */
    char gateway[SMOE_HOST_MAX + 10];
    uint64_t patience_ns;
    uint64_t away_since_ns; /* 0 while welcomed */
    uint64_t pause_ms;
    unsigned turn; /* attempts that failed: whose of the gateway's addresses it is */
    struct smoe_rng rng;
    bool conn_open, connected, closing, loop_open;
    struct smoe_why why;      /* of the last call */
    struct smoe_why link_why; /* of the last broken connection */
};

/* Sends what waits to be sent, as far as the connection takes it. */
void smoe_client_flush(struct smoe_client *client);

/* The one way to wait: runs the loop until `over(client, what)`, the uplink has failed for good, or the
 * gateway has been away for longer than the caller's patience. 0, or a code with its sentence in `why`. */
int smoe_client_wait(struct smoe_client *client, bool (*over)(struct smoe_client *c, void *what),
                     void *what);

/* Frees the tickets that the caller still holds; the uplink's are freed with the uplink. */
void smoe_client_free_tickets(struct smoe_client *client);

/* Waits until the gateway has welcomed this client on the present connection. */
int smoe_client_wait_welcome(struct smoe_client *client);

#endif
