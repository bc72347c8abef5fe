/* SPDX-License-Identifier: Apache-2.0
 *
 * A timer on a libuv loop that fires at an absolute time, to the accuracy of the kernel's clock. libuv's
 * own count whole milliseconds from the loop's idea of now, which stretches a slot of 1 ms to 2.
 */
#ifndef SMOE_IO_ALARM_H
#define SMOE_IO_ALARM_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct smoe_alarm {
    uv_poll_t poll;
    int fd;
    bool open; /* `poll` is a handle that must be closed */
    void *context;
    void (*fired)(void *context);
    void (*closed)(void *context);
};

/* Takes caller's memory and returns 0 or a libuv error; smoe_alarm_close must follow in both cases. */
int smoe_alarm_init(struct smoe_alarm *alarm, uv_loop_t *loop, void (*fired)(void *context),
                    void *context);

/* `fired` is called once, from the loop, when smoe_clock_monotonic_ns() has reached `due_ns`, also when
 * that is past. A time set before and not yet reached is forgotten. */
void smoe_alarm_set(struct smoe_alarm *alarm, uint64_t due_ns);

/* It fires no more. `closed` gets the context when the memory is free to go. */
void smoe_alarm_close(struct smoe_alarm *alarm, void (*closed)(void *context));

#endif
