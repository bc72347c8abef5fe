/* SPDX-License-Identifier: Apache-2.0
 *
 * The answer may end the very session that asked for it: an administrator can reload keys that its own is no more
 * among. So nothing is kept in hand across `answer` but this object, which is freed when its connection is.
 */
#include "daemon/shell/peers_admin.h"

#include <stdlib.h>
#include <string.h>

bool smoe_peers_admin_received(struct smoe_peers_admin *r, const uint8_t *data, size_t n,
                               smoe_line_answer answer, void *context)
{
    size_t room = SMOE_LINE_MAX - r->len, taken = n < room ? n : room;
    if (r->answer)
        return false;
    memcpy(r->line + r->len, data, taken);
    r->len += taken;
    char *end = memchr(r->line, '\n', r->len);
    if (!end && r->len < SMOE_LINE_MAX)
        return false;
    r->line[end ? (size_t)(end - r->line) : r->len] = 0;
    r->len = SMOE_LINE_MAX;
    r->answer = answer(context, r->line, end ? NULL : "a line has at most 255 bytes");
    r->answer_bytes = r->answer ? strlen(r->answer) : 0;
    return true;
}

size_t smoe_peers_admin_peek(const struct smoe_peers_admin *r, struct iovec *iovec)
{
    if (r->sent == r->answer_bytes)
        return 0;
    *iovec = (struct iovec){r->answer + r->sent, r->answer_bytes - r->sent};
    return 1;
}

void smoe_peers_admin_consume(struct smoe_peers_admin *r, size_t bytes)
{
    r->sent += bytes;
}

void smoe_peers_admin_release(struct smoe_peers_admin *r)
{
    free(r->answer);
    *r = (struct smoe_peers_admin){.len = 0};
}
