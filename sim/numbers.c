/* SPDX-License-Identifier: Apache-2.0
 *
 * A list is read as a range if it holds `..`, else as words. A file is read word by word; words are
 * short, so that a file that is none of ours is refused at its first line.
 */
#include "sim/numbers.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/detmath.h"
#include "common/base/rng.h"
#include "common/base/text.h"
#include "sim/events.h"
#include "sim/scenario.h"

#define WORD_MAX 40

/* ---- lists ---- */

static bool read_ends(const char *text, double *ret_from, double *ret_to)
{
    char from[SMOE_SCENARIO_LIST_MAX];
    const char *dots = strstr(text, "..");
    if (!dots)
        return false;
    memcpy(from, text, (size_t)(dots - text));
    from[dots - text] = 0;
    return smoe_parse_double(from, ret_from) && smoe_parse_double(dots + 2, ret_to);
}

static bool read_range(const struct smoe_number_list *list, double *ret)
{
    double a, b;
    if (!read_ends(list->text, &a, &b))
        return false;
    for (uint64_t i = 0; i < list->n; i++)
        ret[i] = list->n > 1 ? a + (b - a) * (double)i / (double)(list->n - 1) : a;
    return true;
}

static bool read_random(const struct smoe_number_list *list, double *ret)
{
    struct smoe_rng rng;
    uint64_t stream = 0;
    double a, b;
    if (*list->text != '~' || !read_ends(list->text + 1, &a, &b) || !(a > 0 && b >= a))
        return false;
    for (const char *c = list->key; *c; c++)
        stream = smoe_mix64(stream + (unsigned char)*c);
    smoe_rng_init(&rng, list->seed, stream);
    for (uint64_t i = 0; i < list->n; i++)
        ret[i] = a * smoe_exp(smoe_rng_unit(&rng) * smoe_log(b / a));
    return true;
}

static bool read_words(const char *text, uint64_t n, double *ret)
{
    char word[SMOE_SCENARIO_LIST_MAX];
    uint64_t len = 0;
    while (*text && len < n) {
        size_t w = strcspn(text, " ");
        memcpy(word, text, w);
        word[w] = 0;
        if (w && !smoe_parse_double(word, &ret[len++]))
            return false;
        text += w;
        text += strspn(text, " ");
    }
    for (uint64_t i = len; len && i < n; i++)
        ret[i] = ret[i - len];
    return len > 0;
}

int smoe_numbers_list(const struct smoe_number_list *list, double *ret, struct smoe_why *why)
{
    if (!read_random(list, ret) && !read_range(list, ret) && !read_words(list->text, list->n, ret))
        return smoe_fail(why, SMOE_ECONFIG, "%s: \"%s\" is neither numbers nor FROM..TO", list->key,
                         list->text);
    for (uint64_t i = 0; i < list->n; i++)
        if (!(ret[i] > list->above))
            return smoe_fail(why, SMOE_ECONFIG, "%s: \"%s\": all must be above %g", list->key,
                             list->text, list->above);
    return 0;
}

/* ---- files ---- */

/* The next word; false at the end. A word too long is cut, and then no number. */
static bool next_word(FILE *file, char word[WORD_MAX])
{
    int c = fgetc(file);
    size_t len = 0;
    while (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',' || c == '#') {
        while (c == '#' && (c = fgetc(file)) != EOF && c != '\n')
            c = '#';
        c = fgetc(file);
    }
    for (; c != EOF && !strchr(" \t\n\r,#", c); c = fgetc(file))
        if (len < WORD_MAX - 1)
            word[len++] = (char)c;
    if (c == '#')
        ungetc(c, file);
    word[len] = 0;
    return len > 0;
}

static int read_file(const char *key, const char *path, FILE *file, double **values,
                     uint64_t *ret_n, struct smoe_why *why)
{
    char word[WORD_MAX];
    uint64_t n = 0, cap = 0;
    for (; next_word(file, word); n++) {
        if (n == cap) {
            uint64_t more = cap ? 2 * cap : 1024;
            *values = smoe_sim_grow(*values, cap, more, sizeof **values);
            cap = more;
        }
        if (n == SMOE_NUMBERS_MAX)
            return smoe_fail(why, SMOE_ECONFIG, "%s: %s: more than %u numbers", key, path,
                             SMOE_NUMBERS_MAX);
        if (!smoe_parse_double(word, &(*values)[n]))
            return smoe_fail(why, SMOE_ECONFIG, "%s: %s: \"%s\" is not a number", key, path, word);
    }
    *ret_n = n;
    return 0;
}

int smoe_numbers_file(const char *key, const char *path, size_t columns, double **ret,
                      uint64_t *ret_rows, struct smoe_why *why)
{
    double *values = NULL;
    uint64_t n = 0;
    FILE *file = fopen(path, "r");
    if (!file)
        return smoe_fail(why, -errno, "%s: %s: %s", key, path, strerror(errno));
    int rc = read_file(key, path, file, &values, &n, why);
    if (rc == 0 && ferror(file))
        rc = smoe_fail(why, -EIO, "%s: %s: cannot be read", key, path);
    (void)fclose(file);
    if (rc == 0 && (n == 0 || n % columns))
        rc = smoe_fail(why, SMOE_ECONFIG, "%s: %s: %llu numbers are not rows of %zu", key, path,
                       (unsigned long long)n, columns);
    if (rc) {
        free(values);
        return rc;
    }
    *ret = values;
    *ret_rows = n / columns;
    return 0;
}
