/* SPDX-License-Identifier: Apache-2.0
 *
 * Work, frequency, energy. Running faster than needed to finish D visits in tau never helps, since
 * energy grows with the cube of the frequency and time only shrinks with its first power; so a slot's
 * energy is a function of its work alone, kappa c^3 D^3 / tau^2 (MODEL.md (4)), and the debt queue Z
 * turns it into a price (5). Everything here is a handful of IEEE operations and smoe_cbrt, the same on
 * every machine.
 */
#include "daemon/core/freq.h"

#include <math.h>
#include <stdbool.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"

/* A tau that was chosen so that the work just fits must not lose a visit to rounding. */
static const double WHOLE_VISIT_SLACK = 1e-9;

static const double BACKLOG_SLOTS = 5; /* of what is sustained: a longer queue justifies no debt */
static const double PART_MIN = 0.1;    /* of the budget, for work, however deep the debt */

/* The frequency at which the node draws `watts` while it runs; fmax where nothing limits it. */
static double frequency_at_power(const struct smoe_freq_node *node, double watts)
{
    if (isinf(watts) || (!node->power && !(node->kappa > 0)))
        return node->freq_max_hz;
    double hz =
        node->power ? smoe_power_frequency(node->power, watts) : smoe_cbrt(watts / node->kappa);
    return hz < node->freq_max_hz ? hz : node->freq_max_hz;
}

double smoe_freq_ceiling(const struct smoe_freq_node *node)
{
    return frequency_at_power(node, node->energy_max_w); /* MODEL.md (1) */
}

double smoe_freq_sustainable_rate(const struct smoe_freq_node *node)
{
    return frequency_at_power(node, node->energy_mean_w) / node->cycles_per_visit;
}

double smoe_freq_restraint(const struct smoe_freq_node *node, double debt_j, double slot_s,
                           double penalty)
{
    double mean_j = node->energy_mean_w * slot_s;
    double served = smoe_freq_sustainable_rate(node) * slot_s;
    if (isinf(mean_j) || !(served > 0))
        return node->energy_max_w;
    double explained_j = mean_j * (penalty + BACKLOG_SLOTS * served) / (3 * served);
    if (debt_j <= explained_j)
        return node->energy_max_w;
    double part = 1 - (debt_j - explained_j) / (BACKLOG_SLOTS * mean_j);
    double static_w = node->power ? smoe_power_at(node->power, 0) : 0;
    double watts =
        static_w + (node->energy_mean_w - static_w) * (part > PART_MIN ? part : PART_MIN);
    return watts < node->energy_max_w ? watts : node->energy_max_w; /* MODEL.md (7'') */
}

double smoe_freq_service_max(const struct smoe_freq_node *node, double tau_s, double *carry)
{
    double visits = tau_s * smoe_freq_ceiling(node) / node->cycles_per_visit + *carry;
    double whole = floor(visits + WHOLE_VISIT_SLACK);
    *carry = visits - whole; /* MODEL.md (2) */
    return whole;
}

double smoe_freq_energy_price(const struct smoe_freq_node *node, double debt_j, double tau_s)
{
    bool modelled = node->power || node->kappa > 0;
    if (!(debt_j > 0) || isinf(node->energy_mean_w) || !modelled)
        return 0;
    smoe_assert(node->energy_mean_w > 0);
    double rate = smoe_freq_sustainable_rate(node);
    if (!(rate >
          0)) /* static power alone is over the budget: nothing sustains, all is overspending */
        rate = smoe_freq_ceiling(node) / node->cycles_per_visit;
    double visits_per_joule = rate / node->energy_mean_w;
    double zeta = visits_per_joule * visits_per_joule;
    double c = node->cycles_per_visit;
    if (node->power)
        return zeta * debt_j * tau_s;
    return zeta * debt_j * (node->kappa * c * c * c) / (tau_s * tau_s); /* MODEL.md (5) */
}

double smoe_freq_decide(const struct smoe_freq_node *node, double served, double tau_s,
                        double energy_price)
{
    double ceiling = smoe_freq_ceiling(node);
    if (!(energy_price > 0))
        return ceiling;
    double hz = node->cycles_per_visit * served / tau_s; /* MODEL.md (3) */
    return hz < ceiling ? hz : ceiling;
}

double smoe_freq_energy(const struct smoe_freq_node *node, double freq_hz, double busy_s)
{
    if (node->power)
        return smoe_power_at(node->power, freq_hz) * busy_s;
    return node->kappa * freq_hz * freq_hz * freq_hz * busy_s;
}

double smoe_freq_debt(double debt_j, double joules, double budget_w, double wall_s)
{
    if (isinf(budget_w))
        return 0;
    double debt = debt_j + joules - budget_w * wall_s; /* MODEL.md (7) */
    return debt > 0 ? debt : 0;
}

double smoe_freq_horizon(double slot_s, double work, double rate)
{
    if (!(rate > 0) || !(work > 0) || !(work < slot_s * rate))
        return slot_s;
    return work / rate; /* MODEL.md (8) */
}
