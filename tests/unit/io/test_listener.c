/* SPDX-License-Identifier: Apache-2.0
 *
 * The listener's accept4 can be made to fail as it does when the machine's file table is full: the
 * one defined here is found before the C library's.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/io/listener.h"
#include "tests/unit/io/scratch_dir.h"

enum { CLIENTS = 12 };

static int accept_errno; /* 0: accept */
static int refused_accepts;

__attribute__((visibility("default"))) int accept4(int fd, __SOCKADDR_ARG address,
                                                   socklen_t *__restrict len, int flags)
{
    (void)address, (void)len; /* libuv passes none */
    if (accept_errno) {
        refused_accepts++;
        errno = accept_errno;
        return -1;
    }
    return (int)syscall(SYS_accept4, fd, NULL, NULL, flags);
}

/* A loop, a listener, who arrived, and clients of this very process. */
static struct hall {
    uv_loop_t loop;
    uv_timer_t end, beat;
    struct smoe_listener listener;
    uv_tcp_t taken[CLIENTS];
    int n_taken, n_full, last_status, refusals, beats, closed;
    int clients[CLIENTS];
} h;

static int arrived(void *context, uv_stream_t *server)
{
    (void)context;
    if (h.refusals) {
        h.refusals--;
        return UV_ENOMEM;
    }
    cr_assert_lt(h.n_taken, CLIENTS);
    uv_tcp_init(&h.loop, &h.taken[h.n_taken]);
    cr_assert_eq(uv_accept(server, (uv_stream_t *)&h.taken[h.n_taken]), 0);
    h.n_taken++;
    return 0;
}

static void full(void *context, int status)
{
    (void)context;
    h.n_full++;
    h.last_status = status;
}

static void on_end(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void on_beat(uv_timer_t *timer)
{
    (void)timer;
    h.beats++;
}

static void run_ms(uint64_t ms)
{
    h.beats = 0;
    uv_update_time(&h.loop);
    uv_timer_start(&h.end, on_end, ms, 0);
    uv_timer_start(&h.beat, on_beat, 10, 10);
    uv_run(&h.loop, UV_RUN_DEFAULT);
    uv_timer_stop(&h.beat);
}

static void begin(void)
{
    struct smoe_listener_owner owner = {&h, arrived, full, 0};
    struct smoe_addr address;
    struct smoe_why why;
    uv_loop_init(&h.loop);
    uv_timer_init(&h.loop, &h.end);
    uv_timer_init(&h.loop, &h.beat);
    cr_assert_eq(smoe_addr_parse("127.0.0.1:0", &address, &why), 0);
    cr_assert_eq(smoe_listener_tcp(&h.listener, &h.loop, &address, CLIENTS, &owner), 0);
}

static void on_closed(void *context)
{
    cr_assert_eq(context, &h);
    h.closed++;
}

static void end(void)
{
    smoe_listener_close(&h.listener, on_closed);
    uv_close((uv_handle_t *)&h.end, NULL);
    uv_close((uv_handle_t *)&h.beat, NULL);
    for (int i = 0; i < h.n_taken; i++)
        if (!uv_is_closing((uv_handle_t *)&h.taken[i]))
            uv_close((uv_handle_t *)&h.taken[i], NULL);
    uv_run(&h.loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&h.loop), 0, "a handle was left open");
    cr_assert_eq(h.closed, 1);
    for (int i = 0; i < CLIENTS; i++)
        if (h.clients[i] > 0)
            close(h.clients[i]);
}

/* The kernel completes the connection whether or not anybody accepts it. */
static void connect_clients(int from, int to)
{
    struct smoe_addr address;
    smoe_listener_address(&h.listener, &address);
    for (int i = from; i < to; i++) {
        h.clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        cr_assert_gt(h.clients[i], 0);
        int rc = connect(h.clients[i], &address.sa, smoe_addr_len(&address));
        cr_assert(rc == 0 || errno == EINPROGRESS);
    }
}

/* Nobody has closed it from the other side. */
static bool still_waits(int client)
{
    char byte;
    return recv(h.clients[client], &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
}

/* So many descriptors more may be opened. */
static void allow_descriptors(int more)
{
    int next = open("/dev/null", O_RDONLY);
    struct rlimit limit = {(rlim_t)(next + more), 4096};
    close(next);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

Test(listener, takes_everybody_while_there_is_room, .init = begin, .fini = end)
{
    connect_clients(0, CLIENTS);
    run_ms(50);
    cr_assert_eq(h.n_taken, CLIENTS);
    cr_assert_eq(h.n_full, 0);
}

Test(listener, keeps_new_ones_waiting_when_descriptors_run_out_and_takes_them_when_there_are_more,
     .init = begin, .fini = end)
{
    connect_clients(0, CLIENTS);
    allow_descriptors(5);
    run_ms(350);
    cr_assert_eq(h.n_taken, 4, "%d; the fifth is held, so that none is left to accept with",
                 h.n_taken);
    cr_assert_eq(h.n_full, 1, "%d: when it begins", h.n_full);
    cr_assert_eq(h.last_status, UV_EMFILE);
    cr_assert_geq(h.beats, 20, "%d: the loop must live on", h.beats);
    for (int i = 0; i < CLIENTS; i++)
        cr_assert(still_waits(i), "client %d was dropped", i);
    for (int i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&h.taken[i], NULL);
    run_ms(250);
    cr_assert_eq(h.n_taken, 6);
    allow_descriptors(100);
    run_ms(250);
    cr_assert_eq(h.n_taken, CLIENTS);
    cr_assert_eq(h.last_status, 0, "and when it ends");
}

Test(listener, leaves_the_descriptors_of_its_reserve_to_others, .init = begin, .fini = end)
{
    h.listener.owner.reserve = 3;
    connect_clients(0, CLIENTS);
    allow_descriptors(7);
    run_ms(250);
    cr_assert_eq(h.n_taken, 3, "%d: one more is held, three are left", h.n_taken);
    cr_assert_eq(h.last_status, UV_EMFILE);
    int others[3];
    for (int i = 0; i < 3; i++)
        cr_assert_geq(others[i] = open("/dev/null", O_RDONLY), 0, "others may have %d", i);
    cr_assert_lt(open("/dev/null", O_RDONLY), 0);
    for (int i = 0; i < 3; i++)
        close(others[i]);
}

Test(listener, does_not_spin_when_the_machine_has_no_files_left, .init = begin, .fini = end)
{
    static const int codes[] = {ENFILE, ENOBUFS, ENOMEM};
    for (int i = 0; i < 3; i++) {
        int taken = h.n_taken;
        accept_errno = codes[i];
        h.n_full = refused_accepts = 0;
        connect_clients(2 * i, 2 * i + 1);
        run_ms(350);
        cr_assert_eq(h.n_taken, taken);
        cr_assert_eq(h.n_full, 1, "%d", h.n_full);
        cr_assert_eq(h.last_status, -codes[i]);
        cr_assert_leq(refused_accepts, 5, "%d: once a pause, not in a hurry", refused_accepts);
        cr_assert_geq(h.beats, 20, "%d: the loop must live on", h.beats);
        accept_errno = 0;
        run_ms(250);
        connect_clients(2 * i + 1, 2 * i + 2); /* the first may have been reset: it tries again */
        run_ms(50);
        cr_assert_gt(h.n_taken, taken, "it listens again on the same port");
    }
}

Test(listener, offers_a_connection_again_that_its_owner_had_no_room_for, .init = begin, .fini = end)
{
    h.refusals = 2;
    connect_clients(0, 3);
    run_ms(50);
    cr_assert_eq(h.n_taken, 0);
    cr_assert_eq(h.last_status, UV_ENOMEM);
    run_ms(250);
    cr_assert_eq(h.n_taken, 3);
    cr_assert_eq(h.last_status, 0);
}

Test(listener, can_be_closed_while_it_holds_one, .init = begin, .fini = end)
{
    h.refusals = 1000;
    connect_clients(0, 3);
    run_ms(50);
}

Test(listener, can_be_closed_while_it_waits_to_listen_again, .init = begin, .fini = end)
{
    accept_errno = ENFILE;
    connect_clients(0, 3);
    run_ms(20);
    cr_assert_eq(h.n_full, 1);
}

Test(listener, makes_a_unix_socket_for_the_group_and_replaces_one_left_behind, .fini = end)
{
    struct smoe_listener_owner owner = {&h, arrived, full, 0};
    struct scratch_dir dir;
    struct stat st;
    scratch_dir_init(&dir);
    const char *path = scratch_text(&dir, "socket", "left behind");
    uv_loop_init(&h.loop);
    uv_timer_init(&h.loop, &h.end);
    uv_timer_init(&h.loop, &h.beat);
    cr_assert_eq(smoe_listener_unix(&h.listener, &h.loop, path, 4, &owner), 0);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert(S_ISSOCK(st.st_mode));
    cr_assert_eq(st.st_mode & 0777, 0660);
    scratch_dir_release(&dir);
}
