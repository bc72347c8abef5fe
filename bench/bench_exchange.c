/* SPDX-License-Identifier: Apache-2.0
 *
 * How long workers of a sharded layer exchange in an iteration, in virtual time: 8 equal workers with 2 slots
 * each, 8 experts of 256 x 1024, every connection of 100 MB/s and 0.2 ms; gradients and then weights, over
 * direct links and, the same run again, through the gateway. `ideal` is what the busiest pair of workers
 * sends, at that speed. Once more (`slow`) all connections of one worker have an eighth of it: lanes that lead there
 * wait, and what they wait with must not hold up anything else. Only network and time are not real; what a network
 * of one's own card does to connections that share it is not in it (`stablemoe-bench links`).
 */
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "daemon/core/core.h"
#include "sim/world.h"

enum { WORKERS = 8, SLOTS = 2, EXPERTS = 8, ITERATIONS = 3, BYTES_PER_S = 100000000, SLOW = 8 };

#define SEC (1000 * SMOE_SIM_MS)

static const struct smoe_sim_profile path = {
    .latency_ns = SMOE_SIM_MS / 10, .bytes_per_s = BYTES_PER_S, .buffer_bytes = 256 << 10};

/* `slow`: how many times as slow the first worker's connections are. */
static uint32_t add_cast(struct smoe_world *w, uint32_t d_model, uint32_t d_ff, bool links,
                         unsigned slow)
{
    uint32_t gateway =
        smoe_world_add_gateway(w, &(struct smoe_sim_gateway_options){
                                      .sharded = true,
                                      .links = links,
                                      .path = path,
                                      .placement = {.kind = SMOE_PLACE_STATIC, .interval = 1}});
    smoe_world_start(w, gateway);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct smoe_sim_worker_options o = {.gateway = gateway,
                                            .path = path,
                                            .memory_bytes = 512 << 20,
                                            .cycles_per_flop = 0.001,
                                            .expert_slots = SLOTS};
        if (i == 0)
            o.path.bytes_per_s /= slow;
        snprintf(o.name, sizeof o.name, "worker-%u", i);
        smoe_world_start(w, smoe_world_add_worker(w, &o));
    }
    smoe_world_run(w, 20 * SMOE_SIM_MS); /* all are there before the layer is cut */
    struct smoe_sim_trainer_options t = {.gateway = gateway,
                                         .shape = {.experts = EXPERTS,
                                                   .d_model = d_model,
                                                   .d_ff = d_ff,
                                                   .activation = SMOE_RELU,
                                                   .dtype = SMOE_DTYPE_F32,
                                                   .optimizer = SMOE_ADAMW,
                                                   .seed = 5},
                                         .optimizer = {.kind = SMOE_ADAMW,
                                                       .learning_rate = 0.001,
                                                       .beta1 = 0.9,
                                                       .beta2 = 0.99,
                                                       .epsilon = 1e-8},
                                         .steps = ITERATIONS + 1,
                                         .tokens = 16};
    smoe_world_start(w, smoe_world_add_trainer(w, &t));
    return gateway;
}

static struct smoe_layer_view layer_of(const struct smoe_world *w, uint32_t gateway)
{
    return smoe_core_layer(smoe_gateway_core(smoe_world_gateway(w, gateway)), 0);
}

/* Seconds of an iteration, mean of all but the first. */
struct exchanged {
    double gradients_s, weights_s;
};

static int exchange(uint32_t d_model, uint32_t d_ff, bool links, unsigned slow,
                    struct exchanged *ret, struct smoe_why *why)
{
    struct smoe_world *w =
        smoe_world_new(&(struct smoe_world_options){.seed = 1, .check_every = 1 << 20});
    uint32_t gateway = add_cast(w, d_model, d_ff, links, slow);
    uint64_t before[SMOE_PARTS] = {0};
    while (layer_of(w, gateway).iterations < 1 + ITERATIONS) {
        if (smoe_world_now(w) > 600 * SEC || !smoe_world_step(w)) {
            smoe_world_free(w);
            return smoe_fail(why, SMOE_ESTATE, "placement: the simulated run came to no end");
        }
        if (layer_of(w, gateway).iterations == 1)
            memcpy(before, layer_of(w, gateway).part_ns, sizeof before);
    }
    const uint64_t *after = layer_of(w, gateway).part_ns;
    ret->gradients_s =
        1e-9 * (double)(after[SMOE_PART_STEPPING] - before[SMOE_PART_STEPPING]) / ITERATIONS;
    ret->weights_s =
        1e-9 * (double)(after[SMOE_PART_WEIGHTS] - before[SMOE_PART_WEIGHTS]) / ITERATIONS;
    smoe_world_free(w);
    return 0;
}

/* Over each connection of that speed each of the S hosts of experts sends an N-th of its local sums to each of the
 * others, twice: to owner and follower; and each owner its weights to each slot, once, for which this is how long it
 * takes. [s] */
static double ideal(uint64_t d_model, uint64_t d_ff)
{
    double bytes = 4.0 * (double)(2 * d_model * d_ff + d_model + d_ff);
    return bytes * SLOTS / WORKERS / BYTES_PER_S;
}

static void report(struct smoe_bench *bench, const char *what, const struct exchanged *took,
                   double ideal_s)
{
    smoe_report_value(bench->report, "ms", 1e3 * took->gradients_s,
                      "placement.exchange.%s.gradients", what);
    smoe_report_value(bench->report, "ms", 1e3 * took->weights_s, "placement.exchange.%s.weights",
                      what);
    if (ideal_s <= 0)
        return;
    smoe_report_value(bench->report, "x", took->gradients_s / (2 * ideal_s),
                      "placement.exchange.%s.gradients_to_ideal", what);
    smoe_report_value(bench->report, "x", took->weights_s / ideal_s,
                      "placement.exchange.%s.weights_to_ideal", what);
}

int smoe_bench_exchange(struct smoe_bench *bench, struct smoe_why *why)
{
    uint32_t d_model = bench->quick ? 32 : 256, d_ff = 4 * d_model;
    struct exchanged direct, slow, relayed;
    int rc = exchange(d_model, d_ff, true, 1, &direct, why);
    rc = rc ? rc : exchange(d_model, d_ff, true, SLOW, &slow, why);
    rc = rc ? rc : exchange(d_model, d_ff, false, 1, &relayed, why);
    if (rc)
        return rc;
    report(bench, "direct", &direct, ideal(d_model, d_ff));
    report(bench, "slow", &slow, SLOW * ideal(d_model, d_ff));
    report(bench, "relayed", &relayed, 0);
    return 0;
}
