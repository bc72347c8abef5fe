/* SPDX-License-Identifier: Apache-2.0
 *
 * A binary heap of moments and pointers; ties are broken by `order`, which counts settings. Each event knows
 * its place, so that moving and cancelling cost O(log n) and nothing stale is ever in the heap, but for the first
 * place while its event fires: that is kept for the first event that is set meanwhile, which there mostly is.
 */
#include "sim/events.h"

#include <stdlib.h>

void smoe_sim_clock_init(struct smoe_sim_clock *clock, uint64_t now_ns)
{
    *clock = (struct smoe_sim_clock){.now_ns = now_ns};
}

void smoe_sim_clock_release(struct smoe_sim_clock *clock)
{
    free(clock->heap);
    *clock = (struct smoe_sim_clock){0};
}

static bool before(const struct smoe_sim_due *a, const struct smoe_sim_due *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void put(struct smoe_sim_clock *c, size_t i, const struct smoe_sim_due *due)
{
    c->heap[i] = *due;
    due->event->place = i + 1;
}

static void sift_up(struct smoe_sim_clock *c, size_t i)
{
    struct smoe_sim_due due = c->heap[i];
    for (; i > 0 && before(&due, &c->heap[(i - 1) / 2]); i = (i - 1) / 2)
        put(c, i, &c->heap[(i - 1) / 2]);
    put(c, i, &due);
}

static void sift_down(struct smoe_sim_clock *c, size_t i)
{
    struct smoe_sim_due due = c->heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= c->len)
            break;
        child += child + 1 < c->len && before(&c->heap[child + 1], &c->heap[child]);
        if (!before(&c->heap[child], &due))
            break;
        put(c, i, &c->heap[child]);
        i = child;
    }
    put(c, i, &due);
}

void smoe_sim_cancel(struct smoe_sim_clock *c, struct smoe_sim_event *event)
{
    if (!event->place)
        return;
    size_t i = event->place - 1;
    struct smoe_sim_due last = c->heap[--c->len];
    event->place = 0;
    if (last.event == event)
        return;
    put(c, i, &last);
    sift_up(c, i);
    sift_down(c, last.event->place - 1);
}

/* For an event that has none: the first, if its event fires, or one more at the end. */
static size_t take_place(struct smoe_sim_clock *c)
{
    if (c->first_is_free) {
        c->first_is_free = false;
        return 0;
    }
    if (c->len == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 64;
        c->heap = smoe_sim_grow(c->heap, c->cap, cap, sizeof *c->heap);
        c->cap = cap;
    }
    return c->len++;
}

void smoe_sim_set(struct smoe_sim_clock *c, struct smoe_sim_event *event, uint64_t at_ns)
{
    if (at_ns < c->now_ns)
        at_ns = c->now_ns;
    if (event->place && c->heap[event->place - 1].at_ns == at_ns)
        return;
    if (at_ns == SMOE_SIM_NEVER) {
        smoe_sim_cancel(c, event);
        return;
    }
    size_t i = event->place ? event->place - 1 : take_place(c);
    c->heap[i] = (struct smoe_sim_due){at_ns, c->orders++, event};
    sift_up(c, i);
    sift_down(c, event->place - 1);
}

static void leave_first(struct smoe_sim_clock *c)
{
    c->first_is_free = false;
    c->heap[0] = c->heap[--c->len];
    if (c->len)
        sift_down(c, 0);
}

uint64_t smoe_sim_next_ns(const struct smoe_sim_clock *c)
{
    return c->len ? c->heap[0].at_ns : SMOE_SIM_NEVER;
}

bool smoe_sim_fire(struct smoe_sim_clock *c)
{
    if (!c->len)
        return false;
    struct smoe_sim_event *event = c->heap[0].event;
    c->now_ns = c->heap[0].at_ns;
    c->fired++;
    event->place = 0;
    c->first_is_free = true; /* nothing comes before what was due now: it stays the first */
    event->fire(event);
    if (c->first_is_free)
        leave_first(c);
    return true;
}
