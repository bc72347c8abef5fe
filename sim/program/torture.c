/* SPDX-License-Identifier: Apache-2.0
 *
 * The story `torture` for many seeds, and what was done to the worlds altogether. A kind of fault that
 * never came, or of world, is a hole in the test: with enough seeds it fails.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/assert.h"
#include "common/io/clock.h"
#include "common/json/json.h"
#include "sim/print.h"
#include "sim/program/program.h"

#define STORY         "torture"
#define SEEDS_FOR_ALL 500 /* in so many worlds every kind of fault happens */
#define PROGRESS_NS   UINT64_C(1000000000)

/* What they are made of. */
enum { SHARDED, FROZEN, SHARDED_FROZEN, STALE, STALE_FROZEN, STALE_SHARDED, KINDS };
static const char *const kinds[KINDS] = {"sharded", "frozen",           "sharded_and_frozen",
                                         "stale",   "stale_and_frozen", "stale_and_sharded"};

/* What is done to mend things is no fault. */
static const enum smoe_sim_act faults[] = {
    SMOE_SIM_CRASH, SMOE_SIM_VANISH, SMOE_SIM_STOP,       SMOE_SIM_PAUSE,    SMOE_SIM_DEAF,
    SMOE_SIM_RESET, SMOE_SIM_CUT,    SMOE_SIM_CUT_TO,     SMOE_SIM_CUT_FROM, SMOE_SIM_DRAIN,
    SMOE_SIM_LOSSY, SMOE_SIM_SLOW,   SMOE_SIM_DISK_FAILS, SMOE_SIM_LIE,
};
#define N_FAULTS (sizeof faults / sizeof *faults)

struct sum {
    uint64_t first, last, told, failed, losses, events, messages, virtual_ns;
    uint64_t kinds[KINDS];
    uint64_t acts[SMOE_SIM_ACTS];
    uint64_t began_ns, took_ns, shown_ns;
};

static void show_progress(struct sum *s)
{
    uint64_t now_ns = smoe_clock_monotonic_ns();
    s->took_ns = now_ns - s->began_ns;
    if (!isatty(STDERR_FILENO) ||
        (now_ns < s->shown_ns + PROGRESS_NS && s->told + s->first <= s->last))
        return;
    double left = (double)(s->last - s->first + 1 - s->told) / (double)s->told;
    fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " worlds, %" PRIu64 " failed, %.0f s left  %s",
            s->told, s->last - s->first + 1, s->failed, left * (double)s->took_ns * 1e-9,
            s->told + s->first > s->last ? "\n" : "");
    s->shown_ns = now_ns;
}

/* A world that ends wrong says how it is told again. */
static void tell(const struct smoe_story *story, uint64_t seed, struct sum *s)
{
    struct smoe_story_end end;
    smoe_story_tell(story, seed, false, &end);
    s->told++;
    s->failed += end.code != 0;
    s->losses += end.losses;
    s->events += end.events;
    s->messages += end.messages;
    s->virtual_ns += end.virtual_ns;
    s->kinds[SHARDED] += end.sharded;
    s->kinds[FROZEN] += end.frozen;
    s->kinds[SHARDED_FROZEN] += end.sharded && end.frozen;
    s->kinds[STALE] += end.stale;
    s->kinds[STALE_FROZEN] += end.stale && end.frozen;
    s->kinds[STALE_SHARDED] += end.stale && end.sharded;
    for (int act = 0; act < SMOE_SIM_ACTS; act++)
        s->acts[act] += end.acts[act];
    if (end.code)
        fprintf(stderr, SMOE_SIM_PROGRAM " story " STORY " --seeds %" PRIu64 " --messages: %s\n",
                seed, end.why.text);
    show_progress(s);
}

static double events_per_s(const struct sum *s)
{
    return s->took_ns ? (double)s->events / ((double)s->took_ns * 1e-9) : 0;
}

static void print(const struct sum *s, bool timings)
{
    printf("seeds %" PRIu64 "..%" PRIu64 ": %" PRIu64 " worlds, %" PRIu64 " failed, %" PRIu64
           " layers lost with both copies\n%" PRIu64 " events, %" PRIu64
           " messages, %.0f s of virtual time\n",
           s->first, s->last, s->told, s->failed, s->losses, s->events, s->messages,
           (double)s->virtual_ns * 1e-9);
    if (timings)
        printf("%.0f events/s\n", events_per_s(s));
    printf("\n%-18s %10s\n", "worlds", "");
    for (int i = 0; i < KINDS; i++)
        printf("%-18s %10" PRIu64 "\n", kinds[i], s->kinds[i]);
    printf("\n%-18s %10s\n", "fault", "times");
    for (size_t i = 0; i < N_FAULTS; i++)
        printf("%-18s %10" PRIu64 "\n", smoe_sim_act_word(faults[i]), s->acts[faults[i]]);
}

static void print_json(const struct sum *s, bool timings)
{
    cJSON *o = cJSON_CreateObject();
    smoe_json_add_u64(o, "seed_first", s->first);
    smoe_json_add_u64(o, "seed_last", s->last);
    smoe_json_add_u64(o, "worlds", s->told);
    smoe_json_add_u64(o, "failed", s->failed);
    smoe_json_add_u64(o, "losses", s->losses);
    smoe_json_add_u64(o, "events", s->events);
    smoe_json_add_u64(o, "messages", s->messages);
    smoe_json_add_u64(o, "virtual_ns", s->virtual_ns);
    cJSON *k = smoe_json_add_object(o, "kinds");
    for (int i = 0; i < KINDS; i++)
        smoe_json_add_u64(k, kinds[i], s->kinds[i]);
    cJSON *f = smoe_json_add_object(o, "faults");
    for (size_t i = 0; i < N_FAULTS; i++)
        smoe_json_add_u64(f, smoe_sim_act_word(faults[i]), s->acts[faults[i]]);
    if (timings)
        smoe_json_add(o, "events_per_second", cJSON_CreateNumber(events_per_s(s)));
    char *text = smoe_json_print(o);
    smoe_assert(text);
    fprintf(stdout, "%s\n", text);
    free(text);
}

static int judge(const struct sum *s)
{
    struct smoe_why why;
    const char *missing = NULL;
    for (size_t i = 0; i < N_FAULTS; i++)
        if (!s->acts[faults[i]])
            missing = smoe_sim_act_word(faults[i]);
    for (int i = 0; i < KINDS; i++)
        if (!s->kinds[i])
            missing = kinds[i];
    if (s->failed)
        smoe_why_set(&why, STORY ": %" PRIu64 " of %" PRIu64 " worlds failed", s->failed, s->told);
    else if (missing && s->told >= SEEDS_FOR_ALL)
        smoe_why_set(&why, STORY ": %s: never happened", missing);
    else
        return SMOE_EXIT_OK;
    return smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_FAILED, &why, stderr);
}

int smoe_sim_torture(const struct smoe_sim_arguments *a)
{
    struct sum s = {.began_ns = smoe_clock_monotonic_ns()};
    const struct smoe_story *story = smoe_story_find(STORY);
    struct smoe_why why;
    if (smoe_sim_read_seeds(a->seeds, &s.first, &s.last, &why))
        return smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    s.shown_ns = s.began_ns;
    for (uint64_t seed = s.first; seed <= s.last; seed++)
        tell(story, seed, &s);
    if (a->json)
        print_json(&s, a->timings);
    else
        print(&s, a->timings);
    return judge(&s);
}
