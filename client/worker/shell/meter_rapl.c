/* SPDX-License-Identifier: Apache-2.0
 *
 * RAPL, through libpowercap. Top-level zones named package-N are summed: core and uncore lie within them,
 * psys around them. The counters are microjoules, and go on from 0 after max_energy_range_uj, which
 * takes minutes at the earliest. The kernel opens them for root only; the helper hands over a
 * descriptor where we may not.
 */
#include <errno.h>
#include <fcntl.h>
#include <powercap.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/worker/shell/meter.h"
#include "common/io/freqlink.h"

#define CONTROL "intel-rapl" /* AMD's too: the kernel kept the name */

struct zone {
    powercap_zone files; /* only energy_uj is open */
    uint64_t range_uj, last_uj;
};

struct rapl {
    uint32_t n;
    struct zone zones[SMOE_FREQ_ZONE_MAX + 1]; /* [n] */
};

static int open_file(uint32_t zone, powercap_zone_file file)
{
    powercap_zone unused;
    int fd = powercap_zone_file_open(&unused, file, CONTROL, &zone, 1, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static bool is_package(uint32_t zone, bool *ret_exists)
{
    char name[64] = "";
    powercap_zone files = {.name = open_file(zone, POWERCAP_ZONE_FILE_NAME)};
    *ret_exists = files.name >= 0;
    if (files.name < 0)
        return false;
    ssize_t n = powercap_zone_get_name(&files, name, sizeof name);
    close(files.name);
    return n > 0 && strncmp(name, "package", 7) == 0;
}

static int range_of(uint32_t zone, uint64_t *ret_uj)
{
    int fd = open_file(zone, POWERCAP_ZONE_FILE_MAX_ENERGY_RANGE_UJ);
    powercap_zone files = {.max_energy_range_uj = fd};
    if (fd < 0)
        return fd;
    int rc = powercap_zone_get_max_energy_range_uj(&files, ret_uj) ? -EIO : 0;
    close(fd);
    return rc;
}

/* From the helper; the link lives no longer than the question. */
static int borrow_counter(const char *helper, uint32_t zone)
{
    struct smoe_freq_answer answer;
    int descriptor = -1, link = smoe_freqlink_open(helper);
    if (link < 0)
        return link;
    smoe_freqlink_patience(link, SMOE_FREQLINK_START_MS);
    int rc = smoe_freqlink_ask(
        link, (struct smoe_freq_request){.kind = SMOE_FREQ_COUNTER, .subject = zone}, &answer,
        &descriptor);
    close(link);
    if (rc == 0 && answer.error)
        rc = answer.error;
    return rc ? rc : descriptor >= 0 ? descriptor : -EPROTO;
}

static int open_zone(struct rapl *s, const char *helper, uint32_t zone)
{
    struct zone *it = &s->zones[s->n];
    int rc = range_of(zone, &it->range_uj);
    if (rc)
        return rc;
    int fd = open_file(zone, POWERCAP_ZONE_FILE_ENERGY_UJ);
    if (fd == -EACCES)
        fd = borrow_counter(helper, zone);
    if (fd < 0)
        return fd;
    it->files.energy_uj = fd;
    s->n++;
    return powercap_zone_get_energy_uj(&it->files, &it->last_uj) ? -EIO : 0;
}

static void rapl_close(struct smoe_meter *m)
{
    struct rapl *s = m->state;
    for (uint32_t i = 0; s && i < s->n; i++)
        close(s->zones[i].files.energy_uj);
    free(s);
    m->state = NULL;
}

static int rapl_open(struct smoe_meter *m, struct smoe_why *why)
{
    struct rapl *s = calloc(1, sizeof *s);
    bool exists = true;
    int rc = 0;
    if (!s)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    m->state = s;
    for (uint32_t zone = 0; rc == 0 && exists && zone <= SMOE_FREQ_ZONE_MAX; zone++)
        if (is_package(zone, &exists))
            rc = open_zone(s, m->helper, zone);
    if (rc == 0 && s->n)
        return 0;
    rapl_close(m);
    if (rc == 0)
        return smoe_fail(why, -ENOENT, "no counters");
    return smoe_fail(why, rc, "%s", smoe_strerror(rc));
}

/* All of them or none: where one cannot be read now, the others' joules are still to come. */
static int rapl_read(struct smoe_meter *m, uint64_t now_ns, double *ret_joules)
{
    struct rapl *s = m->state;
    uint64_t now_uj[SMOE_FREQ_ZONE_MAX + 1];
    double uj = 0;
    (void)now_ns; /* energy, not power */
    for (uint32_t i = 0; i < s->n; i++)
        if (powercap_zone_get_energy_uj(&s->zones[i].files, &now_uj[i]))
            return -EIO;
    for (uint32_t i = 0; i < s->n; i++) {
        struct zone *it = &s->zones[i];
        uj += (double)smoe_meter_advance(it->last_uj, now_uj[i], it->range_uj);
        it->last_uj = now_uj[i];
    }
    *ret_joules = uj * 1e-6;
    return 0;
}

const struct smoe_meter_driver smoe_meter_rapl = {
    .name = "rapl",
    .open = rapl_open,
    .read = rapl_read,
    .close = rapl_close,
};
