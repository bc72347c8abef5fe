/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice of a meter, and the worker's share of what it says.
 */
#include "client/worker/shell/meter.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define STILL_NS \
    UINT64_C(2000000000) /* of the worker's CPU time without a joule: the meter is dead */

const char *const smoe_meter_names[] = {"auto", "rapl", "hwmon", "model", NULL};

uint64_t smoe_meter_advance(uint64_t before, uint64_t now, uint64_t range)
{
    if (now >= before)
        return now - before;
    return range >= before ? range - before + now : 0; /* else its owner set it back */
}

double smoe_meter_share(uint64_t own_ns, uint64_t host_ns)
{
    if (!own_ns)
        return 0;
    return own_ns >= host_ns ? 1 : (double)own_ns / (double)host_ns;
}

static uint64_t own_busy_ns(void)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u))
        return 0;
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* First line of /proc/stat: user nice system idle iowait irq softirq steal, in ticks. 0: hidden from us,
 * and then the machine is ours as far as we know. */
static uint64_t host_busy_ns(void)
{
    uint64_t t[7] = {0};
    long hz = sysconf(_SC_CLK_TCK);
    FILE *f = fopen("/proc/stat", "r");
    if (!f)
        return 0;
    int n = fscanf(
        f, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
        &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6]);
    (void)fclose(f);
    if (n != 7 || hz <= 0)
        return 0;
    return (t[0] + t[1] + t[2] + t[5] + t[6]) * (UINT64_C(1000000000) / (uint64_t)hz);
}

/* ---- the choice ---- */

static int try_driver(struct smoe_meter *m, const struct smoe_meter_driver *driver,
                      struct smoe_why *why)
{
    double joules;
    int rc = driver->open(m, why);
    if (rc == 0) {
        m->driver = driver;
        return driver->read(m, 0, &joules); /* the base of the differences to come */
    }
    size_t len = strlen(m->note);
    snprintf(m->note + len, sizeof m->note - len, "%s%s: %.70s", len ? "; " : "", driver->name,
             why->text);
    return rc;
}

int smoe_meter_init(struct smoe_meter *m, enum smoe_meter_kind kind, const char *helper,
                    struct smoe_why *why)
{
    int rc = 0;
    *m = (struct smoe_meter){.helper = helper, .opened = true};
    smoe_meter_sensors_init();
    m->own_busy_ns = own_busy_ns();
    m->host_busy_ns = host_busy_ns();
    if (kind == SMOE_METER_AUTO || kind == SMOE_METER_RAPL)
        rc = try_driver(m, &smoe_meter_rapl, why);
    if (!m->driver && (kind == SMOE_METER_AUTO || kind == SMOE_METER_HWMON))
        rc = try_driver(m, &smoe_meter_hwmon, why);
    if (m->driver || kind == SMOE_METER_AUTO || kind == SMOE_METER_MODEL)
        return 0;
    return smoe_fail(why, rc, "--energy-meter %s", m->note);
}

void smoe_meter_release(struct smoe_meter *m)
{
    if (m->driver)
        m->driver->close(m);
    m->driver = NULL;
    if (m->opened)
        smoe_meter_sensors_release();
    m->opened = false;
}

const char *smoe_meter_source(const struct smoe_meter *m)
{
    return m->driver ? m->driver->name : "";
}

double smoe_meter_read(struct smoe_meter *m, uint64_t now_ns)
{
    double joules = 0;
    if (!m->driver)
        return m->joules;
    int rc = m->driver->read(m, now_ns, &joules);
    uint64_t own = own_busy_ns(), host = host_busy_ns();
    if (rc || !(joules > 0)) {
        m->lost |= rc || own - m->own_busy_ns > STILL_NS;
        return m->joules;
    }
    m->lost = false;
    m->joules += joules * smoe_meter_share(own - m->own_busy_ns,
                                           host > m->host_busy_ns ? host - m->host_busy_ns : 0);
    m->own_busy_ns = own;
    m->host_busy_ns = host;
    return m->joules;
}
