/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-bench: runs one benchmark and prints its figures.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "common/io/cli.h"
#include "stablemoe/version.h"

#define PROGRAM "stablemoe-bench"

/* name, padded for --help, what it measures */
#define BENCHES(X)                                                                                 \
    X(kernels, "kernels  ",                                                                        \
      "expert forward, backward and optimizer against plain BLAS and memory")                      \
    X(frame, "frame    ", "messages and tensors through the protocol against copying their bytes") \
    X(route, "route    ",                                                                          \
      "the slot's solve and its hot pass against reading memory, torch.topk and CLP")              \
    X(router, "router   ", "experts of tokens by a frozen router's table against torch")           \
    X(core, "core     ", "whole slots of the daemon's mind against the solve alone")               \
    X(latency, "latency  ", "one remote expert forward through the gateway against bare sockets")  \
    X(links, "links    ", "what workers exchange over direct links against through the gateway")   \
    X(net, "net      ", "the daemon under messages and tensors against bare epoll servers")        \
    X(memory, "memory   ", "memory of the daemon for each idle worker")                            \
    X(budgets, "budgets  ", "do workers keep to budgets of power, and do their work")              \
    X(placement, "placement", "planning where experts stand, what it sends and holds")             \
    X(staleness, "staleness",                                                                      \
      "a step while the next batch is computed against one after the other")                       \
    X(train, "train    ", "training on Fashion-MNIST with two workers against torch with gloo")

static const struct entry {
    const char *name;
    int (*run)(struct smoe_bench *bench, struct smoe_why *why);
} benches[] = {
#define X(name, padded, help) {#name, smoe_bench_##name},
    BENCHES(X)
#undef X
};

struct arguments {
    bool json, check, quick;
    char peers[256];
};

#define AT(member) SMOE_OPTION_AT(struct arguments, member)

static const struct smoe_cli_option options[] = {
    {{.key = "json", .type = SMOE_BOOL, AT(json), .help = "print one JSON object"},
     'j',
     NULL,
     false},
    {{.key = "check",
      .type = SMOE_BOOL,
      AT(check),
      .help = "exit 1 if a figure misses what is demanded of it"},
     'c',
     NULL,
     false},
    {{.key = "quick",
      .type = SMOE_BOOL,
      AT(quick),
      .help = "run each part for a moment only: does it work, not how fast"},
     'q',
     NULL,
     false},
    {{.key = "peers",
      .type = SMOE_STRING,
      .standard = SMOE_BENCH_PEERS,
      AT(peers),
      .help = "directory of the programs to compare with that are written in Python"},
     0,
     "DIR",
     false},
};

static const struct smoe_cli cli = {
    .program = PROGRAM,
    .version = STABLEMOE_VERSION,
    .summary = "Measures stablemoe beside what it is compared with",
    .operands = "NAME",
    .operands_min = 1,
    .operands_max = 1,
    .more = "Names:\n"
            "  list           print the names\n"
#define X(name, padded, help) "  " padded "      " help "\n"
    BENCHES(X)
#undef X
        ,
    .options = options,
    .options_len = sizeof options / sizeof *options,
};

static const struct entry *find(const char *name)
{
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
        if (strcmp(benches[i].name, name) == 0)
            return &benches[i];
    return NULL;
}

/* The directory this program lies in: the others lie beside it. */
static int find_bin_dir(char *ret, size_t size, struct smoe_why *why)
{
    ssize_t n = readlink("/proc/self/exe", ret, size - 1);
    if (n < 0)
        return smoe_fail(why, SMOE_EUNKNOWN, "/proc/self/exe: cannot be read");
    ret[n] = 0;
    *strrchr(ret, '/') = 0;
    return 0;
}

static int finish(const struct arguments *a, const struct smoe_report *report)
{
    struct smoe_why why;
    int rc = 0;
    if (a->json)
        rc = smoe_report_print_json(report, a->quick, stdout);
    else
        smoe_report_print(report, stdout);
    if (rc == 0 && (fflush(stdout) || ferror(stdout)))
        rc = SMOE_ECLOSED;
    if (rc) {
        smoe_fail(&why, rc, "standard output: %s", smoe_strerror(rc));
        return smoe_cli_fail(PROGRAM, SMOE_EXIT_FAILED, &why, stderr);
    }
    unsigned missed = smoe_report_missed(report);
    if (!a->check || !missed)
        return SMOE_EXIT_OK;
    smoe_fail(&why, SMOE_ELIMIT, "%s: %u of its figures missed what is demanded", report->bench,
              missed);
    return smoe_cli_fail(PROGRAM, SMOE_EXIT_FAILED, &why, stderr);
}

int main(int argc, char **argv)
{
    static struct smoe_report report;
    struct arguments a;
    struct smoe_cli_rest rest;
    struct smoe_why why = {""};
    char bin_dir[1024];
    memset(&a, 0, sizeof a);
    int done = smoe_cli_parse(&cli, argc, argv, &a, &rest, stdout, stderr);
    if (done >= 0)
        return done;
    if (strcmp(rest.operands[0], "list") == 0) {
        for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
            puts(benches[i].name);
        return SMOE_EXIT_OK;
    }
    const struct entry *entry = find(rest.operands[0]);
    if (!entry) {
        smoe_fail(&why, SMOE_ECONFIG, "%.60s: no such benchmark; try list", rest.operands[0]);
        return smoe_cli_fail(PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    }
    report.bench = entry->name;
    struct smoe_bench bench = {a.quick, bin_dir, a.peers, &report};
    int rc = find_bin_dir(bin_dir, sizeof bin_dir, &why);
    if (rc == 0)
        rc = entry->run(&bench, &why);
    return rc ? smoe_cli_fail(PROGRAM, SMOE_EXIT_FAILED, &why, stderr) : finish(&a, &report);
}
