/* SPDX-License-Identifier: Apache-2.0
 *
 * Sensors of the board, through libsensors. It keeps one state a process, for whoever asks and without a
 * lock: so it is counted who uses it, and asked under a mutex.
 *
 * Power: of all power sensors the one that reads most at the beginning is taken for the whole board's,
 * because a board's total is no less than that of any of its parts. Energy is the mean of two readings
 * times the time between.
 */
#include <errno.h>
#include <pthread.h>
#include <sensors/sensors.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/shell/meter.h"

#define GAP_NS_MAX UINT64_C(10000000000) /* across a longer one nobody knows what was drawn */

struct hwmon {
    const sensors_chip_name *chip;
    int feature;      /* number of the subfeature that is the reading */
    double watts;     /* the last one */
    uint64_t read_ns; /* 0: none yet */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned users; /* of libsensors' state, which is there while there is one */
static bool ready;     /* it could be made */

void smoe_meter_sensors_init(void)
{
    pthread_mutex_lock(&mutex);
    if (users++ == 0)
        ready = sensors_init(NULL) == 0;
    pthread_mutex_unlock(&mutex);
}

void smoe_meter_sensors_release(void)
{
    pthread_mutex_lock(&mutex);
    if (--users == 0) {
        if (ready)
            sensors_cleanup();
        ready = false;
    }
    pthread_mutex_unlock(&mutex);
}

/* A reading, or a negative number. */
static int read_value(const sensors_chip_name *chip, int feature, double *ret)
{
    pthread_mutex_lock(&mutex);
    int rc = sensors_get_value(chip, feature, ret);
    pthread_mutex_unlock(&mutex);
    return rc;
}

/* ---- power ---- */

/* Number of the subfeature to read for this feature's power, -1 if it has none. */
static int power_of(const sensors_chip_name *chip, const sensors_feature *feature)
{
    const sensors_subfeature *sub = NULL;
    if (feature->type == SENSORS_FEATURE_POWER) {
        sub = sensors_get_subfeature(chip, feature, SENSORS_SUBFEATURE_POWER_AVERAGE);
        if (!sub)
            sub = sensors_get_subfeature(chip, feature, SENSORS_SUBFEATURE_POWER_INPUT);
    }
    return sub ? sub->number : -1;
}

static void find_power(struct hwmon *s)
{
    const sensors_chip_name *chip;
    const sensors_feature *feature;
    int c = 0;
    while ((chip = sensors_get_detected_chips(NULL, &c))) {
        int f = 0;
        while ((feature = sensors_get_features(chip, &f))) {
            double watts;
            int number = power_of(chip, feature);
            if (number < 0 || sensors_get_value(chip, number, &watts) || !(watts >= 0) ||
                (s->chip && watts <= s->watts))
                continue;
            *s = (struct hwmon){.chip = chip, .feature = number, .watts = watts};
        }
    }
}

static void hwmon_close(struct smoe_meter *m)
{
    free(m->state);
    m->state = NULL;
}

static int hwmon_open(struct smoe_meter *m, struct smoe_why *why)
{
    struct hwmon *s = calloc(1, sizeof *s);
    if (!s)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    m->state = s;
    pthread_mutex_lock(&mutex);
    if (ready)
        find_power(s);
    pthread_mutex_unlock(&mutex);
    if (s->chip)
        return 0;
    hwmon_close(m);
    return smoe_fail(why, -ENOENT, "no power sensor");
}

static int hwmon_read(struct smoe_meter *m, uint64_t now_ns, double *ret_joules)
{
    struct hwmon *s = m->state;
    double watts;
    if (read_value(s->chip, s->feature, &watts) || !(watts >= 0 && watts < 1e6))
        return -EIO;
    uint64_t gap_ns = s->read_ns && now_ns > s->read_ns ? now_ns - s->read_ns : 0;
    *ret_joules = gap_ns > GAP_NS_MAX ? 0 : (watts + s->watts) / 2 * (double)gap_ns * 1e-9;
    s->watts = watts;
    s->read_ns = now_ns;
    return 0;
}

const struct smoe_meter_driver smoe_meter_hwmon = {
    .name = "hwmon",
    .open = hwmon_open,
    .read = hwmon_read,
    .close = hwmon_close,
};

/* ---- temperature ---- */

/* Drivers of processors' own sensors; a disk may be hotter, and is not cooled by computing less. */
static bool is_processor(const sensors_chip_name *chip)
{
    static const char *const names[] = {"coretemp", "k10temp", "zenpower",
                                        "cpu",      "soc",     "via_cputemp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(chip->prefix, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static double hottest(bool processors_only)
{
    const sensors_chip_name *chip;
    const sensors_feature *feature;
    double most = 0;
    int c = 0;
    while ((chip = sensors_get_detected_chips(NULL, &c))) {
        int f = 0;
        while ((feature = sensors_get_features(chip, &f))) {
            double celsius;
            const sensors_subfeature *sub =
                sensors_get_subfeature(chip, feature, SENSORS_SUBFEATURE_TEMP_INPUT);
            if (sub && (!processors_only || is_processor(chip)) &&
                !sensors_get_value(chip, sub->number, &celsius) && celsius > most && celsius < 1000)
                most = celsius;
        }
    }
    return most;
}

double smoe_meter_celsius(void)
{
    pthread_mutex_lock(&mutex);
    double celsius = ready ? hottest(true) : 0;
    if (ready && celsius <= 0)
        celsius = hottest(false);
    pthread_mutex_unlock(&mutex);
    return celsius;
}
