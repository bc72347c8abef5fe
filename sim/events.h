/* SPDX-License-Identifier: Apache-2.0
 *
 * Virtual time: a heap of events, each the property of whoever embeds it. Nothing here knows a wall
 * clock; time moves only from one event to the next. Events of equal time fire in the order in which
 * they were set, so that a run is a function of its seed alone.
 *
 *     static void on_due(struct smoe_sim_event *event)
 *     {
 *         struct lane *lane = smoe_container_of(event, struct lane, due);
 *     }
 *     lane->due.fire = on_due;
 *     smoe_sim_set(clock, &lane->due, clock->now_ns + 1000);
 *
 * Out of memory ends the process, here and everywhere in sim/: a simulation that goes on without an
 * event would not be the one of its seed.
 */
#ifndef SMOE_SIM_EVENTS_H
#define SMOE_SIM_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SMOE_SIM_NEVER UINT64_MAX
#define SMOE_SIM_MS    UINT64_C(1000000)
#define SMOE_SIM_US    UINT64_C(1000)

/* All zero but `fire` is an event that is not set. */
struct smoe_sim_event {
    void (*fire)(struct smoe_sim_event *event);
    size_t place; /* 1 + its index in the heap; 0: not set */
};

/* When an event is due, beside it in the heap: to compare two the events need not be looked at. */
struct smoe_sim_due {
    uint64_t at_ns, order;
    struct smoe_sim_event *event;
};

struct smoe_sim_clock {
    uint64_t now_ns;
    uint64_t fired; /* events so far */
    uint64_t orders;
    struct smoe_sim_due *heap; /* owned; [len] of [cap], smallest first */
    size_t len, cap;
    bool first_is_free; /* while an event fires */
};

void smoe_sim_clock_init(struct smoe_sim_clock *clock, uint64_t now_ns);
/* Events that are still set are simply forgotten. */
void smoe_sim_clock_release(struct smoe_sim_clock *clock);

/* Fires at `at_ns`, or now if that is past; an event that is set already moves. SMOE_SIM_NEVER takes
 * it out. */
void smoe_sim_set(struct smoe_sim_clock *clock, struct smoe_sim_event *event, uint64_t at_ns);
void smoe_sim_cancel(struct smoe_sim_clock *clock, struct smoe_sim_event *event);

/* When the next event is due, SMOE_SIM_NEVER if there is none. */
uint64_t smoe_sim_next_ns(const struct smoe_sim_clock *clock);

/* Moves time to the next event and fires it; false if there is none. */
bool smoe_sim_fire(struct smoe_sim_clock *clock);

/* Memory of the simulator: zeroed, never NULL; not zeroed; `realloc` with the new part zeroed. */
void *smoe_sim_alloc(size_t count, size_t bytes);
void *smoe_sim_room(size_t bytes);
void *smoe_sim_grow(void *array, size_t old_count, size_t new_count, size_t bytes);

#endif
