/* SPDX-License-Identifier: GPL-2.0-only
 *
 * A policy's limit is the highest that anybody demands; when nobody demands any more, what was found is
 * put back. Everything that happens (a request, an end, a lease that ran out) changes the demands and
 * then settles the policies concerned, so that there is one way from demands to files.
 *
 * Nothing blocks: sockets are non-blocking, an answer that its client does not take is dropped with the
 * client. A policy that cannot be restored is tried again every RETRY_NS; its found values stay on file.
 */
#include "client/freqd/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io/freqmsg.h"

#define RETRY_NS UINT64_C(500000000)

union control {
    struct cmsghdr header; /* aligns the bytes */
    char bytes[CMSG_SPACE(sizeof(int))];
};

/* ---- demands ---- */

static struct smoe_demand *find_demand(struct smoe_freqd *d, int client, uint32_t cpu)
{
    for (uint32_t i = 0; i < d->n_demands; i++)
        if (d->demands[i].client == client && d->demands[i].cpu == cpu)
            return &d->demands[i];
    return NULL;
}

static uint64_t highest_demand(const struct smoe_freqd *d, uint32_t cpu)
{
    uint64_t khz = 0;
    for (uint32_t i = 0; i < d->n_demands; i++)
        if (d->demands[i].cpu == cpu && d->demands[i].khz > khz)
            khz = d->demands[i].khz;
    return khz;
}

/* Brings the policy to what is demanded of it now. */
static int settle(struct smoe_freqd *d, struct smoe_policy *policy, uint64_t *ret_asked)
{
    uint64_t khz = highest_demand(d, policy->cpu);
    *ret_asked = 0;
    return khz ? smoe_policy_limit(&d->policies, policy, khz, ret_asked)
               : smoe_policy_restore(&d->policies, policy);
}

static void drop_demand(struct smoe_freqd *d, uint32_t i)
{
    uint32_t cpu = d->demands[i].cpu;
    d->demands[i] = d->demands[--d->n_demands];
    for (uint32_t k = 0; k < d->policies.n; k++) {
        uint64_t asked;
        if (d->policies.policies[k].cpu == cpu)
            (void)settle(d, &d->policies.policies[k], &asked); /* what fails is tried again */
    }
}

static void drop_client(struct smoe_freqd *d, int client)
{
    for (uint32_t i = d->n_demands; i-- > 0;)
        if (d->demands[i].client == client)
            drop_demand(d, i);
    for (uint32_t i = 0; i < d->n_clients; i++)
        if (d->clients[i] == client)
            d->clients[i] = d->clients[--d->n_clients];
    close(client);
}

/* ---- requests ---- */

static int put_demand(struct smoe_freqd *d, int client, uint32_t cpu,
                      const struct smoe_freq_request *r, uint64_t now_ns)
{
    struct smoe_demand *it = find_demand(d, client, cpu);
    uint64_t lease = r->lease_ms < SMOE_FREQ_LEASE_MS_MIN   ? SMOE_FREQ_LEASE_MS_MIN
                     : r->lease_ms > SMOE_FREQ_LEASE_MS_MAX ? SMOE_FREQ_LEASE_MS_MAX
                                                            : r->lease_ms;
    if (!it && d->n_demands == SMOE_FREQD_DEMANDS_MAX)
        return -ENOSPC;
    if (!it)
        it = &d->demands[d->n_demands++];
    *it = (struct smoe_demand){client, cpu, r->max_khz ? r->max_khz : 1, now_ns + lease * 1000000};
    return 0;
}

static int limit(struct smoe_freqd *d, int client, const struct smoe_freq_request *r,
                 uint64_t now_ns, struct smoe_freq_answer *answer)
{
    struct smoe_policy *policy;
    int rc = smoe_policies_find(&d->policies, r->subject, &policy);
    if (rc)
        return rc;
    if (r->kind == SMOE_FREQ_LIMIT) {
        rc = put_demand(d, client, policy->cpu, r, now_ns);
    } else {
        const struct smoe_demand *it = find_demand(d, client, policy->cpu);
        if (it)
            d->demands[it - d->demands] = d->demands[--d->n_demands];
    }
    if (rc == 0)
        rc = settle(d, policy, &answer->asked_khz);
    answer->in_force_khz = smoe_policy_in_force(policy);
    answer->lowest_khz = policy->lowest;
    uint64_t found = policy->changed ? policy->found_max : answer->in_force_khz;
    answer->highest_khz = found && found < policy->highest ? found : policy->highest;
    return rc;
}

/* A package zone's counter, which the kernel opens for root only. */
static int open_counter(uint32_t zone)
{
    char path[96];
    if (zone > SMOE_FREQ_ZONE_MAX)
        return -EINVAL;
    snprintf(path, sizeof path, "/sys/class/powercap/intel-rapl/intel-rapl:%u/energy_uj",
             (unsigned)zone);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* False if the client does not take it. */
static bool send_answer(int client, struct smoe_freq_answer *answer, int descriptor)
{
    union control control = {.bytes = {0}};
    struct iovec io = {answer, sizeof *answer};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof descriptor);
        memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    return sendmsg(client, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof *answer;
}

static bool answer_request(struct smoe_freqd *d, int client, const struct smoe_freq_request *r,
                           uint64_t now_ns)
{
    int descriptor = -1;
    struct smoe_freq_answer answer = {.magic = SMOE_FREQ_MAGIC,
                                      .version = SMOE_FREQ_VERSION,
                                      .kind = r->kind,
                                      .subject = r->subject};
    if (r->kind == SMOE_FREQ_COUNTER) {
        descriptor = open_counter(r->subject);
        answer.error = descriptor < 0 ? descriptor : 0;
    } else {
        answer.error = limit(d, client, r, now_ns, &answer);
    }
    bool taken = send_answer(client, &answer, descriptor);
    if (descriptor >= 0)
        close(descriptor);
    return taken;
}

static bool valid(const struct smoe_freq_request *r)
{
    return r->magic == SMOE_FREQ_MAGIC && r->version == SMOE_FREQ_VERSION &&
           r->kind >= SMOE_FREQ_LIMIT && r->kind <= SMOE_FREQ_COUNTER;
}

void smoe_freqd_serve(struct smoe_freqd *d, int client, uint64_t now_ns)
{
    struct smoe_freq_request r;
    ssize_t n = recv(client, &r, sizeof r, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != (ssize_t)sizeof r || !valid(&r) || !answer_request(d, client, &r, now_ns))
        drop_client(d, client);
}

void smoe_freqd_accept(struct smoe_freqd *d)
{
    int client = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return;
    if (d->n_clients < SMOE_FREQD_CLIENTS_MAX)
        d->clients[d->n_clients++] = client;
    else
        close(client);
}

/* ---- time ---- */

static bool demanded(const struct smoe_freqd *d, const struct smoe_policy *policy)
{
    return highest_demand(d, policy->cpu) > 0;
}

void smoe_freqd_expire(struct smoe_freqd *d, uint64_t now_ns)
{
    for (uint32_t i = d->n_demands; i-- > 0;)
        if (d->demands[i].ends_ns <= now_ns)
            drop_demand(d, i);
    for (uint32_t i = 0; i < d->policies.n; i++) {
        struct smoe_policy *policy = &d->policies.policies[i];
        if (policy->changed && !demanded(d, policy))
            (void)smoe_policy_restore(&d->policies, policy);
    }
}

uint64_t smoe_freqd_wake_ns(const struct smoe_freqd *d, uint64_t now_ns)
{
    uint64_t wake = UINT64_MAX;
    for (uint32_t i = 0; i < d->n_demands; i++)
        if (d->demands[i].ends_ns < wake)
            wake = d->demands[i].ends_ns;
    for (uint32_t i = 0; i < d->policies.n; i++)
        if (d->policies.policies[i].changed && !demanded(d, &d->policies.policies[i]) &&
            now_ns + RETRY_NS < wake)
            wake = now_ns + RETRY_NS;
    return wake;
}

uint32_t smoe_freqd_restore(struct smoe_freqd *d)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < d->policies.n; i++)
        left += smoe_policy_restore(&d->policies, &d->policies.policies[i]) != 0;
    return left;
}
