/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors through the real daemon: a trainer submits batches of a mebibyte, the daemon routes each to
 * the only worker, which sends a mebibyte back, and the daemon passes it on; several are on their way.
 * Beside it, a bare epoll relay between two sockets moves the same bytes to and fro. Both by wall time
 * (bytes a second, one direction) and by the CPU time that the process in the middle needs for them.
 */
#include "bench/bench_relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bench/child.h"
#include "bench/peer.h"
#include "bench/servers.h"
#include "common/base/assert.h"
#include "common/io/clock.h"

#define ROWS         256
#define D_MODEL      1024
#define TENSOR_BYTES ((size_t)ROWS * D_MODEL * sizeof(float))
#define SCORE_BYTES  (ROWS * sizeof(float))
#define IN_FLIGHT    4 /* batches on their way */
#define READ_BYTES   (1u << 18)
#define PATIENCE_MS  5000

/* One frame to be sent: head, then raw part. */
struct frame {
    uint8_t head[256];
    size_t head_bytes, raw_bytes;
    size_t sent;
};

/* One end of the line, with what it still has to send. */
struct end {
    struct smoe_peer peer;
    struct frame queue[2 * IN_FLIGHT];
    unsigned first, n;
};

struct line {
    struct end trainer, worker;
    struct smoe_wire *wire;
    int epoll;
    bool direct;            /* through the bare relay: no gateway answers */
    uint8_t *raw, *scratch; /* [SCORE_BYTES + TENSOR_BYTES] to send, [READ_BYTES] to read into */
    uint32_t layer;
    uint64_t batch;
    unsigned returned; /* tensors that came back in this turn */
    bool failed;
};

/* ---- sending ---- */

static void flush(struct line *line, struct end *end)
{
    while (end->n) {
        struct frame *f = &end->queue[end->first];
        struct iovec iovecs[2] = {{f->head, f->head_bytes}, {line->raw, f->raw_bytes}};
        struct msghdr message = {.msg_iov = iovecs, .msg_iovlen = 2};
        size_t skip = f->sent < f->head_bytes ? f->sent : f->head_bytes;
        iovecs[0] = (struct iovec){f->head + skip, f->head_bytes - skip};
        iovecs[1] = (struct iovec){line->raw + (f->sent - skip), f->raw_bytes - (f->sent - skip)};
        ssize_t n = sendmsg(end->peer.fd, &message, MSG_NOSIGNAL);
        if (n < 0) {
            line->failed |= errno != EAGAIN;
            return;
        }
        f->sent += (size_t)n;
        if (f->sent < f->head_bytes + f->raw_bytes)
            return;
        end->first = (end->first + 1) % (2 * IN_FLIGHT);
        end->n--;
    }
}

static void queue(struct line *line, struct end *end, const struct smoe_message *message,
                  size_t raw_bytes)
{
    smoe_assert(end->n < 2 * IN_FLIGHT);
    struct frame *f = &end->queue[(end->first + end->n++) % (2 * IN_FLIGHT)];
    f->head_bytes = smoe_peer_encode(line->wire, message, raw_bytes, f->head, sizeof f->head);
    f->raw_bytes = raw_bytes;
    f->sent = 0;
}

static void submit(struct line *line)
{
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    m.submit = (struct smoe_msg_submit){.batch = ++line->batch,
                                        .attempt = line->trainer.peer.attempt,
                                        .layer = line->layer,
                                        .tokens = ROWS,
                                        .top_k = 1};
    queue(line, &line->trainer, &m, SCORE_BYTES + TENSOR_BYTES);
}

/* ---- receiving ---- */

/* The worker computes nothing: each parcel's rows go back as they are many. */
static void answer(struct line *line, const struct smoe_frame_header *frame, const uint8_t *body)
{
    struct smoe_message in, out = {.type = SMOE_MSG_OUTPUT, .output = {.parcel = 1}};
    struct smoe_why why;
    if (line->direct && frame->type == SMOE_MSG_SUBMIT)
        queue(line, &line->worker, &out, TENSOR_BYTES);
    if (frame->type != SMOE_MSG_DECISION)
        return;
    if (smoe_wire_decode(line->wire, frame->type, body, frame->body_bytes, &in, &why)) {
        line->failed = true;
        return;
    }
    for (size_t i = 0; i < in.decision.n_parcels; i++) {
        out.output.parcel = in.decision.parcels[i].id;
        queue(line, &line->worker, &out, in.decision.parcels[i].rows * D_MODEL * sizeof(float));
    }
}

static void on_frame(void *context, struct smoe_peer *peer, const struct smoe_frame_header *frame,
                     const uint8_t *body)
{
    struct line *line = context;
    line->failed |= frame->type == SMOE_MSG_ERROR;
    if (peer == &line->worker.peer)
        answer(line, frame, body);
    else
        line->returned += frame->type == SMOE_MSG_RESULT || frame->type == SMOE_MSG_OUTPUT;
}

static void serve(struct line *line, struct end *end, uint32_t events)
{
    flush(line, end);
    while (events & EPOLLIN) {
        ssize_t n = recv(end->peer.fd, line->scratch, READ_BYTES, 0);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0 || !smoe_peer_feed(&end->peer, line->scratch, (size_t)n, on_frame, line)) {
            line->failed = true;
            break;
        }
    }
    flush(line, end);
}

/* Sends and gets back `n` tensors; the wall time, 0 if that failed. */
static uint64_t run_tensors(struct line *line, unsigned n)
{
    uint64_t began = smoe_clock_monotonic_ns();
    unsigned submitted = 0;
    line->returned = 0;
    while (line->returned < n && !line->failed) {
        struct epoll_event events[2];
        for (; submitted < n && submitted < line->returned + IN_FLIGHT; submitted++)
            submit(line);
        flush(line, &line->trainer);
        int ready = epoll_wait(line->epoll, events, 2, PATIENCE_MS);
        line->failed |= ready <= 0;
        for (int i = 0; i < ready; i++)
            serve(line, events[i].data.ptr, events[i].events);
    }
    return line->failed ? 0 : smoe_clock_monotonic_ns() - began;
}

/* ---- the beginning ---- */

static void watch(struct line *line, struct end *end)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = end};
    smoe_peer_unblock(&end->peer);
    epoll_ctl(line->epoll, EPOLL_CTL_ADD, end->peer.fd, &event);
}

static int init(struct line *line, struct smoe_wire *wire, const char *address,
                struct smoe_why *why)
{
    line->wire = wire;
    line->trainer.peer.fd = line->worker.peer.fd = -1;
    line->epoll = epoll_create1(EPOLL_CLOEXEC);
    line->raw = calloc(1, SCORE_BYTES + TENSOR_BYTES);
    line->scratch = malloc(READ_BYTES);
    if (!line->raw || !line->scratch)
        return smoe_fail(why, SMOE_ENOMEMORY, "relay: out of memory");
    int rc = smoe_peer_connect(&line->trainer.peer, address, why);
    return rc ? rc : smoe_peer_connect(&line->worker.peer, address, why);
}

static void release(struct line *line)
{
    smoe_peer_release(&line->trainer.peer);
    smoe_peer_release(&line->worker.peer);
    if (line->epoll > 0)
        close(line->epoll);
    free(line->raw);
    free(line->scratch);
}

static int join_daemon(struct line *line, struct smoe_why *why)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    struct smoe_peer *trainer = &line->trainer.peer, *worker = &line->worker.peer;
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1,
        .name = "relay",
        .run = 1,
        .shape = {.experts = 1,
                  .d_model = D_MODEL,
                  .d_ff = 1,
                  .activation = 1,
                  .dtype = SMOE_DTYPE_F32,
                  .optimizer = 1},
    };
    int rc;
    if ((rc = smoe_peer_hello(worker, line->wire, SMOE_ROLE_WORKER, "relay", why)) ||
        (rc = smoe_peer_hello(trainer, line->wire, SMOE_ROLE_TRAINER, "relay", why)) ||
        (rc = smoe_peer_send(trainer, line->wire, &m, why)) ||
        (rc = smoe_peer_await(worker, line->wire, SMOE_MSG_HOST, &m, why)))
        return rc;
    line->layer = m.host.layer;
    m = (struct smoe_message){.type = SMOE_MSG_HOSTED, .hosted = {.layer = line->layer}};
    rc = smoe_peer_send(worker, line->wire, &m, why);
    return rc ? rc : smoe_peer_await(trainer, line->wire, SMOE_MSG_LAYER_READY, &m, why);
}

/* ---- the comparison ---- */

struct side {
    struct line line;
    pid_t pid;
    struct smoe_sample wall_ns, cpu_ns; /* a tensor there and back */
};

static int run_side(struct side *side, unsigned n, struct smoe_why *why)
{
    uint64_t before = smoe_child_cpu_ns(side->pid);
    uint64_t wall = run_tensors(&side->line, n);
    if (!wall)
        return smoe_fail(why, SMOE_ETIMEOUT, "relay: a tensor did not come back");
    smoe_sample_add(&side->wall_ns, (double)wall / n);
    smoe_sample_add(&side->cpu_ns, (double)(smoe_child_cpu_ns(side->pid) - before) / n);
    return 0;
}

static int compare(struct smoe_bench *bench, struct side *daemon, struct side *bare,
                   struct smoe_why *why)
{
    unsigned n = bench->quick ? 50 : 400;
    int rc = 0;
    for (int round = 0; round < (bench->quick ? 2 : 9) && !rc; round++) {
        rc = run_side(bare, n, why);
        rc = rc ? rc : run_side(daemon, n, why);
    }
    if (rc)
        return rc;
    struct smoe_sample rate = smoe_sample_inverse(&daemon->wall_ns, (double)TENSOR_BYTES);
    struct smoe_sample bare_rate = smoe_sample_inverse(&bare->wall_ns, (double)TENSOR_BYTES);
    struct smoe_sample ratio = smoe_sample_ratio(&bare->wall_ns, &daemon->wall_ns);
    struct smoe_sample cpu = smoe_sample_ratio(&bare->cpu_ns, &daemon->cpu_ns);
    smoe_report_add(bench->report, "GB/s", &rate, "net.relay.1MiB");
    smoe_report_add(bench->report, "GB/s", &bare_rate, "net.relay.1MiB.bare");
    smoe_report_add(bench->report, "x", &ratio, "net.relay.1MiB.to_bare");
    smoe_report_add(bench->report, "x", &cpu, "net.relay.1MiB.cpu_to_bare");
    return 0;
}

int smoe_bench_relay(struct smoe_bench *bench, struct smoe_wire *wire, struct smoe_why *why)
{
    static const char *const settings[] = {"fleet.silence=10min", "fleet.copies=1", NULL};
    struct smoe_bench_fleet fleet;
    struct smoe_server server = {.pid = 0};
    struct side daemon = {.line = {.epoll = 0}}, bare = {.line = {.direct = true}};
    int rc = smoe_fleet_start(bench, settings, 0, &fleet, why);
    rc = rc ? rc : smoe_server_relay(&server, why);
    rc = rc ? rc : init(&bare.line, wire, server.address, why);
    rc = rc ? rc : init(&daemon.line, wire, fleet.address, why);
    rc = rc ? rc : join_daemon(&daemon.line, why);
    daemon.pid = fleet.gateway;
    bare.pid = server.pid;
    if (rc == 0) {
        watch(&bare.line, &bare.line.trainer);
        watch(&bare.line, &bare.line.worker);
        watch(&daemon.line, &daemon.line.trainer);
        watch(&daemon.line, &daemon.line.worker);
        rc = compare(bench, &daemon, &bare, why);
    }
    release(&bare.line);
    release(&daemon.line);
    smoe_child_stop(server.pid);
    smoe_fleet_stop(&fleet);
    return rc;
}
