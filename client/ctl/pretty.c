/* SPDX-License-Identifier: Apache-2.0 */
#include "client/ctl/pretty.h"

#include <stdbool.h>
#include <string.h>

#define SHORT 72 /* bytes of a container that may stay on one line */

/* Bytes of the string literal that begins at `at`, its quotes included. */
static size_t string_length(const char *at)
{
    size_t n = 1;
    while (at[n] && at[n] != '"')
        n += at[n] == '\\' && at[n + 1] ? 2 : 1;
    return n + (at[n] == '"');
}

/* Bytes of the container that begins at `at`, or 0 if it is long, holds another, or does not end. */
static size_t flat_length(const char *at)
{
    size_t n = 1;
    while (n < SHORT && at[n]) {
        if (at[n] == '{' || at[n] == '[')
            return 0;
        if (at[n] == '}' || at[n] == ']')
            return n + 1;
        n += at[n] == '"' ? string_length(at + n) : 1;
    }
    return 0;
}

static void new_line(FILE *to, unsigned depth)
{
    fprintf(to, "\n%*s", (int)(2 * depth), "");
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Prints n bytes that stay on one line. */
static void print_flat(const char *text, size_t n, FILE *to)
{
    for (size_t i = 0; i < n;) {
        size_t piece = text[i] == '"' ? string_length(text + i) : 1;
        if (!is_blank(text[i]))
            fwrite(text + i, 1, piece, to);
        if (text[i] == ':' || text[i] == ',')
            fputc(' ', to);
        i += piece;
    }
}

void smoe_ctl_pretty(const char *json, FILE *to)
{
    unsigned depth = 0;
    for (const char *at = json; *at;) {
        size_t piece = *at == '"' ? string_length(at) : 1;
        size_t flat = *at == '{' || *at == '[' ? flat_length(at) : 0;
        if (flat) {
            print_flat(at, flat, to);
            at += flat;
            continue;
        }
        if ((*at == '}' || *at == ']') && depth)
            new_line(to, --depth);
        if (!is_blank(*at))
            fwrite(at, 1, piece, to);
        if (*at == '{' || *at == '[')
            new_line(to, ++depth);
        else if (*at == ',')
            new_line(to, depth);
        else if (*at == ':')
            fputc(' ', to);
        at += piece;
    }
    fputc('\n', to);
}
