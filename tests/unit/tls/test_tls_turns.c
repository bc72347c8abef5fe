/* SPDX-License-Identifier: Apache-2.0
 *
 * A crowd that shakes hands: how many steps one turn of the loop makes, and who is next.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/unit/tls/tls_pair.h"

#define CROWD  5
#define A_TURN 2
#define BYTES  100

static struct crowd {
    struct smoe_keyring keys;
    struct smoe_tls_context *server_context, *client_context;
    struct tls_end servers[CROWD], clients[CROWD];
    unsigned told; /* that a turn had a step in it */
} c;

static void on_shaking(void *context)
{
    struct crowd *crowd = context;
    crowd->told++;
}

static void begin(void)
{
    struct smoe_why why;
    struct smoe_key key;
    struct smoe_tls_options client = {.key = &key};
    struct smoe_tls_options server = {.keys = &c.keys,
                                      .established = tls_end_established,
                                      .shakes_a_turn = A_TURN,
                                      .shaking = on_shaking,
                                      .loop = &c};
    cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, "pi-1", &key, &why), 0);
    cr_assert_eq(smoe_keyring_add(&c.keys, &key, &why), 0);
    cr_assert_eq(smoe_tls_context_new(&server, &c.server_context, &why), 0);
    cr_assert_eq(smoe_tls_context_new(&client, &c.client_context, &why), 0);
    for (int i = 0; i < CROWD; i++) {
        cr_assert_eq(tls_end_init(&c.servers[i], c.server_context, BYTES), 0);
        cr_assert_eq(tls_end_init(&c.clients[i], c.client_context, BYTES), 0);
    }
}

static void end(void)
{
    for (int i = 0; i < CROWD; i++) {
        tls_end_release(&c.servers[i]);
        tls_end_release(&c.clients[i]);
    }
    smoe_tls_context_free(c.server_context);
    smoe_tls_context_free(c.client_context);
    smoe_keyring_release(&c.keys);
}

/* Client i says what it has to say. */
static void says(int i)
{
    tls_move(&c.clients[i], &c.servers[i], 0);
}

static bool is_answered(int i)
{
    return c.servers[i].tls.out_end > c.servers[i].tls.out_begin;
}

static void expect_answered(const char *whom)
{
    for (int i = 0; i < CROWD; i++)
        cr_assert_eq(is_answered(i), whom[i] == 'x', "%d, of %s", i, whom);
}

Test(tls_turns, a_turn_makes_as_many_steps_as_it_may_and_the_next_goes_on, .init = begin,
     .fini = end)
{
    for (int i = 0; i < CROWD; i++)
        says(i);
    expect_answered("xx...");
    cr_assert_eq(c.told, 1, "once for a turn");
    cr_assert(smoe_tls_context_turn(c.server_context));
    expect_answered("xxxx.");
    cr_assert(smoe_tls_context_turn(c.server_context));
    expect_answered("xxxxx");
    cr_assert(!smoe_tls_context_turn(c.server_context), "nobody waits");
    cr_assert_eq(c.told, 3);
}

Test(tls_turns, as_many_as_a_turn_may_have_do_not_wait, .init = begin, .fini = end)
{
    for (int i = 0; i < CROWD; i++) {
        says(i);
        cr_assert(is_answered(i));
        if (i % A_TURN == A_TURN - 1)
            smoe_tls_context_turn(c.server_context);
    }
}

Test(tls_turns, who_came_later_does_not_go_first, .init = begin, .fini = end)
{
    for (int i = 0; i < 4; i++)
        says(i);
    cr_assert(smoe_tls_context_turn(c.server_context));
    says(4); /* the turn has had its two */
    expect_answered("xxxx.");
    cr_assert(smoe_tls_context_turn(c.server_context));
    expect_answered("xxxxx");
}

Test(tls_turns, a_hello_in_pieces_is_whole_when_it_has_waited, .init = begin, .fini = end)
{
    says(0);
    says(1);
    tls_move(&c.clients[2], &c.servers[2], 7);
    expect_answered("xx...");
    cr_assert(smoe_tls_context_turn(c.server_context));
    expect_answered("xxx..");
    for (int i = 0; i < 8; i++) {
        tls_pump(&c.clients[2], &c.servers[2], 0);
        smoe_tls_context_turn(c.server_context);
    }
    cr_assert_eq(c.servers[2].tls.state, SMOE_TLS_OPEN);
    cr_assert_eq(c.servers[2].n_established, 1);
}

Test(tls_turns, what_follows_the_handshake_is_delivered_after_the_wait, .init = begin, .fini = end)
{
    static const uint8_t bytes[BYTES] = {1, 2, 3};
    tls_pump(&c.clients[0], &c.servers[0], 0);
    says(1); /* both steps of client 0 were this turn's */
    expect_answered(".....");
    cr_assert_eq(c.servers[0].n_established, 1);
    cr_assert(smoe_tls_context_turn(c.server_context));
    c.clients[1].out = bytes;
    c.clients[1].out_end = sizeof bytes;
    says(2); /* and the turn's other step is gone */
    tls_move(&c.servers[1], &c.clients[1], 0);
    says(1); /* its last word and its first message */
    cr_assert_eq(c.servers[1].n_established, 0);
    cr_assert(smoe_tls_context_turn(c.server_context));
    cr_assert_eq(c.servers[1].n_established, 1);
    tls_pump(&c.clients[1], &c.servers[1], 0);
    cr_assert_eq(c.servers[1].n_in, sizeof bytes);
    cr_assert_arr_eq(c.servers[1].in, bytes, sizeof bytes);
}

Test(tls_turns, who_went_while_waiting_is_forgotten, .init = begin, .fini = end)
{
    for (int i = 0; i < 4; i++)
        says(i);
    cr_assert_eq(c.servers[2].tls.n_held > 0, true);
    tls_end_release(&c.servers[2]);
    cr_assert(smoe_tls_context_turn(c.server_context));
    cr_assert(is_answered(3));
    cr_assert(smoe_tls_context_turn(c.server_context) == false);
}

Test(tls_turns, garbage_is_refused_without_waiting, .init = begin, .fini = end)
{
    says(0);
    says(1);
    tls_feed(&c.servers[2], (const uint8_t *)"GET / HTTP/1.1\r\n", 16, 0);
    cr_assert_eq(c.servers[2].tls.state, SMOE_TLS_OVER);
    cr_assert_eq(c.servers[2].tls.n_held, 0);
}

/* A client's hello, and then more than a handshake has. */
static void wait_with(size_t bytes)
{
    uint8_t *more = calloc(1, bytes);
    says(0);
    says(1);
    says(2);
    cr_assert_leq(c.servers[2].tls.n_held, bytes);
    tls_feed(&c.servers[2], more, bytes - c.servers[2].tls.n_held, 1000);
    free(more);
}

Test(tls_turns, a_handshakes_worth_of_bytes_may_wait, .init = begin, .fini = end)
{
    wait_with(SMOE_TLS_HANDSHAKE_BYTES_MAX);
    cr_assert_eq(c.servers[2].tls.state, SMOE_TLS_SHAKING);
    cr_assert_eq(c.servers[2].tls.n_held, SMOE_TLS_HANDSHAKE_BYTES_MAX);
}

Test(tls_turns, and_not_one_more, .init = begin, .fini = end)
{
    wait_with(SMOE_TLS_HANDSHAKE_BYTES_MAX + 1);
    cr_assert_eq(c.servers[2].tls.state, SMOE_TLS_OVER);
    cr_assert_eq(c.servers[2].tls.n_held, 0);
    smoe_tls_context_turn(c.server_context);
}
