/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/print.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/json/json.h"

#define WORKERS_SHOWN 12 /* columns of shares in the table */

/* ---- tables ---- */

static double per_s(uint64_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

static double consistency(const struct smoe_slotted_result *r)
{
    return r->gate_mass_best > 0 ? r->gate_mass / r->gate_mass_best : 0;
}

static const char *freq_rule_of(const struct smoe_print_job *job, enum smoe_policy policy)
{
    if (smoe_slotted_decides_frequency(policy))
        return "solve";
    return job->freq_rule == SMOE_FREQ_FULL ? "full" : "sustainable";
}

static void print_shares(const struct smoe_print_job *job, const struct smoe_print_run *runs,
                         size_t n, FILE *out)
{
    uint64_t workers = job->scenario->spec.workers;
    uint64_t shown = workers < WORKERS_SHOWN ? workers : WORKERS_SHOWN;
    fprintf(out, "\nshare of visits by worker%s\n%-19s", shown < workers ? ", the first ones" : "",
            "policy");
    for (uint64_t j = 0; j < shown; j++)
        fprintf(out, " %6" PRIu64, j);
    fprintf(out, "\n%-19s", "(of its speed)");
    double speeds = 0;
    for (uint64_t j = 0; j < workers; j++)
        speeds += job->scenario->freq_max_hz[j];
    for (uint64_t j = 0; j < shown; j++)
        fprintf(out, " %6.3f", job->scenario->freq_max_hz[j] / speeds);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "\n%-19s", smoe_policy_name(runs[i].policy));
        for (uint64_t j = 0; j < shown; j++)
            fprintf(out, " %6.3f", runs[i].result.share[j]);
    }
    fputc('\n', out);
}

static void print_power(const struct smoe_print_job *job, const struct smoe_print_run *runs,
                        size_t n, FILE *out)
{
    uint64_t workers = job->scenario->spec.workers;
    uint64_t shown = workers < WORKERS_SHOWN ? workers : WORKERS_SHOWN;
    bool any = false;
    for (uint64_t j = 0; j < workers; j++)
        any |= !isinf(job->scenario->budget_w[j]);
    if (!any)
        return;
    fprintf(out, "\nmean power by worker, of its budget\n%-19s", "(budget [W])");
    for (uint64_t j = 0; j < shown; j++)
        fprintf(out, " %6.3g", job->scenario->budget_w[j]);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "\n%-19s", smoe_policy_name(runs[i].policy));
        for (uint64_t j = 0; j < shown; j++)
            fprintf(out, " %6.3f", runs[i].result.to_budget[j]);
    }
    fputc('\n', out);
}

/* Whether the trainer could submit as the scenario has it. */
static void print_held(const struct smoe_print_job *job, const struct smoe_print_run *runs,
                       size_t n, FILE *out)
{
    fputs("\nthe whole daemon, its workers and a trainer\n", out);
    for (size_t i = 0; i < n; i++)
        if (runs[i].result.slots_held)
            fprintf(out,
                    "%-19s the trainer was held back in %" PRIu64 " of %" PRIu64
                    " slots, by up to %" PRIu64 " tokens\n",
                    smoe_policy_name(runs[i].policy), runs[i].result.slots_held, job->slots,
                    runs[i].result.tokens_held);
}

void smoe_print_runs(const struct smoe_print_job *job, const struct smoe_print_run *runs, size_t n,
                     FILE *out)
{
    fprintf(out, "scenario %s, %" PRIu64 " workers, %" PRIu64 " slots, seed %" PRIu64,
            job->scenario->spec.name, job->scenario->spec.workers, job->slots, job->seed);
    if (n && runs[0].result.load > 0)
        fprintf(out, ", load %.3f", runs[0].result.load);
    fprintf(out, "\n\n%-19s %-11s %9s %9s %9s %10s %10s %9s %8s %8s%s\n", "policy", "frequency",
            "visits", "visits/s", "tokens/s", "backlog", "max", "debt [J]", "gate", "top-K",
            job->timings && !job->whole ? "  ns/token" : "");
    for (size_t i = 0; i < n; i++) {
        const struct smoe_slotted_result *r = &runs[i].result;
        fprintf(out, "%-19s %-11s %9" PRIu64 " %9.0f %9.0f %10.1f %10.0f %9.3f %8.3f %8.3f",
                smoe_policy_name(runs[i].policy), freq_rule_of(job, runs[i].policy), r->visits,
                per_s(r->visits, r->seconds), per_s(r->complete, r->seconds), r->backlog_mean,
                r->backlog_max, r->debt_mean, consistency(r), r->agreement);
        if (job->timings && !job->whole)
            fprintf(out, " %9.1f", (double)r->solve_ns / (double)(r->tokens ? r->tokens : 1));
        fputc('\n', out);
    }
    if (job->whole)
        print_held(job, runs, n, out);
    print_shares(job, runs, n, out);
    print_power(job, runs, n, out);
}

/* ---- JSON ---- */

static cJSON *run_json(const struct smoe_print_job *job, const struct smoe_print_run *run)
{
    const struct smoe_slotted_result *r = &run->result;
    double slots = (double)job->slots;
    cJSON *o = cJSON_CreateObject();
    smoe_json_add_text(o, "policy", smoe_policy_name(run->policy));
    smoe_json_add_text(o, "freq_rule", freq_rule_of(job, run->policy));
    smoe_json_add_u64(o, "tokens", r->tokens);
    smoe_json_add_u64(o, "visits", r->visits);
    if (job->scenario->spec.up)
        smoe_json_add_u64(o, "visits_moved", r->moved);
    smoe_json_add_number(o, "seconds", r->seconds);
    smoe_json_add_number(o, "visits_per_second", per_s(r->visits, r->seconds));
    smoe_json_add_number(o, "tokens_per_second", per_s(r->complete, r->seconds));
    smoe_json_add_number(o, "arrivals_per_slot", (double)r->tokens / slots);
    smoe_json_add_number(o, "visits_per_slot", (double)r->visits / slots);
    smoe_json_add_number(o, "complete_per_slot", (double)r->complete / slots);
    smoe_json_add_number(o, "backlog_mean", r->backlog_mean);
    smoe_json_add_number(o, "backlog_max", r->backlog_max);
    smoe_json_add_number(o, "backlog_last", r->backlog_last);
    smoe_json_add_number(o, "backlog_slope", r->backlog_slope);
    smoe_json_add_number(o, "energy_debt_mean", r->debt_mean);
    smoe_json_add_number(o, "energy_debt_max", r->debt_max);
    smoe_json_add_number(o, "energy_debt_rest", r->debt_rest);
    smoe_json_add_number(o, "energy_overdraft", r->overdraft);
    smoe_json_add_number(o, "joules", r->joules);
    smoe_json_add_number(o, "joules_per_token", r->complete ? r->joules / (double)r->complete : 0);
    smoe_json_add_number(o, "topk_agreement", r->agreement);
    smoe_json_add_number(o, "gate_mass", r->gate_mass);
    smoe_json_add_number(o, "gate_consistency", consistency(r));
    smoe_json_add_known(o, "load", r->load > 0, r->load);
    smoe_json_add_known(o, "optimality_gap_max", r->gap_max >= 0, r->gap_max);
    if (r->gap_max >= 0)
        smoe_json_add_u64(o, "slots_exact", r->slots_exact);
    cJSON *shares = smoe_json_add_array(o, "shares");
    for (uint64_t j = 0; j < job->scenario->spec.workers; j++) {
        char text[32];
        snprintf(text, sizeof text, "%.9g", r->share[j]);
        smoe_json_append(shares, cJSON_CreateRaw(text));
    }
    cJSON *power = smoe_json_add_array(o, "power_to_budget");
    for (uint64_t j = 0; j < job->scenario->spec.workers; j++) {
        char text[32];
        snprintf(text, sizeof text, "%.9g", r->to_budget[j]);
        smoe_json_append(power, cJSON_CreateRaw(text));
    }
    if (job->whole) {
        smoe_json_add_u64(o, "slots_held", r->slots_held);
        smoe_json_add_u64(o, "tokens_held_max", r->tokens_held);
    }
    if (job->timings && !job->whole) /* the daemon is not timed from inside */
        smoe_json_add_number(o, "solve_ns_per_token",
                             (double)r->solve_ns / (double)(r->tokens ? r->tokens : 1));
    if (job->timings) {
        smoe_json_add_number(o, "wall_seconds", (double)r->run_ns * 1e-9);
        smoe_json_add_number(o, "slots_per_wall_second",
                             per_s(job->slots, (double)r->run_ns * 1e-9));
    }
    return o;
}

static void print_and_delete(cJSON *root, FILE *out)
{
    char *text = smoe_json_print(root);
    smoe_assert(text);
    fprintf(out, "%s\n", text);
    free(text);
}

void smoe_print_runs_json(const struct smoe_print_job *job, const struct smoe_print_run *runs,
                          size_t n, FILE *out)
{
    cJSON *root = cJSON_CreateObject();
    smoe_json_add_text(root, "scenario", job->scenario->spec.name);
    smoe_json_add_u64(root, "workers", job->scenario->spec.workers);
    smoe_json_add_u64(root, "slots", job->slots);
    smoe_json_add_u64(root, "seed", job->seed);
    smoe_json_add_bool(root, "whole", job->whole);
    cJSON *policies = smoe_json_add_array(root, "policies");
    for (size_t i = 0; i < n; i++)
        smoe_json_append(policies, run_json(job, &runs[i]));
    print_and_delete(root, out);
}

/* ---- stories ---- */

void smoe_print_story(const struct smoe_story *story, uint64_t seed,
                      const struct smoe_story_end *end, FILE *out)
{
    if (end->trace)
        fputs(end->trace, out);
    fprintf(out, "%-4s %s seed %" PRIu64 ": %.3f ms, %" PRIu64 " events, %" PRIu64 " messages",
            end->code ? "FAIL" : "ok", story->name, seed, (double)end->virtual_ns / 1e6,
            end->events, end->messages);
    if (end->losses)
        fprintf(out, ", %" PRIu32 " lost", end->losses);
    fprintf(out, ", digest %016" PRIx64 "%s%s\n", end->digest, end->code ? ": " : "",
            end->code ? end->why.text : "");
}

void smoe_print_story_json(const struct smoe_story *story, uint64_t seed,
                           const struct smoe_story_end *end, FILE *out)
{
    char digest[24];
    cJSON *root = cJSON_CreateObject();
    smoe_json_add_text(root, "story", story->name);
    smoe_json_add_u64(root, "seed", seed);
    smoe_json_add_bool(root, "ok", end->code == 0);
    if (end->code)
        smoe_json_add_text(root, "why", end->why.text);
    smoe_json_add_u64(root, "virtual_ns", end->virtual_ns);
    smoe_json_add_u64(root, "events", end->events);
    smoe_json_add_u64(root, "messages", end->messages);
    smoe_json_add_u64(root, "losses", end->losses);
    snprintf(digest, sizeof digest, "%016" PRIx64, end->digest);
    smoe_json_add_text(root, "digest", digest);
    if (end->trace)
        smoe_json_add_text(root, "trace", end->trace);
    print_and_delete(root, out);
}
