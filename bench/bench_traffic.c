/* SPDX-License-Identifier: Apache-2.0
 *
 * What workers really send of a sharded layer and hold of it, by the gateway's counters in a simulated run,
 * beside the formulas of MODEL.md sections 8 and 9: 8 experts of 32 x 64 in 4 slots on each of 4 unlike
 * workers, AdamW, popularity that moves experts. The gateway, the agents and the library are the real ones;
 * only network and time are not.
 */
#include <stdio.h>

#include "bench/bench.h"
#include "sim/counted.h"

enum { WORKERS = 4, ITERATIONS = 8 };

#define SEC (1000 * SMOE_SIM_MS)

static uint32_t add_cast(struct smoe_world *w, enum smoe_wire_format wire)
{
    static const double speeds[WORKERS] = {1, 0.5, 0.25, 0.25};
    static const uint64_t memory[WORKERS] = {64 << 20, 32 << 20, 32 << 20, 16 << 20};
    uint32_t gateway = smoe_world_add_gateway(
        w, &(struct smoe_sim_gateway_options){
               .sharded = true,
               .links = true,
               .placement = {.kind = SMOE_PLACE_HIGHEST_AVERAGES, .interval = 1}});
    smoe_world_start(w, gateway);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct smoe_sim_worker_options o = {.gateway = gateway,
                                            .speed = speeds[i],
                                            .memory_bytes = memory[i],
                                            .cycles_per_flop = 10,
                                            .expert_slots = 4};
        snprintf(o.name, sizeof o.name, "worker-%u", i);
        smoe_world_start(w, smoe_world_add_worker(w, &o));
    }
    smoe_world_run(w, 20 * SMOE_SIM_MS); /* all are there before the layer is cut */
    struct smoe_sim_trainer_options t = {
        .gateway = gateway,
        .shape = {.experts = 8,
                  .d_model = 32,
                  .d_ff = 64,
                  .activation = SMOE_RELU,
                  .dtype = SMOE_DTYPE_F32,
                  .optimizer = SMOE_ADAMW,
                  .seed = 5,
                  .wire = wire},
        .optimizer = {.kind = SMOE_ADAMW,
                      /* small: Adam makes much of what bf16 rounds */
                      .learning_rate = 0.001,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .epsilon = 1e-8},
        .steps = ITERATIONS + 4,
        .tokens = 32,
        .skew = 1.5};
    smoe_world_start(w, smoe_world_add_trainer(w, &t));
    return gateway;
}

static void add_kb(struct smoe_report *report, uint32_t worker, const char *what, uint64_t bytes)
{
    smoe_report_value(report, "KB", 1e-3 * (double)bytes, "placement.counted.w%u.%s", worker, what);
}

static void report_worker(struct smoe_report *report, const struct smoe_counted *n, uint32_t j)
{
    const struct smoe_shard_traffic *t = &n->counted[j];
    add_kb(report, j, "gradients_sent", t->exchanged.gradient_sent);
    add_kb(report, j, "gradients_received", t->exchanged.gradient_received);
    add_kb(report, j, "weights_sent", t->exchanged.weight_sent);
    add_kb(report, j, "weights_received", t->exchanged.weight_received);
    add_kb(report, j, "follower_sent", t->exchanged.follow_sent);
    add_kb(report, j, "follower_received", t->exchanged.follow_received);
    add_kb(report, j, "uploaded", t->uploaded);
    add_kb(report, j, "memory", n->memory[j]);
}

/* Iterations that were counted, one after another. */
struct counting {
    struct smoe_counted last;
    double error, memory_error; /* the largest */
    uint64_t least, most;       /* bytes of an iteration */
    uint32_t moved;
};

static int count(enum smoe_wire_format wire, struct counting *ret, struct smoe_why *why)
{
    struct smoe_world *w = smoe_world_new(&(struct smoe_world_options){.seed = 1});
    uint32_t gateway = add_cast(w, wire);
    bool came = true;
    *ret = (struct counting){.least = UINT64_MAX};
    struct smoe_counted *n = &ret->last;
    for (int i = 0; i < ITERATIONS && (came = smoe_counted_next(w, gateway, 60 * SEC, n)); i++) {
        uint64_t bytes = smoe_counted_bytes(n);
        ret->least = bytes < ret->least ? bytes : ret->least;
        ret->most = bytes > ret->most ? bytes : ret->most;
        ret->error = n->error > ret->error ? n->error : ret->error;
        ret->memory_error =
            n->memory_error > ret->memory_error ? n->memory_error : ret->memory_error;
        ret->moved += n->moved;
    }
    smoe_world_free(w);
    return came ? 0 : smoe_fail(why, SMOE_ESTATE, "placement: the simulated run came to no end");
}

int smoe_bench_traffic(struct smoe_bench *bench, struct smoe_why *why)
{
    struct counting full, half;
    int rc = count(SMOE_WIRE_REAL, &full, why);
    rc = rc ? rc : count(SMOE_WIRE_BF16, &half, why);
    if (rc)
        return rc;
    for (uint32_t j = 0; j < full.last.n_workers; j++)
        report_worker(bench->report, &full.last, j);
    smoe_report_value(bench->report, "x", full.error, "placement.counted.off_formula");
    smoe_report_value(bench->report, "x", full.memory_error,
                      "placement.counted.memory_off_formula");
    smoe_report_value(bench->report, "x", (double)full.most / (double)full.least,
                      "placement.counted.most_to_least_iteration");
    smoe_report_value(bench->report, "slots", (double)full.moved / ITERATIONS,
                      "placement.counted.slots_moved");
    smoe_report_value(bench->report, "x", half.error, "placement.counted.bf16.off_formula");
    smoe_report_value(bench->report, "x", (double)half.most / (double)full.most,
                      "placement.counted.bf16.to_fp32");
    return 0;
}
