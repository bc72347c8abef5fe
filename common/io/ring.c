/* SPDX-License-Identifier: Apache-2.0
 *
 * Two io_urings, because their completions mean different things. In `sends` nothing is under way but
 * while `send` runs: every request has MSG_DONTWAIT and is carried out as it is submitted. In
 * `reads` there is one request for each connection, which waits in the kernel for bytes to come and has a
 * completion for each piece of them ("multishot"): asking anew for each costs as much as a third of what
 * TCP takes to hand it over.
 *
 * A read that can go on is not carried out where its bytes arrive, in the middle of whatever this thread
 * does, but when the thread asks (IORING_SETUP_DEFER_TASKRUN). An eventfd tells the loop that asking is
 * worth while; polling the ring's own descriptor does not, since nobody wakes those who do so while the work
 * is deferred. The happy path of a wake-up:
 *
 *     eventfd -> turn: collect, call `got` -> turn: collect nothing -> back to the loop
 *
 * Completions that are collected also ring the eventfd, in vain, so it is switched off for the first
 * turn. It is on again before the last one, so that what comes in between is not missed.
 *
 * Buffers are chosen by the kernel when bytes are there (a "provided buffer ring"), so that 5,000 idle
 * connections need none. When all are in use reads end with UV_ENOBUFS: their owners then read by
 * themselves, and begin anew.
 *
 * What can fail: the kernel has no memory for requests. Reads stay in the queue and are tried again in the
 * loop's next round. Sends are given up after TRIES_MAX, with their ring, and from then on nothing is
 * tried: owners send by themselves.
 */
#include "common/io/ring.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/assert.h"
#include "common/base/list.h"
#include "common/base/near.h"

#define READS_QUEUED 256  /* requests between two system calls */
#define COMPLETIONS  1024 /* more than that are kept by the kernel until there is room */
#define BUFFERS      64   /* a power of two; few, so that they stay in the cache */
#define TURNS_MAX    32   /* in a row: the rest of the loop waits */
#define TRIES_MAX    100
#define NEAR_BYTES   192 /* of what is kept with a read, from it on */

#define RING_BYTES (BUFFERS * sizeof(struct io_uring_buf))

struct uring {
    struct smoe_ring ring;
    struct io_uring reads, sends;
    bool has_reads, has_sends;         /* what there is to be released */
    int event;                         /* the eventfd, or -1 */
    uv_poll_t poll;                    /* of `event` */
    struct io_uring_buf_ring *offered; /* RING_BYTES, mapped: buffers that the kernel may fill */
    uint8_t *buffers;                  /* [BUFFERS][SMOE_RING_READ_BYTES] */
    size_t reading;                    /* reads under way */
    bool turning;                      /* the next turn submits what is queued */
    void (*closed)(void *context);
    void *context;
};

/* ---- memory ---- */

static struct uring *uring_of(struct smoe_ring *ring)
{
    return smoe_container_of(ring, struct uring, ring);
}

static void release(struct uring *u)
{
    if (u->has_reads)
        io_uring_queue_exit(&u->reads);
    if (u->has_sends)
        io_uring_queue_exit(&u->sends);
    if (u->event >= 0)
        close(u->event);
    if (u->offered)
        munmap(u->offered, RING_BYTES);
    free(u->buffers);
    free(u);
}

/* Both are used by one thread only, which the kernel then need not interrupt. */
static int open_ring(struct io_uring *ring, unsigned entries, unsigned completions)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
                                     .cq_entries = completions};
    int rc = io_uring_queue_init_params(entries, ring, &params);
    if (rc == 0)
        (void)io_uring_register_ring_fd(ring); /* a little faster; without it all goes well too */
    return rc;
}

static void offer(struct uring *u, unsigned id)
{
    io_uring_buf_ring_add(u->offered, u->buffers + (size_t)id * SMOE_RING_READ_BYTES,
                          SMOE_RING_READ_BYTES, (unsigned short)id, BUFFERS - 1, 0);
    io_uring_buf_ring_advance(u->offered, 1);
}

static int open_buffers(struct uring *u)
{
    void *pages =
        mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return -errno;
    u->offered = pages;
    u->buffers = malloc((size_t)BUFFERS * SMOE_RING_READ_BYTES);
    if (!u->buffers)
        return UV_ENOMEM;
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)pages, .ring_entries = BUFFERS};
    int rc = io_uring_register_buf_ring(&u->reads, &reg, 0);
    if (rc)
        return rc;
    io_uring_buf_ring_init(u->offered);
    for (unsigned id = 0; id < BUFFERS; id++)
        offer(u, id);
    return 0;
}

static int open_all(struct uring *u)
{
    int rc = open_ring(&u->reads, READS_QUEUED, COMPLETIONS);
    u->has_reads = rc == 0;
    if (rc == 0)
        rc = open_ring(&u->sends, SMOE_RING_SENDS_MAX, SMOE_RING_SENDS_MAX);
    u->has_sends = u->has_reads && rc == 0;
    if (rc == 0)
        rc = open_buffers(u);
    if (rc == 0 && (u->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        rc = -errno;
    return rc ? rc : io_uring_register_eventfd(&u->reads, u->event);
}

/* ---- reading ---- */

/* An empty request, or NULL. */
static struct io_uring_sqe *next_request(struct uring *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->reads);
    if (sqe)
        return sqe;
    (void)io_uring_submit(&u->reads);
    return io_uring_get_sqe(&u->reads);
}

static int queue(struct uring *u, struct io_uring_sqe *sqe, struct smoe_ring_read *read)
{
    io_uring_sqe_set_data(sqe, read);
    u->reading++;
    if (!u->turning)
        (void)io_uring_submit(&u->reads);
    return 0;
}

static int begin_read(struct smoe_ring *ring, int fd, struct smoe_ring_read *read)
{
    struct uring *u = uring_of(ring);
    struct io_uring_sqe *sqe = next_request(u);
    if (!sqe)
        return UV_ENOMEM;
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST; /* there is seldom something already */
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = 0;
    return queue(u, sqe, read);
}

static int begin_wait(struct smoe_ring *ring, int fd, struct smoe_ring_read *read)
{
    struct uring *u = uring_of(ring);
    struct io_uring_sqe *sqe = next_request(u);
    if (!sqe)
        return UV_ENOMEM;
    io_uring_prep_poll_add(sqe, fd, POLLIN);
    return queue(u, sqe, read);
}

static int stop_read(struct smoe_ring *ring, struct smoe_ring_read *read)
{
    struct uring *u = uring_of(ring);
    struct io_uring_sqe *sqe = next_request(u);
    if (!sqe)
        return UV_ENOMEM;
    io_uring_prep_cancel(sqe, read, 0);
    return queue(u, sqe, NULL);
}

static void complete(struct uring *u, const struct io_uring_cqe *cqe)
{
    struct smoe_ring_read *read = io_uring_cqe_get_data(cqe);
    bool more = cqe->flags & IORING_CQE_F_MORE;
    u->reading -= !more;
    if (!read) /* it was asked to stop: its own last completion says the rest */
        return;
    if (!(cqe->flags & IORING_CQE_F_BUFFER)) { /* of a wait the result are events */
        read->got(read, NULL, cqe->res > 0 ? UV_ENOBUFS : cqe->res, more);
        return;
    }
    unsigned id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    read->got(read, u->buffers + (size_t)id * SMOE_RING_READ_BYTES, cqe->res, more);
    offer(u, id);
}

/* With a thousand connections each of them has left the caches since it was last heard. Two messages ahead
 * its own lines are fetched, one ahead those that they lead to. */
static void bring_near(const struct uring *u, unsigned head)
{
    const struct io_uring_cq *cq = &u->reads.cq;
    unsigned left = io_uring_cq_ready(&u->reads) - (head - *cq->khead);
    struct smoe_ring_read *read;
    if (left > 2 && (read = io_uring_cqe_get_data(&cq->cqes[(head + 2) & cq->ring_mask])))
        smoe_bring_near(read, NEAR_BYTES);
    if (left > 1 && (read = io_uring_cqe_get_data(&cq->cqes[(head + 1) & cq->ring_mask])) &&
        read->coming)
        read->coming(read);
}

/* Submits what is queued and deals with what is complete. True: another turn is worth while. The kernel
 * lets some twenty reads go on at a time; if all of those found nothing, those behind them wait for
 * whatever comes next, which is a slot at most. */
static bool turn(struct uring *u)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    (void)io_uring_submit_and_get_events(&u->reads);
    io_uring_for_each_cqe(&u->reads, head, cqe)
    {
        bring_near(u, head);
        complete(u, cqe);
        n++;
    }
    io_uring_cq_advance(&u->reads, n);
    return n > 0 || io_uring_sq_ready(&u->reads) > 0;
}

static void on_event(uv_poll_t *poll, int status, int events)
{
    struct uring *u = poll->data;
    uint64_t count;
    (void)status, (void)events; /* an eventfd has no errors */
    if (read(u->event, &count, sizeof count) != sizeof count)
        return;
    u->turning = true;
    (void)io_uring_cq_eventfd_toggle(&u->reads, false);
    bool more = turn(u);
    (void)io_uring_cq_eventfd_toggle(&u->reads, true);
    __sync_synchronize(); /* before the kernel looks whether there is work */
    for (int i = 0; i < TURNS_MAX && (i == 0 || more); i++)
        more = turn(u);
    u->turning = false;
    if (more)
        (void)eventfd_write(u->event, 1);
}

/* ---- sending ---- */

static void give_up_sending(struct uring *u)
{
    io_uring_queue_exit(&u->sends);
    u->has_sends = false;
}

static void collect(struct uring *u, struct smoe_ring_send *sends)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    io_uring_for_each_cqe(&u->sends, head, cqe)
    {
        sends[cqe->user_data].result = cqe->res;
        n++;
    }
    io_uring_cq_advance(&u->sends, n);
}

static void send_all(struct smoe_ring *ring, struct smoe_ring_send *sends, size_t n)
{
    struct uring *u = uring_of(ring);
    smoe_assert(n <= SMOE_RING_SENDS_MAX);
    for (size_t i = 0; i < n; i++)
        sends[i].result = UV_EINTR;
    if (!u->has_sends)
        return;
    for (size_t i = 0; i < n; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->sends);
        if (!sqe) /* never: it is empty */
            break;
        io_uring_prep_send(sqe, sends[i].fd, sends[i].data, sends[i].bytes,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
        sqe->user_data = i;
    }
    for (int i = 0; i < TRIES_MAX && io_uring_sq_ready(&u->sends); i++)
        (void)io_uring_submit(&u->sends);
    collect(u, sends);
    if (io_uring_sq_ready(&u->sends))
        give_up_sending(u);
}

/* ---- beginning and end ---- */

int smoe_ring_new(uv_loop_t *loop, struct smoe_ring **ret)
{
    struct uring *u = calloc(1, sizeof *u);
    if (!u)
        return UV_ENOMEM;
    u->ring = (struct smoe_ring){begin_read, begin_wait, stop_read, send_all};
    u->event = -1;
    int rc = open_all(u);
    if (rc == 0)
        rc = uv_poll_init(loop, &u->poll, u->event);
    if (rc) {
        release(u);
        return rc;
    }
    u->poll.data = u;
    rc = uv_poll_start(&u->poll, UV_READABLE, on_event);
    smoe_assert(rc == 0);
    *ret = &u->ring;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct uring *u = handle->data;
    void (*closed)(void *) = u->closed;
    void *context = u->context;
    release(u);
    closed(context);
}

void smoe_ring_close(struct smoe_ring *ring, void (*closed)(void *context), void *context)
{
    struct uring *u = uring_of(ring);
    smoe_assert(u->reading == 0);
    u->closed = closed;
    u->context = context;
    uv_close((uv_handle_t *)&u->poll, on_closed);
}
