/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariant: used = arrived + sum of the segments' bytes. Arrival times of segments never fall, so the
 * first one decides when `due` fires next; an RST may be due before it.
 */
#include "sim/pipe.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

#define RETRANSMIT_NS (200 * SMOE_SIM_MS) /* twice that the next time, as TCP does */

void smoe_sim_pipe_init(struct smoe_sim_pipe *p, struct smoe_sim_clock *clock, struct smoe_rng *rng,
                        const struct smoe_sim_profile *profile, uint64_t opens_ns,
                        void (*due)(struct smoe_sim_event *event))
{
    smoe_assert(profile->buffer_bytes > 0);
    *p = (struct smoe_sim_pipe){.clock = clock,
                                .rng = rng,
                                .profile = *profile,
                                .last_arrival_ns = opens_ns,
                                .due = {.fire = due}};
}

void smoe_sim_pipe_release(struct smoe_sim_pipe *p)
{
    smoe_sim_cancel(p->clock, &p->due);
    free(p->ring);
    free(p->segments);
    p->ring = NULL;
    p->segments = NULL;
}

static void set_due(struct smoe_sim_pipe *p)
{
    uint64_t at = p->n_segments ? p->segments[p->first_segment].arrives_ns : SMOE_SIM_NEVER;
    if (p->end && p->end_ns < at)
        at = p->end_ns;
    smoe_sim_set(p->clock, &p->due, p->held ? SMOE_SIM_NEVER : at);
}

/* ---- the writer's side ---- */

static uint64_t line_ns(const struct smoe_sim_pipe *p, size_t bytes)
{
    return p->profile.bytes_per_s ? bytes * UINT64_C(1000000000) / p->profile.bytes_per_s : 0;
}

/* When something that leaves now, after all before it, arrives. */
static uint64_t arrival(struct smoe_sim_pipe *p, size_t bytes)
{
    uint64_t now = p->clock->now_ns;
    p->line_free_ns = (p->line_free_ns > now ? p->line_free_ns : now) + line_ns(p, bytes);
    uint64_t at = p->line_free_ns + p->profile.latency_ns;
    if (p->profile.jitter_ns)
        at += smoe_rng_below(p->rng, p->profile.jitter_ns + 1);
    for (uint64_t wait = RETRANSMIT_NS; p->lost_in && !smoe_rng_below(p->rng, p->lost_in);
         wait *= 2, p->lost++)
        at += wait;
    if (at > p->last_arrival_ns)
        p->last_arrival_ns = at;
    return p->last_arrival_ns;
}

static void add_segment(struct smoe_sim_pipe *p, size_t bytes)
{
    if (p->n_segments == p->segments_cap) { /* double, and let the ring begin at 0 again */
        size_t cap = p->segments_cap ? 2 * p->segments_cap : 8;
        struct smoe_sim_segment *grown = smoe_sim_alloc(cap, sizeof *grown);
        for (size_t i = 0; i < p->n_segments; i++)
            grown[i] = p->segments[(p->first_segment + i) % p->segments_cap];
        free(p->segments);
        p->segments = grown;
        p->segments_cap = cap;
        p->first_segment = 0;
    }
    size_t at = (p->first_segment + p->n_segments++) % p->segments_cap;
    p->segments[at] = (struct smoe_sim_segment){arrival(p, bytes), bytes};
}

static void copy_in(struct smoe_sim_pipe *p, const uint8_t *from, size_t n)
{
    size_t cap = p->profile.buffer_bytes;
    size_t at = (p->first + p->used) % cap;
    size_t head = n < cap - at ? n : cap - at;
    memcpy(p->ring + at, from, head);
    memcpy(p->ring, from + head, n - head);
    p->used += n;
}

static void cut_into_segments(struct smoe_sim_pipe *p, size_t bytes)
{
    while (bytes) {
        size_t n = bytes;
        if (p->profile.chunk_bytes_max)
            n = 1 + smoe_rng_below(p->rng, p->profile.chunk_bytes_max);
        n = n < bytes ? n : bytes;
        add_segment(p, n);
        bytes -= n;
    }
}

size_t smoe_sim_pipe_write(struct smoe_sim_pipe *p, const struct iovec *iovecs, size_t n)
{
    size_t written = 0;
    smoe_assert(!p->end);
    if (!p->ring)
        p->ring = smoe_sim_room(p->profile.buffer_bytes);
    for (size_t i = 0; i < n && p->used < p->profile.buffer_bytes; i++) {
        size_t room = p->profile.buffer_bytes - p->used;
        size_t bytes = iovecs[i].iov_len < room ? iovecs[i].iov_len : room;
        copy_in(p, iovecs[i].iov_base, bytes);
        written += bytes;
    }
    cut_into_segments(p, written);
    set_due(p);
    return written;
}

void smoe_sim_pipe_end(struct smoe_sim_pipe *p, enum smoe_sim_pipe_end end)
{
    smoe_assert(end != SMOE_SIM_PIPE_OPEN);
    if (p->end == SMOE_SIM_PIPE_RST)
        return;
    p->end = end;
    p->end_ns = end == SMOE_SIM_PIPE_FIN ? arrival(p, 0) : p->clock->now_ns + p->profile.latency_ns;
    set_due(p);
}

/* ---- the reader's side ---- */

enum smoe_sim_pipe_end smoe_sim_pipe_arrive(struct smoe_sim_pipe *p)
{
    uint64_t now = p->clock->now_ns;
    while (p->n_segments && p->segments[p->first_segment].arrives_ns <= now) {
        p->arrived += p->segments[p->first_segment].bytes;
        p->first_segment = (p->first_segment + 1) % p->segments_cap;
        p->n_segments--;
    }
    if (p->end && p->end_ns <= now) {
        if (p->end == SMOE_SIM_PIPE_RST)
            smoe_sim_pipe_drop(p);
        smoe_sim_cancel(p->clock, &p->due);
        return p->end;
    }
    set_due(p);
    return SMOE_SIM_PIPE_OPEN;
}

size_t smoe_sim_pipe_peek(const struct smoe_sim_pipe *p, const uint8_t **ret_bytes)
{
    size_t straight = p->profile.buffer_bytes - p->first;
    if (!p->arrived)
        return 0;
    *ret_bytes = p->ring + p->first;
    return p->arrived < straight ? p->arrived : straight;
}

void smoe_sim_pipe_read(struct smoe_sim_pipe *p, size_t bytes)
{
    smoe_assert(bytes <= p->arrived && p->arrived <= p->used);
    p->first = (p->first + bytes) % p->profile.buffer_bytes;
    p->arrived -= bytes;
    p->used -= bytes;
}

void smoe_sim_pipe_hold(struct smoe_sim_pipe *p, bool held)
{
    uint64_t soonest = p->clock->now_ns + p->profile.latency_ns;
    p->held = held;
    for (size_t i = 0; i < p->n_segments && !held; i++) {
        struct smoe_sim_segment *s = &p->segments[(p->first_segment + i) % p->segments_cap];
        if (s->arrives_ns < soonest)
            s->arrives_ns = soonest;
        p->last_arrival_ns = s->arrives_ns;
    }
    if (p->end && p->end_ns < soonest && !held)
        p->end_ns = soonest;
    set_due(p);
}

void smoe_sim_pipe_drop(struct smoe_sim_pipe *p)
{
    p->used = p->arrived = p->first = 0;
    p->n_segments = 0;
    smoe_sim_cancel(p->clock, &p->due);
}
