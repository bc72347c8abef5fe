/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/pump.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/child.h"
#include "bench/veth.h"
#include "common/io/addr.h"
#include "common/io/clock.h"

#define BUFFER_BYTES ((size_t)8 << 20) /* more than caches hold, as tensors are */
#define PIECE_BYTES  ((size_t)1 << 19) /* of a call */

/* Where in the buffer the next piece lies, and how long it is. */
static size_t piece_at(uint64_t done, uint64_t bytes, size_t *ret_offset)
{
    uint64_t left = bytes - done;
    size_t offset = (size_t)(done % BUFFER_BYTES), room = BUFFER_BYTES - offset;
    size_t piece = room < PIECE_BYTES ? room : PIECE_BYTES;
    *ret_offset = offset;
    return left < piece ? (size_t)left : piece;
}

/* Moves `bytes` through the buffer. */
static bool move(int fd, uint8_t *buffer, uint64_t bytes, bool writing)
{
    for (uint64_t done = 0; done < bytes;) {
        size_t offset, n = piece_at(done, bytes, &offset);
        ssize_t moved =
            writing ? send(fd, buffer + offset, n, MSG_NOSIGNAL) : recv(fd, buffer + offset, n, 0);
        if (moved <= 0)
            return false;
        done += (uint64_t)moved;
    }
    return true;
}

/* Writes as many bytes as it is asked for, again and again. */
static _Noreturn void write_all(const struct smoe_addr *to, int far, uint8_t *buffer)
{
    uint64_t bytes;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (far >= 0 && smoe_veth_enter(far))
        _exit(1);
    int fd = socket(to->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, &to->sa, smoe_addr_len(to)))
        _exit(1);
    while (recv(fd, &bytes, sizeof bytes, MSG_WAITALL) == (ssize_t)sizeof bytes &&
           move(fd, buffer, bytes, true))
        ;
    _exit(0);
}

int smoe_pump_start(const char *listen_at, int far, struct smoe_pump *ret, struct smoe_why *why)
{
    struct smoe_addr at;
    struct timeval patience = {10, 0};
    socklen_t bytes = sizeof at;
    *ret = (struct smoe_pump){.fd = -1, .bytes = calloc(1, BUFFER_BYTES)};
    int rc = smoe_addr_parse(listen_at, &at, why);
    if (rc)
        return rc;
    int listener = socket(at.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!ret->bytes || listener < 0 || bind(listener, &at.sa, smoe_addr_len(&at)) ||
        listen(listener, 1) || getsockname(listener, &at.sa, &bytes))
        rc = ret->bytes ? -errno : SMOE_ENOMEMORY;
    (void)setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ret->pid = rc ? 0 : fork();
    if (rc == 0 && ret->pid == 0)
        write_all(&at, far, ret->bytes);
    if (ret->pid > 0)
        ret->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    rc = rc || ret->fd >= 0 ? rc : -errno;
    if (listener >= 0)
        close(listener);
    return rc ? smoe_fail(why, rc, "a bare connection: %s", smoe_strerror(rc)) : 0;
}

static uint64_t own_cpu_ns(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * UINT64_C(1000000000) +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

int smoe_pump_run(struct smoe_pump *pump, uint64_t bytes, uint64_t *ret_wall_ns,
                  uint64_t *ret_cpu_ns, struct smoe_why *why)
{
    uint64_t cpu = own_cpu_ns() + smoe_child_cpu_ns(pump->pid);
    uint64_t began = smoe_clock_monotonic_ns();
    if (send(pump->fd, &bytes, sizeof bytes, MSG_NOSIGNAL) != (ssize_t)sizeof bytes ||
        !move(pump->fd, pump->bytes, bytes, false))
        return smoe_fail(why, SMOE_ECLOSED, "a bare connection broke");
    *ret_wall_ns = smoe_clock_monotonic_ns() - began;
    *ret_cpu_ns = own_cpu_ns() + smoe_child_cpu_ns(pump->pid) - cpu;
    return 0;
}

void smoe_pump_stop(struct smoe_pump *pump)
{
    smoe_child_stop(pump->pid);
    if (pump->pid > 0 && pump->fd >= 0)
        close(pump->fd);
    free(pump->bytes);
    *pump = (struct smoe_pump){.fd = -1};
}
