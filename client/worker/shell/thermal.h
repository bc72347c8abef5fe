/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker's own bound on its frequency, so that it stays at or below temp_max whatever the gateway asks.
 * Pure: temperatures in, a share of the highest frequency out.
 */
#ifndef SMOE_WORKER_THERMAL_H
#define SMOE_WORKER_THERMAL_H

#define SMOE_THERMAL_FLOOR  0.05 /* least share: a worker that stands still would count as lost */
#define SMOE_THERMAL_DOWN   0.9  /* factor of each step while too hot */
#define SMOE_THERMAL_UP     1.02 /* factor of each step while cool */
#define SMOE_THERMAL_MARGIN 3.0  /* [K] below the limit from where it counts as cool */

/* The share for the next interval, SMOE_THERMAL_FLOOR..1. `share` is the present one; temp_max_c 0: no
 * limit; celsius 0: unknown, which leaves it as it is. Falls fast, and rises slowly. */
double smoe_thermal_share(double share, double celsius, double temp_max_c);

#endif
