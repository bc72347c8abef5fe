/* SPDX-License-Identifier: Apache-2.0
 *
 * Values as text, and what a value may be. Whatever is written here reads back as the same value.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/io/option_type.h"

const struct smoe_option_scale smoe_option_durations[] = {
    {"h", UINT64_C(3600000000000)},
    {"min", UINT64_C(60000000000)},
    {"s", 1000000000},
    {"ms", 1000000},
    {"us", 1000},
    {"ns", 1},
    {NULL, 0},
};
const struct smoe_option_scale smoe_option_sizes[] = {
    {"GiB", UINT64_C(1) << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}, {NULL, 0},
};

/* A whole number of the largest unit that divides it. */
static void add_scaled(struct smoe_text *t, uint64_t v, const struct smoe_option_scale *scale)
{
    while (scale[1].suffix && (v == 0 || v % scale->factor != 0))
        scale++;
    smoe_text_add(t, "%" PRIu64 "%s", v / scale->factor, scale->suffix);
}

/* The shortest decimal that reads back as the same double; whole numbers without an exponent. */
static void add_double(struct smoe_text *t, double v)
{
    char text[40];
    if (v > -1e15 && v < 1e15 && (double)(int64_t)v == v) { /* exact: is it whole? */
        smoe_text_add(t, "%.0f", v);
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        double back;
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (smoe_parse_double(text, &back) && back == v)
            break;
    }
    smoe_text_add(t, "%s", text);
}

static void write_bool(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    smoe_text_add(t, *(const bool *)field ? "yes" : "no");
}

static void write_u64(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    smoe_text_add(t, "%" PRIu64, *(const uint64_t *)field);
}

static void write_bytes(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    add_scaled(t, *(const uint64_t *)field, smoe_option_sizes);
}

static void write_duration(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    add_scaled(t, *(const uint64_t *)field, smoe_option_durations);
}

static void write_double(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    add_double(t, *(const double *)field);
}

static void write_text(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    smoe_text_add(t, "%s", (const char *)field);
}

static void write_enum(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    smoe_text_add(t, "%s", o->choices[*(const unsigned *)field]);
}

static void write_address(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    const struct smoe_addr *addr = field;
    if (addr->sa.sa_family == AF_UNSPEC)
        return; /* not set */
    char text[SMOE_ADDR_TEXT_MAX];
    smoe_addr_format(addr, text);
    smoe_text_add(t, "%s", text);
}

static void write_list(const struct smoe_option *o, const void *field, struct smoe_text *t)
{
    (void)o;
    const struct smoe_option_list *list = field;
    for (size_t i = 0; i < list->len; i++)
        smoe_text_add(t, "%s%s", i ? " " : "", list->items[i]);
}

const smoe_option_writer smoe_option_writers[] = {
    [SMOE_BOOL] = write_bool,     [SMOE_U64] = write_u64,           [SMOE_BYTES] = write_bytes,
    [SMOE_DOUBLE] = write_double, [SMOE_DURATION] = write_duration, [SMOE_STRING] = write_text,
    [SMOE_NAME] = write_text,     [SMOE_ENUM] = write_enum,         [SMOE_ADDRESS] = write_address,
    [SMOE_ENDPOINT] = write_text, [SMOE_LIST] = write_list,
};

/* ---- what a value may be ---- */

static bool is_number(enum smoe_option_type type)
{
    return type == SMOE_U64 || type == SMOE_BYTES || type == SMOE_DOUBLE || type == SMOE_DURATION;
}

/* A limit in the option's own writing. */
static void add_limit(struct smoe_text *t, const struct smoe_option *o, double limit)
{
    if (o->type == SMOE_DOUBLE) {
        add_double(t, limit);
    } else {
        uint64_t whole = (uint64_t)limit;
        if (o->type == SMOE_BYTES)
            write_bytes(o, &whole, t);
        else if (o->type == SMOE_DURATION)
            write_duration(o, &whole, t);
        else
            write_u64(o, &whole, t);
    }
}

static void add_number_range(struct smoe_text *t, const struct smoe_option *o)
{
    if (o->max != 0) { /* exact: the table's own constant */
        add_limit(t, o, o->min);
        smoe_text_add(t, " .. ");
        add_limit(t, o, o->max);
    } else if (o->min > 0) {
        add_limit(t, o, o->min);
        smoe_text_add(t, " or more");
    } else {
        smoe_text_add(t, o->type == SMOE_DOUBLE     ? "any number"
                         : o->type == SMOE_BYTES    ? "any size"
                         : o->type == SMOE_DURATION ? "any duration"
                                                    : "any whole number");
    }
    if (o->unit)
        smoe_text_add(t, " %s", o->unit);
}

static void add_choices(struct smoe_text *t, const struct smoe_option *o)
{
    for (size_t i = 0; o->choices[i]; i++)
        smoe_text_add(t, "%s%s", i == 0 ? "" : o->choices[i + 1] ? ", " : " or ", o->choices[i]);
}

void smoe_option_range(const struct smoe_option *o, char *ret_text, size_t cap)
{
    struct smoe_text t;
    smoe_text_init(&t, ret_text, cap);
    if (is_number(o->type))
        add_number_range(&t, o);
    else if (o->type == SMOE_ENUM)
        add_choices(&t, o);
    else if (o->type == SMOE_BOOL)
        smoe_text_add(&t, "yes or no");
    else if (o->type == SMOE_NAME)
        smoe_text_add(&t, "at most %d of A-Z a-z 0-9 . _ -", SMOE_NAME_MAX);
    else if (o->type == SMOE_ADDRESS)
        smoe_text_add(&t, "ADDR:PORT, [V6]:PORT or :PORT");
    else if (o->type == SMOE_ENDPOINT)
        smoe_text_add(&t, "HOST:PORT or [V6]:PORT");
    else if (o->type == SMOE_STRING)
        smoe_text_add(&t, "at most %zu bytes",
                      o->size - 1 < SMOE_OPTION_VALUE_MAX ? o->size - 1 : SMOE_OPTION_VALUE_MAX);
    else
        smoe_text_add(&t, "may be given up to %d times", SMOE_OPTION_LIST_MAX);
}

const char *smoe_option_default(const struct smoe_option *o)
{
    if (o->standard && o->standard[0])
        return o->standard;
    if (o->type == SMOE_BOOL)
        return "no";
    if (o->type == SMOE_ENUM)
        return o->choices[0];
    return is_number(o->type) ? "0" : "none";
}
