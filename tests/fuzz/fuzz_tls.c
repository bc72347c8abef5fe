/* SPDX-License-Identifier: Apache-2.0
 *
 * A gateway's end of TLS and a node's. The tape lets them talk and interferes: pieces of any length, bytes
 * changed, left out, said twice, or of the tape's own; a handshake makes one step in a turn of the loop.
 * Whatever it does, plaintext arrives as it was sent, or not at all; nothing arrives from a peer that is not
 * established; and whoever has shown no TLS gets no answer.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "tests/fuzz/input.h"
#include "tests/unit/tls/tls_pair.h"

enum { TALK, CHANGE, LOSE, REPEAT, INVENT, SAY, STRANGER, OPS };
enum { ROOM = 1 << 18, WIRE_MAX = 1 << 18 };

static const char line[] = "smoe1:worker:fuzz:"
                           "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

static struct smoe_keyring keys;
static struct smoe_tls_context *contexts[2];
static uint8_t words[ROOM];

static void set_up_once(void)
{
    struct smoe_key key;
    struct smoe_why why;
    if (contexts[0])
        return;
    for (size_t i = 0; i < ROOM; i++)
        words[i] = (uint8_t)(i * 2654435761u >> 13);
    smoe_assert(smoe_key_parse(line, sizeof line - 1, &key, &why) == 0);
    smoe_assert(smoe_keyring_add(&keys, &key, &why) == 0);
    struct smoe_tls_options server = {
        .keys = &keys, .established = tls_end_established, .shakes_a_turn = 1};
    struct smoe_tls_options client = {
        .key = &key, .established = tls_end_established, .records_max = 4};
    smoe_assert(smoe_tls_context_new(&server, &contexts[0], &why) == 0);
    smoe_assert(smoe_tls_context_new(&client, &contexts[1], &why) == 0);
}

/* What came is a beginning of what was said, and came from somebody who is known. */
static void check(const struct tls_end *to, const struct tls_end *from)
{
    smoe_assert(to->n_in <= from->out_begin);
    smoe_assert(memcmp(to->in, words, to->n_in) == 0);
    smoe_assert(to->n_in == 0 || to->n_established == 1);
    smoe_assert(to->n_established <= 1);
}

static void exchange(struct fuzz_input *in, struct tls_end *from, struct tls_end *to, uint8_t op)
{
    static uint8_t wire[WIRE_MAX];
    struct iovec iovec;
    size_t n, piece = fuzz_u8(in);
    if (!from->wire.peek(from->wire.context, &iovec, 1))
        return;
    n = iovec.iov_len < WIRE_MAX ? iovec.iov_len : WIRE_MAX;
    if (piece & 1)
        n = 1 + fuzz_u16(in) % n;
    memcpy(wire, iovec.iov_base, n);
    from->wire.consume(from->wire.context, n);
    if (op == CHANGE)
        wire[fuzz_u16(in) % n] ^= (uint8_t)(fuzz_u8(in) | 1);
    if (op == LOSE)
        n -= 1 + fuzz_u8(in) % n;
    tls_feed(to, wire, n, piece >> 1);
    if (op == REPEAT)
        tls_feed(to, wire, n, piece >> 1);
}

static void step(struct fuzz_input *in, struct tls_end ends[2])
{
    uint8_t what = fuzz_u8(in), op = what % OPS;
    struct tls_end *a = &ends[what >> 7], *b = &ends[1 - (what >> 7)];
    const uint8_t *bytes;
    size_t n;
    if (!(what & 32)) /* else whoever shakes hands may have to wait */
        (void)smoe_tls_context_turn(contexts[0]);
    switch (op) {
    case SAY:
        n = fuzz_u16(in);
        a->out_end = a->out_end + n < ROOM ? a->out_end + n : ROOM;
        a->first_piece = what & 64 ? fuzz_u16(in) : 0;
        break;
    case INVENT:
        bytes = fuzz_bytes(in, 64, &n);
        tls_feed(a, bytes, n, 0);
        break;
    case STRANGER:
        tls_end_release(a);
        smoe_assert(tls_end_init(a, contexts[what >> 7], ROOM) == 0);
        tls_end_release(b);
        smoe_assert(tls_end_init(b, contexts[1 - (what >> 7)], ROOM) == 0);
        a->out = b->out = words;
        break;
    default:
        exchange(in, a, b, op);
    }
    check(a, b);
    check(b, a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct tls_end ends[2];
    set_up_once();
    (void)smoe_tls_context_turn(contexts[0]);
    for (int i = 0; i < 2; i++) {
        smoe_assert(tls_end_init(&ends[i], contexts[i], ROOM) == 0);
        ends[i].out = words;
    }
    while (fuzz_more(&in))
        step(&in, ends);
    struct iovec iovec;
    if (!ends[0].tls.understood)
        smoe_assert(ends[0].wire.peek(ends[0].wire.context, &iovec, 1) == 0);
    for (int i = 0; i < 2; i++)
        tls_end_release(&ends[i]);
    return 0;
}
