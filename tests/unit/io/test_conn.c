/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection of the room on a loop, and on its other end a plain socket of this process, which reads
 * and writes when a test says so. Compiled twice: with SMOE_TEST_RING what is accepted has a ring, or the
 * tests are skipped where the kernel gives none.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io/conn.h"
#include "common/io/listener.h"

#ifdef SMOE_TEST_RING
#define NEW_RING(loop, ret) smoe_ring_new(loop, ret)
#define CLOSE_RING(ring)    smoe_ring_close(ring, on_ring_closed, NULL)
#else
#define NEW_RING(loop, ret) ((void)(ret), 0)
#define CLOSE_RING(ring)    on_ring_closed(ring)
#endif
#define BIG ((size_t)16 << 20) /* more than the kernel keeps for a connection */

static struct desk {
    uv_loop_t loop;
    uv_timer_t end;
    struct smoe_listener listener;
    struct smoe_ring *ring; /* or NULL */
    struct smoe_conn conn;
    int far;      /* the other end */
    uint8_t *out; /* what is to be written: [out_begin, out_end) still is */
    size_t out_begin, out_end;
    uint8_t *in;                          /* [BIG] what has come, */
    size_t n_in;                          /* so many bytes of it, */
    size_t direct_from, direct_to;        /* of which these are to be read into place */
    size_t n_direct;                      /* and these were */
    int connected, n_connected, n_closed; /* status of each, and how often */
    int closed;
    bool open;
    unsigned n_peeks; /* how often it was asked for something to write */
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
} d;

/* ---- the owner ---- */

static uint8_t *direct(void *context, size_t *ret_room)
{
    cr_assert_eq(context, &d);
    if (d.n_in < d.direct_from || d.n_in >= d.direct_to)
        return NULL;
    *ret_room = d.direct_to - d.n_in;
    return d.in + d.n_in;
}

static void received(void *context, const uint8_t *data, size_t n)
{
    (void)context;
    cr_assert_leq(d.n_in + n, BIG);
    if (data == d.in + d.n_in)
        d.n_direct += n;
    else
        memcpy(d.in + d.n_in, data, n);
    d.n_in += n;
}

/* In two pieces, so that both ways of sending are used. */
static size_t peek(void *context, struct iovec *iovecs, size_t max)
{
    (void)context;
    d.n_peeks++;
    size_t left = d.out_end - d.out_begin, half = left / 2;
    if (!left)
        return 0;
    iovecs[0] = (struct iovec){d.out + d.out_begin, max > 1 && half ? half : left};
    if (max == 1 || !half)
        return 1;
    iovecs[1] = (struct iovec){d.out + d.out_begin + half, left - half};
    return 2;
}

static void consume(void *context, size_t bytes)
{
    (void)context;
    cr_assert_leq(bytes, d.out_end - d.out_begin);
    d.out_begin += bytes;
}

static void closed(void *context, int status)
{
    (void)context;
    d.closed = status;
    d.n_closed++;
    d.open = false;
}

static void connected(void *context, int status)
{
    (void)context;
    d.connected = status;
    d.n_connected++;
}

static const struct smoe_conn_owner owner = {.context = &d,
                                             .direct = direct,
                                             .received = received,
                                             .peek = peek,
                                             .consume = consume,
                                             .closed = closed};

/* ---- the stage ---- */

static int arrived(void *context, uv_stream_t *server)
{
    (void)context;
    d.open = true;
    cr_assert_eq(smoe_conn_accept(&d.conn, server, &owner, d.scratch, d.ring), 0);
    return 0;
}

static void on_end(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void run_ms(uint64_t ms)
{
    uv_update_time(&d.loop);
    uv_timer_start(&d.end, on_end, ms, 0);
    uv_run(&d.loop, UV_RUN_DEFAULT);
}

static void on_listener_closed(void *context)
{
    (void)context;
}

static void on_ring_closed(void *context)
{
    (void)context;
    d.ring = NULL;
}

static void begin(void)
{
    struct smoe_listener_owner listening = {&d, arrived, NULL, 0};
    struct smoe_addr address;
    struct smoe_why why;
    d.in = calloc(1, BIG);
    d.out = malloc(BIG);
    for (size_t i = 0; i < BIG; i++)
        d.out[i] = (uint8_t)(i * 2654435761u >> 13);
    uv_loop_init(&d.loop);
    uv_timer_init(&d.loop, &d.end);
    if (NEW_RING(&d.loop, &d.ring))
        cr_skip_test("no io_uring here");
    cr_assert_eq(smoe_addr_parse("127.0.0.1:0", &address, &why), 0);
    cr_assert_eq(smoe_listener_tcp(&d.listener, &d.loop, &address, 4, &listening), 0);
}

static void begin_accepted(void)
{
    struct smoe_addr address;
    begin();
    smoe_listener_address(&d.listener, &address);
    d.far = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(d.far, &address.sa, smoe_addr_len(&address)), 0);
    run_ms(20);
    cr_assert(d.open);
}

static void end(void)
{
    if (d.open)
        smoe_conn_close(&d.conn, 0);
    run_ms(5);
    cr_assert(!d.open, "it did not close");
    if (d.ring)
        CLOSE_RING(d.ring);
    smoe_listener_close(&d.listener, on_listener_closed);
    uv_close((uv_handle_t *)&d.end, NULL);
    uv_run(&d.loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&d.loop), 0, "a handle was left open");
    cr_assert_eq(d.n_closed, 1, "%d times", d.n_closed);
    if (d.far > 0)
        close(d.far);
    free(d.in);
    free(d.out);
}

/* What the far end can read now; 0 at the end of the stream or when nothing is there. */
static size_t read_far(uint8_t *to, size_t room)
{
    ssize_t n = recv(d.far, to, room, MSG_DONTWAIT);
    cr_assert(n >= 0 || errno == EAGAIN);
    return n > 0 ? (size_t)n : 0;
}

static size_t read_all_far(size_t expected)
{
    uint8_t *got = malloc(BIG + 1);
    size_t n = 0;
    for (int idle = 0; idle < 100 && n < expected; idle++) {
        size_t more;
        while ((more = read_far(got + n, BIG + 1 - n)) > 0) {
            n += more;
            idle = 0;
        }
        run_ms(5);
    }
    cr_assert_eq(memcmp(got, d.out, n < BIG ? n : BIG), 0, "bytes are lost or out of order");
    free(got);
    return n;
}

/* ---- the tests ---- */

Test(conn, writes_as_far_as_the_kernel_takes_it_and_the_rest_when_it_is_read,
     .init = begin_accepted, .fini = end)
{
    d.out_end = BIG;
    smoe_conn_flush(&d.conn);
    cr_assert_lt(d.out_begin, BIG, "the kernel took it all: the test is too small");
    size_t taken = d.out_begin;
    smoe_conn_flush(&d.conn);
    run_ms(30);
    cr_assert_leq(d.out_begin - taken, BIG / 2, "written where nobody read");
    cr_assert_eq(read_all_far(BIG), BIG);
    run_ms(30); /* nothing is watched for in vain */
    d.out_begin = 0;
    d.out_end = 100;
    smoe_conn_flush(&d.conn);
    cr_assert_eq(d.out_begin, 100);
    cr_assert_eq(read_all_far(100), 100);
}

Test(conn, does_not_spin_once_all_is_written, .init = begin_accepted, .fini = end)
{
    d.out_end = BIG;
    smoe_conn_flush(&d.conn);
    cr_assert_eq(read_all_far(BIG), BIG);
    run_ms(20);
    unsigned peeks = d.n_peeks;
    run_ms(50);
    cr_assert_eq(d.n_peeks, peeks, "asked %u times in vain", d.n_peeks - peeks);
}

Test(conn, reads_into_the_owners_memory_where_it_says_so, .init = begin_accepted, .fini = end)
{
    d.direct_from = 1000;
    d.direct_to = 1000 + (1 << 20);
    size_t sent = 0, all = d.direct_to + 500;
    cr_assert_eq(send(d.far, d.out, 1000, MSG_DONTWAIT), 1000); /* a head that is copied, */
    run_ms(20);
    for (sent = 1000; sent < all; run_ms(2)) { /* a body in place, and what follows it */
        ssize_t n = send(d.far, d.out + sent, all - sent, MSG_DONTWAIT);
        sent += n > 0 ? (size_t)n : 0;
    }
    run_ms(20);
    cr_assert_eq(d.n_in, all);
    cr_assert_eq(memcmp(d.in, d.out, all), 0);
    cr_assert_eq(d.n_direct, 1u << 20);
}

Test(conn, keeps_the_order_when_a_long_body_comes_with_its_head, .init = begin_accepted,
     .fini = end)
{
    d.direct_from = 100;
    d.direct_to = 100 + (1 << 20);
    size_t all = d.direct_to + 5000;
    for (size_t sent = 0; sent < all; run_ms(1)) {
        ssize_t n = send(d.far, d.out + sent, all - sent, MSG_DONTWAIT);
        sent += n > 0 ? (size_t)n : 0;
    }
    run_ms(20);
    cr_assert_eq(d.n_in, all);
    cr_assert_eq(memcmp(d.in, d.out, all), 0);
    cr_assert_gt(d.n_direct, 1u << 19, "most of it is not copied");
}

Test(conn, closes_when_all_is_written_and_not_before, .init = begin_accepted, .fini = end)
{
    d.out_end = BIG;
    smoe_conn_close_flushed(&d.conn);
    run_ms(20);
    cr_assert_eq(d.n_closed, 0);
    cr_assert_eq(read_all_far(BIG), BIG);
    run_ms(20);
    cr_assert_eq(d.n_closed, 1);
    cr_assert_eq(d.closed, 0);
    uint8_t byte;
    cr_assert_eq(recv(d.far, &byte, 1, 0), 0, "the end of the stream follows");
}

Test(conn, closes_at_once_when_there_is_nothing_to_write, .init = begin_accepted, .fini = end)
{
    smoe_conn_close_flushed(&d.conn);
    smoe_conn_close(&d.conn, UV_ETIMEDOUT); /* twice does no harm; the first status counts */
    run_ms(10);
    cr_assert_eq(d.closed, 0);
}

Test(conn, ends_with_the_stream, .init = begin_accepted, .fini = end)
{
    cr_assert_eq(send(d.far, d.out, 100, 0), 100);
    shutdown(d.far, SHUT_WR);
    run_ms(20);
    cr_assert_eq(d.n_in, 100, "what came before the end is taken");
    cr_assert_eq(d.n_closed, 1);
    cr_assert_eq(d.closed, 0);
}

Test(conn, says_that_it_was_reset, .init = begin_accepted, .fini = end)
{
    struct linger at_once = {1, 0};
    setsockopt(d.far, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(d.far);
    d.far = -1;
    run_ms(20);
    cr_assert_eq(d.n_closed, 1);
    cr_assert_eq(d.closed, UV_ECONNRESET, "%s", uv_strerror(d.closed));
}

Test(conn, that_waits_to_write_is_closed_when_it_is_reset, .init = begin_accepted, .fini = end)
{
    struct linger at_once = {1, 0};
    d.out_end = BIG;
    smoe_conn_flush(&d.conn);
    run_ms(10);
    setsockopt(d.far, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(d.far);
    d.far = -1;
    run_ms(20);
    cr_assert_eq(d.n_closed, 1);
    cr_assert_lt(d.closed, 0);
}

Test(conn, connects_and_writes_what_was_waiting, .init = begin, .fini = end)
{
    int server = socket(AF_INET, SOCK_STREAM, 0);
    struct smoe_addr address;
    struct smoe_why why;
    socklen_t bytes = sizeof address;
    cr_assert_eq(smoe_addr_parse("127.0.0.1:0", &address, &why), 0);
    cr_assert_eq(bind(server, &address.sa, smoe_addr_len(&address)), 0);
    cr_assert_eq(listen(server, 1), 0);
    cr_assert_eq(getsockname(server, &address.sa, &bytes), 0);
    d.open = true;
    d.out_end = 1000;
    cr_assert_eq(smoe_conn_connect(&d.conn, &d.loop, &address.sa, &owner, d.scratch, connected), 0);
    smoe_conn_flush(&d.conn); /* too early: it waits */
    cr_assert_eq(d.out_begin, 0);
    run_ms(30);
    cr_assert_eq(d.n_connected, 1);
    cr_assert_eq(d.connected, 0);
    d.far = accept(server, NULL, NULL);
    close(server);
    cr_assert_eq(read_all_far(1000), 1000);
    cr_assert_eq(send(d.far, d.out, 10, 0), 10);
    run_ms(20);
    cr_assert_eq(d.n_in, 10);
}

Test(conn, that_is_refused_says_so_and_is_closed, .init = begin, .fini = end)
{
    struct smoe_addr address;
    struct smoe_why why;
    cr_assert_eq(smoe_addr_parse("127.0.0.1:1", &address, &why), 0);
    d.open = true;
    cr_assert_eq(smoe_conn_connect(&d.conn, &d.loop, &address.sa, &owner, d.scratch, connected), 0);
    run_ms(30);
    cr_assert_eq(d.n_connected, 1);
    cr_assert_eq(d.connected, UV_ECONNREFUSED);
    cr_assert_eq(d.closed, UV_ECONNREFUSED);
}
