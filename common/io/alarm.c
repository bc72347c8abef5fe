/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/alarm.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/base/assert.h"

#define SECOND_NS UINT64_C(1000000000)

static void on_expired(uv_poll_t *poll, int status, int events)
{
    struct smoe_alarm *alarm = poll->data;
    uint64_t expirations;
    (void)status, (void)events; /* a timer has no errors; a read that finds nothing says the same */
    if (read(alarm->fd, &expirations, sizeof expirations) == sizeof expirations)
        alarm->fired(alarm->context);
}

int smoe_alarm_init(struct smoe_alarm *alarm, uv_loop_t *loop, void (*fired)(void *context),
                    void *context)
{
    *alarm = (struct smoe_alarm){.context = context, .fired = fired};
    alarm->poll.data = alarm;
    alarm->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (alarm->fd < 0)
        return uv_translate_sys_error(errno);
    int rc = uv_poll_init(loop, &alarm->poll, alarm->fd);
    alarm->open = rc == 0;
    return rc ? rc : uv_poll_start(&alarm->poll, UV_READABLE, on_expired);
}

void smoe_alarm_set(struct smoe_alarm *alarm, uint64_t due_ns)
{
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(due_ns / SECOND_NS),
                                         .tv_nsec = (long)(due_ns % SECOND_NS)}};
    if (!due_ns)
        at.it_value.tv_nsec = 1; /* 0 would stop it */
    int rc = timerfd_settime(alarm->fd, TFD_TIMER_ABSTIME, &at, NULL);
    smoe_assert(rc == 0);
}

static void on_closed(uv_handle_t *handle)
{
    struct smoe_alarm *alarm = handle->data;
    close(alarm->fd);
    alarm->closed(alarm->context);
}

void smoe_alarm_close(struct smoe_alarm *alarm, void (*closed)(void *context))
{
    alarm->closed = closed;
    if (alarm->open) {
        uv_close((uv_handle_t *)&alarm->poll, on_closed);
        return;
    }
    if (alarm->fd >= 0)
        close(alarm->fd);
    closed(alarm->context);
}
