/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/rival.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/child.h"
#include "stablemoe/error.h"

#define NS_FAILED 1e9

static bool read_line(struct smoe_rival *r, char *line, size_t size)
{
    if (!fgets(line, (int)size, r->stream))
        return false;
    line[strcspn(line, "\n")] = 0;
    return true;
}

/* Its first line, or its end. */
static int greet(struct smoe_rival *r, bool *ret_installed, struct smoe_why *why)
{
    char line[128];
    if (read_line(r, line, sizeof line)) {
        *ret_installed = true;
        if (sscanf(line, "ready %63s", r->version) == 1)
            return 0;
        return smoe_fail(why, SMOE_EDATA, "says \"%.60s\" instead of ready", line);
    }
    int status = smoe_child_wait(r->pid);
    r->pid = 0;
    *ret_installed = status != SMOE_BENCH_NOT_INSTALLED;
    return *ret_installed ? smoe_fail(why, SMOE_ECLOSED, "ended with exit status %d", status) : 0;
}

int smoe_rival_start(const char *const *argv, struct smoe_rival *ret, bool *ret_installed,
                     struct smoe_why *why)
{
    int ends[2];
    *ret = (struct smoe_rival){.pid = 0};
    *ret_installed = false;
    if (access(argv[0], X_OK))
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return smoe_fail(why, -errno, "socketpair: %s", strerror(errno));
    int rc =
        smoe_child_spawn(argv, (const int[3]){ends[1], ends[1], STDERR_FILENO}, &ret->pid, why);
    close(ends[1]);
    ret->stream = fdopen(ends[0], "r");
    if (!ret->stream) {
        close(ends[0]);
        return rc ? rc : smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    }
    return rc ? rc : greet(ret, ret_installed, why);
}

void smoe_rival_stop(struct smoe_rival *rival)
{
    if (rival->stream)
        fclose(rival->stream);
    smoe_child_stop(rival->pid);
    *rival = (struct smoe_rival){.pid = 0};
}

/* Not through the stream: a write to a rival that is gone must not be SIGPIPE. */
static bool write_job(struct smoe_rival *r, const char *job, uint64_t calls)
{
    char line[128];
    int n = snprintf(line, sizeof line, "%s %" PRIu64 "\n", job, calls);
    return send(fileno(r->stream), line, (size_t)n, MSG_NOSIGNAL) == n;
}

double smoe_rival_ask(struct smoe_rival *r, const char *job, uint64_t calls, double *ret_value)
{
    char line[128] = "";
    double ns = 0, value = 0;
    if (!r->failed && write_job(r, job, calls) && read_line(r, line, sizeof line) &&
        sscanf(line, "%lf %lf", &ns, &value) == 2 && ns > 0) {
        if (ret_value)
            *ret_value = value;
        return ns;
    }
    if (!r->failed)
        smoe_why_set(&r->why, "\"%.60s\" was answered by \"%.60s\"", job, line);
    r->failed = true;
    return NS_FAILED * (double)calls;
}

int smoe_rival_share_core(void)
{
    cpu_set_t one;
    int cpu = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET((unsigned)(cpu < 0 ? 0 : cpu), &one);
    return sched_setaffinity(0, sizeof one, &one) ? -errno : 0;
}
