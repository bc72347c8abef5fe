/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/report.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/json/json.h"
#include "stablemoe/error.h"
#include "stablemoe/version.h"

__attribute__((format(printf, 2, 0))) static struct smoe_row *new_row(struct smoe_report *r,
                                                                      const char *key, va_list args)
{
    smoe_assert(r->n_rows < SMOE_ROWS_MAX);
    struct smoe_row *row = &r->rows[r->n_rows++];
    *row = (struct smoe_row){.unit = ""};
    vsnprintf(row->key, sizeof row->key, key, args);
    row->floor = smoe_floor_find(row->key);
    return row;
}

__attribute__((format(printf, 4, 0))) static void add(struct smoe_report *r, const char *unit,
                                                      const struct smoe_sample *sample,
                                                      const char *key, va_list args)
{
    smoe_assert(sample->n > 0);
    struct smoe_row *row = new_row(r, key, args);
    row->unit = unit;
    row->spread = smoe_sample_spread(sample);
    row->n = sample->n;
}

void smoe_report_add(struct smoe_report *r, const char *unit, const struct smoe_sample *sample,
                     const char *key, ...)
{
    va_list args;
    va_start(args, key);
    add(r, unit, sample, key, args);
    va_end(args);
}

void smoe_report_value(struct smoe_report *r, const char *unit, double value, const char *key, ...)
{
    struct smoe_sample sample = {.n = 0};
    va_list args;
    smoe_sample_add(&sample, value);
    va_start(args, key);
    add(r, unit, &sample, key, args);
    va_end(args);
}

void smoe_report_left_out(struct smoe_report *r, const char *reason, const char *key, ...)
{
    va_list args;
    va_start(args, key);
    struct smoe_row *row = new_row(r, key, args);
    row->left_out = reason;
    va_end(args);
}

void smoe_report_note(struct smoe_report *r, const char *format, ...)
{
    va_list args;
    smoe_assert(r->n_notes < SMOE_NOTES_MAX);
    va_start(args, format);
    vsnprintf(r->notes[r->n_notes++], sizeof *r->notes, format, args);
    va_end(args);
}

/* NaN misses every floor. */
static bool missed(const struct smoe_row *row)
{
    if (!row->floor || row->left_out)
        return row->floor;
    return row->floor->at_most ? !(row->spread.median <= row->floor->bound)
                               : !(row->spread.median >= row->floor->bound);
}

unsigned smoe_report_missed(const struct smoe_report *r)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->n_rows; i++)
        n += missed(&r->rows[i]);
    return n;
}

/* Is there a row that it holds? */
static bool checked(const struct smoe_report *r, const struct smoe_floor *floor)
{
    for (unsigned i = 0; i < r->n_rows; i++)
        if (r->rows[i].floor == floor)
            return true;
    return false;
}

static void print_floor(const struct smoe_floor *floor, const char *verdict, FILE *out)
{
    fprintf(out, "%s %g%s", floor->at_most ? "<=" : ">=", floor->bound, verdict);
}

static void print_row(const struct smoe_row *row, FILE *out)
{
    char spread[40] = "";
    if (row->n > 1)
        snprintf(spread, sizeof spread, "%.4g .. %.4g", row->spread.low, row->spread.high);
    if (row->left_out)
        fprintf(out, "%-44s left out: %-36s ", row->key, row->left_out);
    else
        fprintf(out, "%-44s %12.5g %25s  %-9s ", row->key, row->spread.median, spread, row->unit);
    if (row->floor)
        print_floor(row->floor, missed(row) ? "  MISSED" : "", out);
    fputc('\n', out);
}

void smoe_report_print(const struct smoe_report *r, FILE *out)
{
    fprintf(out, "%-44s %12s %25s  %-9s %s\n", r->bench, "median", "quartiles", "unit", "demanded");
    for (unsigned i = 0; i < r->n_rows; i++)
        print_row(&r->rows[i], out);
    const struct smoe_floor *floor = NULL;
    while ((floor = smoe_floor_next(r->bench, floor)))
        if (!checked(r, floor)) {
            fprintf(out, "%-44s %-49s ", floor->key, "not measured");
            print_floor(floor, "  not checked\n", out);
        }
    for (unsigned i = 0; i < r->n_notes; i++)
        fprintf(out, "%s\n", r->notes[i]);
}

static cJSON *row_json(const struct smoe_row *row)
{
    cJSON *o = cJSON_CreateObject();
    smoe_json_add_text(o, "key", row->key);
    if (row->left_out) {
        smoe_json_add_text(o, "left_out", row->left_out);
    } else {
        smoe_json_add_text(o, "unit", row->unit);
        smoe_json_add(o, "median", cJSON_CreateNumber(row->spread.median));
        smoe_json_add(o, "low", cJSON_CreateNumber(row->spread.low));
        smoe_json_add(o, "high", cJSON_CreateNumber(row->spread.high));
        smoe_json_add(o, "rounds", cJSON_CreateNumber(row->n));
    }
    if (row->floor) {
        smoe_json_add(o, row->floor->at_most ? "at_most" : "at_least",
                      cJSON_CreateNumber(row->floor->bound));
        smoe_json_add_bool(o, "missed", missed(row));
    }
    return o;
}

int smoe_report_print_json(const struct smoe_report *r, bool quick, FILE *out)
{
    cJSON *o = cJSON_CreateObject();
    smoe_json_add_text(o, "bench", r->bench);
    smoe_json_add_text(o, "version", STABLEMOE_VERSION);
    smoe_json_add_bool(o, "quick", quick);
    cJSON *rows = smoe_json_add_array(o, "rows");
    for (unsigned i = 0; i < r->n_rows; i++)
        smoe_json_append(rows, row_json(&r->rows[i]));
    cJSON *not_checked = smoe_json_add_array(o, "not_checked");
    const struct smoe_floor *floor = NULL;
    while ((floor = smoe_floor_next(r->bench, floor)))
        if (!checked(r, floor))
            smoe_json_append(not_checked, cJSON_CreateString(floor->key));
    cJSON *notes = smoe_json_add_array(o, "notes");
    for (unsigned i = 0; i < r->n_notes; i++)
        smoe_json_append(notes, cJSON_CreateString(r->notes[i]));
    char *text = smoe_json_print(o);
    if (!text)
        return SMOE_ENOMEMORY;
    fprintf(out, "%s\n", text);
    free(text);
    return 0;
}
