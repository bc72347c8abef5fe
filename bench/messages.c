/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/messages.h"

#define HOUR_NS UINT64_C(3600000000000)

struct smoe_message smoe_example_report(uint64_t ceiling)
{
    struct smoe_message m = {.type = SMOE_MSG_REPORT};
    m.report = (struct smoe_msg_report){
        .queue_forward_flops = 8388608,
        .queue_backward_flops = 16777216,
        .forward_visits = 140000000,
        .backward_visits = 139000000,
        .forward_flops = UINT64_C(9175040000000),
        .backward_flops = UINT64_C(18219008000000),
        .forward_cycles = UINT64_C(2293760000000),
        .backward_cycles = UINT64_C(4554752000000),
        .busy_ns = 2 * HOUR_NS,
        .active_ns = 2 * HOUR_NS + 12345678,
        .joules = 43210.123,
        .energy_source = "model",
        .freq_khz = 2000000,
        .freq_max_hz = 2e9 + 1e8 * (double)ceiling,
        .temperature_c = 55.5,
        .kept_bytes = 33554432,
        .cycles = UINT64_C(6850000000000),
        .forward_row_flops = UINT64_C(183500800000),
        .backward_row_flops = UINT64_C(364380160000),
    };
    return m;
}

struct smoe_message smoe_example_decision(void)
{
    static const struct smoe_parcel_head parcels[] = {
        {(UINT64_C(77001) << 32) + 11, 0, 0, 17, true, false, 0},
        {(UINT64_C(77001) << 32) + 12, 0, 1, 9, true, false, 0},
        {(UINT64_C(77001) << 32) + 13, 0, 2, 31, true, false, 0},
        {(UINT64_C(77001) << 32) + 14, 0, 3, 5, true, false, 0},
        {(UINT64_C(77001) << 32) + 15, 0, 4, 12, true, false, 0},
        {(UINT64_C(77001) << 32) + 16, 0, 5, 8, true, false, 0},
        {(UINT64_C(77001) << 32) + 17, 0, 6, 22, true, false, 0},
        {(UINT64_C(77001) << 32) + 18, 0, 7, 3, true, false, 0}};
    struct smoe_message m = {.type = SMOE_MSG_DECISION};
    m.decision = (struct smoe_msg_decision){1234567, 54321, 2000000, parcels,
                                            sizeof parcels / sizeof *parcels};
    return m;
}
