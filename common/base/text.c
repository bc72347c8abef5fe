/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"

void smoe_text_init(struct smoe_text *t, char *buf, size_t cap)
{
    smoe_assert(cap > 0);
    *t = (struct smoe_text){.buf = buf, .cap = cap};
    buf[0] = 0;
}

void smoe_text_add(struct smoe_text *t, const char *format, ...)
{
    if (t->cut)
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->buf + t->len, t->cap - t->len, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= t->cap - t->len) {
        t->buf[t->len] = 0;
        t->cut = true;
        return;
    }
    t->len += (size_t)n;
}

bool smoe_name_copy(char ret_name[64], const char *name)
{
    size_t n = strnlen(name, SMOE_NAME_MAX + 1);
    if (n > SMOE_NAME_MAX)
        return false;
    memcpy(ret_name, name, n + 1);
    return true;
}

bool smoe_name_valid(const char *name, size_t len)
{
    if (len == 0 || len > SMOE_NAME_MAX || name[0] == '-' || name[0] == '.')
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}

bool smoe_parse_u64(const char *text, uint64_t *ret)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end)
        return false;
    *ret = v;
    return true;
}

/* A number and what follows it; plain decimal only (strtod alone would take hex, inf and nan). */
static bool parse_decimal(const char *text, double *ret, const char **ret_end)
{
    size_t n = strspn(text, "0123456789.eE+-");
    if (n == 0 || n > 63 || !strpbrk(text, "0123456789"))
        return false;
    char copy[64];
    memcpy(copy, text, n);
    copy[n] = 0;
    char *end;
    errno = 0;
    double v = strtod(copy, &end);
    if (end == copy || *end || !isfinite(v) || (errno == ERANGE && (v > 1 || v < -1)))
        return false;
    *ret = v;
    *ret_end = text + n;
    return true;
}

bool smoe_parse_double(const char *text, double *ret)
{
    const char *end;
    double v;
    if (!parse_decimal(text, &v, &end) || *end)
        return false;
    *ret = v;
    return true;
}

bool smoe_parse_bytes(const char *text, uint64_t *ret)
{
    static const struct {
        const char *suffix;
        double scale;
    } units[] = {{"", 1}, {"B", 1}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
    const char *end;
    double v;
    if (!parse_decimal(text, &v, &end) || v < 0)
        return false;
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].suffix) != 0)
            continue;
        if (v * units[i].scale > 0x1p53)
            return false;
        *ret = (uint64_t)(v * units[i].scale);
        return true;
    }
    return false;
}
