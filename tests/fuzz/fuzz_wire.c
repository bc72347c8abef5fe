/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses the message, the rest is its protobuf part. What decodes must encode, and
 * decode again to the same message; what does not must say why.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "proto/wire.h"
#include "tests/fuzz/input.h"
#include "tests/unit/proto/messages.h"

static void check_refusal(int rc, const struct smoe_why *why)
{
    smoe_assert(rc == SMOE_EMALFORMED || rc == SMOE_EFIELD || rc == SMOE_ENOTFINITE);
    smoe_assert(why->text[0] && memchr(why->text, 0, sizeof why->text));
}

/* The copy has its own wire: the first one's arena holds the first message's arrays. */
static void check_copy(struct smoe_wire *wire, const struct smoe_message *m)
{
    struct smoe_message copy;
    struct smoe_why why = {""};
    const uint8_t *body;
    size_t bytes;
    smoe_assert(smoe_wire_encode(wire, m, &body, &bytes) == 0);
    smoe_assert(smoe_wire_decode(wire, (uint16_t)m->type, body, bytes, &copy, &why) == 0);
    smoe_assert(!messages_difference(m, &copy));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct smoe_wire *wires[2]; /* made once: coding leaves nothing behind in them */
    struct fuzz_input in = {data, size};
    uint16_t type = messages_types[fuzz_below(&in, (uint32_t)messages_n_types)];
    struct smoe_message m;
    struct smoe_why why = {""};
    if (in.left > SMOE_CONTROL_BYTES_MAX)
        return -1; /* refused by its header */
    for (int i = 0; i < 2; i++)
        if (!wires[i] && smoe_wire_new(&wires[i]))
            abort();
    int rc = smoe_wire_decode(wires[0], type, in.data, in.left, &m, &why);
    if (rc)
        check_refusal(rc, &why);
    else
        check_copy(wires[1], &m);
    return 0;
}
