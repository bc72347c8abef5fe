/* SPDX-License-Identifier: Apache-2.0
 *
 * From a slot's work to frequency and energy (MODEL.md section 1, "Energy as a function of work" and
 * "Slot length"). Pure.
 */
#ifndef SMOE_CORE_FREQ_H
#define SMOE_CORE_FREQ_H

#include "daemon/core/cost_power.h"

/* The physical terms of one node, estimated online or configured. */
struct smoe_freq_node {
    double cycles_per_visit; /* c [cycle/visit equivalent], > 0 */
    double freq_max_hz;      /* fmax [cycle/s], > 0; a speed cap lowers it, not c */
    double
        kappa; /* effective switched capacitance [J s^2 / cycle^3], >= 0; 0: energy has no model */
    const struct smoe_power_curve
        *power;           /* the machine's own curve instead of kappa f^3, or NULL */
    double energy_max_w;  /* Emax / slot [W], > 0; +inf: no cap */
    double energy_mean_w; /* Eavg / slot [W], > 0; +inf: no budget, then Z stays 0 */
};

/* fbar = min(fmax, (Emax/(kappa tau))^(1/3)) with Emax = energy_max_w * tau; with a curve the frequency at
 * which it reaches the cap. [Hz] */
double smoe_freq_ceiling(const struct smoe_freq_node *node);

/* What it may draw at most with this debt, MODEL.md (7''): energy_max_w, until the debt is more than queues of
 * five slots would explain; then no more than the mean budget, and less the deeper it is in. `slot_s`, `penalty`:
 * the slot's length and V. [W] */
double smoe_freq_restraint(const struct smoe_freq_node *node, double debt_j, double slot_s,
                           double penalty);

/* Sustainable visits a second at the average budget: min(fmax, (Pavg/kappa)^(1/3)) / c. */
double smoe_freq_sustainable_rate(const struct smoe_freq_node *node);

/* Dhat = floor(tau fbar/c + carry); the fractional rest is kept in *carry for the next slot, so that
 * over any run of slots the whole visits add up to the real ones within one. A rest within 1e-9 of a
 * whole visit counts as one (the carry is then as little below 0): a tau of (work / rate) offers all
 * of its work. */
double smoe_freq_service_max(const struct smoe_freq_node *node, double tau_s, double *carry);

/* a = zeta Z kappa c^3 / tau^2 with the natural zeta = (s/Eavg)^2, s and Eavg per tau; 0 when Z is 0
 * or there is no budget or no energy model. With a curve: zeta Z tau, to go with node.power and
 * node.visit_hz = c / tau (cost.h). */
double smoe_freq_energy_price(const struct smoe_freq_node *node, double debt_j, double tau_s);

/* The frequency that serves `served` visits in tau: c D / tau, at most fbar; fbar itself where energy
 * has no price (energy_price == 0). 0 where energy is priced and nothing is worth serving: the driver
 * then takes the lowest it has. [Hz] */
double smoe_freq_decide(const struct smoe_freq_node *node, double served, double tau_s,
                        double energy_price);

/* Energy of running at freq_hz for busy_s: kappa f^3 busy, or P(f) busy, static power included. [J] */
double smoe_freq_energy(const struct smoe_freq_node *node, double freq_hz, double busy_s);

/* Z' = max(Z + joules - budget_w * wall_s, 0); stays 0 without a budget. [J] */
double smoe_freq_debt(double debt_j, double joules, double budget_w, double wall_s);

/* Slot length a decision is planned for: min(slot, (sum Q + K N) / sum(fbar/c)), MODEL.md (8);
 * `work` = sum_j Q_j + K N [visit], `rate` = sum_j fbar_j/c_j [visit/s]; slot_s if either is 0. [s] */
double smoe_freq_horizon(double slot_s, double work, double rate);

#endif
