/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/star.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "bench/child.h"
#include "bench/netns.h"

static int make_hub(struct smoe_star *s)
{
    if (unshare(CLONE_NEWNET))
        return SMOE_EUNKNOWN;
    s->hub = smoe_netns_now();
    s->keeper = smoe_netns_keep();
    return smoe_netns_run("ip link add switch type bridge && ip link set switch up");
}

/* A computer, and its place at the switch. */
static int add_leaf(struct smoe_star *s, const char *rate)
{
    char script[600];
    unsigned i = s->n;
    if (unshare(CLONE_NEWNET))
        return SMOE_EUNKNOWN;
    s->leaves[s->n++] = smoe_netns_now();
    snprintf(script, sizeof script,
             "ip link set lo up &&"
             " ip link add eth0 type veth peer name port%u netns %d &&"
             " ip address add 10.98.0.%u/24 dev eth0 && ip link set eth0 up &&"
             " tc qdisc add dev eth0 " SMOE_NETNS_LIMIT("%s"),
             i, (int)s->keeper, i + 1, rate);
    if (smoe_netns_run(script) || setns(s->hub, CLONE_NEWNET))
        return SMOE_EUNKNOWN;
    snprintf(
        script, sizeof script,
        "ip link set port%u master switch up && tc qdisc add dev port%u " SMOE_NETNS_LIMIT("%s"), i,
        i, rate);
    return smoe_netns_run(script);
}

int smoe_star_make(unsigned n, const char *rate, struct smoe_star *ret, struct smoe_why *why)
{
    *ret = (struct smoe_star){.home = smoe_netns_now(), .hub = -1};
    int rc = make_hub(ret);
    for (unsigned i = 0; i < n && !rc; i++)
        rc = add_leaf(ret, rate);
    smoe_star_leave(ret);
    if (rc == 0)
        return 0;
    smoe_star_release(ret);
    return smoe_fail(why, SMOE_EUNKNOWN, "network namespaces with a bridge and tbf need root");
}

void smoe_star_address(unsigned leaf, char ret[32])
{
    snprintf(ret, 32, "10.98.0.%u:0", leaf + 1);
}

int smoe_star_enter(const struct smoe_star *star, unsigned leaf, struct smoe_why *why)
{
    return setns(star->leaves[leaf], CLONE_NEWNET)
               ? smoe_fail(why, SMOE_EUNKNOWN, "a network namespace is gone")
               : 0;
}

void smoe_star_leave(const struct smoe_star *star)
{
    if (star->home > 0)
        (void)setns(star->home, CLONE_NEWNET);
}

void smoe_star_release(struct smoe_star *s)
{
    smoe_star_leave(s);
    if (s->keeper > 0) {
        (void)kill(s->keeper, SIGKILL);
        (void)smoe_child_wait(s->keeper);
    }
    for (unsigned i = 0; i < s->n; i++)
        close(s->leaves[i]);
    if (s->hub > 0)
        close(s->hub);
    if (s->home > 0)
        close(s->home);
    *s = (struct smoe_star){.home = -1, .hub = -1};
}
