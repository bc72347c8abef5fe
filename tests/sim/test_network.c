/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated network keeps TCP's promises, and breaks what it is told to break.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "sim/network.h"

#define MESSAGE_BYTES 5000

/* One end: what it has to say, what it has heard, how it ended. */
struct end {
    struct smoe_sim_conn *conn;
    uint8_t says[MESSAGE_BYTES], heard[MESSAGE_BYTES];
    size_t said, to_say, n_heard, reads;
    int status; /* 1 while it is open */
    bool connected;
};

struct net {
    struct smoe_sim_clock clock;
    struct smoe_simnet *net;
    struct end client, server;
    bool refuses;
};

static void received(void *context, const uint8_t *data, size_t n)
{
    struct end *e = context;
    cr_assert_leq(e->n_heard + n, MESSAGE_BYTES);
    memcpy(e->heard + e->n_heard, data, n);
    e->n_heard += n;
    e->reads++;
}

static size_t peek(void *context, struct iovec *iovecs, size_t max)
{
    struct end *e = context;
    (void)max;
    iovecs[0] = (struct iovec){e->says + e->said, e->to_say - e->said};
    return e->said < e->to_say;
}

static void consume(void *context, size_t bytes)
{
    ((struct end *)context)->said += bytes;
}

static void closed(void *context, int status)
{
    struct end *e = context;
    e->status = status;
    e->conn = NULL;
}

static void connected(void *context)
{
    struct end *e = context;
    e->connected = true;
    smoe_sim_conn_flush(e->conn);
}

static struct smoe_sim_owner owner_of(struct end *e)
{
    return (struct smoe_sim_owner){e, NULL, received, peek, consume, closed};
}

static bool on_accept(void *context, uint32_t from, struct smoe_sim_conn *conn,
                      struct smoe_sim_owner *ret_owner)
{
    struct net *n = context;
    cr_assert_eq(from, 0);
    n->server.conn = conn;
    n->server.status = 1;
    *ret_owner = owner_of(&n->server);
    return !n->refuses;
}

/* Process 0 connects to process 1 over this path, with a message to say. */
static void open_net(struct net *n, const struct smoe_sim_profile *path)
{
    smoe_sim_clock_init(&n->clock, 1000);
    n->net = smoe_simnet_new(&n->clock, 7);
    smoe_simnet_add(n->net, path);
    smoe_simnet_add(n->net, path);
    smoe_simnet_listen(n->net, 1, on_accept, n);
    for (size_t i = 0; i < MESSAGE_BYTES; i++)
        n->client.says[i] = (uint8_t)(i * 31);
    n->client.to_say = MESSAGE_BYTES;
    n->client.status = 1;
    struct smoe_sim_owner owner = owner_of(&n->client);
    n->client.conn = smoe_simnet_connect(n->net, 0, 1, &owner, connected);
}

static void run_until(struct net *n, uint64_t ns)
{
    while (smoe_sim_next_ns(&n->clock) <= 1000 + ns)
        smoe_sim_fire(&n->clock);
    n->clock.now_ns = 1000 + ns;
}

static void close_net(struct net *n)
{
    smoe_simnet_free(n->net);
    smoe_sim_clock_release(&n->clock);
}

static const struct smoe_sim_profile PLAIN = {.latency_ns = SMOE_SIM_MS, .buffer_bytes = 8192};

Test(network, bytes_arrive_whole_in_order_after_the_latency)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    run_until(&n, 6 * SMOE_SIM_MS - 1); /* 2 ms each way: SYN, SYN-ACK, data */
    cr_assert_eq(n.server.n_heard, 0);
    run_until(&n, 6 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, MESSAGE_BYTES);
    cr_assert_arr_eq(n.server.heard, n.client.says, MESSAGE_BYTES);
    close_net(&n);
}

Test(network, crumbs_with_jitter_stay_in_order)
{
    struct net n = {0};
    open_net(&n, &(struct smoe_sim_profile){.latency_ns = 1000,
                                            .jitter_ns = 100000,
                                            .chunk_bytes_max = 7,
                                            .buffer_bytes = 100});
    run_until(&n, 10000 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, MESSAGE_BYTES);
    cr_assert_arr_eq(n.server.heard, n.client.says, MESSAGE_BYTES);
    cr_assert_gt(n.server.reads, MESSAGE_BYTES / 100);
    close_net(&n);
}

Test(network, a_writer_never_gets_further_than_the_buffer)
{
    struct net n = {0};
    open_net(&n, &(struct smoe_sim_profile){.latency_ns = 1000, .buffer_bytes = 100});
    smoe_simnet_read(n.net, 1, false);
    run_until(&n, 100 * SMOE_SIM_MS);
    cr_assert_eq(n.client.said, 100);
    cr_assert_eq(n.server.n_heard, 0);
    smoe_simnet_read(n.net, 1, true);
    run_until(&n, 200 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, MESSAGE_BYTES);
    close_net(&n);
}

Test(network, bandwidth_takes_its_time)
{
    struct net n = {0};
    open_net(&n, &(struct smoe_sim_profile){.bytes_per_s = 1000000, .buffer_bytes = 8192});
    run_until(&n, 5 * SMOE_SIM_MS - 1);
    cr_assert_eq(n.server.n_heard, 0);
    run_until(&n, 5 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, MESSAGE_BYTES);
    close_net(&n);
}

Test(network, nobody_listening_refuses_the_connection)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    smoe_simnet_stop_listening(n.net, 1);
    run_until(&n, 5 * SMOE_SIM_MS);
    cr_assert_eq(n.client.status, SMOE_SIM_ECONNREFUSED);
    cr_assert_eq(smoe_simnet_connections(n.net), 0);
    close_net(&n);
}

Test(network, a_full_listener_refuses_the_connection)
{
    struct net n = {.refuses = true};
    open_net(&n, &PLAIN);
    run_until(&n, 5 * SMOE_SIM_MS);
    cr_assert_eq(n.client.status, SMOE_SIM_ECONNREFUSED);
    close_net(&n);
}

Test(network, a_reset_loses_what_is_on_its_way)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    run_until(&n, 5 * SMOE_SIM_MS);
    smoe_simnet_reset(n.net, 1, 0);
    run_until(&n, 50 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, 0);
    cr_assert_eq(n.client.status, SMOE_SIM_ECONNRESET);
    cr_assert_eq(n.server.status, SMOE_SIM_ECONNRESET);
    cr_assert_eq(smoe_simnet_connections(n.net), 0);
    close_net(&n);
}

Test(network, a_path_that_heals_delivers_what_was_held_up)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    run_until(&n, 5 * SMOE_SIM_MS);
    smoe_simnet_cut(n.net, 0, 1, true);
    run_until(&n, 1000 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, 0);
    cr_assert_eq(smoe_simnet_bytes(n.net), MESSAGE_BYTES);
    smoe_simnet_cut(n.net, 0, 1, false);
    run_until(&n, 1002 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, MESSAGE_BYTES);
    cr_assert_eq(n.client.status, 1);
    close_net(&n);
}

Test(network, a_path_that_stays_cut_times_out_on_both_sides)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    run_until(&n, 5 * SMOE_SIM_MS);
    smoe_simnet_cut(n.net, 0, 1, true);
    run_until(&n, 5 * SMOE_SIM_MS + SMOE_SIM_GIVE_UP_NS);
    cr_assert_eq(n.client.status, SMOE_SIM_ETIMEDOUT);
    cr_assert_eq(n.server.status, SMOE_SIM_ETIMEDOUT);
    close_net(&n);
}

Test(network, the_peer_of_a_crash_sees_a_reset)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    run_until(&n, 10 * SMOE_SIM_MS);
    smoe_simnet_crash(n.net, 1, false);
    run_until(&n, 12 * SMOE_SIM_MS);
    cr_assert_eq(n.client.status, SMOE_SIM_ECONNRESET);
    close_net(&n);
}

/* And another path that is cut and heals must not make it wait for ever. */
Test(network, the_peer_of_a_power_loss_times_out)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    smoe_simnet_add(n.net, &PLAIN);
    run_until(&n, 10 * SMOE_SIM_MS);
    smoe_simnet_crash(n.net, 1, true);
    smoe_simnet_cut(n.net, 2, 1, true);
    smoe_simnet_cut(n.net, 2, 1, false);
    run_until(&n, 4000 * SMOE_SIM_MS);
    cr_assert_eq(n.client.status, 1);
    run_until(&n, 10 * SMOE_SIM_MS + SMOE_SIM_GIVE_UP_NS);
    cr_assert_eq(n.client.status, SMOE_SIM_ETIMEDOUT);
    close_net(&n);
}

Test(network, a_frozen_process_hears_everything_when_it_goes_on)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    run_until(&n, 5 * SMOE_SIM_MS);
    smoe_simnet_freeze(n.net, 1, true);
    run_until(&n, 500 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, 0);
    smoe_simnet_freeze(n.net, 1, false);
    run_until(&n, 501 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, MESSAGE_BYTES);
    close_net(&n);
}

Test(network, a_close_delivers_everything_first)
{
    struct net n = {0};
    open_net(&n, &PLAIN);
    run_until(&n, 4 * SMOE_SIM_MS);
    cr_assert(n.client.connected);
    smoe_sim_conn_close(n.client.conn, 0);
    run_until(&n, 20 * SMOE_SIM_MS);
    cr_assert_eq(n.server.n_heard, MESSAGE_BYTES);
    cr_assert_eq(n.client.status, 0);
    cr_assert_eq(n.server.status, 0);
    close_net(&n);
}
