/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-sim as its users meet it: exit codes, one line for a mistake, the same bytes for a seed.
 */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX 200000

/* Runs it with these arguments; returns its exit code and what it wrote to both its outputs. */
static int run(const char *arguments, char output[OUTPUT_MAX])
{
    char command[1000];
    snprintf(command, sizeof command, "%s %s 2>&1", STABLEMOE_SIM, arguments);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    size_t n = fread(output, 1, OUTPUT_MAX - 1, pipe);
    output[n] = 0;
    int status = pclose(pipe);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void check_refused(const char *arguments, const char *line)
{
    static char output[OUTPUT_MAX];
    cr_assert_eq(run(arguments, output), 2, "%s: %s", arguments, output);
    cr_assert_str_eq(output, line);
}

Test(program, says_what_it_is)
{
    static char output[OUTPUT_MAX];
    cr_assert_eq(run("--version", output), 0);
    cr_assert_eq(strncmp(output, "stablemoe-sim ", 14), 0);
    cr_assert_eq(run("--help", output), 0);
    cr_assert_not_null(strstr(output, "--scenario NAME|FILE"));
    cr_assert_eq(run("story list", output), 0);
    cr_assert_not_null(strstr(output, "\nworker_lost_forward "));
}

Test(program, a_mistake_is_one_line_and_exit_2)
{
    check_refused("dance", "stablemoe-sim: dance: no such command: story, torture, run, plot, "
                           "placement, replay or trace\n");
    check_refused("story nobody", "stablemoe-sim: story nobody: no such story: see "
                                  "`stablemoe-sim story list`\n");
    check_refused("story join --seeds 5..4", "stablemoe-sim: --seeds: \"5..4\" is neither a number "
                                             "nor A..B with A at most B\n");
    check_refused("run twice", "stablemoe-sim: run: one too many: twice\n");
    check_refused("trace", "stablemoe-sim: trace: missing: FILE\n");
    check_refused("run --policy best",
                  "stablemoe-sim: --policy best: not one of all, lyapunov, topk, random, queue, "
                  "energy, queue-jsq, "
                  "lyapunov-greedy, lyapunov-linear, lyapunov-separable, "
                  "lyapunov-strict, base\n");
    check_refused("run --scenario moon", "stablemoe-sim: --scenario moon: no such scenario (paper, "
                                         "demo, unlike, frozen or random:N), nor a file\n");
    check_refused("run --scenario demo --load 0.5",
                  "stablemoe-sim: --load 0.5: a load is of an open source; this one is closed\n");
    check_refused("run --train --seeds 1..1000", "stablemoe-sim: --seeds: more than 100\n");
    check_refused("run --train --data-dir /nowhere --slots 1",
                  "stablemoe-sim: /nowhere/train-images-idx3-ubyte: no such file, nor with .gz "
                  "(Debian package dataset-fashion-mnist)\n");
    check_refused("run --slots 100000001",
                  "stablemoe-sim: --slots: \"100000001\" lies outside 0 .. 100000000\n");
    check_refused("replay", "stablemoe-sim: replay: --trace FILE is missing\n");
    check_refused("replay --trace /nowhere",
                  "stablemoe-sim: /nowhere: No such file or directory\n");
    check_refused("trace /bin/sh", "stablemoe-sim: /bin/sh: not a trace of stablemoed\n");
    check_refused("run --trace /dev/null", "stablemoe-sim: /dev/null: too short for a trace\n");
    check_refused("run --trace /dev/null --load 1",
                  "stablemoe-sim: --trace with --load: its load is what was recorded\n");
    check_refused("run --trace /dev/null --train",
                  "stablemoe-sim: --trace with --train: its tokens have no images\n");
    check_refused("run --whole --train", "stablemoe-sim: --whole: not with --train\n");
    check_refused("run --whole --trace /dev/null", "stablemoe-sim: --whole: not with --trace\n");
    check_refused("run --whole --scenario demo",
                  "stablemoe-sim: --whole: tokens.source: only an open source runs whole\n");
}

Test(program, a_plot_without_gnuplot_is_one_line)
{
    static char output[OUTPUT_MAX];
    cr_assert_eq(setenv("PATH", "/nowhere", 1), 0);
    cr_assert_eq(run("plot --slots 2 -o /tmp", output), 1);
    cr_assert_str_eq(output,
                     "stablemoe-sim: plot: gnuplot is not installed (Debian: gnuplot-nox)\n");
    cr_assert_eq(run("plot --slots 2 -o /nowhere", output), 1);
    cr_assert_str_eq(output, "stablemoe-sim: --output /nowhere: No such file or directory\n");
}

Test(program, a_plot_is_five_figures)
{
    static const char *const FIGURES[] = {"backlog", "energy_debt", "throughput", "v_sweep",
                                          "mu_sweep"};
    static char output[OUTPUT_MAX];
    char dir[] = "/tmp/smoe-plot-XXXXXX", arguments[100], path[100];
    if (system("command -v gnuplot >/dev/null 2>&1"))
        cr_skip_test("gnuplot is not installed");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(arguments, sizeof arguments, "plot --slots 30 -o %s", dir);
    cr_assert_eq(run(arguments, output), 0, "%s", output);
    cr_assert_not_null(strstr(output, "gate mass"));
    for (size_t i = 0; i < sizeof FIGURES / sizeof *FIGURES; i++) {
        snprintf(path, sizeof path, "%s/%s.svg", dir, FIGURES[i]);
        FILE *file = fopen(path, "r");
        cr_assert_not_null(file, "%s", path);
        cr_assert_gt(fread(output, 1, OUTPUT_MAX - 1, file), 1000);
        cr_assert_not_null(strstr(output, "<svg"));
        fclose(file);
        unlink(path);
    }
    rmdir(dir);
}

Test(program, the_same_seed_gives_the_same_bytes)
{
    static char first[OUTPUT_MAX], second[OUTPUT_MAX], other[OUTPUT_MAX];
    cr_assert_eq(run("run --policy all --slots 20 --seed 3 --json", first), 0);
    cr_assert_eq(run("run --policy all --slots 20 --seed 3 --json", second), 0);
    cr_assert_eq(run("run --policy all --slots 20 --seed 4 --json", other), 0);
    cr_assert_str_eq(first, second);
    cr_assert_str_neq(first, other);
    cr_assert_eq(run("run --whole --policy lyapunov --slots 9 --seed 3 --json", first), 0);
    cr_assert_eq(run("run --whole --policy lyapunov --slots 9 --seed 3 --json", second), 0);
    cr_assert_not_null(strstr(first, "\"whole\":true"));
    cr_assert_not_null(strstr(first, "\"slots_held\":0"));
    cr_assert_str_eq(first, second);
    cr_assert_eq(run("torture --seeds 3..9 --json", first), 0);
    cr_assert_eq(run("torture --seeds 3..9 --json", second), 0);
    cr_assert_str_eq(first, second);
    cr_assert_eq(run("story random --seeds 3..4 --messages", first), 0);
    cr_assert_eq(run("story random --seeds 3..4 --messages", second), 0);
    cr_assert_gt(strlen(first), 1000);
    cr_assert_str_eq(first, second);
}

Test(program, torture_counts_what_it_did)
{
    static char output[OUTPUT_MAX];
    cr_assert_eq(run("torture --seeds 1..60 --json", output), 0);
    cJSON *root = cJSON_Parse(output);
    const cJSON *worlds = cJSON_GetObjectItemCaseSensitive(root, "worlds");
    const cJSON *faults = cJSON_GetObjectItemCaseSensitive(root, "faults");
    cr_assert_eq(worlds->valuedouble, 60);
    cr_assert_eq(cJSON_GetObjectItemCaseSensitive(root, "failed")->valuedouble, 0);
    cr_assert_geq(cJSON_GetArraySize(faults), 14);
    for (const cJSON *f = faults->child; f; f = f->next)
        cr_assert_gt(f->valuedouble, 0, "%s never happened", f->string);
    cJSON_Delete(root);
}

Test(program, json_has_every_figure)
{
    static const char *const FIGURES[] = {"arrivals_per_slot",
                                          "visits_per_slot",
                                          "complete_per_slot",
                                          "backlog_mean",
                                          "backlog_last",
                                          "backlog_slope",
                                          "energy_debt_max",
                                          "energy_overdraft",
                                          "topk_agreement",
                                          "gate_mass",
                                          "load",
                                          "freq_rule",
                                          "policy",
                                          "gate_consistency",
                                          "optimality_gap_max",
                                          "shares"};
    static char output[OUTPUT_MAX];
    cr_assert_eq(run("run --scenario demo --policy lyapunov --slots 3 --json", output), 0);
    cJSON *root = cJSON_Parse(output);
    const cJSON *policies = cJSON_GetObjectItemCaseSensitive(root, "policies");
    cr_assert_eq(cJSON_GetArraySize(policies), 1);
    for (size_t i = 0; i < sizeof FIGURES / sizeof *FIGURES; i++)
        cr_assert(cJSON_HasObjectItem(policies->child, FIGURES[i]), "no %s", FIGURES[i]);
    cr_assert_not(cJSON_HasObjectItem(policies->child, "solve_ns_per_token"));
    cJSON_Delete(root);
    cr_assert_eq(run("run --policy topk --slots 3 --json --timings", output), 0);
    cr_assert_not_null(strstr(output, "solve_ns_per_token"));
}

Test(program, a_scenario_may_come_from_a_file)
{
    static char output[OUTPUT_MAX];
    char path[] = "/tmp/smoe-scenario-XXXXXX", arguments[100], line[200];
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    fputs("[fleet]\nworkers = 6\nspeeds = 1 0.5 0.1\n[tokens]\nsource = closed\n"
          "[gate]\nexperts = 12\n",
          file);
    fclose(file);
    snprintf(arguments, sizeof arguments, "run --scenario %s --slots 5 --json", path);
    cr_assert_eq(run(arguments, output), 0, "%s", output);
    cr_assert_not_null(strstr(output, "\"workers\":6,"));
    file = fopen(path, "a");
    fputs("exparts = 3\n", file);
    fclose(file);
    cr_assert_eq(run(arguments, output), 2);
    snprintf(line, sizeof line, "stablemoe-sim: --scenario %s: %s:8: ", path, path);
    cr_assert_eq(strncmp(output, line, strlen(line)), 0, "%s", output);
    cr_assert_not_null(strstr(output, "exparts"));
    unlink(path);
}

/* ---- placement ---- */

static double time_of(const cJSON *root, const char *fleet, const char *sharing, const char *rule,
                      double coefficient)
{
    const cJSON *run;
    cJSON_ArrayForEach(run, cJSON_GetObjectItemCaseSensitive(root, "runs"))
    {
        const char *of[] = {fleet, sharing, rule}, *keys[] = {"fleet", "sharing", "rule"};
        bool is = cJSON_GetObjectItem(run, "coefficient")->valuedouble == coefficient &&
                  cJSON_GetObjectItem(run, "average")->valuedouble == 0;
        for (int i = 0; i < 3; i++)
            is &= strcmp(cJSON_GetObjectItem(run, keys[i])->valuestring, of[i]) == 0;
        if (is)
            return cJSON_GetObjectItem(run, "time_s")->valuedouble;
    }
    cr_assert(false, "no row %s %s %s %g", fleet, sharing, rule, coefficient);
    return 0;
}

Test(placement, the_same_seed_gives_the_same_bytes)
{
    static char first[OUTPUT_MAX], second[OUTPUT_MAX], other[OUTPUT_MAX];
    cr_assert_eq(run("placement -n 5 --seed 3", first), 0);
    cr_assert_eq(run("placement -n 5 --seed 3", second), 0);
    cr_assert_eq(run("placement -n 5 --seed 4", other), 0);
    cr_assert_str_eq(first, second);
    cr_assert_str_neq(first, other);
    cr_assert_not_null(strstr(first, "unlike workers, visits shared equally"));
}

/* The paper's claims, as docs/results.md has them for more iterations. */
Test(placement, ours_follows_popularity_where_it_can_and_never_loses_to_static)
{
    static const char *const FLEETS[] = {"equal", "unlike"}, *const SHARINGS[] = {"price", "equal"};
    static const double COEFFICIENTS[] = {1, 0.95, 0.9, 0.7, 0};
    static char output[OUTPUT_MAX];
    cr_assert_eq(run("placement -n 60 --bandwidth 5900 --json", output), 0);
    cJSON *root = cJSON_Parse(output);
    cr_assert_not_null(root);
    for (int i = 0; i < 4; i++) {
        const char *fleet = FLEETS[i / 2], *sharing = SHARINGS[i % 2];
        double ours = time_of(root, fleet, sharing, "highest-averages", 0.95);
        cr_assert_leq(ours, 0.7 * time_of(root, fleet, sharing, "static", 0.95));
        cr_assert_leq(ours, 0.741 * time_of(root, fleet, sharing, "interval=50", 0.95));
        cr_assert_leq(ours, 0.741 * time_of(root, fleet, sharing, "interval=100", 0.95));
        for (int a = 0; a < 5; a++) {
            ours = time_of(root, fleet, sharing, "highest-averages", COEFFICIENTS[a]);
            cr_assert_leq(ours, 1.02 * time_of(root, fleet, sharing, "static", COEFFICIENTS[a]),
                          "%s %s %g", fleet, sharing, COEFFICIENTS[a]);
            cr_assert_geq(ours, time_of(root, fleet, sharing, "foreseen", COEFFICIENTS[a]) * 0.999);
        }
    }
    cJSON_Delete(root);
}
