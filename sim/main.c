/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-sim: stories of a fleet in virtual time, and what routing policies are worth.
 *
 * Without --timings its output is a function of its arguments, the same bytes on every machine.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"
#include "common/io/cli.h"
#include "common/io/clock.h"
#include "common/io/config.h"
#include "sim/print.h"
#include "stablemoe/version.h"

#define PROGRAM "stablemoe-sim"

struct arguments {
    char seeds[44];
    char scenario[256];
    char policy[32];
    unsigned freq_rule;
    uint64_t slots, seed;
    bool json, trace, timings;
};

#define AT(member) SMOE_OPTION_AT(struct arguments, member)

static const char *const freq_rules[] = {"sustainable", "full", NULL};

static const struct smoe_cli_option options[] = {
    {{.key = "seeds",
      .type = SMOE_STRING,
      .standard = "1",
      AT(seeds),
      .help = "story: tell it for each of these seeds"},
     0,
     "A..B",
     false},
    {{.key = "trace", .type = SMOE_BOOL, AT(trace), .help = "story: print every message"},
     't',
     NULL,
     false},
    {{.key = "scenario",
      .type = SMOE_STRING,
      .standard = "paper",
      AT(scenario),
      .help = "run: paper, demo, unlike, or an INI file with the keys below"},
     's',
     "NAME|FILE",
     false},
    {{.key = "policy",
      .type = SMOE_STRING,
      .standard = "all",
      AT(policy),
      .help = "run: a routing policy, or all of them"},
     'p',
     "NAME|all",
     false},
    {{.key = "slots",
      .type = SMOE_U64,
      .standard = "1000",
      .min = 1,
      .max = 1e8,
      AT(slots),
      .help = "run: how many decisions"},
     'n',
     "N",
     false},
    {{.key = "seed",
      .type = SMOE_U64,
      .standard = "1",
      AT(seed),
      .help = "run: of all that is random"},
     0,
     "S",
     false},
    {{.key = "freq-rule",
      .type = SMOE_ENUM,
      .standard = "sustainable",
      .choices = freq_rules,
      AT(freq_rule),
      .help = "run: frequency of the policies that do not decide it"},
     0,
     "RULE",
     false},
    {{.key = "timings",
      .type = SMOE_BOOL,
      AT(timings),
      .help = "run: also how long solving took on this machine"},
     0,
     NULL,
     false},
    {{.key = "json", .type = SMOE_BOOL, AT(json), .help = "print JSON, one object a line"},
     'j',
     NULL,
     false},
};

static const struct smoe_cli cli = {
    .program = PROGRAM,
    .version = STABLEMOE_VERSION,
    .summary = "Runs the daemon's, workers' and trainers' own machines in virtual time.",
    .operands = "story NAME|all|list | run",
    .operands_min = 1,
    .operands_max = 2,
    .more = "Commands:\n"
            "  story list       the stories, and what each must come to\n"
            "  story NAME|all   tell it; `random` makes up a world with faults from each seed\n"
            "  run              policies side by side on a scenario\n"
            "Keys of a scenario file:\n"
            "  [fleet]   workers speeds budgets caps freq_max cycles kappa\n"
            "  [tokens]  source number\n"
            "  [gate]    experts top_k skew ranks\n"
            "  [routing] slot v mu\n"
            "A list is `1 0.5 0.25`, repeated as often as needed, or `1.5..9.5`, evenly spaced.\n",
    .options = options,
    .options_len = sizeof options / sizeof *options,
};

/* ---- story ---- */

static int read_seeds(const char *text, uint64_t *ret_first, uint64_t *ret_last,
                      struct smoe_why *why)
{
    char first[sizeof((struct arguments *)0)->seeds];
    const char *dots = strstr(text, "..");
    snprintf(first, sizeof first, "%.*s", (int)(dots ? dots - text : (long)strlen(text)), text);
    bool good =
        smoe_parse_u64(first, ret_first) && smoe_parse_u64(dots ? dots + 2 : text, ret_last);
    if (!good || *ret_first > *ret_last || *ret_last == UINT64_MAX)
        return smoe_fail(why, SMOE_ECONFIG,
                         "--seeds: \"%s\" is neither a number nor A..B with "
                         "A at most B",
                         text);
    return 0;
}

static int list_stories(void)
{
    for (size_t i = 0; i < smoe_stories_len; i++)
        printf("%-24s %s\n", smoe_stories[i].name, smoe_stories[i].about);
    return SMOE_EXIT_OK;
}

/* Tells one story for one seed; false if it did not come out as it must. */
static bool tell(const struct smoe_story *story, uint64_t seed, const struct arguments *a)
{
    struct smoe_story_end end;
    smoe_story_tell(story, seed, a->trace, &end);
    if (a->json)
        smoe_print_story_json(story, seed, &end, stdout);
    else
        smoe_print_story(story, seed, &end, stdout);
    free(end.trace);
    return end.code == 0;
}

static int tell_stories(const char *name, const struct arguments *a)
{
    struct smoe_why why;
    uint64_t first, last, failed = 0, told = 0;
    bool all = strcmp(name, "all") == 0;
    if (strcmp(name, "list") == 0)
        return list_stories();
    if (!all && !smoe_story_find(name)) {
        smoe_why_set(&why, "story %s: no such story: see `" PROGRAM " story list`", name);
        return smoe_cli_fail(PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    }
    if (read_seeds(a->seeds, &first, &last, &why))
        return smoe_cli_fail(PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    for (size_t i = 0; i < smoe_stories_len; i++)
        for (uint64_t seed = first; seed <= last; seed++)
            if (all || strcmp(name, smoe_stories[i].name) == 0) {
                failed += !tell(&smoe_stories[i], seed, a);
                told++;
            }
    if (!failed)
        return SMOE_EXIT_OK;
    smoe_why_set(&why, "story %s: %llu of %llu failed", name, (unsigned long long)failed,
                 (unsigned long long)told);
    return smoe_cli_fail(PROGRAM, SMOE_EXIT_FAILED, &why, stderr);
}

/* ---- scenario files ---- */

#define KEY(member) SMOE_OPTION_AT(struct smoe_scenario_spec, member)

static const char *const sources[] = {
    [SMOE_SOURCE_OPEN] = "open", [SMOE_SOURCE_CLOSED] = "closed", NULL};

static const struct smoe_option keys[] = {
    {"fleet", "workers", SMOE_U64, .standard = "4", .min = 1, .max = SMOE_SCENARIO_WORKERS_MAX,
     .unit = "workers", KEY(workers), .help = "how many"},
    {"fleet", "speeds", SMOE_STRING, .standard = "1", KEY(speeds),
     .help = "of each, in units of freq_max: a list"},
    {"fleet", "budgets", SMOE_STRING, KEY(budgets), .help = "mean power of each [W]: a list"},
    {"fleet", "caps", SMOE_STRING, KEY(caps), .help = "most power of each [W]: a list"},
    {"fleet", "freq_max", SMOE_DOUBLE, .standard = "1e9", .min = 1, .max = 1e12, KEY(freq_hz),
     .help = "frequency of a worker of speed 1 [Hz]"},
    {"fleet", "cycles", SMOE_DOUBLE, .standard = "1e6", .min = 1, .max = 1e15, KEY(cycles),
     .help = "of one visit"},
    {"fleet", "kappa", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 1, KEY(kappa),
     .help = "energy is kappa f^3 a second; 0: energy costs nothing"},
    {"tokens", "source", SMOE_ENUM, .standard = "open", .choices = sources, KEY(source),
     .help = "open: so many come each slot; closed: a batch comes when the last is done"},
    {"tokens", "number", SMOE_DOUBLE, .standard = "256", .min = 1,
     .max = SMOE_SCENARIO_TOKENS_MAX / 2, KEY(tokens), .help = "mean of a slot, or of a batch"},
    {"gate", "experts", SMOE_U64, .standard = "8", .min = 1, .max = SMOE_EXPERTS_MAX, KEY(experts),
     .help = "expert e stands on worker e mod workers"},
    {"gate", "top_k", SMOE_U64, .standard = "2", .min = 1, .max = SMOE_TOP_K_MAX, KEY(top_k),
     .help = "experts a token visits"},
    {"gate", "skew", SMOE_DOUBLE, .standard = "0.12", .min = 0, .max = 100, KEY(skew),
     .help = "how much more popular an expert of the next rank is"},
    {"gate", "ranks", SMOE_STRING, KEY(ranks), .help = "of each expert: a list; without: 0, 1, .."},
    {"routing", "slot", SMOE_DURATION, .standard = "20ms", .min = 1e6, .max = 6e10, KEY(slot_ns),
     .help = "length of an open slot"},
    {"routing", "v", SMOE_DOUBLE, .standard = "20", .min = 1e-6, .max = 1e9, KEY(v),
     .help = "weight V of throughput and gate scores against backlog and energy"},
    {"routing", "mu", SMOE_DOUBLE, .standard = "1", .min = 0, .max = 1e6, KEY(mu),
     .help = "weight of gate scores within V"},
};

static int load_file(const char *path, struct smoe_scenario_spec *ret, struct smoe_why *why)
{
    struct smoe_config config;
    struct smoe_config_sources from = {.file = path, .file_required = true};
    const char *slash = strrchr(path, '/');
    memset(ret, 0, sizeof *ret);
    int rc = smoe_config_load(&config, keys, sizeof keys / sizeof *keys, ret, &from, why);
    if (rc == 0)
        smoe_config_release(&config);
    snprintf(ret->name, sizeof ret->name, "%.63s", slash ? slash + 1 : path);
    return rc;
}

static int load_scenario(const char *name, struct smoe_scenario *ret, struct smoe_why *why)
{
    struct smoe_scenario_spec spec;
    const struct smoe_scenario_spec *built_in = smoe_scenario_find(name);
    if (!built_in && !strpbrk(name, "./"))
        return smoe_fail(why, SMOE_ECONFIG,
                         "--scenario %s: no such scenario (paper, demo or "
                         "unlike), nor a file",
                         name);
    int rc = built_in ? 0 : load_file(name, &spec, why);
    if (rc == 0)
        rc = smoe_scenario_init(ret, built_in ? built_in : &spec, why);
    return rc ? smoe_fail_at(why, rc, "--scenario %s", name) : 0;
}

/* ---- run ---- */

/* Policies asked for; returns how many, 0 if there is none of that name. */
static size_t read_policies(const char *name, struct smoe_print_run runs[SMOE_POLICY_COUNT])
{
    enum smoe_policy policy;
    size_t n = 0;
    if (smoe_policy_parse(name, &policy)) {
        runs[0].policy = policy;
        return 1;
    }
    for (; strcmp(name, "all") == 0 && n < SMOE_POLICY_COUNT; n++)
        runs[n].policy = (enum smoe_policy)n;
    return n;
}

static int run(const struct arguments *a)
{
    struct smoe_print_run runs[SMOE_POLICY_COUNT] = {{0}};
    struct smoe_scenario scenario;
    struct smoe_why why;
    size_t n = read_policies(a->policy, runs);
    int rc = n ? 0 : smoe_fail(&why, SMOE_ECONFIG, "--policy %s: no such policy", a->policy);
    if (rc == 0)
        rc = load_scenario(a->scenario, &scenario, &why);
    if (rc)
        return smoe_cli_fail(PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    struct smoe_print_job job = {.scenario = &scenario,
                                 .freq_rule = (enum smoe_sim_freq_rule)a->freq_rule,
                                 .slots = a->slots,
                                 .seed = a->seed,
                                 .timings = a->timings};
    for (size_t i = 0; i < n; i++) {
        struct smoe_slotted_options o = {.policy = runs[i].policy,
                                         .freq_rule = job.freq_rule,
                                         .slots = a->slots,
                                         .seed = a->seed,
                                         .clock_ns = a->timings ? smoe_clock_monotonic_ns : NULL};
        smoe_slotted_run(&scenario, &o, &runs[i].result);
    }
    if (a->json)
        smoe_print_runs_json(&job, runs, n, stdout);
    else
        smoe_print_runs(&job, runs, n, stdout);
    for (size_t i = 0; i < n; i++)
        smoe_slotted_release(&runs[i].result);
    smoe_scenario_release(&scenario);
    return SMOE_EXIT_OK;
}

int main(int argc, char **argv)
{
    struct arguments a;
    struct smoe_cli_rest rest;
    struct smoe_why why;
    memset(&a, 0, sizeof a);
    int done = smoe_cli_parse(&cli, argc, argv, &a, &rest, stdout, stderr);
    if (done >= 0)
        return done;
    const char *command = rest.operands[0];
    if (strcmp(command, "story") == 0 && rest.len == 2)
        done = tell_stories(rest.operands[1], &a);
    else if (strcmp(command, "run") == 0 && rest.len == 1)
        done = run(&a);
    if (done >= 0)
        return fflush(stdout) ? SMOE_EXIT_FAILED : done;
    smoe_why_set(&why, "%s: not a command: story NAME|all|list, or run", command);
    return smoe_cli_fail(PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
}
