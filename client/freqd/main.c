/* SPDX-License-Identifier: GPL-2.0-only
 *
 * stablemoe-freqd: writes cpufreq limits for workers, which have no right to, and puts back what it
 * found: when a worker goes or is silent for longer than its lease, at SIGTERM, and at the next start if
 * it was killed. Started by systemd when somebody connects; one thread, one poll. Nothing of the
 * Apache-2.0 rooms is linked, so that libcpupower's licence meets only its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client/freqd/service.h"
#include "common/io/freqmsg.h"

#define STATE_FILE    "/run/stablemoe-freqd/found"
#define LISTEN_FD     3 /* sd_listen_fds(3): the first that systemd hands over */
#define IDLE_EXIT_NS  UINT64_C(30000000000) /* systemd starts it again when it is asked for */
#define FIXED_HANDLES 2

static const char usage[] =
    "stablemoe-freqd: sets cpufreq limits for stablemoe workers and restores what it found\n"
    "\n"
    "Started by systemd (stablemoe-freqd.socket). By hand, as root:\n"
    "  --socket PATH  listen there [what systemd hands over]\n"
    "  --state FILE   what was found, until it is restored [" STATE_FILE "]\n"
    "  --restore      restore what a killed one has left, and exit\n"
    "  --help, --version\n";

struct options {
    const char *socket, *state;
    bool restore;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int complain(const char *what, int rc)
{
    fprintf(stderr, "stablemoe-freqd: %s: %s\n", what, strerror(-rc));
    return 1;
}

/* -1 to go on, else the exit code. */
static int parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help"))
            return fputs(usage, stdout) < 0;
        if (!strcmp(argv[i], "--version"))
            return printf("stablemoe-freqd %s\n", STABLEMOE_VERSION) < 0;
        if (!strcmp(argv[i], "--restore"))
            o->restore = true;
        else if (!strcmp(argv[i], "--socket") && i + 1 < argc)
            o->socket = argv[++i];
        else if (!strcmp(argv[i], "--state") && i + 1 < argc)
            o->state = argv[++i];
        else {
            fprintf(stderr, "stablemoe-freqd: %s: unknown option, or without its value; --help\n",
                    argv[i]);
            return 2;
        }
    }
    return -1;
}

/* ---- the listener ---- */

/* What systemd handed over must be a listening seqpacket socket: anything else is a wrong unit. */
static int inherited(void)
{
    const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS");
    int type = 0, accepts = 0;
    socklen_t size = sizeof type;
    if (!pid || !n || strtol(pid, NULL, 10) != getpid() || strtol(n, NULL, 10) != 1)
        return -ENOTCONN;
    if (getsockopt(LISTEN_FD, SOL_SOCKET, SO_TYPE, &type, &size) ||
        getsockopt(LISTEN_FD, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &size))
        return -errno;
    if (type != SOCK_SEQPACKET || !accepts)
        return -EPROTOTYPE;
    return fcntl(LISTEN_FD, F_SETFL, O_NONBLOCK) ? -errno : LISTEN_FD;
}

/* The socket's file is for the owner; who else may ask is for the operator to say, by its mode. */
static int listen_at(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof at.sun_path)
        return -ENAMETOOLONG;
    memcpy(at.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    struct stat is;
    if (lstat(path, &is) == 0 && S_ISSOCK(is.st_mode))
        (void)unlink(path); /* a killed one's: the state directory's lock says that it is gone */
    mode_t mask = umask(0117);
    int rc = bind(fd, (const struct sockaddr *)&at, sizeof at) || listen(fd, 16) ? -errno : fd;
    (void)umask(mask);
    if (rc < 0)
        close(fd);
    return rc;
}

/* ---- running ---- */

static int poll_timeout_ms(const struct smoe_freqd *d, uint64_t now, uint64_t idle_since)
{
    uint64_t wake = smoe_freqd_wake_ns(d, now);
    if (idle_since && idle_since + IDLE_EXIT_NS < wake)
        wake = idle_since + IDLE_EXIT_NS;
    if (wake == UINT64_MAX)
        return -1;
    return wake <= now ? 0 : (int)((wake - now) / 1000000 + 1);
}

/* One round; false at a signal. */
static bool turn(struct smoe_freqd *d, int signals, uint64_t idle_since)
{
    struct pollfd handles[FIXED_HANDLES + SMOE_FREQD_CLIENTS_MAX] = {
        {.fd = signals, .events = POLLIN}, {.fd = d->listener, .events = POLLIN}};
    uint32_t n = d->n_clients;
    for (uint32_t i = 0; i < n; i++)
        handles[FIXED_HANDLES + i] = (struct pollfd){.fd = d->clients[i], .events = POLLIN};
    if (poll(handles, FIXED_HANDLES + n, poll_timeout_ms(d, now_ns(), idle_since)) < 0)
        return errno == EINTR;
    uint64_t now = now_ns();
    for (uint32_t i = 0; i < n; i++)
        if (handles[FIXED_HANDLES + i].revents)
            smoe_freqd_serve(d, handles[FIXED_HANDLES + i].fd, now);
    if (handles[1].revents)
        smoe_freqd_accept(d);
    smoe_freqd_expire(d, now);
    return !handles[0].revents;
}

static void run(struct smoe_freqd *d, int signals, bool ends_when_idle)
{
    uint64_t idle_since = 0;
    do {
        bool idle = ends_when_idle && !d->n_clients;
        if (idle && idle_since && now_ns() - idle_since >= IDLE_EXIT_NS)
            return;
        idle_since = !idle ? 0 : idle_since ? idle_since : now_ns();
    } while (turn(d, signals, idle_since));
}

static int block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int serve(struct smoe_freqd *d, const struct options *o)
{
    int signals = block_signals();
    d->listener = o->socket ? listen_at(o->socket) : inherited();
    if (d->listener < 0)
        return complain(o->socket ? o->socket : "no socket from systemd, and no --socket",
                        d->listener);
    run(d, signals, !o->socket);
    for (uint32_t i = 0; i < d->n_clients; i++)
        close(d->clients[i]);
    close(signals);
    close(d->listener);
    if (o->socket)
        (void)unlink(o->socket);
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {.state = STATE_FILE};
    int code = parse(argc, argv, &o);
    if (code >= 0)
        return code;
    static struct smoe_freqd d;
    int rc = smoe_policies_open(&d.policies, o.state);
    code = rc ? complain(o.state, rc) : o.restore ? 0 : serve(&d, &o);
    if (rc == 0 && smoe_freqd_restore(&d))
        code = complain("cpufreq limits could not be restored", -EBUSY);
    smoe_policies_release(&d.policies);
    return code;
}
