/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *smoe_strerror(int code)
{
    switch (code) {
    case 0:
        return "success";
#define X(name, value, text) \
    case value:              \
        return text;
        SMOE_ERROR_MAP(X)
#undef X
    default:
        break;
    }
    const char *text = code < 0 && code > -1000 ? strerrordesc_np(-code) : NULL;
    return text ? text : "unknown error";
}

const char *smoe_error_name(int code)
{
    switch (code) {
#define X(name, value, text) \
    case value:              \
        return #name;
        SMOE_ERROR_MAP(X)
#undef X
    default:
        return NULL;
    }
}

static void replace_controls(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

void smoe_why_set(struct smoe_why *why, const char *format, ...)
{
    int saved = errno;
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
    replace_controls(why->text);
    errno = saved;
}

int smoe_fail_at(struct smoe_why *why, int code, const char *prefix, ...)
{
    char whole[2 * sizeof why->text + 2];
    va_list args;
    va_start(args, prefix);
    int n = vsnprintf(whole, sizeof why->text, prefix, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof why->text ? (size_t)n : sizeof why->text - 1;
    whole[len++] = ':';
    whole[len++] = ' ';
    memcpy(whole + len, why->text, strlen(why->text) + 1);
    whole[sizeof why->text - 1] = 0;
    memcpy(why->text, whole, strlen(whole) + 1);
    replace_controls(why->text);
    return code;
}
