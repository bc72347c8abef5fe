/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/netns.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "bench/child.h"

int smoe_netns_now(void)
{
    return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

int smoe_netns_run(const char *script)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    struct smoe_why why;
    pid_t pid;
    int rc = smoe_child_start(argv, "/dev/null", &pid, &why);
    return rc ? rc : smoe_child_wait(pid) ? SMOE_EUNKNOWN : 0;
}

pid_t smoe_netns_keep(void)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        pause();
}
