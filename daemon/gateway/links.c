/* SPDX-License-Identifier: Apache-2.0
 *
 * The secrets of direct links. The core says who is to have a link to whom, to both of them, one message right
 * after the other; here both are given the same key, of which nothing is kept once both have been told.
 */
#include "common/base/wipe.h"
#include "daemon/gateway/gateway_state.h"

/* Both ends have their key, or there is none to be had: then these two have no link. */
static void forget(struct smoe_gateway *gw)
{
    smoe_wipe(&gw->link_key, sizeof gw->link_key);
    gw->link_keyed = 0;
}

void smoe_gate_key_link(struct smoe_gateway *gw, struct smoe_msg_peer *m)
{
    bool second = m->link && gw->link_keyed == m->link;
    if (!m->link)
        return;
    if (!second && gw->options.draw(gw->options.draw_context, &gw->link_key, sizeof gw->link_key))
        gw->link_failed = m->link;
    if (gw->link_failed == m->link)
        m->link = 0;
    else
        m->key = gw->link_key;
    gw->link_keyed = m->link;
    if (second || !m->link)
        forget(gw);
}
