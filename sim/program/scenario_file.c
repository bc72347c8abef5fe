/* SPDX-License-Identifier: Apache-2.0
 *
 * Scenarios by name, and scenario files: one table, from which files are read.
 */
#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/io/config.h"
#include "sim/program/program.h"

#define KEY(member) SMOE_OPTION_AT(struct smoe_scenario_spec, member)

static const char *const sources[] = {
    [SMOE_SOURCE_OPEN] = "open", [SMOE_SOURCE_CLOSED] = "closed", NULL};

static const char *const powers[] = {[SMOE_SIM_CUBE] = "cube", [SMOE_SIM_LINE] = "line", NULL};

static const char *const arrivals[] = {"poisson", "bursty", "diurnal", "trace", NULL};

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
    {"fleet", "nodes", SMOE_STRING, KEY(nodes),
     .help = "file with a worker's speed, budget and cap on each line, instead of the lists"},
    {"fleet", "up", SMOE_U64, .standard = "0", .max = 1e9, .unit = "slots", KEY(up),
     .help = "mean time until a worker leaves; 0: it stays"},
    {"fleet", "down", SMOE_U64, .standard = "20", .max = 1e9, .unit = "slots", KEY(down),
     .help = "mean time until it returns"},
    {"fleet", "seed", SMOE_U64, .standard = "1", .max = 0x1p53, KEY(fleet_seed),
     .help = "of lists at random"},
    {"fleet", "kappa", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 1, KEY(kappa),
     .help = "energy is kappa f^3 a second; 0: energy costs nothing"},
    {"fleet", "power", SMOE_ENUM, .standard = "cube", .choices = powers, KEY(power),
     .help = "cube: kappa f^3; line: kappa freq_max^2 f, as of a duty cycle"},
    {"fleet", "parcel_rows", SMOE_DOUBLE, .standard = "0", .max = 1e6, KEY(parcel_rows),
     .help = "--whole: visits that a parcel costs beside its own"},
    {"fleet", "meter_noise", SMOE_DOUBLE, .standard = "0", .max = 0.5, KEY(meter_noise),
     .help = "--whole: of the workers' meters, of itself"},
    {"tokens", "source", SMOE_ENUM, .standard = "open", .choices = sources, KEY(source),
     .help = "open: so many come each slot; closed: a batch comes when the last is done"},
    {"tokens", "number", SMOE_DOUBLE, .standard = "256", .min = 1,
     .max = SMOE_SCENARIO_TOKENS_MAX / 2, KEY(tokens), .help = "mean of a slot, or of a batch"},
    {"tokens", "arrivals", SMOE_ENUM, .standard = "poisson", .choices = arrivals, KEY(arrivals),
     .help = "of an open source: poisson, bursty, diurnal or trace"},
    {"tokens", "burst", SMOE_DOUBLE, .standard = "4", .min = 1, .max = 100, KEY(burst),
     .help = "bursty: height of a burst over the mean"},
    {"tokens", "swing", SMOE_DOUBLE, .standard = "0.8", .min = 0, .max = 1, KEY(swing),
     .help = "diurnal: height of the wave over the mean"},
    {"tokens", "period", SMOE_U64, .standard = "100", .min = 1, .max = 1e9, .unit = "slots",
     KEY(period), .help = "bursty: one burst and one pause, on average; diurnal: a day"},
    {"tokens", "trace", SMOE_STRING, KEY(trace), .help = "file with the tokens of each slot"},
    {"gate", "experts", SMOE_U64, .standard = "8", .min = 1, .max = SMOE_EXPERTS_MAX, KEY(experts),
     .help = "how many"},
    {"gate", "copies", SMOE_U64, .standard = "1", .min = 1, .max = SMOE_SCENARIO_WORKERS_MAX,
     KEY(copies), .help = "of each expert, dealt out to the workers in turn"},
    {"gate", "slots", SMOE_U64, .standard = "0", .max = SMOE_EXPERTS_MAX, .unit = "experts",
     KEY(slots),
     .help = "on each worker, copies placed by how often tokens want them; 0: `copies` of each"},
    {"gate", "drift", SMOE_U64, .standard = "0", .max = 1e9, .unit = "slots", KEY(drift),
     .help = "time in which an expert's popularity wanders on to the next; 0: it stays"},
    {"gate", "pool", SMOE_U64, .standard = "0", .max = 65536, .unit = "tokens", KEY(pool),
     .help = "tokens that are used again and again; 0: each is drawn afresh"},
    {"gate", "top_k", SMOE_U64, .standard = "2", .min = 1, .max = SMOE_TOP_K_MAX, KEY(top_k),
     .help = "experts a token visits"},
    {"gate", "skew", SMOE_DOUBLE, .standard = "0.12", .min = 0, .max = 100, KEY(skew),
     .help = "how much more popular an expert of the next rank is"},
    {"gate", "ranks", SMOE_STRING, KEY(ranks), .help = "of each expert: a list; without: 0, 1, .."},
    {"routing", "slot", SMOE_DURATION, .standard = "20ms", .min = 1e6, .max = 6e10, KEY(slot_ns),
     .help = "length of an open slot"},
    {"routing", "delay", SMOE_U64, .standard = "0", .max = SMOE_SCENARIO_DELAY_MAX, .unit = "slots",
     KEY(delay), .help = "age of the workers' reports"},
    {"routing", "work", SMOE_DOUBLE, .standard = "0", .min = 0, .max = 1e9, KEY(work),
     .help = "scores that a solve may look at, a token, before it must answer; 0: all it likes"},
    {"routing", "v", SMOE_DOUBLE, .standard = "20", .min = 1e-6, .max = 1e9, KEY(v),
     .help = "weight V of throughput and gate scores against backlog and energy"},
    {"routing", "mu", SMOE_DOUBLE, .standard = "1", .min = 0, .max = 1e6, KEY(mu),
     .help = "weight of gate scores within V"},
    {"routing", "gap", SMOE_DOUBLE, .standard = "0", .max = SMOE_ROUTE_GAP_MAX, KEY(gap),
     .help = "what a slot may be worth less than the best, proven, of K N V mu"},
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

int smoe_sim_load_scenario(const char *name, struct smoe_scenario *ret, struct smoe_why *why)
{
    struct smoe_scenario_spec spec;
    const struct smoe_scenario_spec *built_in = smoe_scenario_find(name);
    if (smoe_scenario_random(name, &spec))
        built_in = &spec;
    if (!built_in && !strpbrk(name, "./"))
        return smoe_fail(why, SMOE_ECONFIG,
                         "--scenario %s: no such scenario (paper, demo, unlike, frozen "
                         "or random:N), nor a file",
                         name);
    int rc = built_in ? 0 : load_file(name, &spec, why);
    if (rc == 0)
        rc = smoe_scenario_init(ret, built_in ? built_in : &spec, why);
    return rc ? smoe_fail_at(why, rc, "--scenario %s", name) : 0;
}

int smoe_sim_asked_scenario(const struct smoe_sim_arguments *a, struct smoe_scenario *ret,
                            struct smoe_why *why)
{
    int rc = smoe_sim_load_scenario(a->scenario, ret, why);
    if (rc == 0 && a->load > 0 && (rc = smoe_scenario_set_load(ret, a->load, why))) {
        smoe_scenario_release(ret);
        return smoe_fail_at(why, rc, "--load %g", a->load);
    }
    return rc;
}
