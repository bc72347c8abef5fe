/* SPDX-License-Identifier: GPL-2.0-only
 *
 * Invariants:
 *  1. found_min and found_max are read once, before the first write, and are in the state file from
 *     before that write until after they are back.
 *  2. lowest <= what is written <= min(highest, found_max): a limit that an operator has set is never
 *     lifted, and a helper that is asked for nonsense does none.
 *  3. scaling_min_freq is written only where it stands above the new maximum, which kernels refuse or
 *     clamp, each in its own way; it goes back up with the maximum.
 *
 * A core that is switched off has no files, so a policy is named by the first of all its cores (related_cpus), and
 * reached through any that runs. Were it named by a core that runs it would have two names when that one is switched
 * off, and under the second one the limit that was set would count as found.
 *
 * The state file is text, a line "cpu min max" each, replaced as a whole (write, fsync, rename). It
 * belongs on a tmpfs: after a boot the limits are fresh, and an old file would be wrong.
 */
#include "client/freqd/policies.h"

#include <cpufreq.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/io/freqmsg.h"

#define STATE_BYTES_MAX (64 * 1024)

/* libcpupower says -1 and leaves errno as its last system call did, if that failed at all. */
static int why_failed(void)
{
    return errno ? -errno : -EIO;
}

/* The name of a core's policy; a negative errno if it has none, or is switched off. */
static int name_of(uint32_t cpu, uint32_t *ret)
{
    errno = 0;
    struct cpufreq_affected_cpus *list = cpufreq_get_related_cpus(cpu);
    if (!list)
        return errno ? -errno : -ENODEV;
    *ret = cpu;
    for (const struct cpufreq_affected_cpus *it = list; it; it = it->next)
        if (it->cpu < *ret)
            *ret = it->cpu;
    cpufreq_put_related_cpus(list);
    return 0;
}

static bool leads_to(uint32_t cpu, const struct smoe_policy *it)
{
    uint32_t name;
    return name_of(cpu, &name) == 0 && name == it->cpu;
}

/* A core that the policy's files can be reached by; the last one if there is none now. */
static uint32_t core_of(struct smoe_policy *it)
{
    if (leads_to(it->through, it))
        return it->through;
    for (uint32_t cpu = 0; cpu <= SMOE_FREQ_CPU_MAX; cpu++)
        if (leads_to(cpu, it)) {
            it->through = cpu;
            break;
        }
    return it->through;
}

static int read_limits(uint32_t cpu, uint64_t *ret_min, uint64_t *ret_max)
{
    errno = 0;
    struct cpufreq_policy *now = cpufreq_get_policy(cpu);
    if (!now)
        return why_failed();
    *ret_min = now->min;
    *ret_max = now->max;
    cpufreq_put_policy(now);
    return 0;
}

static int write_max(uint32_t cpu, uint64_t khz)
{
    errno = 0;
    return cpufreq_modify_policy_max(cpu, (unsigned long)khz) ? why_failed() : 0;
}

static int write_min(uint32_t cpu, uint64_t khz)
{
    errno = 0;
    return cpufreq_modify_policy_min(cpu, (unsigned long)khz) ? why_failed() : 0;
}

/* Lower the minimum first, raise it last: at no time is it above the maximum. */
static int write_limits(uint32_t cpu, uint64_t min, uint64_t max)
{
    uint64_t now_min, now_max;
    int rc = read_limits(cpu, &now_min, &now_max);
    if (rc == 0 && min < now_min)
        rc = write_min(cpu, min);
    if (rc == 0 && max != now_max)
        rc = write_max(cpu, max);
    if (rc == 0 && min > now_min)
        rc = write_min(cpu, min);
    return rc;
}

/* ---- the state file ---- */

static int save(const struct smoe_policies *p)
{
    char temporary[300];
    bool any = false;
    int rc = 0;
    snprintf(temporary, sizeof temporary, "%s.new", p->file);
    int fd = openat(p->dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct smoe_policy *it = &p->policies[i];
        if (!it->changed)
            continue;
        any = true;
        if (dprintf(fd, "%" PRIu32 " %" PRIu64 " %" PRIu64 "\n", it->cpu, it->found_min,
                    it->found_max) < 0)
            rc = -errno;
    }
    if (rc == 0 && fsync(fd))
        rc = -errno;
    close(fd);
    if (rc == 0 && any && renameat(p->dir, temporary, p->dir, p->file))
        rc = -errno;
    if (rc || !any)
        (void)unlinkat(p->dir, temporary, 0);
    if (rc == 0 && !any && unlinkat(p->dir, p->file, 0) && errno != ENOENT)
        rc = -errno;
    return rc;
}

static struct smoe_policy *known(struct smoe_policies *p, uint32_t cpu)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (p->policies[i].cpu == cpu)
            return &p->policies[i];
    return NULL;
}

static int add(struct smoe_policies *p, const struct smoe_policy *it)
{
    if (p->n == SMOE_POLICIES_MAX)
        return -ENOSPC;
    p->policies[p->n++] = *it;
    return 0;
}

/* One line of the file; a line that is none is skipped: it cannot have been a whole one. The core need
 * not be running now: its policy is restored when it is. */
static void take_over(struct smoe_policies *p, const char *line)
{
    struct smoe_policy it = {.changed = true};
    uint32_t name;
    if (sscanf(line, "%" SCNu32 " %" SCNu64 " %" SCNu64, &it.cpu, &it.found_min, &it.found_max) ==
            3 &&
        it.cpu <= SMOE_FREQ_CPU_MAX && it.found_min && it.found_min <= it.found_max) {
        it.through = it.cpu;
        if (name_of(it.cpu, &name) == 0)
            it.cpu = name;
        if (!known(p, it.cpu))
            (void)add(p, &it);
    }
}

static int load(struct smoe_policies *p)
{
    char line[128];
    int fd = openat(p->dir, p->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    FILE *f = fdopen(fd, "r");
    if (!f) {
        close(fd);
        return -ENOMEM;
    }
    while (ftell(f) < STATE_BYTES_MAX && fgets(line, sizeof line, f))
        take_over(p, line);
    (void)fclose(f);
    return 0;
}

/* ---- beginning and end ---- */

static int open_directory(struct smoe_policies *p, const char *path)
{
    char folder[256] = ".";
    const char *slash = strrchr(path, '/');
    p->file = slash ? slash + 1 : path;
    size_t len = slash ? (size_t)(slash - path) : 0;
    if (!*p->file || strlen(p->file) > 255 || len >= sizeof folder)
        return -EINVAL;
    if (slash)
        snprintf(folder, sizeof folder, "%.*s", len ? (int)len : 1, path);
    p->dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->dir < 0)
        return -errno;
    return flock(p->dir, LOCK_EX | LOCK_NB) ? -errno : 0;
}

int smoe_policies_open(struct smoe_policies *p, const char *path)
{
    *p = (struct smoe_policies){.dir = -1};
    p->policies = calloc(SMOE_POLICIES_MAX, sizeof *p->policies);
    int rc = p->policies ? open_directory(p, path) : -ENOMEM;
    if (rc == 0)
        rc = load(p);
    for (uint32_t i = 0; rc == 0 && i < p->n; i++)
        (void)smoe_policy_restore(p, &p->policies[i]);
    return rc;
}

void smoe_policies_release(struct smoe_policies *p)
{
    if (p->policies && p->dir >= 0)
        close(p->dir);
    free(p->policies);
    *p = (struct smoe_policies){.dir = -1};
}

/* ---- policies ---- */

static int read_hardware(struct smoe_policy *it)
{
    unsigned long min, max;
    if (cpufreq_get_hardware_limits(it->through, &min, &max) || max == 0)
        return -ENODEV;
    it->lowest = min;
    it->highest = max;
    return 0;
}

int smoe_policies_find(struct smoe_policies *p, uint32_t cpu, struct smoe_policy **ret)
{
    struct smoe_policy it = {.through = cpu};
    if (cpu > SMOE_FREQ_CPU_MAX)
        return -EINVAL;
    int rc = name_of(cpu, &it.cpu);
    if (rc == 0)
        rc = read_hardware(&it);
    if (rc)
        return rc;
    struct smoe_policy *there = known(p, it.cpu);
    if (!there) {
        rc = add(p, &it);
        there = &p->policies[p->n - 1];
    } else if (!there->highest) { /* taken over from the file */
        there->lowest = it.lowest;
        there->highest = it.highest;
    }
    if (rc == 0)
        *ret = there;
    return rc;
}

/* Invariant 1: nothing is written before this has succeeded. */
static int keep_found(struct smoe_policies *p, struct smoe_policy *it)
{
    if (it->changed)
        return 0;
    int rc = read_limits(core_of(it), &it->found_min, &it->found_max);
    if (rc)
        return rc;
    it->changed = true;
    rc = save(p);
    it->changed = rc == 0;
    return rc;
}

int smoe_policy_limit(struct smoe_policies *p, struct smoe_policy *it, uint64_t khz,
                      uint64_t *ret_asked)
{
    int rc = keep_found(p, it);
    if (rc)
        return rc;
    uint64_t top = it->highest < it->found_max ? it->highest : it->found_max;
    khz = khz > top ? top : khz;
    khz = khz < it->lowest ? it->lowest : khz;
    *ret_asked = khz;
    return write_limits(core_of(it), khz < it->found_min ? khz : it->found_min, khz);
}

int smoe_policy_restore(struct smoe_policies *p, struct smoe_policy *it)
{
    uint64_t min = 0, max = 0;
    if (!it->changed)
        return 0;
    int rc = write_limits(core_of(it), it->found_min, it->found_max);
    if (rc == 0)
        rc = read_limits(it->through, &min, &max);
    if (rc == 0 && (min != it->found_min || max != it->found_max))
        rc = -EBUSY;
    if (rc)
        return rc;
    it->changed = false;
    return save(p);
}

uint64_t smoe_policy_in_force(struct smoe_policy *it)
{
    uint64_t min, max;
    return read_limits(core_of(it), &min, &max) ? 0 : max;
}
