/* SPDX-License-Identifier: Apache-2.0
 *
 * What all types share: values are stored as their own bytes with zeroed tails, so that comparing
 * and copying a field is comparing and copying memory. The types themselves: option_read.c and
 * option_write.c.
 */
#include "common/io/option.h"

#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "common/io/option_type.h"

/* The C type behind each option type, in SMOE_OPTION_AT's letters. */
static const char stores[] = {
    [SMOE_BOOL] = 'b',     [SMOE_U64] = 'u',      [SMOE_BYTES] = 'u', [SMOE_DOUBLE] = 'd',
    [SMOE_DURATION] = 'u', [SMOE_STRING] = 'c',   [SMOE_NAME] = 'c',  [SMOE_ENUM] = 'e',
    [SMOE_ADDRESS] = 'a',  [SMOE_ENDPOINT] = 'c', [SMOE_LIST] = 'l',
};

static int append(const char *text, struct smoe_option_list *list, struct smoe_why *why)
{
    if (list->len == SMOE_OPTION_LIST_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "given more than %d times", SMOE_OPTION_LIST_MAX);
    list->items[list->len++] = text;
    return 0;
}

static bool has_control(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return true;
    return false;
}

/* Texts and addresses without a default may be given as nothing: not set. */
static bool may_be_unset(const struct smoe_option *o)
{
    bool optional = !o->standard || !o->standard[0];
    return optional &&
           (o->type == SMOE_NAME || o->type == SMOE_ADDRESS || o->type == SMOE_ENDPOINT);
}

int smoe_option_parse(const struct smoe_option *o, const char *text, void *values,
                      struct smoe_why *why)
{
    void *field = (char *)values + o->offset;
    size_t n = strlen(text);
    if (o->type == SMOE_LIST)
        return append(text, field, why);
    if (n > SMOE_OPTION_VALUE_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "%zu bytes are more than %d", n, SMOE_OPTION_VALUE_MAX);
    if (has_control(text))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" holds a control character", text);
    union smoe_option_scratch scratch;
    memset(&scratch, 0, sizeof scratch);
    int rc = n == 0 && may_be_unset(o) ? 0 : smoe_option_readers[o->type](o, text, &scratch, why);
    if (rc)
        return rc;
    size_t width = o->size < sizeof scratch ? o->size : sizeof scratch;
    memset(field, 0, o->size); /* the tail too: values are compared as memory */
    memcpy(field, &scratch, width);
    return 0;
}

void smoe_option_format(const struct smoe_option *o, const void *values,
                        char ret_text[SMOE_OPTION_VALUE_MAX + 1])
{
    struct smoe_text t;
    smoe_text_init(&t, ret_text, SMOE_OPTION_VALUE_MAX + 1);
    smoe_option_writers[o->type](o, (const char *)values + o->offset, &t);
}

bool smoe_option_equal(const struct smoe_option *o, const void *a, const void *b)
{
    return memcmp((const char *)a + o->offset, (const char *)b + o->offset, o->size) == 0;
}

void smoe_option_copy(const struct smoe_option *o, const void *from, void *to)
{
    memcpy((char *)to + o->offset, (const char *)from + o->offset, o->size);
}

void smoe_options_defaults(const struct smoe_option *options, size_t len, void *values)
{
    for (size_t i = 0; i < len; i++) {
        const struct smoe_option *o = &options[i];
        struct smoe_why why;
        memset((char *)values + o->offset, 0, o->size);
        if (o->standard) {
            int rc = smoe_option_parse(o, o->standard, values, &why);
            smoe_assert(rc == 0);
        }
    }
}

/* The default is a value that could have been given. */
static void check_default(const struct smoe_option *o)
{
    char field[1 << 13];
    char text[SMOE_OPTION_VALUE_MAX + 1];
    struct smoe_why why;
    struct smoe_option here = *o;
    if (o->type == SMOE_LIST)
        return;
    here.offset = 0;
    smoe_assert(here.size <= sizeof field);
    smoe_options_defaults(&here, 1, field);
    smoe_option_format(&here, field, text);
    int rc = smoe_option_parse(&here, text, field, &why);
    smoe_assert(rc == 0);
}

static void check_one(const struct smoe_option *o)
{
    smoe_assert(o->type < sizeof stores);
    smoe_assert(o->store == stores[o->type]);
    smoe_assert(o->key && o->key[0] && strlen(o->key) <= 40);
    smoe_assert(!o->section || strlen(o->section) <= 40);
    smoe_assert(o->section ? o->type != SMOE_LIST : true);
    smoe_assert((o->type == SMOE_ENUM) == (o->choices != NULL));
    smoe_assert(o->type != SMOE_NAME || o->size == SMOE_NAME_MAX + 1);
    smoe_assert(o->max == 0 || o->min <= o->max);
    smoe_assert(o->help && o->help[0] && !strchr(o->help, '\n'));
    check_default(o);
}

void smoe_options_check(const struct smoe_option *options, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        check_one(&options[i]);
        for (size_t j = 0; j < i; j++) {
            const char *a = options[i].section ? options[i].section : "";
            const char *b = options[j].section ? options[j].section : "";
            smoe_assert(strcmp(a, b) != 0 || strcmp(options[i].key, options[j].key) != 0);
            bool apart = options[i].offset >= options[j].offset + options[j].size ||
                         options[j].offset >= options[i].offset + options[i].size;
            smoe_assert(apart);
        }
    }
}

unsigned smoe_option_distance(const char *a, const char *b)
{
    enum { LENGTH_MAX = 64 };
    size_t n = strlen(a), m = strlen(b);
    if (n > LENGTH_MAX || m > LENGTH_MAX)
        return 255;
    unsigned row[LENGTH_MAX + 1]; /* row[j]: distance of a[0..i) to b[0..j) */
    for (size_t j = 0; j <= m; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            unsigned shorter = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < shorter ? change : shorter;
        }
    }
    return row[m];
}
