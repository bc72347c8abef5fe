/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/print_training.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "common/base/assert.h"
#include "common/json/json.h"

#define GOAL 0.8 /* of the slots-to column */

void smoe_training_budget(const struct smoe_print_training *run, size_t seeds, size_t budget,
                          double *ret_mean, double *ret_deviation)
{
    double mean = 0, square = 0;
    for (size_t s = 0; s < seeds; s++)
        mean += run->results[s].budget[budget] / (double)seeds;
    for (size_t s = 0; s < seeds; s++) {
        double off = run->results[s].budget[budget] - mean;
        square += off * off;
    }
    *ret_mean = mean;
    *ret_deviation = seeds > 1 ? sqrt(square / (double)(seeds - 1)) : 0;
}

/* Of a figure of the fleet, over the seeds. */
static double mean_of(const struct smoe_print_training *run, size_t seeds,
                      double (*figure)(const struct smoe_training_result *))
{
    double sum = 0;
    for (size_t s = 0; s < seeds; s++)
        sum += figure(&run->results[s]) / (double)seeds;
    return sum;
}

static double complete(const struct smoe_training_result *r)
{
    return (double)r->fleet.complete;
}

static double joules_per_token(const struct smoe_training_result *r)
{
    return r->fleet.complete ? r->fleet.joules / (double)r->fleet.complete : 0;
}

static double overdraft(const struct smoe_training_result *r)
{
    return r->fleet.overdraft;
}

static double backlog(const struct smoe_training_result *r)
{
    return r->fleet.backlog_mean;
}

static double consistency(const struct smoe_training_result *r)
{
    return r->fleet.gate_mass_best > 0 ? r->fleet.gate_mass / r->fleet.gate_mass_best : 0;
}

static const char *rule_of(const struct smoe_print_job *job, enum smoe_policy policy)
{
    if (smoe_slotted_decides_frequency(policy))
        return "solve";
    return job->freq_rule == SMOE_FREQ_FULL ? "full" : "sustainable";
}

/* ---- table ---- */

/* The slots to GOAL of each seed; `-` where it was not reached. */
static void print_slots_to(const struct smoe_print_training *run, size_t seeds, FILE *out)
{
    for (size_t s = 0; s < seeds; s++) {
        uint64_t slots = smoe_training_slots_to(&run->results[s], GOAL);
        if (slots)
            fprintf(out, " %" PRIu64, slots);
        else
            fputs(" -", out);
    }
}

void smoe_print_training(const struct smoe_print_job *job, const struct smoe_print_training *runs,
                         size_t n, size_t seeds, FILE *out)
{
    fprintf(
        out,
        "scenario %s, %" PRIu64 " workers, %" PRIu64 " slots, seeds %" PRIu64 "..%" PRIu64
        ", load %.3f\ntest accuracy [%%] by the gate's top-K, mean +- deviation, after slots\n\n",
        job->scenario->spec.name, job->scenario->spec.workers, job->slots, job->seed,
        job->seed + seeds - 1, n ? runs[0].results[0].fleet.load : 0);
    fprintf(out, "%-19s %-11s", "policy", "frequency");
    for (size_t b = 0; b < SMOE_TRAINING_BUDGETS; b++)
        fprintf(out, " %12" PRIu64, smoe_training_budgets[b]);
    fprintf(out, " %9s %9s %6s  slots to %.0f %%\n", "complete", "backlog", "gate", GOAL * 100);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "%-19s %-11s", smoe_policy_name(runs[i].policy), rule_of(job, runs[i].policy));
        for (size_t b = 0; b < SMOE_TRAINING_BUDGETS; b++) {
            double mean, deviation;
            smoe_training_budget(&runs[i], seeds, b, &mean, &deviation);
            if (mean < 0)
                fprintf(out, " %12s", "-");
            else
                fprintf(out, " %5.1f +-%4.1f", mean * 100, deviation * 100);
        }
        fprintf(out, " %9.0f %9.0f %6.3f ", mean_of(&runs[i], seeds, complete),
                mean_of(&runs[i], seeds, backlog), mean_of(&runs[i], seeds, consistency));
        print_slots_to(&runs[i], seeds, out);
        fputc('\n', out);
    }
}

/* ---- JSON ---- */

static cJSON *budget_json(const struct smoe_print_training *run, size_t seeds, size_t b)
{
    double mean, deviation;
    cJSON *o = cJSON_CreateObject();
    smoe_training_budget(run, seeds, b, &mean, &deviation);
    smoe_json_add_number(o, "slots", (double)smoe_training_budgets[b]);
    smoe_json_add_number(o, "mean", mean);
    smoe_json_add_number(o, "deviation", deviation);
    cJSON *all = smoe_json_add_array(o, "seeds");
    for (size_t s = 0; s < seeds; s++)
        smoe_json_append_number(all, run->results[s].budget[b]);
    return o;
}

/* Accuracy by slot: the mean of all seeds at each glance. */
static void add_glances(cJSON *o, const struct smoe_print_training *run, size_t seeds)
{
    cJSON *accuracy = smoe_json_add_array(o, "accuracy_by_slot");
    for (uint64_t i = 0; i < run->results[0].glances; i++) {
        double sum = 0;
        for (size_t s = 0; s < seeds; s++)
            sum += run->results[s].glance[i] / (double)seeds;
        smoe_json_append_number(accuracy, sum);
    }
    smoe_json_add_number(o, "accuracy_every_slots", SMOE_TRAINING_EVERY);
}

static cJSON *run_json(const struct smoe_print_job *job, const struct smoe_print_training *run,
                       size_t seeds)
{
    cJSON *o = cJSON_CreateObject();
    smoe_json_add_text(o, "policy", smoe_policy_name(run->policy));
    smoe_json_add_text(o, "freq_rule", rule_of(job, run->policy));
    cJSON *budgets = smoe_json_add_array(o, "test_accuracy");
    for (size_t b = 0; b < SMOE_TRAINING_BUDGETS; b++)
        if (run->results[0].budget[b] >= 0)
            smoe_json_append(budgets, budget_json(run, seeds, b));
    cJSON *slots_to = smoe_json_add_array(o, "slots_to_80_percent");
    for (size_t s = 0; s < seeds; s++) {
        uint64_t slots = smoe_training_slots_to(&run->results[s], GOAL);
        if (slots)
            smoe_json_append_number(slots_to, (double)slots);
        else
            smoe_json_append(slots_to, cJSON_CreateNull());
    }
    cJSON *joules_to = smoe_json_add_array(o, "joules_to_80_percent");
    for (size_t s = 0; s < seeds; s++) {
        double joules = smoe_training_joules_to(&run->results[s], GOAL);
        if (joules > 0)
            smoe_json_append_number(joules_to, joules);
        else
            smoe_json_append(joules_to, cJSON_CreateNull());
    }
    smoe_json_add_number(o, "joules_per_token", mean_of(run, seeds, joules_per_token));
    smoe_json_add_number(o, "energy_overdraft", mean_of(run, seeds, overdraft));
    add_glances(o, run, seeds);
    smoe_json_add_number(o, "load", run->results[0].fleet.load);
    smoe_json_add_number(o, "complete_per_slot",
                         mean_of(run, seeds, complete) / (double)job->slots);
    smoe_json_add_number(o, "backlog_mean", mean_of(run, seeds, backlog));
    smoe_json_add_number(o, "gate_consistency", mean_of(run, seeds, consistency));
    return o;
}

void smoe_print_training_json(const struct smoe_print_job *job,
                              const struct smoe_print_training *runs, size_t n, size_t seeds,
                              FILE *out)
{
    cJSON *root = cJSON_CreateObject();
    smoe_json_add_text(root, "scenario", job->scenario->spec.name);
    smoe_json_add_number(root, "slots", (double)job->slots);
    smoe_json_add_number(root, "seed", (double)job->seed);
    smoe_json_add_number(root, "seeds", (double)seeds);
    cJSON *policies = smoe_json_add_array(root, "policies");
    for (size_t i = 0; i < n; i++)
        smoe_json_append(policies, run_json(job, &runs[i], seeds));
    char *text = smoe_json_print(root);
    smoe_assert(text);
    fprintf(out, "%s\n", text);
    free(text);
}
