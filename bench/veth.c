/* SPDX-License-Identifier: Apache-2.0
 *
 * A namespace has no name of its own that `ip` would understand, but a process in it has: a keeper sits in
 * the near one while the far one is being made.
 */
#include "bench/veth.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "bench/child.h"
#include "bench/netns.h"

static int connect_ends(struct smoe_veth *v, struct smoe_why *why)
{
    char far_end[400];
    snprintf(far_end, sizeof far_end,
             "ip link add far type veth peer name near netns %d &&"
             " ip address add 10.99.0.2/24 dev far && ip link set far up &&"
             " tc qdisc add dev far " SMOE_NETNS_LIMIT("1gbit"),
             (int)v->keeper);
    if (smoe_netns_run(far_end))
        return smoe_fail(why, SMOE_EUNKNOWN, "a veth with tbf cannot be made here");
    if (smoe_veth_enter(v->near) ||
        smoe_netns_run("ip address add 10.99.0.1/24 dev near && ip link set near up &&"
                       " tc qdisc add dev near " SMOE_NETNS_LIMIT("1gbit")))
        return smoe_fail(why, SMOE_EUNKNOWN, "a veth cannot be configured here");
    return 0;
}

int smoe_veth_make(struct smoe_veth *ret, struct smoe_why *why)
{
    struct smoe_veth v = {smoe_netns_now(), -1, -1, 0};
    int rc = unshare(CLONE_NEWNET);
    if (rc)
        rc = smoe_fail(why, SMOE_EUNKNOWN, "network namespaces need root");
    if (rc == 0) {
        v.near = smoe_netns_now();
        v.keeper = smoe_netns_keep();
        rc = unshare(CLONE_NEWNET);
        v.far = smoe_netns_now();
        rc = rc ? smoe_fail(why, SMOE_EUNKNOWN, "no second network namespace")
                : connect_ends(&v, why);
    }
    if (rc)
        smoe_veth_release(&v);
    else
        *ret = v;
    return rc;
}

int smoe_veth_enter(int namespace)
{
    return setns(namespace, CLONE_NEWNET);
}

void smoe_veth_release(struct smoe_veth *v)
{
    int *const all[] = {&v->home, &v->near, &v->far};
    if (v->home >= 0)
        (void)smoe_veth_enter(v->home);
    if (v->keeper > 0) {
        (void)kill(v->keeper, SIGKILL);
        (void)smoe_child_wait(v->keeper);
    }
    v->keeper = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (*all[i] >= 0)
            close(*all[i]);
        *all[i] = -1;
    }
}
