/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/floors.h"

#include <fnmatch.h>
#include <stddef.h>
#include <string.h>

#define LEAST false
#define MOST  true

static const struct smoe_floor floors[] = {
    {"kernels.forward.relu.d64.n32.to_gemm", LEAST, 0.8},
    {"kernels.forward.relu.d64.n32.to_reference", LEAST, 8},
    {"kernels.forward.relu.d64.n128.to_gemm", LEAST, 0.8},
    {"kernels.forward.relu.d256.n128.to_gemm", LEAST, 0.8},
    {"kernels.forward.gelu.d256.n128.to_gemm", LEAST, 0.8},
    {"kernels.forward.swiglu.d256.n128.to_gemm", LEAST, 0.8},
    {"kernels.backward.relu.d64.n32.to_gemm", LEAST, 0.8},
    {"kernels.backward.relu.d64.n32.to_reference", LEAST, 8},
    {"kernels.backward.relu.d64.n128.to_gemm", LEAST, 0.8},
    {"kernels.backward.relu.d256.n128.to_gemm", LEAST, 0.8},
    {"kernels.backward.gelu.d256.n128.to_gemm", LEAST, 0.8},
    {"kernels.backward.swiglu.d256.n128.to_gemm", LEAST, 0.8},
    {"kernels.adamw.n33088.to_copy", LEAST, 0.5},
    {"kernels.adamw.n4194304.to_copy", LEAST, 0.7},

    /* Of what each may draw, at 0.8 of the work that all budgets pay for. */
    {"budgets.*.to_budget", MOST, 1.02},
    {"budgets.throughput", LEAST, 0.95},
    {"budgets.refused", MOST, 0},

    {"frame.tensor.64KiB.to_copy", LEAST, 0.5},
    {"frame.tensor.1MiB.to_copy", LEAST, 0.7},

    /* Optimal to rounding, and an independent method says the same. */
    {"route.64x8x2.gap", MOST, 1e-9},
    {"route.390x10x3.gap", MOST, 1e-9},
    {"route.1000x8x1.gap", MOST, 1e-9},
    {"route.1000x64x2.gap", MOST, 1e-9},
    {"route.10000x8x2.gap", MOST, 1e-9},
    {"route.10000x64x2.gap", MOST, 1e-9},
    {"route.64x8x2.flow_differs", MOST, 1e-9},
    {"route.390x10x3.flow_differs", MOST, 1e-9},
    {"route.390x10x3.to_flow", LEAST, 20},

    /* One pass costs little more than reading the scores from memory, and much less than torch.topk. */
    {"route.pass.*x64x[12].to_read", MOST, 1.5},
    {"route.pass.*x256x[12].to_read", MOST, 1.5},
    {"route.pass.*x1024x[12].to_read", MOST, 1.5},
    {"route.pass.*x256x8.to_read", MOST, 4},
    {"route.pass.*x1024x8.to_read", MOST, 4},
    {"route.pass.*x8x[12].to_torch", LEAST, 5},
    {"route.pass.*x64x[12].to_torch", LEAST, 5},
    {"route.pass.*x256x[12].to_torch", LEAST, 5},

    /* The whole solve costs a few passes, and no more than torch.topk. */
    {"route.solve.10000x64x2.to_pass", MOST, 8},
    {"route.solve.*x8x[12].to_torch", LEAST, 1},
    {"route.solve.*x64x[12].to_torch", LEAST, 1},
    {"route.solve.*x256x[12].to_torch", LEAST, 1},
    {"route.solve.*.gap", MOST, 1e-6},

    /* A general solver finds the same optimum, much later. */
    {"route.clp.*.to_clp", LEAST, 100},
    {"route.clp.*.differs", MOST, 1e-6},

    /* A look-up, and much less than searching rows. */
    {"router.*x64x2.top", LEAST, 20},
    {"router.*x64x2.rows", LEAST, 20}, /* what the gateway does when tokens come with codes */
    {"router.*x64x[12].to_torch", LEAST, 5},

    /* Of a slot at least half is the solve: the bookkeeping does not outweigh it. */
    {"core.w4.n64.solve_share", LEAST, 0.5},
    {"core.w4.n512.solve_share", LEAST, 0.5},
    {"core.w64.n1024.solve_share", LEAST, 0.5},

    {"latency.n1.p50", MOST, 150},
    {"latency.n64.p50", MOST, 400},

    {"net.relay.1MiB.to_bare", LEAST, 0.7},
    {"net.tls.bulk.awake.to_model", LEAST, 0.7},
    {"net.tls.bytes.awake.to_plain", MOST, 1.2},
    {"net.tls.control.awake.to_plain", MOST, 1.2},
    {"net.tls.veth.to_plain", LEAST, 0.95},
    {"net.control.100.to_echo", LEAST, 0.9},
    {"net.control.1000.to_echo", LEAST, 0.9},
    {"net.control.5000.to_echo", LEAST, 0.8},

    /* A switch's links add up, the gateway's one does not; and the busiest link is well used. On loopback all share the
     * cores, so that little can be promised. */
    {"links.1gbit.direct.to_gateway", LEAST, 2.5},
    {"links.1gbit.direct.to_bare", LEAST, 0.6},
    {"links.1gbit.gateway.to_bare", LEAST, 0.7},
    {"links.plain.direct.to_bare", LEAST, 0.25},
    {"links.*.workers_faults", MOST, 2000}, /* of 18,500 that are exchanged */
    {"staleness.1gbit.whole.64x256.b64.gain", LEAST, 1},

    {"memory.gateway", MOST, 32},
    {"memory.session.1000", MOST, 16},
    {"memory.session.4000", MOST, 16},
    {"memory.tls.session.*", MOST, 40},
    {"memory.tls.stranger.*", MOST, 64},

    /* A plan at every iteration costs next to nothing; 58 layers are DeepSeek-V3's. */
    {"placement.plan.1x64x256.*.highest-averages", MOST, 50},
    {"placement.plan.58x256x288.*.highest-averages", MOST, 10000},
    {"placement.next.1x64x256.*.highest-averages", MOST, 50},
    {"placement.next.58x256x288.*.highest-averages", MOST, 10000},
    /* Re-placing sends what standing still sends. */
    {"placement.bytes.to_static", MOST, 1.02},
    {"placement.bytes.to_DG_DW", MOST, 1},
    {"placement.memory.copy_to_paper", MOST, 1.02},
    {"placement.counted.off_formula", MOST, 0.02},
    {"placement.counted.bf16.off_formula", MOST, 0.02},
    {"placement.counted.bf16.to_fp32", MOST, 0.51},
    {"placement.counted.memory_off_formula", MOST, 0.02},
    {"placement.counted.most_to_least_iteration", MOST, 1.02},
    /* In virtual time. */
    {"placement.exchange.direct.*_to_ideal", MOST, 1.5},
    {"placement.exchange.slow.*_to_ideal", MOST, 1.2},

    {"train.b64.to_torch", LEAST, 1},
    {"train.b256.to_torch", LEAST, 1},
    {"train.lyapunov.slow.to_capacity", LEAST, 0.85},
};

#define FLOORS_LEN (sizeof floors / sizeof *floors)

const struct smoe_floor *smoe_floor_find(const char *key)
{
    for (size_t i = 0; i < FLOORS_LEN; i++)
        if (fnmatch(floors[i].key, key, 0) == 0)
            return &floors[i];
    return NULL;
}

const struct smoe_floor *smoe_floor_next(const char *bench, const struct smoe_floor *floor)
{
    size_t len = strlen(bench);
    for (floor = floor ? floor + 1 : floors; floor < floors + FLOORS_LEN; floor++)
        if (strncmp(floor->key, bench, len) == 0 && floor->key[len] == '.')
            return floor;
    return NULL;
}
