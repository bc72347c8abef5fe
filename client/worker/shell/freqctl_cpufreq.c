/* SPDX-License-Identifier: Apache-2.0
 *
 * Frequencies by cpufreq: stablemoe-freqd, which may, is asked to limit scaling_max_freq of the policies
 * whose cores this process may run on (its affinity: taskset, CPUAffinity=). On cores of unlike kinds
 * each gets the same share of its own highest frequency.
 *
 * Trust nothing: in force is the lowest of what the policies read back, by the helper and by us, and if
 * busy cores run faster than that IGNORED_POLLS times in a row, what was measured. The kernel's
 * scaling_cur_freq is what it measured (APERF/MPERF, AMU) where the hardware counts, and else what it
 * believes; cpuinfo_avg_freq, where there is one, is measured always.
 *
 * Limits are leases: every poll renews them, so that a worker that hangs slows nobody for long. A helper
 * that is gone is asked for again at every poll, and everything is said to it anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/worker/shell/freqctl.h"
#include "common/base/text.h"
#include "common/io/freqlink.h"

#define CPU_FILE       "/sys/devices/system/cpu/cpu%u/cpufreq/%s"
#define LEASE_MS       3000 /* six polls */
#define IGNORED_POLLS  3
#define IGNORED_EXCESS 1.10 /* measured beyond the limit by that: clocks are not that inexact */

struct policy {
    uint64_t first; /* of its cores, running or not, which names it */
    uint32_t cpu;   /* one that this process may run on or, if that is switched off, another */
    uint64_t highest_khz;  /* the hardware's */
    uint64_t in_force_khz; /* as last read back */
};

struct cpufreq {
    int link; /* to the helper; -1: lost */
    uint32_t n;
    int excess_polls;         /* in a row in which busy cores ran beyond their limit */
    struct policy policies[]; /* [n] */
};

/* ---- files ---- */

/* What the file says, "" if it cannot be read. */
static void read_line(uint32_t cpu, const char *name, char *ret, size_t size)
{
    char path[96];
    snprintf(path, sizeof path, CPU_FILE, (unsigned)cpu, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, ret, size - 1);
    if (fd >= 0)
        close(fd);
    ret[n > 0 ? n : 0] = 0;
}

/* The number it begins with, 0 if it cannot be read. */
static uint64_t read_khz(uint32_t cpu, const char *name)
{
    char text[32];
    uint64_t khz = 0;
    read_line(cpu, name, text, sizeof text);
    text[strcspn(text, " \n")] = 0;
    return smoe_parse_u64(text, &khz) ? khz : 0;
}

/* The first core of the policy, as the kernel lists it: policies are told apart by it. UINT64_MAX: the core has none,
 * or is switched off. */
static uint64_t first_core(uint32_t cpu)
{
    char text[32]; /* "0 1 2 3" */
    uint64_t first;
    read_line(cpu, "related_cpus", text, sizeof text);
    text[strcspn(text, " \n")] = 0;
    return smoe_parse_u64(text, &first) ? first : UINT64_MAX;
}

/* Another core of the policy speaks for one that has been switched off. */
static void find_core(struct policy *it)
{
    if (first_core(it->cpu) == it->first)
        return;
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (first_core(cpu) == it->first) {
            it->cpu = cpu;
            return;
        }
}

static bool known(const struct cpufreq *s, uint64_t first)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->policies[i].first == first)
            return true;
    return false;
}

static int rising(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The driver's table, where it has one, up to the worker's own bound. Policies of unlike kinds have tables
 * of their own, and a decision is a share of both: none then. More states than are told apart are none. */
static void find_states(struct smoe_freqctl *ctl, const struct cpufreq *s)
{
    char text[1024], *rest = NULL;
    double scale = ctl->options.nominal_hz / 1000 / (double)s->policies[0].highest_khz;
    uint64_t khz;
    if (s->n > 1)
        return;
    read_line(s->policies[0].cpu, "scaling_available_frequencies", text, sizeof text);
    for (char *word = strtok_r(text, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
        if (!smoe_parse_u64(word, &khz) || !khz || ctl->n_states == SMOE_FREQ_STATES_MAX) {
            ctl->n_states = 0;
            return;
        }
        khz = (uint64_t)((double)khz * scale + 0.5);
        if ((double)khz * 1000 <= ctl->max_hz * (1 + SMOE_FREQ_TOLERANCE))
            ctl->states_khz[ctl->n_states++] = khz;
    }
    qsort(ctl->states_khz, ctl->n_states, sizeof *ctl->states_khz, rising);
    for (uint32_t k = 0; k + 1 < ctl->n_states; k++)
        if (ctl->states_khz[k] == ctl->states_khz[k + 1])
            ctl->n_states = 0;
}

/* Policies of all cores that this process may run on. */
static int find_policies(struct cpufreq *s, struct smoe_why *why)
{
    cpu_set_t mine;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine))
        return smoe_fail(why, -errno, "affinity: %s", smoe_strerror(-errno));
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &mine))
            continue;
        uint64_t highest = read_khz(cpu, "cpuinfo_max_freq");
        if (!highest)
            return smoe_fail(why, -ENOENT, "core %u has no cpufreq", (unsigned)cpu);
        uint64_t first = first_core(cpu);
        if (!known(s, first))
            s->policies[s->n++] =
                (struct policy){.first = first, .cpu = cpu, .highest_khz = highest};
    }
    return 0;
}

/* ---- asking ---- */

static void lose(struct cpufreq *s)
{
    if (s->link >= 0)
        close(s->link);
    s->link = -1;
}

static bool near(uint64_t is, uint64_t wanted)
{
    double ratio = (double)is / (double)wanted;
    return ratio < 1 + SMOE_FREQ_TOLERANCE && ratio > 1 - SMOE_FREQ_TOLERANCE;
}

/* One policy is limited to a share of its highest, or released. The gravest verdict stays. */
static void ask(struct smoe_freqctl *ctl, struct policy *it, double share)
{
    struct cpufreq *s = ctl->state;
    struct smoe_freq_answer answer = {.error = -ENOTCONN};
    find_core(it);
    uint64_t khz = (uint64_t)(share * (double)it->highest_khz + 0.5);
    struct smoe_freq_request request = {.kind = share > 0 ? SMOE_FREQ_LIMIT : SMOE_FREQ_RELEASE,
                                        .subject = it->cpu,
                                        .lease_ms = LEASE_MS,
                                        .max_khz = khz};
    enum smoe_freq_verdict verdict = SMOE_FREQ_OBEYED;
    if (s->link < 0 || smoe_freqlink_ask(s->link, request, &answer, NULL)) {
        lose(s);
        verdict = SMOE_FREQ_LOST;
    }
    uint64_t reads = read_khz(it->cpu, "scaling_max_freq");
    it->in_force_khz = reads ? reads : it->highest_khz;
    if (verdict == SMOE_FREQ_OBEYED && answer.error)
        verdict = SMOE_FREQ_REFUSED;
    else if (verdict == SMOE_FREQ_OBEYED && share > 0 && !near(it->in_force_khz, answer.asked_khz))
        verdict =
            near(it->in_force_khz, answer.in_force_khz) ? SMOE_FREQ_ROUNDED : SMOE_FREQ_OVERRULED;
    if (verdict > ctl->verdict)
        ctl->verdict = verdict;
}

/* The share of their highest frequency that the policies run at, at least. */
static double share_in_force(const struct cpufreq *s)
{
    double least = 1;
    for (uint32_t i = 0; i < s->n; i++) {
        double share = (double)s->policies[i].in_force_khz / (double)s->policies[i].highest_khz;
        least = share < least ? share : least;
    }
    return least;
}

static uint64_t to_khz(const struct smoe_freqctl *ctl, double share)
{
    return (uint64_t)(share * ctl->options.nominal_hz / 1000 + 0.5);
}

/* Nothing in particular is as much as the worker's own bound, and without one what was found. */
static uint64_t ask_all(struct smoe_freqctl *ctl)
{
    struct cpufreq *s = ctl->state;
    double hz = ctl->requested_khz ? (double)ctl->requested_khz * 1000 : ctl->max_hz;
    bool limits = ctl->requested_khz || ctl->options.speed < 1;
    for (uint32_t i = 0; i < s->n; i++)
        ask(ctl, &s->policies[i], limits ? hz / ctl->options.nominal_hz : 0);
    return to_khz(ctl, share_in_force(s));
}

static uint64_t cpufreq_set(struct smoe_freqctl *ctl, uint64_t khz)
{
    struct cpufreq *s = ctl->state;
    (void)khz; /* it is ctl->requested_khz */
    s->excess_polls = 0;
    ctl->achieved_khz = 0;
    return ask_all(ctl);
}

/* ---- measuring ---- */

/* Mean of what the policies' cores run at, as a share of their highest; 0: nobody says. */
static double measure(const struct cpufreq *s)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        uint64_t khz = read_khz(s->policies[i].cpu, "cpuinfo_avg_freq");
        if (!khz)
            khz = read_khz(s->policies[i].cpu, "scaling_cur_freq");
        if (!khz)
            return 0;
        sum += (double)khz / (double)s->policies[i].highest_khz;
    }
    return sum / s->n;
}

static uint64_t cpufreq_poll(struct smoe_freqctl *ctl, bool busy)
{
    struct cpufreq *s = ctl->state;
    if (s->link < 0)
        s->link = smoe_freqlink_open(ctl->options.helper);
    uint64_t in_force = ask_all(ctl);
    double measured = busy ? measure(s) : 0;
    if (measured > 0) {
        ctl->achieved_khz = to_khz(ctl, measured);
        bool excess = (double)ctl->achieved_khz > IGNORED_EXCESS * (double)in_force;
        s->excess_polls = !excess                           ? 0
                          : s->excess_polls < IGNORED_POLLS ? s->excess_polls + 1
                                                            : IGNORED_POLLS;
    }
    if (s->excess_polls < IGNORED_POLLS)
        return in_force;
    if (ctl->verdict < SMOE_FREQ_IGNORED)
        ctl->verdict = SMOE_FREQ_IGNORED;
    return ctl->achieved_khz;
}

/* ---- beginning and end ---- */

static void cpufreq_close(struct smoe_freqctl *ctl)
{
    if (ctl->state)
        lose(ctl->state); /* the helper restores when it sees the end */
    free(ctl->state);
    ctl->state = NULL;
}

/* Permitted is what the helper does for us: to release what nobody has limited changes nothing, and
 * tells how far it would go. Where an operator has set a limit, that is as far as the worker can. */
static int try_helper(struct smoe_freqctl *ctl, struct cpufreq *s, struct smoe_why *why)
{
    const char *path = ctl->options.helper;
    struct smoe_freq_answer answer;
    int rc = s->link = smoe_freqlink_open(path);
    if (rc >= 0)
        smoe_freqlink_patience(s->link, SMOE_FREQLINK_START_MS);
    for (uint32_t i = 0; rc >= 0 && i < s->n; i++) {
        rc = smoe_freqlink_ask(
            s->link,
            (struct smoe_freq_request){.kind = SMOE_FREQ_RELEASE, .subject = s->policies[i].cpu},
            &answer, NULL);
        if (rc == 0)
            rc = answer.error;
        double share = rc ? 0 : (double)answer.highest_khz / (double)s->policies[i].highest_khz;
        if (rc == 0 && share * ctl->options.nominal_hz < ctl->max_hz)
            ctl->max_hz = share * ctl->options.nominal_hz;
    }
    if (rc < 0)
        return smoe_fail(why, rc, "%s: %s", path, smoe_strerror(rc));
    smoe_freqlink_patience(s->link, SMOE_FREQLINK_PATIENCE_MS);
    return 0;
}

static int cpufreq_open(struct smoe_freqctl *ctl, struct smoe_why *why)
{
    struct cpufreq *s = calloc(1, sizeof *s + CPU_SETSIZE * sizeof s->policies[0]);
    if (!s)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    s->link = -1;
    ctl->state = s;
    int rc = find_policies(s, why);
    if (rc == 0)
        rc = try_helper(ctl, s, why);
    if (rc)
        cpufreq_close(ctl);
    else
        find_states(ctl, s);
    return rc;
}

const struct smoe_freqctl_driver smoe_freqctl_cpufreq = {
    .name = "cpufreq",
    .open = cpufreq_open,
    .set = cpufreq_set,
    .poll = cpufreq_poll,
    .close = cpufreq_close,
};
