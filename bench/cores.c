/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/cores.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

int smoe_cores_find(struct smoe_cores *ret, struct smoe_why *why)
{
    if (sched_getaffinity(0, sizeof ret->allowed, &ret->allowed))
        return smoe_fail(why, SMOE_EUNKNOWN, "which cores there are is not known");
    ret->n = (unsigned)CPU_COUNT(&ret->allowed);
    return 0;
}

void smoe_cores_take(const struct smoe_cores *cores, unsigned nth)
{
    cpu_set_t one;
    unsigned left = nth % cores->n;
    CPU_ZERO(&one);
    for (size_t i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &cores->allowed) && left-- == 0)
            CPU_SET(i, &one);
    (void)sched_setaffinity(0, sizeof one, &one);
}

/* A moment that takes nothing from another thread of the same core, as the kernel passes it that does not sleep. */
static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#else
    __asm__ volatile("");
#endif
}

pid_t smoe_cores_keep_awake(const struct smoe_cores *cores, unsigned nth)
{
    const struct sched_param none = {0};
    pid_t pid = fork();
    if (pid)
        return pid > 0 ? pid : 0;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    smoe_cores_take(cores, nth);
    if (sched_setscheduler(0, SCHED_IDLE, &none))
        _exit(1);
    for (;;)
        relax();
}

void smoe_cores_give(const struct smoe_cores *cores)
{
    (void)sched_setaffinity(0, sizeof cores->allowed, &cores->allowed);
}
