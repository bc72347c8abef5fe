/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/shell/thermal.h"

double smoe_thermal_share(double share, double celsius, double temp_max_c)
{
    if (temp_max_c <= 0)
        return 1;
    if (celsius > temp_max_c)
        share *= SMOE_THERMAL_DOWN;
    else if (celsius > 0 && celsius < temp_max_c - SMOE_THERMAL_MARGIN)
        share *= SMOE_THERMAL_UP;
    if (share < SMOE_THERMAL_FLOOR)
        return SMOE_THERMAL_FLOOR;
    return share > 1 ? 1 : share;
}
