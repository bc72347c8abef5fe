/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/cores.h"

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

void smoe_cores_give(const struct smoe_cores *cores)
{
    (void)sched_setaffinity(0, sizeof cores->allowed, &cores->allowed);
}
