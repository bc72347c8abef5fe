/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/servers.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/peer.h"

#define EVENTS_MAX   512
#define READ_BYTES   65536
#define BUFFER_BYTES (1u << 20)
#define BACKLOG      1024

struct end {
    int fd;
    struct end *other; /* relay: where its bytes go */
    size_t have;       /* echo: bytes of an incomplete request */
    uint8_t *buffer;   /* relay: read from fd, [begin, end) not yet written to other */
    size_t begin, end;
};

struct server {
    int epoll, listener;
    size_t request_bytes, reply_bytes; /* echo */
    uint8_t *replies;                  /* as many as one read can ask for */
    struct end *single;                /* relay: waits for the other */
};

void smoe_raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* ---- echo ---- */

/* A reply that the socket does not take at once would be lost; the clients here wait for replies before
 * they send again, so that their sockets are never full. */
static bool echo_readable(struct server *s, struct end *e)
{
    static uint8_t scratch[READ_BYTES];
    ssize_t n = recv(e->fd, scratch, sizeof scratch, 0);
    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    e->have += (size_t)n;
    size_t requests = e->have / s->request_bytes;
    e->have -= requests * s->request_bytes;
    size_t bytes = requests * s->reply_bytes;
    return send(e->fd, s->replies, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* ---- relay ---- */

/* Moves what it can from e to its other; false at the end of the stream. */
static bool relay_pump(struct end *e)
{
    if (!e->other)
        return true;
    for (;;) {
        if (e->begin == e->end) {
            ssize_t n = recv(e->fd, e->buffer, BUFFER_BYTES, 0);
            if (n <= 0)
                return n < 0 && errno == EAGAIN;
            e->begin = 0;
            e->end = (size_t)n;
        }
        ssize_t n = send(e->other->fd, e->buffer + e->begin, e->end - e->begin, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN;
        e->begin += (size_t)n;
    }
}

/* Edge-triggered: either end may have become able to go on, in either direction. */
static bool relay_ready(struct end *e)
{
    return relay_pump(e) && (!e->other || relay_pump(e->other));
}

static void join(struct server *s, struct end *e)
{
    e->buffer = malloc(BUFFER_BYTES);
    if (!e->buffer)
        _exit(1);
    if (!s->single) {
        s->single = e;
        return;
    }
    e->other = s->single;
    s->single->other = e;
    s->single = NULL;
    (void)relay_ready(e); /* what came before there were two */
}

/* ---- the loop of both ---- */

static void accept_all(struct server *s, bool relay)
{
    int fd, one = 1;
    while ((fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct end *e = calloc(1, sizeof *e);
        struct epoll_event event = {.events = relay ? EPOLLIN | EPOLLOUT | EPOLLET : EPOLLIN,
                                    .data.ptr = e};
        if (!e)
            _exit(1);
        e->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event);
        if (relay)
            join(s, e);
    }
}

static _Noreturn void serve(struct server *s, bool relay)
{
    static struct epoll_event events[EVENTS_MAX];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &event);
    for (;;) {
        int n = epoll_wait(s->epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            struct end *e = events[i].data.ptr;
            if (!e)
                accept_all(s, relay);
            else if (relay ? !relay_ready(e) : !echo_readable(s, e))
                epoll_ctl(s->epoll, EPOLL_CTL_DEL, e->fd, NULL);
        }
    }
}

static int start(struct server *s, bool relay, struct smoe_server *ret, struct smoe_why *why)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    const void *from = &at;
    void *to = &at;
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->listener < 0 || bind(s->listener, from, sizeof at) || listen(s->listener, BACKLOG) ||
        getsockname(s->listener, to, &bytes))
        return smoe_fail(why, -errno, "listen: %s", strerror(errno));
    snprintf(ret->address, sizeof ret->address, "127.0.0.1:%u", ntohs(at.sin_port));
    ret->pid = fork();
    if (ret->pid == 0)
        serve(s, relay);
    int rc = ret->pid < 0 ? -errno : 0;
    close(s->listener);
    return rc ? smoe_fail(why, rc, "fork: %s", strerror(-rc)) : 0;
}

int smoe_server_echo(size_t request_bytes, const uint8_t *reply, size_t reply_bytes,
                     struct smoe_server *ret, struct smoe_why *why)
{
    struct server s = {.request_bytes = request_bytes, .reply_bytes = reply_bytes};
    size_t most = READ_BYTES / request_bytes + 1;
    s.replies = malloc(most * reply_bytes);
    if (!s.replies)
        return smoe_fail(why, SMOE_ENOMEMORY, "echo: out of memory");
    for (size_t i = 0; i < most; i++)
        memcpy(s.replies + i * reply_bytes, reply, reply_bytes);
    int rc = start(&s, false, ret, why);
    free(s.replies);
    return rc;
}

int smoe_server_relay(struct smoe_server *ret, struct smoe_why *why)
{
    struct server s = {.request_bytes = 0};
    return start(&s, true, ret, why);
}

/* ---- responder ---- */

static bool transfer(int fd, uint8_t *data, size_t n, bool sending)
{
    while (n) {
        ssize_t done = sending ? send(fd, data, n, MSG_NOSIGNAL) : recv(fd, data, n, 0);
        if (done <= 0)
            return false;
        data += done;
        n -= (size_t)done;
    }
    return true;
}

static _Noreturn void respond(int fd, size_t request_bytes, size_t reply_bytes)
{
    uint8_t *bytes = calloc(1, request_bytes > reply_bytes ? request_bytes : reply_bytes);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    while (bytes && transfer(fd, bytes, request_bytes, false) &&
           transfer(fd, bytes, reply_bytes, true))
        ;
    _exit(0);
}

int smoe_server_responder(const char *address, size_t request_bytes, size_t reply_bytes,
                          struct smoe_server *ret, struct smoe_why *why)
{
    struct smoe_peer peer;
    int rc = smoe_peer_connect(&peer, address, why);
    if (rc)
        return rc;
    struct timeval forever = {0, 0};
    setsockopt(peer.fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
    ret->pid = fork();
    if (ret->pid == 0)
        respond(peer.fd, request_bytes, reply_bytes);
    rc = ret->pid < 0 ? smoe_fail(why, -errno, "fork: %s", strerror(errno)) : 0;
    smoe_peer_release(&peer);
    return rc;
}
