/* SPDX-License-Identifier: Apache-2.0
 *
 * Two agents and a direct link between them, byte by byte; the gateway's part is played by hand.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "client/worker/agent/peers.h"
#include "tests/unit/agent/crew.h"

enum { LINK = 77 };

static struct member members[2]; /* 0 dials */

static void tell(uint32_t to, uint64_t link, uint64_t key)
{
    struct smoe_message m = {.type = SMOE_MSG_PEER};
    m.peer = (struct smoe_msg_peer){
        .peer = 1 - to, .name = "crew", .address = "there", .link = link, .dial = to == 0};
    m.peer.key.words[3] = key;
    cr_assert_eq(member_say(&members[to], &m, NULL, 0), 0);
}

static void begin(uint64_t key_0, uint64_t key_1)
{
    struct smoe_agent_options o = crew_options();
    for (uint32_t i = 0; i < 2; i++)
        member_begin(&members[i], &o);
    tell(0, LINK, key_0);
    tell(1, LINK, key_1);
}

static void end(struct smoe_agent_link *a, struct smoe_agent_link *b)
{
    smoe_agent_link_free(a);
    smoe_agent_link_free(b);
    for (uint32_t i = 0; i < 2; i++)
        member_end(&members[i]);
}

/* Moves what one has to say to the other; what that made of it. *ret_bytes: how much it was. */
static int move(struct smoe_agent_link *from, struct smoe_agent_link *to, size_t *ret_bytes)
{
    struct iovec v[8];
    struct smoe_why why;
    size_t n;
    int rc = 0;
    *ret_bytes = 0;
    while (!rc && (n = smoe_agent_link_peek(from, v, 8))) {
        for (size_t i = 0; i < n && !rc; i++) {
            rc = smoe_agent_link_received(to, v[i].iov_base, v[i].iov_len, &why);
            *ret_bytes += v[i].iov_len;
            smoe_agent_link_consume(from, v[i].iov_len);
        }
    }
    return rc;
}

Test(links, are_up_when_both_ends_have_said_hello)
{
    size_t bytes;
    begin(9, 9);
    struct smoe_agent_link *a = smoe_agent_link_new(members[0].agent, LINK, "");
    struct smoe_agent_link *b = smoe_agent_link_new(members[1].agent, 0, "crew");
    cr_assert_eq(move(a, b, &bytes), 0);
    cr_assert(smoe_agent_link_up(b) && !smoe_agent_link_up(a));
    cr_assert_eq(move(b, a, &bytes), 0);
    cr_assert(smoe_agent_link_up(a));
    tell(1, 0, 0);
    cr_assert(smoe_agent_link_over(b), "the gateway took it back");
    end(a, b);
}

/* Refused, and not a byte in answer: another key, another name, a link that nobody was told of. */
Test(links, of_strangers_are_not_answered)
{
    static const struct {
        uint64_t key;
        const char *name;
    } cases[] = {{8, "crew"}, {9, "somebody"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes;
        begin(cases[i].key, 9);
        struct smoe_agent_link *a = smoe_agent_link_new(members[0].agent, LINK, "");
        struct smoe_agent_link *b = smoe_agent_link_new(members[1].agent, 0, cases[i].name);
        cr_assert_eq(move(a, b, &bytes), SMOE_EROLE);
        cr_assert_eq(move(b, a, &bytes), 0);
        cr_assert_eq(bytes, 0);
        cr_assert(smoe_agent_link_over(b) && !smoe_agent_link_up(b));
        end(a, b);
    }
}

Test(links, are_closed_for_what_comes_before_hello)
{
    static const uint8_t junk[] = "GET / HTTP/1.1\r\n\r\n and more";
    struct smoe_why why;
    size_t bytes;
    begin(9, 9);
    struct smoe_agent_link *a = smoe_agent_link_new(members[0].agent, LINK, "");
    struct smoe_agent_link *b = smoe_agent_link_new(members[1].agent, 0, "");
    cr_assert_neq(smoe_agent_link_received(b, junk, sizeof junk, &why), 0);
    cr_assert_eq(move(b, a, &bytes), 0);
    cr_assert_eq(bytes, 0);
    end(a, b);
}
