/* SPDX-License-Identifier: Apache-2.0
 *
 * `replay` and `trace`: what a daemon recorded, made again, or summed up. A torn end is said on stderr and is
 * no failure: everything before it counts.
 */
#include <inttypes.h>
#include <string.h>

#include "sim/program/program.h"
#include "sim/recording.h"
#include "sim/replay.h"

/* What the records come to. */
struct sums {
    char software[64];
    uint32_t scores_top;
    uint64_t routes, given, frequencies;
    uint64_t slots, tokens, visits; /* routed */
    uint64_t first_ns, last_ns;
    uint64_t last_slot;
    uint32_t workers; /* most that took part in one decision */
};

static int fail(int exit_code, const struct smoe_why *why)
{
    return smoe_cli_fail(SMOE_SIM_PROGRAM, exit_code, why, stderr);
}

static void say_torn(const struct smoe_recording *r)
{
    if (r->torn)
        fprintf(stderr,
                SMOE_SIM_PROGRAM ": %s: torn or damaged after record %" PRIu64 " (byte %" PRIu64
                                 "): what follows is not read\n",
                r->path, r->records, r->bytes);
}

/* ---- replay ---- */

static void print_replay(const struct smoe_sim_arguments *a, const struct smoe_recording *r,
                         const struct sums *s)
{
    if (a->json)
        printf("{\"decisions\":%" PRIu64 ",\"frequencies\":%" PRIu64 ",\"lost\":%" PRIu64
               ",\"torn\":%s,\"same\":true}\n",
               s->routes, s->frequencies, r->missing, r->torn ? "true" : "false");
    else
        printf("%" PRIu64 " decisions and %" PRIu64 " frequencies are the same, bit for bit\n",
               s->routes, s->frequencies);
}

int smoe_sim_replay(const struct smoe_sim_arguments *a)
{
    struct smoe_recording r;
    struct smoe_replay replay = {0};
    struct smoe_trace_entry e;
    struct smoe_why why;
    struct sums s = {0};
    bool more = true;
    int rc = *a->trace ? 0 : smoe_fail(&why, SMOE_ECONFIG, "replay: --trace FILE is missing");
    if (rc == 0)
        rc = smoe_recording_open(&r, a->trace, &why);
    if (rc)
        return fail(SMOE_EXIT_USAGE, &why);
    while (rc == 0 && (rc = smoe_recording_next(&r, &e, &more, &why)) == 0 && more) {
        if (e.type == SMOE_TRACE_START)
            memcpy(s.software, e.start.software, sizeof s.software);
        rc = smoe_replay_entry(&replay, &e, &why);
        s.routes += e.type == SMOE_TRACE_ROUTE;
        s.frequencies += e.type == SMOE_TRACE_FREQUENCY ? e.frequency.n_workers : 0;
        if (rc)
            smoe_fail_at(&why, rc, "%s: record %" PRIu64 " of %s", a->trace, r.records,
                         *s.software ? s.software : "an unknown daemon");
    }
    if (rc == 0) {
        say_torn(&r);
        print_replay(a, &r, &s);
    }
    smoe_replay_release(&replay);
    smoe_recording_close(&r);
    return rc == 0 ? SMOE_EXIT_OK
                   : fail(rc == SMOE_EDATA ? SMOE_EXIT_FAILED : SMOE_EXIT_USAGE, &why);
}

/* ---- trace ---- */

static void see_time(struct sums *s, uint64_t ns, uint64_t slot)
{
    if (!s->first_ns)
        s->first_ns = ns;
    s->slots += slot != s->last_slot;
    s->last_slot = slot;
    s->last_ns = ns;
}

static void see(struct sums *s, const struct smoe_trace_entry *e)
{
    const struct smoe_trace_route *t = &e->route;
    if (e->type == SMOE_TRACE_START) {
        memcpy(s->software, e->start.software, sizeof s->software);
        s->scores_top = e->start.scores_top;
    }
    if (e->type == SMOE_TRACE_FREQUENCY) {
        see_time(s, e->frequency.monotonic_ns, e->frequency.slot);
        s->frequencies += e->frequency.n_workers;
    }
    if (e->type != SMOE_TRACE_ROUTE)
        return;
    see_time(s, t->monotonic_ns, t->slot);
    s->routes++;
    s->given += t->given;
    s->tokens += t->routed;
    s->visits += (uint64_t)t->routed * t->top_k;
    s->workers = t->n_workers > s->workers ? t->n_workers : s->workers;
}

static void print_sums(const struct smoe_recording *r, const struct sums *s)
{
    printf("trace      %s, recorded by %s\n", r->path, *s->software ? s->software : "nobody known");
    printf("records    %" PRIu64 ", %" PRIu64 " bytes, %" PRIu64 " lost, %s\n", r->records,
           r->bytes, r->missing,
           r->ended  ? "ended on purpose"
           : r->torn ? "torn"
                     : "not ended");
    printf("duration   %.3f s\n", (double)(s->last_ns - s->first_ns) * 1e-9);
    printf("slots      %" PRIu64 " with a decision\n", s->slots);
    printf("decisions  %" PRIu64 ", of them %" PRIu64 " replays; %" PRIu64 " frequencies\n",
           s->routes, s->given, s->frequencies);
    printf("tokens     %" PRIu64 ", %" PRIu64 " visits\n", s->tokens, s->visits);
    printf("workers    %u at most\n", s->workers);
    if (s->scores_top)
        printf("scores     the %u largest of a token\n", s->scores_top);
    else
        printf("scores     all\n");
}

static void print_sums_json(const struct smoe_recording *r, const struct sums *s)
{
    printf("{\"software\":\"%s\",\"records\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"lost\":%" PRIu64
           ",\"torn\":%s,\"ended\":%s,\"seconds\":%.9f,\"slots\":%" PRIu64 ",\"decisions\":%" PRIu64
           ",\"replays\":%" PRIu64 ",\"frequencies\":%" PRIu64 ",\"tokens\":%" PRIu64
           ",\"visits\":%" PRIu64 ",\"workers\":%u,\"scores_top\":%u}\n",
           s->software, r->records, r->bytes, r->missing, r->torn ? "true" : "false",
           r->ended ? "true" : "false", (double)(s->last_ns - s->first_ns) * 1e-9, s->slots,
           s->routes, s->given, s->frequencies, s->tokens, s->visits, s->workers, s->scores_top);
}

int smoe_sim_summarise(const char *path, const struct smoe_sim_arguments *a)
{
    struct smoe_recording r;
    struct smoe_trace_entry e;
    struct smoe_why why;
    struct sums s = {.last_slot = UINT64_MAX};
    bool more = true;
    int rc = smoe_recording_open(&r, path, &why);
    if (rc)
        return fail(SMOE_EXIT_USAGE, &why);
    while ((rc = smoe_recording_next(&r, &e, &more, &why)) == 0 && more)
        see(&s, &e);
    if (rc == 0) {
        say_torn(&r);
        (a->json ? print_sums_json : print_sums)(&r, &s);
    }
    smoe_recording_close(&r);
    return rc ? fail(SMOE_EXIT_USAGE, &why) : SMOE_EXIT_OK;
}
