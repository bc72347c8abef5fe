/* SPDX-License-Identifier: Apache-2.0
 *
 * A table is made of texts first, so that a column can be as wide as its widest cell. The last column,
 * the experts, may be long: hosts of hundreds get the first ones and a count.
 */
#include "client/ctl/table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define CELL_BYTES    128 /* EXPERTS_SHOWN, one longest name more, and a count */
#define EXPERTS_SHOWN 40  /* bytes of a list of experts before the rest is counted */

enum {
    ID,
    STATE,
    SPEED,
    SHARE,
    BACKLOG,
    METER,
    ENERGY,
    WATTS,
    BUDGET,
    DEBT,
    ASKED,
    RUNS,
    DRIVER,
    HEAT,
    LINKS,
    DIRECT,
    EXPERTS,
    COLUMNS
};

static const struct {
    const char *title;
    bool left; /* aligned to the left: texts; numbers go to the right */
} columns[COLUMNS] = {
    [ID] = {"worker", true},      [STATE] = {"state", true},      [SPEED] = {"visits/s", false},
    [SHARE] = {"share", false},   [BACKLOG] = {"backlog", false}, [METER] = {"meter", true},
    [ENERGY] = {"energy", false}, [WATTS] = {"power", false},     [BUDGET] = {"budget", false},
    [DEBT] = {"debt", false},     [ASKED] = {"asked", false},     [RUNS] = {"runs at", false},
    [DRIVER] = {"driver", true},  [HEAT] = {"temp", false},       [LINKS] = {"links", false},
    [DIRECT] = {"direct", false}, [EXPERTS] = {"experts", true},
};

struct row {
    char cells[COLUMNS][CELL_BYTES];
};

/* The number under a key; false if there is none. */
static bool find_number(const cJSON *object, const char *key, double *ret)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item))
        return false;
    *ret = item->valuedouble;
    return true;
}

/* The same where 0 will do. */
static double number(const cJSON *object, const char *key)
{
    double value = 0;
    (void)find_number(object, key, &value);
    return value;
}

static const char *text(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) ? item->valuestring : "-";
}

/* Writes `scale` times the number under a key, "-" if there is none. */
static void put(char cell[CELL_BYTES], const cJSON *object, const char *key, int digits,
                double scale, const char *unit)
{
    double value;
    if (find_number(object, key, &value))
        snprintf(cell, CELL_BYTES, "%.*f%s", digits, scale * value, unit);
    else
        snprintf(cell, CELL_BYTES, "-");
}

/* Three digits are enough for people: 8.1 J, 812 J, 12.3 kJ. Energy nobody meters is not 0. */
static void put_joules(char cell[CELL_BYTES], const cJSON *worker, const char *key)
{
    bool metered = strcmp(text(worker, "energy_source"), "none") != 0;
    double joules = number(worker, key);
    if (joules >= 1e4)
        put(cell, worker, metered ? key : "", 1, 1e-3, " kJ");
    else
        put(cell, worker, metered ? key : "", joules < 100 ? 1 : 0, 1, " J");
}

/* Power as a meter saw it, "-" where there is none. */
static void put_watts(char cell[CELL_BYTES], const cJSON *worker)
{
    bool metered = strcmp(text(worker, "energy_source"), "none") != 0;
    put(cell, worker, metered ? "watts" : "", 2, 1, " W");
}

/* The first of these that is known. */
static void put_frequency(char cell[CELL_BYTES], const cJSON *worker, const char *key,
                          const char *otherwise)
{
    const char *known = number(worker, key) > 0 ? key : otherwise;
    put(cell, worker, number(worker, known) > 0 ? known : "", 2, 1e-6, " GHz");
}

/* "moe/0 moe/3 moe/5" as "moe/0,3,5"; more than fit are counted: "moe/0,1,2 +61". */
static void put_experts(char cell[CELL_BYTES], const cJSON *list)
{
    struct smoe_text t;
    const char *layer = NULL;
    size_t layer_len = 0;
    int left = cJSON_GetArraySize(list);
    const cJSON *item;
    smoe_text_init(&t, cell, CELL_BYTES);
    cJSON_ArrayForEach(item, list)
    {
        const char *name = cJSON_IsString(item) ? item->valuestring : "?";
        const char *slash = strrchr(name, '/');
        size_t n = slash ? (size_t)(slash - name) : 0;
        bool same = layer && slash && n == layer_len && strncmp(name, layer, n) == 0;
        if (t.len > EXPERTS_SHOWN)
            break;
        smoe_text_add(&t, same ? ",%s" : t.len ? " %s" : "%s", same ? slash + 1 : name);
        layer = slash ? name : NULL;
        layer_len = n;
        left--;
    }
    if (left > 0)
        smoe_text_add(&t, " +%d", left);
    else if (!t.len)
        smoe_text_add(&t, "-");
}

/* How many peers have a direct link, of how many, and the share of bytes that went over them; "-" without peers. */
static void put_links(struct row *row, const cJSON *worker)
{
    double up = number(worker, "links_up"), all = up + number(worker, "links_relayed");
    double direct = number(worker, "direct_bytes"),
           bytes = direct + number(worker, "relayed_bytes");
    if (all > 0)
        snprintf(row->cells[LINKS], CELL_BYTES, "%.0f/%.0f", up, all);
    else
        snprintf(row->cells[LINKS], CELL_BYTES, "-");
    put(row->cells[DIRECT], worker, bytes > 0 ? "direct_bytes" : "", 0, bytes > 0 ? 100 / bytes : 0,
        "%");
}

static void fill(struct row *row, const cJSON *worker, double all_visits)
{
    double percent = all_visits > 0 ? 100 / all_visits : 0;
    snprintf(row->cells[ID], CELL_BYTES, "%s", text(worker, "id"));
    bool drained = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(worker, "drained"));
    snprintf(row->cells[STATE], CELL_BYTES, "%s", drained ? "drained" : text(worker, "state"));
    put(row->cells[SPEED], worker, "visits_per_second", 0, 1, "");
    put(row->cells[SHARE], worker, "visits_done", 1, percent, "%");
    put(row->cells[BACKLOG], worker, "backlog_visits", 1, 1, "");
    put_joules(row->cells[ENERGY], worker, "joules");
    put_joules(row->cells[DEBT], worker, "energy_debt_j");
    snprintf(row->cells[METER], CELL_BYTES, "%s", text(worker, "energy_source"));
    put_watts(row->cells[WATTS], worker);
    put(row->cells[BUDGET], worker, "energy_budget_w", 2, 1, " W");
    put_frequency(row->cells[ASKED], worker, "freq_requested_khz", "freq_decided_khz");
    put_frequency(row->cells[RUNS], worker, "freq_achieved_khz", "freq_khz");
    snprintf(row->cells[DRIVER], CELL_BYTES, "%s", text(worker, "freq_driver"));
    put(row->cells[HEAT], worker, number(worker, "temperature_c") > 0 ? "temperature_c" : "", 0, 1,
        " C");
    put_links(row, worker);
    put_experts(row->cells[EXPERTS], cJSON_GetObjectItemCaseSensitive(worker, "experts"));
}

static int by_id(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    return strverscmp(x->cells[ID], y->cells[ID]);
}

static void print_rows(const struct row *rows, size_t n, FILE *to)
{
    int width[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
        width[c] = (int)strlen(columns[c].title);
        for (size_t r = 0; r < n; r++)
            if ((int)strlen(rows[r].cells[c]) > width[c])
                width[c] = (int)strlen(rows[r].cells[c]);
    }
    for (size_t r = 0; r <= n; r++)
        for (int c = 0; c < COLUMNS; c++) {
            const char *cell = r == 0 ? columns[c].title : rows[r - 1].cells[c];
            if (c == COLUMNS - 1)
                fprintf(to, "%s\n", cell);
            else
                fprintf(to, "%*s  ", columns[c].left ? -width[c] : width[c], cell);
        }
}

int smoe_ctl_print_workers(const cJSON *answer, FILE *to)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(answer, "workers"), *worker;
    size_t n = (size_t)cJSON_GetArraySize(list), i = 0;
    struct row *rows = calloc(n + 1, sizeof *rows);
    double all_visits = 0;
    if (!rows)
        return SMOE_ENOMEMORY;
    cJSON_ArrayForEach(worker, list) all_visits += number(worker, "visits_done");
    cJSON_ArrayForEach(worker, list) fill(&rows[i++], worker, all_visits);
    qsort(rows, n, sizeof *rows, by_id);
    print_rows(rows, n, to);
    if (!n)
        fprintf(to, "(no workers)\n");
    free(rows);
    return 0;
}

static void print_trainer(const cJSON *trainer, FILE *to)
{
    const char *waits = text(trainer, "waits_for");
    bool connected = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(trainer, "connected"));
    fprintf(to, "trainer %s: %s, step %.0f, %.0f visits in flight, %.0f failed%s%s\n",
            text(trainer, "name"), connected ? "connected" : "gone", number(trainer, "step"),
            number(trainer, "in_flight"), number(trainer, "failed"),
            *waits && *waits != '-' ? ", waits for " : "", *waits == '-' ? "" : waits);
}

/* Only layers whose router is frozen have something to say. */
static void print_router(const cJSON *layer, FILE *to)
{
    const cJSON *router = cJSON_GetObjectItemCaseSensitive(layer, "router");
    if (cJSON_IsObject(router))
        fprintf(to, "layer %s: router %.0f is frozen: a %s of %.0f, digest %s\n",
                text(layer, "layer"), number(router, "version"),
                strcmp(text(router, "kind"), "table") == 0 ? "table" : "linear map",
                number(router, "inputs"), text(router, "digest"));
}

void smoe_ctl_print_gateway(const cJSON *answer, FILE *to)
{
    const cJSON *ledger = cJSON_GetObjectItemCaseSensitive(answer, "ledger"), *trainer, *layer;
    bool draining = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(answer, "draining"));
    fprintf(to, "stablemoed %s on %s, up %.0f s%s: policy %s, V %g, mu %g\n",
            text(answer, "version"), text(answer, "listen"), number(answer, "uptime_s"),
            draining ? ", draining" : "", text(answer, "policy"), number(answer, "v"),
            number(answer, "mu"));
    fprintf(to,
            "slots %.0f (late p50 %.2f ms, p99 %.2f ms), steps %.0f; visits: %.0f submitted, "
            "%.0f settled, %.0f failed, %.0f in flight\n",
            number(answer, "slot"), number(answer, "slot_lateness_p50_ms"),
            number(answer, "slot_lateness_p99_ms"), number(answer, "steps"),
            number(ledger, "submitted"), number(ledger, "settled"), number(ledger, "failed"),
            number(ledger, "in_flight"));
    cJSON_ArrayForEach(trainer, cJSON_GetObjectItemCaseSensitive(answer, "trainers"))
        print_trainer(trainer, to);
    cJSON_ArrayForEach(layer, cJSON_GetObjectItemCaseSensitive(answer, "layers"))
        print_router(layer, to);
}
