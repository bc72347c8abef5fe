/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-sim: stories of a fleet in virtual time, and what routing policies are worth.
 *
 * Without --timings and --train its output is a function of its arguments, the same bytes on every
 * machine.
 */
#include <malloc.h>
#include <string.h>

#include "sim/program/program.h"
#include "stablemoe/version.h"

#define AT(member) SMOE_OPTION_AT(struct smoe_sim_arguments, member)

static const char *const freq_rules[] = {"sustainable", "full", NULL};

static const struct smoe_cli_option options[] = {
    {{.key = "seeds",
      .type = SMOE_STRING,
      .standard = "1",
      AT(seeds),
      .help = "story, torture: tell it for each of these seeds; run --train: mean over them"},
     0,
     "A..B",
     false},
    {{.key = "messages", .type = SMOE_BOOL, AT(messages), .help = "story: print every message"},
     'm',
     NULL,
     false},
    {{.key = "trace",
      .type = SMOE_STRING,
      AT(trace),
      .help = "replay, run: a file that stablemoed recorded (trace.file)"},
     't',
     "FILE",
     false},
    {{.key = "layer",
      .type = SMOE_STRING,
      AT(layer),
      .help = "run --trace: which layer, where several were recorded"},
     0,
     "NAME",
     false},
    {{.key = "scenario",
      .type = SMOE_STRING,
      .standard = "paper",
      AT(scenario),
      .help = "run, plot: paper, demo, unlike, random:N (N workers), or an INI file with the keys "
              "below"},
     's',
     "NAME|FILE",
     false},
    {{.key = "policy",
      .type = SMOE_STRING,
      .standard = "all",
      AT(policy),
      .help = "run, plot: a routing policy, or all of them"},
     'p',
     "NAME|all",
     false},
    {{.key = "slots",
      .type = SMOE_U64,
      .standard = "0",
      .max = 1e8,
      AT(slots),
      .help = "run, plot, placement: how many decisions; 0: 1000, or all that were recorded"},
     'n',
     "N",
     false},
    {{.key = "seed",
      .type = SMOE_U64,
      .standard = "1",
      AT(seed),
      .help = "run, plot, placement: of all that is random"},
     0,
     "S",
     false},
    {{.key = "load",
      .type = SMOE_DOUBLE,
      .standard = "0",
      .min = 0,
      .max = 100,
      AT(load),
      .help = "run, plot: tokens for this load (1: all that the mean budgets sustain); 0: the "
              "scenario's number"},
     0,
     "RHO",
     false},
    {{.key = "freq-rule",
      .type = SMOE_ENUM,
      .standard = "sustainable",
      .choices = freq_rules,
      AT(freq_rule),
      .help = "run, plot: frequency of the policies that do not decide it"},
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
    {{.key = "train",
      .type = SMOE_BOOL,
      AT(train),
      .help = "run, plot: tokens are images, and a model learns from those that complete"},
     0,
     NULL,
     false},
    {{.key = "whole",
      .type = SMOE_BOOL,
      AT(whole),
      .help = "run: every slot through the daemon's gateway, the workers' agents and a trainer's "
              "library, instead of a loop that only asks the daemon's policies"},
     'w',
     NULL,
     false},
    {{.key = "dataset",
      .type = SMOE_STRING,
      .standard = "fashion-mnist",
      AT(dataset),
      .help = "--train: fashion-mnist, cifar10 or cifar100"},
     0,
     "NAME",
     false},
    {{.key = "data-dir",
      .type = SMOE_STRING,
      AT(data_dir),
      .help = "--train: directory of its files; default: where Debian's package puts them"},
     0,
     "DIR",
     false},
    {{.key = "output",
      .type = SMOE_STRING,
      .standard = ".",
      AT(output),
      .help = "plot: directory for the figures, which is there"},
     'o',
     "DIR",
     false},
    {{.key = "bandwidth",
      .type = SMOE_DOUBLE,
      .standard = "117",
      .min = 0.001,
      .max = 1e9,
      AT(bandwidth),
      .help = "placement: of each worker, each way, in MB/s; 117: TCP over 1 Gbit/s"},
     0,
     "RATE",
     false},
    {{.key = "json", .type = SMOE_BOOL, AT(json), .help = "print JSON, one object a line"},
     'j',
     NULL,
     false},
};

static const struct smoe_cli cli = {
    .program = SMOE_SIM_PROGRAM,
    .version = STABLEMOE_VERSION,
    .summary = "Runs the daemon's, workers' and trainers' own machines in virtual time",
    .operands = "story NAME|all|list | torture | run | plot | placement | replay | trace FILE",
    .operands_min = 1,
    .operands_max = 2,
    .more =
        "Commands:\n"
        "  story list       the stories, and what each must come to\n"
        "  story NAME|all   tell it; `random` makes up a world with faults from each seed\n"
        "  torture          many random worlds (--seeds A..B) with faults of every kind, counted\n"
        "  run              policies side by side on a scenario\n"
        "  plot             the same as figures (SVG, by gnuplot), with V and mu swept\n"
        "  placement        rules of placement while popularity drifts; --slots: iterations of a "
        "world\n"
        "  replay           make the decisions of a trace again: are they the same, bit for bit?\n"
        "  trace FILE       what is in a trace\n"
        "  run --trace FILE policies side by side on the tokens and workers of a trace\n"
        "Keys of a scenario file:\n"
        "  [fleet]   workers speeds budgets caps freq_max cycles kappa power parcel_rows "
        "meter_noise\n"
        "            nodes up down seed\n"
        "  [tokens]  source number arrivals burst swing period trace\n"
        "  [gate]    experts copies top_k skew ranks drift pool\n"
        "  [routing] slot v mu delay work gap\n"
        "A list is `1 0.5 0.25`, repeated as often as needed, `1.5..9.5`, evenly spaced, or\n"
        "`~0.1..1`, log-uniform at random.\n",
    .options = options,
    .options_len = sizeof options / sizeof *options,
};

static int story(const char *name, const struct smoe_sim_arguments *a)
{
    return smoe_sim_tell_stories(name, a);
}

static int torture(const char *operand, const struct smoe_sim_arguments *a)
{
    (void)operand;
    return smoe_sim_torture(a);
}

static int run(const char *operand, const struct smoe_sim_arguments *a)
{
    (void)operand;
    return smoe_sim_run(a);
}

static int plot(const char *operand, const struct smoe_sim_arguments *a)
{
    (void)operand;
    return smoe_sim_plot(a);
}

static int placement(const char *operand, const struct smoe_sim_arguments *a)
{
    (void)operand;
    return smoe_sim_placement(a);
}

static int replay(const char *operand, const struct smoe_sim_arguments *a)
{
    (void)operand;
    return smoe_sim_replay(a);
}

static int summarise(const char *file, const struct smoe_sim_arguments *a)
{
    return smoe_sim_summarise(file, a);
}

static const struct command {
    const char *name;
    const char *operand; /* what it must be given, or NULL */
    int (*run)(const char *operand, const struct smoe_sim_arguments *a);
} commands[] = {{"story", "NAME, all or list", story},
                {"torture", NULL, torture},
                {"run", NULL, run},
                {"plot", NULL, plot},
                {"placement", NULL, placement},
                {"replay", NULL, replay},
                {"trace", "FILE", summarise}};

static const struct command *find_command(const struct smoe_cli_rest *rest, struct smoe_why *why)
{
    const char *name = rest->operands[0];
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const struct command *c = &commands[i];
        if (strcmp(c->name, name) != 0)
            continue;
        if (rest->len == 1 && c->operand)
            smoe_why_set(why, "%s: missing: %s", name, c->operand);
        else if (rest->len == 2 && !c->operand)
            smoe_why_set(why, "%s: one too many: %s", name, rest->operands[1]);
        else
            return c;
        return NULL;
    }
    smoe_why_set(why, "%s: no such command: story, torture, run, plot, placement, replay or trace",
                 name);
    return NULL;
}

int main(int argc, char **argv)
{
    struct smoe_sim_arguments a;
    struct smoe_cli_rest rest;
    struct smoe_why why;
    memset(&a, 0, sizeof a);
    /* Worlds come and go: what one had touched is there for the next, and nothing large is cleared. */
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20); /* the most that there may be */
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 28);
    int done = smoe_cli_parse(&cli, argc, argv, &a, &rest, stdout, stderr);
    if (done >= 0)
        return done;
    const struct command *command = find_command(&rest, &why);
    if (!command)
        return smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    if (!a.slots && !*a.trace)
        a.slots = SMOE_SIM_SLOTS;
    done = command->run(rest.len > 1 ? rest.operands[1] : NULL, &a);
    return fflush(stdout) ? SMOE_EXIT_FAILED : done;
}
