/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/load.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/messages.h"
#include "common/base/assert.h"
#include "common/io/clock.h"

#define EVENTS_MAX  512
#define READ_BYTES  4096
#define PATIENCE_NS UINT64_C(5000000000)
#define SETTLE_NS   UINT64_C(100000000)

int smoe_load_init(struct smoe_load *load, unsigned n, struct smoe_wire *wire)
{
    *load = (struct smoe_load){.epoll = epoll_create1(EPOLL_CLOEXEC)};
    load->ends = calloc(n, sizeof *load->ends);
    if (!load->ends || load->epoll < 0)
        return SMOE_ENOMEMORY;
    for (unsigned i = 0; i < n; i++) /* they say hello with the first ceiling: the second is new */
        load->ends[i] = (struct smoe_load_end){.peer = {.fd = -1}, .load = load, .turn = 1};
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
        smoe_peer_release(&load->ends[i].peer);
    if (load->epoll >= 0)
        close(load->epoll);
    free(load->ends);
    *load = (struct smoe_load){.epoll = -1};
}

void smoe_load_watch(struct smoe_load *load, unsigned from)
{
    for (unsigned i = from; i < load->n; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &load->ends[i]};
        smoe_peer_unblock(&load->ends[i].peer);
        epoll_ctl(load->epoll, EPOLL_CTL_ADD, load->ends[i].peer.fd, &event);
    }
}

static bool report(struct smoe_load *load, struct smoe_load_end *end)
{
    ssize_t bytes = (ssize_t)load->report_bytes;
    load->outstanding++;
    end->turn ^= 1;
    return send(end->peer.fd, load->reports[end->turn ^ 1], load->report_bytes, MSG_NOSIGNAL) ==
           bytes;
}

static void on_frame(void *context, struct smoe_peer *peer, const struct smoe_frame_header *frame,
                     const uint8_t *body)
{
    bool *answered = context;
    (void)peer, (void)body;
    *answered |= frame->type == SMOE_MSG_DECISION;
}

/* Less is read than there is room for, so that nothing is left when the edge has passed. */
static bool serve(struct smoe_load *load, struct smoe_load_end *end)
{
    static uint8_t scratch[READ_BYTES];
    bool answered = false;
    ssize_t bytes = recv(end->peer.fd, scratch, sizeof scratch, 0);
    if (bytes <= 0 || bytes == READ_BYTES ||
        !smoe_peer_feed(&end->peer, scratch, (size_t)bytes, on_frame, &answered))
        return false; /* the gateway closed it, or sends what is no frame */
    if (!answered || !load->outstanding)
        return true;
    load->outstanding--;
    load->answers++;
    return load->stopping || report(load, end);
}

/* Serves whom something came for; how many, or -1 when a connection failed. */
static int serve_some(struct smoe_load *load)
{
    static struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(load->epoll, events, EVENTS_MAX, 0);
    for (int i = 0; i < n; i++)
        if (!serve(load, events[i].data.ptr))
            return -1;
    return n;
}

void smoe_load_settle(struct smoe_load *load)
{
    uint64_t since = smoe_clock_monotonic_ns(), now = since;
    load->outstanding = 0;
    for (; now - since < SETTLE_NS; now = smoe_clock_monotonic_ns())
        if (serve_some(load) > 0)
            since = now;
}

uint64_t smoe_load_run(struct smoe_load *load, uint64_t duration_ns)
{
    uint64_t began = smoe_clock_monotonic_ns(), now = began, last = began;
    bool well = true;
    load->answers = load->idle_ns = load->outstanding = 0;
    load->stopping = false;
    for (unsigned i = 0; i < load->n && well; i++)
        well = report(load, &load->ends[i]);
    while (well && load->outstanding) {
        int served = serve_some(load);
        uint64_t then = now;
        now = smoe_clock_monotonic_ns();
        if (served > 0)
            last = now;
        else
            load->idle_ns += now - then;
        load->stopping = now - began >= duration_ns;
        well = served >= 0 && now - last < PATIENCE_NS;
    }
    return well ? now - began : 0;
}
