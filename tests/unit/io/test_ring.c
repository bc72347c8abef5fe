/* SPDX-License-Identifier: Apache-2.0
 *
 * The ring by itself on pairs of local sockets, and connections that are flushed together. Skipped where
 * the kernel gives no io_uring.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/list.h"
#include "common/io/conn.h"
#include "common/io/listener.h"
#include "common/io/ring.h"

#define MANY 400 /* more than the ring has buffers, or room for requests */

struct line {
    struct smoe_ring_read read;
    int near, far;
    int n_done;
    ssize_t result;
    bool more; /* after the last call */
    char got[16];
};

static uv_loop_t loop;
static uv_timer_t deadline;
static struct smoe_ring *ring;
static unsigned n_done, n_awaited;

static void got(struct smoe_ring_read *read, const uint8_t *data, ssize_t n, bool more)
{
    struct line *line = smoe_container_of(read, struct line, read);
    line->n_done++;
    line->result = n;
    line->more = more;
    if (n > 0 && (size_t)n < sizeof line->got)
        memcpy(line->got, data, (size_t)n);
    if (++n_done == n_awaited)
        uv_stop(&loop);
}

static void on_deadline(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

/* Until there were n calls, at most five seconds. */
static void await(unsigned n)
{
    n_awaited = n;
    uv_update_time(&loop);
    uv_timer_start(&deadline, on_deadline, 5000, 0);
    if (n_done < n)
        uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(n_done, n);
}

static void begin(void)
{
    uv_loop_init(&loop);
    uv_timer_init(&loop, &deadline);
    if (smoe_ring_new(&loop, &ring))
        cr_skip_test("no io_uring here");
}

static void nothing(void *context)
{
    (void)context;
}

static void end(void)
{
    smoe_ring_close(ring, nothing, NULL);
    uv_close((uv_handle_t *)&deadline, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0, "a handle was left open");
}

static struct line *lines_new(unsigned n)
{
    struct line *lines = calloc(n, sizeof *lines);
    for (unsigned i = 0; i < n; i++) {
        int pair[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        lines[i] = (struct line){.read = {.got = got}, .near = pair[0], .far = pair[1]};
    }
    return lines;
}

/* Ends the reads that are under way. */
static void lines_end(struct line *lines, unsigned n)
{
    unsigned n_ending = 0;
    for (unsigned i = 0; i < n; i++)
        if (lines[i].more) {
            shutdown(lines[i].near, SHUT_RDWR);
            n_ending++;
        }
    await(n_done + n_ending);
}

static void lines_free(struct line *lines, unsigned n)
{
    lines_end(lines, n);
    for (unsigned i = 0; i < n; i++) {
        close(lines[i].near);
        close(lines[i].far);
    }
    free(lines);
}

Test(ring, reads_from_many_at_once_and_mixes_nothing_up, .init = begin, .fini = end)
{
    struct line *lines = lines_new(MANY);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(ring->read(ring, lines[i].near, &lines[i].read), 0);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(write(lines[i].far, &i, sizeof i), sizeof i);
    await(MANY);
    for (unsigned i = 0; i < MANY; i++) {
        unsigned got = i;
        cr_assert_eq(lines[i].n_done, 1);
        if (lines[i].result != UV_ENOBUFS) /* whose bytes are still there */
            memcpy(&got, lines[i].got, sizeof got);
        else
            cr_assert_eq(recv(lines[i].near, &got, sizeof got, MSG_DONTWAIT), sizeof got);
        cr_assert_eq(got, i);
    }
    lines_free(lines, MANY);
}

Test(ring, reads_what_was_there_before, .init = begin, .fini = end)
{
    struct line *line = lines_new(1);
    cr_assert_eq(write(line->far, "early", 5), 5);
    cr_assert_eq(ring->read(ring, line->near, &line->read), 0);
    await(1);
    cr_assert_eq(line->result, 5);
    cr_assert_arr_eq(line->got, "early", 5);
    lines_free(line, 1);
}

Test(ring, goes_on_reading_until_it_is_told_to_stop, .init = begin, .fini = end)
{
    struct line *line = lines_new(1);
    char byte;
    cr_assert_eq(ring->read(ring, line->near, &line->read), 0);
    for (unsigned i = 1; i <= 3; i++) {
        cr_assert_eq(write(line->far, &"abc"[i - 1], 1), 1);
        await(i);
        cr_assert_eq(line->result, 1);
        cr_assert_eq(line->got[0], "abc"[i - 1]);
        cr_assert(line->more);
    }
    cr_assert_eq(ring->stop(ring, &line->read), 0);
    await(4);
    cr_assert_eq(line->result, UV_ECANCELED);
    cr_assert_not(line->more);
    cr_assert_eq(write(line->far, "d", 1), 1);
    cr_assert_eq(recv(line->near, &byte, 1, MSG_DONTWAIT), 1, "it stays in the socket");
    lines_free(line, 1);
}

Test(ring, hands_over_in_pieces_what_no_buffer_holds, .init = begin, .fini = end)
{
    enum { PIECES = 3 };
    static const char much[PIECES * SMOE_RING_READ_BYTES];
    struct line *line = lines_new(1);
    cr_assert_eq(write(line->far, much, sizeof much), sizeof much);
    cr_assert_eq(ring->read(ring, line->near, &line->read), 0);
    await(PIECES);
    cr_assert_eq(line->result, SMOE_RING_READ_BYTES);
    lines_free(line, 1);
}

Test(ring, that_only_waits_leaves_everything_in_the_socket, .init = begin, .fini = end)
{
    struct line *line = lines_new(1);
    char byte;
    cr_assert_eq(ring->wait(ring, line->near, &line->read), 0);
    cr_assert_eq(write(line->far, "x", 1), 1);
    await(1);
    cr_assert_eq(line->result, UV_ENOBUFS);
    cr_assert_eq(recv(line->near, &byte, 1, MSG_DONTWAIT), 1);
    lines_free(line, 1);
}

Test(ring, ends_reads_when_the_socket_is_shut_down, .init = begin, .fini = end)
{
    struct line *lines = lines_new(2);
    cr_assert_eq(ring->read(ring, lines[0].near, &lines[0].read), 0);
    cr_assert_eq(ring->wait(ring, lines[1].near, &lines[1].read), 0);
    shutdown(lines[0].near, SHUT_RDWR);
    shutdown(lines[1].near, SHUT_RDWR);
    await(2);
    cr_assert_eq(lines[0].result, 0);
    lines_free(lines, 2);
}

Test(ring, sends_at_once_and_says_of_each_what_became_of_it, .init = begin, .fini = end)
{
    struct line *lines = lines_new(3);
    char *much = calloc(1, 1 << 22), got[8];
    close(lines[1].far); /* nobody there */
    lines[1].far = -1;
    while (send(lines[2].near, much, 1 << 16, MSG_DONTWAIT) > 0) /* full */
        ;
    struct smoe_ring_send sends[] = {{lines[0].near, "hello", 5, 0},
                                     {lines[1].near, "hello", 5, 0},
                                     {lines[2].near, "hello", 5, 0},
                                     {lines[0].near, much, 1 << 22, 0}};
    ring->send(ring, sends, sizeof sends / sizeof *sends);
    cr_assert_eq(sends[0].result, 5);
    cr_assert_eq(recv(lines[0].far, got, 5, MSG_DONTWAIT), 5);
    cr_assert_arr_eq(got, "hello", 5);
    cr_assert_eq(sends[1].result, UV_EPIPE);
    cr_assert_eq(sends[2].result, UV_EAGAIN);
    cr_assert_gt(sends[3].result, 0);
    cr_assert_lt(sends[3].result, 1 << 22, "no more than fits");
    free(much);
    lines_free(lines, 3);
}

/* ---- connections that are flushed together ---- */

#define CROWD 3
#define BIG   ((size_t)16 << 20) /* more than the kernel keeps for a connection */

static struct member {
    struct smoe_conn conn;
    size_t left;  /* zeroes to write, */
    size_t piece; /* at most so many at a time; 0: any */
    int closed;   /* how often */
} crowd[CROWD];
static unsigned n_members;
static uint8_t zeroes[BIG], scratch[SMOE_CONN_SCRATCH_BYTES];

static uint8_t *nowhere(void *context, size_t *ret_room)
{
    (void)context, (void)ret_room;
    return NULL;
}

static void ignore(void *context, const uint8_t *data, size_t n)
{
    (void)context, (void)data, (void)n;
}

static size_t peek(void *context, struct iovec *iovecs, size_t max)
{
    struct member *m = context;
    (void)max;
    iovecs[0] = (struct iovec){zeroes, m->piece && m->piece < m->left ? m->piece : m->left};
    return m->left > 0;
}

static void consume(void *context, size_t bytes)
{
    struct member *m = context;
    m->left -= bytes;
}

static void closed(void *context, int status)
{
    struct member *m = context;
    (void)status;
    m->closed++;
}

static int arrived(void *context, uv_stream_t *server)
{
    struct member *m = &crowd[n_members++];
    struct smoe_conn_owner owner = {.context = m,
                                    .direct = nowhere,
                                    .received = ignore,
                                    .peek = peek,
                                    .consume = consume,
                                    .closed = closed,
                                    .piecewise = true};
    (void)context;
    cr_assert_eq(smoe_conn_accept(&m->conn, server, &owner, scratch, ring), 0);
    if (n_members == CROWD)
        uv_stop(&loop);
    return 0;
}

static void gather(struct smoe_listener *listener, int far[CROWD])
{
    struct smoe_listener_owner listening = {NULL, arrived, NULL, 0};
    struct smoe_addr address;
    struct smoe_why why;
    cr_assert_eq(smoe_addr_parse("127.0.0.1:0", &address, &why), 0);
    cr_assert_eq(smoe_listener_tcp(listener, &loop, &address, CROWD, &listening), 0);
    smoe_listener_address(listener, &address);
    for (int i = 0; i < CROWD; i++) {
        far[i] = socket(AF_INET, SOCK_STREAM, 0);
        cr_assert_eq(connect(far[i], &address.sa, smoe_addr_len(&address)), 0);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(n_members, CROWD);
}

static void disperse(struct smoe_listener *listener, int far[CROWD])
{
    for (int i = 0; i < CROWD; i++)
        smoe_conn_close(&crowd[i].conn, 0);
    smoe_listener_close(listener, nothing);
    while (!crowd[0].closed || !crowd[1].closed || !crowd[2].closed)
        uv_run(&loop, UV_RUN_ONCE);
    for (int i = 0; i < CROWD; i++) {
        cr_assert_eq(crowd[i].closed, 1);
        close(far[i]);
    }
}

Test(ring, who_offers_piece_by_piece_is_flushed_to_the_last, .init = begin, .fini = end)
{
    struct smoe_listener listener;
    struct smoe_conn *all[CROWD] = {&crowd[0].conn, &crowd[1].conn, &crowd[2].conn};
    int far[CROWD];
    gather(&listener, far);
    crowd[0].left = crowd[1].left = 100;
    crowd[1].piece = 40;
    smoe_conn_flush_many(all, CROWD);
    cr_assert_eq(crowd[1].left, 0);
    cr_assert_eq(recv(far[1], scratch, sizeof scratch, MSG_DONTWAIT), 100);
    disperse(&listener, far);
}

Test(ring, connections_flushed_together_each_write_what_they_can, .init = begin, .fini = end)
{
    struct smoe_listener listener;
    struct smoe_conn *all[CROWD] = {&crowd[0].conn, &crowd[1].conn, &crowd[2].conn};
    int far[CROWD];
    size_t got = 0;
    gather(&listener, far);
    crowd[0].left = 100;
    crowd[1].left = BIG;
    smoe_conn_flush_many(all, CROWD); /* the third has nothing to say */
    cr_assert_eq(crowd[0].left, 0);
    cr_assert_gt(crowd[1].left, 0);
    cr_assert_eq(recv(far[0], scratch, sizeof scratch, MSG_DONTWAIT), 100);
    for (ssize_t n = 0; got<BIG; got += n> 0 ? (size_t)n : 0) {
        n = recv(far[1], scratch, sizeof scratch, MSG_DONTWAIT);
        if (n < 0) /* the rest goes when there is room */
            uv_run(&loop, UV_RUN_ONCE);
    }
    cr_assert_eq(crowd[1].left, 0);
    cr_assert_eq(got, BIG);
    disperse(&listener, far);
}
