/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal is for what a commit needs and is written by a thread of its own; budgets change when somebody
 * types, are a few lines, and an operator may want to read them. So they are a text file, replaced whole.
 * The gateway is told first, because it alone knows whether there is room, and told back what was if the
 * file still says that. What is in force is what the next start will read, unless the power fails before.
 */
#include "daemon/shell/budgets.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/io/clock.h"
#include "common/io/file.h"

#define FILE_NAME  "budgets"
#define WATTS_MAX  1e6
#define WATTS_MIN  1e-3
#define LINE_BYTES (SMOE_NAME_MAX + 32)

/* False if it is no budget. "off" is +inf. */
static bool read_watts(const char *text, double *ret)
{
    char *end;
    if (!strcmp(text, "off")) {
        *ret = (double)INFINITY;
        return true;
    }
    if (!*text || strspn(text, "0123456789.eE+-") != strlen(text))
        return false; /* strtod knows more words and blanks than an operator should */
    *ret = strtod(text, &end);
    return !*end && *ret >= WATTS_MIN && *ret <= WATTS_MAX;
}

/* ---- the file ---- */

static int load_line(struct smoe_gateway *gw, char *line, unsigned number, struct smoe_why *why)
{
    double watts;
    char *blank = strchr(line, ' ');
    if (!blank || blank == line || blank - line > SMOE_NAME_MAX || !read_watts(blank + 1, &watts))
        return smoe_fail(why, SMOE_EDATA, "%s:%u: expected the name of a worker and its watts",
                         FILE_NAME, number);
    *blank = 0;
    int rc = smoe_gateway_set_budget(gw, line, watts, smoe_clock_monotonic_ns());
    return rc ? smoe_fail(why, rc, "%s:%u: more lines than fleet.workers_max", FILE_NAME, number)
              : 0;
}

int smoe_budgets_load(struct smoe_gateway *gw, int dir, struct smoe_why *why)
{
    char *data, *rest = NULL;
    size_t n;
    int rc = smoe_file_read(dir, FILE_NAME, (size_t)SMOE_WORKERS_MAX * LINE_BYTES, &data, &n, why);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (strlen(data) != n)
        rc = smoe_fail(why, SMOE_EDATA, "%s: is not text", FILE_NAME);
    unsigned number = 0;
    for (char *line = strtok_r(data, "\n", &rest); line && rc == 0;
         line = strtok_r(NULL, "\n", &rest))
        rc = load_line(gw, line, ++number, why);
    free(data);
    return rc;
}

static int save(const struct smoe_gateway *gw, int dir, bool *ret_replaced, struct smoe_why *why)
{
    const struct smoe_fleet *fleet = smoe_core_fleet(smoe_gateway_core(gw));
    size_t cap = (size_t)fleet->n_budgets * LINE_BYTES + 1, n = 0;
    char *text = malloc(cap);
    *ret_replaced = false;
    if (!text)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", FILE_NAME);
    for (uint32_t i = 0; i < fleet->n_budgets; i++)
        n += (size_t)snprintf(text + n, cap - n, "%s %.9g\n", fleet->budgets[i].worker,
                              fleet->budgets[i].watts);
    int rc = smoe_file_replace(dir, FILE_NAME, text, n, ret_replaced, why);
    free(text);
    return rc;
}

/* ---- the command ---- */

int smoe_budgets_set(struct smoe_gateway *gw, int dir, const char *worker_id, const char *text,
                     struct smoe_why *why)
{
    const struct smoe_fleet *fleet = smoe_core_fleet(smoe_gateway_core(gw));
    uint64_t now_ns = smoe_clock_monotonic_ns();
    double watts, before = smoe_fleet_budget(fleet, worker_id);
    uint32_t unused;
    if (!read_watts(text, &watts))
        return smoe_fail(why, SMOE_EFIELD, "\"%.40s\" is no budget: watts, %g to %g, or off", text,
                         WATTS_MIN, WATTS_MAX);
    if (!smoe_fleet_find(fleet, worker_id, &unused) && isinf(before))
        return smoe_fail(why, SMOE_EUNKNOWN, "no worker \"%.63s\"", worker_id);
    int rc = smoe_gateway_set_budget(gw, worker_id, watts, now_ns);
    if (rc)
        return smoe_fail(why, rc, "%u workers have budgets of their own already", fleet->n_budgets);
    bool replaced;
    rc = save(gw, dir, &replaced, why);
    if (rc && replaced)
        return smoe_fail_at(why, rc, "set, but a power cut may undo it");
    if (rc)
        (void)smoe_gateway_set_budget(gw, worker_id, before, now_ns);
    return rc;
}
