/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/load.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/messages.h"
#include "common/base/assert.h"
#include "common/io/clock.h"

#define EVENTS_MAX  512
#define READ_BYTES  65536
#define PATIENCE_MS 5000
#define SETTLE_MS   100

int smoe_load_init(struct smoe_load *load, unsigned n, struct smoe_wire *wire)
{
    /* Everybody said hello with the first ceiling, so the second is what is new. */
    *load = (struct smoe_load){.epoll = epoll_create1(EPOLL_CLOEXEC), .turn = 1};
    load->peers = calloc(n, sizeof *load->peers);
    if (!load->peers || load->epoll < 0)
        return SMOE_ENOMEMORY;
    for (unsigned turn = 0; turn < 2; turn++) {
        struct smoe_message m = smoe_example_report(turn);
        load->report_bytes =
            smoe_peer_encode(wire, &m, 0, load->reports[turn],
                             sizeof load->reports[turn]); /* as long as the other */
    }
    return 0;
}

void smoe_load_release(struct smoe_load *load)
{
    for (unsigned i = 0; i < load->n; i++)
        smoe_peer_release(&load->peers[i]);
    if (load->epoll >= 0)
        close(load->epoll);
    free(load->peers);
    *load = (struct smoe_load){.epoll = -1};
}

void smoe_load_watch(struct smoe_load *load, unsigned from)
{
    for (unsigned i = from; i < load->n; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &load->peers[i]};
        smoe_peer_unblock(&load->peers[i]);
        epoll_ctl(load->epoll, EPOLL_CTL_ADD, load->peers[i].fd, &event);
    }
}

static void on_frame(void *context, struct smoe_peer *peer, const struct smoe_frame_header *frame,
                     const uint8_t *body)
{
    struct smoe_load *load = context;
    (void)peer, (void)body;
    if (frame->type == SMOE_MSG_DECISION && load->outstanding) {
        load->outstanding--;
        load->answers++;
    }
}

/* Reads once from every connection that has something; false if there was nothing in time. */
static bool read_some(struct smoe_load *load, int timeout_ms)
{
    static struct epoll_event events[EVENTS_MAX];
    static uint8_t scratch[READ_BYTES];
    int n = epoll_wait(load->epoll, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct smoe_peer *peer = events[i].data.ptr;
        ssize_t bytes = recv(peer->fd, scratch, sizeof scratch, 0);
        if (bytes <= 0 || !smoe_peer_feed(peer, scratch, (size_t)bytes, on_frame, load))
            return false; /* the gateway closed it, or sends what is no frame */
    }
    return n > 0;
}

void smoe_load_settle(struct smoe_load *load)
{
    load->outstanding = 0;
    while (read_some(load, SETTLE_MS))
        ;
}

static bool round_trip(struct smoe_load *load)
{
    const uint8_t *report = load->reports[load->turn];
    load->turn ^= 1;
    load->outstanding = load->n;
    for (unsigned i = 0; i < load->n; i++)
        if (send(load->peers[i].fd, report, load->report_bytes, MSG_NOSIGNAL) !=
            (ssize_t)load->report_bytes)
            return false;
    while (load->outstanding)
        if (!read_some(load, PATIENCE_MS))
            return false;
    return true;
}

uint64_t smoe_load_run(struct smoe_load *load, uint64_t interval_ns, uint64_t duration_ns)
{
    uint64_t began = smoe_clock_monotonic_ns(), now = began, due = began;
    load->answers = 0;
    while (now - began < duration_ns) {
        if (!round_trip(load))
            return 0;
        due += interval_ns;
        now = smoe_clock_monotonic_ns();
        if (now < due) {
            struct timespec pause = {0, (long)(due - now)};
            nanosleep(&pause, NULL);
            now = due;
        } else {
            due = now;
        }
    }
    return smoe_clock_monotonic_ns() - began;
}
