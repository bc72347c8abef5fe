/* SPDX-License-Identifier: Apache-2.0
 *
 * With G and W the bytes of an expert's gradient and weights, a_n the part of every expert that worker n owns, h_n the
 * experts that it holds (each once), H = sum of h_n:
 *
 *     n sends      h_n G (1 - a_n)  of gradients,     (H' - h'_n) W a_n  of weights
 *     n receives   (H - h_n) G a_n                    h'_n W (1 - a_n)                             MODEL.md (29)
 *
 * (' after re-placing). Where nobody holds an expert twice H = S, whatever stands where: the sum over all workers is
 * S G - sum h_n G a_n, the paper's D_G less what stays inside workers, and the same for D_W.
 */
#include "daemon/core/place_bytes.h"

/* Experts that the worker holds, each once. */
static uint64_t held_by(const struct smoe_place_plan *plan, uint32_t worker)
{
    uint64_t n = 0;
    for (uint32_t q = plan->slot_first[worker]; q < plan->slot_first[worker + 1]; q++) {
        uint32_t i = plan->slot_first[worker];
        while (plan->expert[i] != plan->expert[q])
            i++;
        n += i == q;
    }
    return n;
}

static uint64_t held_by_all(const struct smoe_place_plan *plan)
{
    uint64_t n = 0;
    for (uint32_t j = 0; j < plan->n_workers; j++)
        n += held_by(plan, j);
    return n;
}

void smoe_place_bytes(const struct smoe_place_plan *before, const struct smoe_place_plan *after,
                      const struct smoe_place_wire *wire, struct smoe_place_bytes *ret)
{
    uint64_t all_before = held_by_all(before), all_after = held_by_all(after), elements = 0;
    for (uint32_t j = 0; j < before->n_workers; j++)
        elements += wire->owned[j];
    for (uint32_t j = 0; j < before->n_workers; j++) {
        uint64_t held = held_by(before, j), next = held_by(after, j);
        uint64_t owned = wire->owned[j], followed = wire->followed ? wire->followed[j] : 0;
        uint64_t to_followers = wire->followed ? elements - followed : 0;
        ret[j] = (struct smoe_place_bytes){
            .gradient_sent = held * (elements - owned) * wire->gradient_bytes,
            .gradient_received = (all_before - held) * owned * wire->gradient_bytes,
            .weight_sent = (all_after - next) * owned * wire->weight_bytes,
            .weight_received = next * (elements - owned) * wire->weight_bytes,
            .follow_sent = held * to_followers * wire->gradient_bytes,
            .follow_received = (all_before - held) * followed * wire->gradient_bytes,
        };
    }
}
