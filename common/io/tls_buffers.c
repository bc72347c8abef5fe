/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory in which records lie: OpenSSL's, two buffers of a record and more for each connection, and ours, `out`.
 *
 * Who is idle has none of either. Taking them and giving them back at each message, as SSL_MODE_RELEASE_BUFFERS does,
 * is a tenth of what a small record costs; so who hears many, each soon after another, keeps OpenSSL's as long as
 * that goes on. Its next message that does not come soon gives them back, or whoever becomes busy when KEEPERS_MAX
 * others are.
 *
 * Invariants: 1. a connection is on the list of keepers iff `keeps`, and then its SSL is without that mode.
 * 2. There are at most KEEPERS_MAX.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/io/clock.h"
#include "common/io/tls_internal.h"

#define SOON_NS     (20 * UINT64_C(1000000))
#define MANY        16 /* more than it takes to say hello */
#define KEEPERS_MAX 32

/* ---- OpenSSL's ---- */

static void give_back(struct smoe_tls *tls)
{
    struct smoe_tls_context *c = tls->context;
    smoe_assert(tls->keeps && c->n_keepers > 0);
    smoe_list_remove(&tls->keeper);
    c->n_keepers--;
    tls->keeps = false;
    (void)SSL_set_mode(tls->ssl, SSL_MODE_RELEASE_BUFFERS);
    /* while a record is half there it does nothing, and they go with that record */
    (void)SSL_free_buffers(tls->ssl);
}

static void keep(struct smoe_tls *tls)
{
    struct smoe_tls_context *c = tls->context;
    if (tls->keeps)
        smoe_list_remove(&tls->keeper);
    else if (c->n_keepers == KEEPERS_MAX)
        give_back(smoe_container_of(smoe_list_first(&c->keepers), struct smoe_tls, keeper));
    smoe_list_push_back(&c->keepers, &tls->keeper);
    c->n_keepers += !tls->keeps;
    tls->keeps = true;
    (void)SSL_clear_mode(tls->ssl, SSL_MODE_RELEASE_BUFFERS);
}

void smoe_tls_keep_buffers(struct smoe_tls *tls)
{
    uint64_t now = tls->context->options.now_ns();
    bool soon = tls->heard_ns && now - tls->heard_ns < SOON_NS;
    tls->heard_ns = now;
    tls->heard_soon = soon ? tls->heard_soon + (tls->heard_soon < MANY) : 0;
    if (tls->heard_soon == MANY)
        keep(tls);
    else if (tls->keeps)
        give_back(tls);
}

void smoe_tls_drop_buffers(struct smoe_tls *tls)
{
    if (tls->keeps)
        give_back(tls);
    if (tls->out)
        smoe_tls_drop_out(tls);
    tls->out_begin = tls->out_end = 0;
}

/* ---- ours ---- */

/* More than a message needs all that will be needed: one buffer that is passed on from whoever is
 * done with it, so that bulk costs neither allocations nor fresh pages. */
static uint8_t *big_buffer(struct smoe_tls_context *c)
{
    uint8_t *spare = c->spare;
    c->spare = NULL;
    return spare ? spare : malloc(SMOE_TLS_OUT_CAP);
}

void smoe_tls_drop_out(struct smoe_tls *tls)
{
    if (tls->cap_out == SMOE_TLS_OUT_CAP && !tls->context->spare)
        tls->context->spare = tls->out;
    else
        free(tls->out);
    tls->out = NULL;
    tls->cap_out = 0;
}

bool smoe_tls_make_room(struct smoe_tls *tls, size_t bytes)
{
    size_t wanted = tls->out_end + bytes;
    if (wanted <= tls->cap_out)
        return true;
    size_t cap = wanted <= SMOE_TLS_OUT_KEPT  ? SMOE_TLS_OUT_KEPT
                 : wanted <= SMOE_TLS_OUT_CAP ? SMOE_TLS_OUT_CAP
                                              : 2 * wanted;
    uint8_t *more = cap == SMOE_TLS_OUT_CAP ? big_buffer(tls->context) : malloc(cap);
    if (!more)
        return false;
    if (tls->out_end)
        memcpy(more, tls->out, tls->out_end);
    smoe_tls_drop_out(tls);
    tls->out = more;
    tls->cap_out = cap;
    return true;
}
