/* SPDX-License-Identifier: Apache-2.0
 *
 * Signals come through a descriptor, so that poll waits for them, for the end of input and for the
 * next drawing alike, and none can slip in between a check and a wait. On a terminal each drawing
 * begins at its upper left corner and clears what was there; elsewhere drawings follow each other.
 */
#include "client/ctl/watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client/ctl/ask.h"
#include "client/ctl/table.h"

#define HOME_AND_CLEAR "\033[H\033[J"

static int draw(const struct smoe_ctl_watch *w, bool terminal, struct smoe_why *why)
{
    char *answer = NULL;
    int rc = smoe_ctl_ask_target(&w->target, "status", &answer, why);
    cJSON *status = rc ? NULL : cJSON_Parse(answer);
    if (rc == 0 && !status)
        rc = smoe_fail(why, SMOE_EMALFORMED, "the answer is not JSON");
    if (terminal)
        fputs(HOME_AND_CLEAR, w->to);
    if (rc == 0) {
        smoe_ctl_print_gateway(status, w->to);
        fputc('\n', w->to);
        rc = smoe_ctl_print_workers(status, w->to);
    }
    if (!terminal)
        fputc('\n', w->to);
    cJSON_Delete(status);
    free(answer);
    return rc;
}

/* Waits for the next drawing; true when it is time to end. */
static bool over(const struct smoe_ctl_watch *w, int signals)
{
    struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = w->input, .events = POLLIN}};
    char ignored[256];
    int ready = poll(fds, 2, (int)(w->interval_ns / 1000000));
    if (ready <= 0)
        return ready < 0 && errno != EINTR;
    if (fds[0].revents)
        return true;
    return read(w->input, ignored, sizeof ignored) <= 0; /* what is typed only draws anew */
}

static int open_signals(struct smoe_why *why)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    return fd >= 0 ? fd : smoe_fail(why, -errno, "signals: %s", smoe_strerror(-errno));
}

int smoe_ctl_watch(const struct smoe_ctl_watch *w, struct smoe_why *why)
{
    bool terminal = isatty(fileno(w->to));
    int signals = open_signals(why);
    if (signals < 0)
        return signals;
    int rc = draw(w, terminal, why);
    while (rc == 0) {
        if (fflush(w->to) || ferror(w->to)) { /* nobody looks any more */
            rc = smoe_fail(why, -EPIPE, "output: %s", smoe_strerror(-EPIPE));
            break;
        }
        if (over(w, signals))
            break;
        if (draw(w, terminal, why))
            fprintf(w->to, "%s; trying again\n", why->text);
    }
    close(signals);
    return rc;
}
