/* SPDX-License-Identifier: Apache-2.0
 *
 * The two long lists of the gateway's report. What is not known is null.
 */
#ifndef SMOE_GATEWAY_REPORT_PARTS_H
#define SMOE_GATEWAY_REPORT_PARTS_H

#include "common/json/json.h"
#include "daemon/gateway/report.h"

/* New arrays, the caller's; parts that found no memory are missing. */
cJSON *smoe_report_workers(const struct smoe_core *core, uint64_t now_ns);
cJSON *smoe_report_layers(const struct smoe_core *core);

#endif
