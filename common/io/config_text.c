/* SPDX-License-Identifier: Apache-2.0
 *
 * What people read of a configuration: the dump, the manual's table, and the names of options that
 * a reload could not change. No line of a dump is longer than the loader takes.
 */
#include <inttypes.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/text.h"
#include "common/io/config.h"

#define COLUMNS  96  /* of a wrapped comment */
#define PATH_END 150 /* bytes of a path's end that an origin shows */

/* ---- dump ---- */

/* `# ` and the text, broken at blanks. */
static void comment(FILE *out, const char *text)
{
    size_t column = 0;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column > 0 && column + 1 + word > COLUMNS) {
            fputc('\n', out);
            column = 0;
        }
        fputs(column == 0 ? "# " : " ", out);
        fwrite(text, 1, word, out);
        column += 1 + word;
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void origin_text(const struct smoe_config *c, size_t i, char *ret_text, size_t cap)
{
    const struct smoe_config_origin *origin = &c->origins[i];
    switch (origin->source) {
    case SMOE_CONFIG_DEFAULT:
        snprintf(ret_text, cap, "default");
        return;
    case SMOE_CONFIG_ENVIRONMENT:
        snprintf(ret_text, cap, "environment");
        return;
    case SMOE_CONFIG_SET:
        snprintf(ret_text, cap, "--set");
        return;
    case SMOE_CONFIG_FILE:
        break;
    }
    const char *path = c->files[origin->file];
    size_t n = strlen(path);
    bool cut = n > PATH_END;
    snprintf(ret_text, cap, "%s%s:%u", cut ? "..." : "", path + (cut ? n - PATH_END : 0),
             origin->line);
}

static void dump_option(const struct smoe_config *c, size_t i, FILE *out)
{
    const struct smoe_option *o = &c->options[i];
    char value[SMOE_OPTION_VALUE_MAX + 1], range[200], line[512];
    smoe_option_range(o, range, sizeof range);
    snprintf(line, sizeof line, "%s.", o->help);
    comment(out, line);
    snprintf(line, sizeof line, "Value: %s. Default: %s. %s.", range, smoe_option_default(o),
             o->reloadable ? "Takes effect at reload" : "Needs a restart");
    comment(out, line);
    origin_text(c, i, line, sizeof line);
    fprintf(out, "# From: %s\n", line);
    smoe_option_format(o, c->values, value);
    fprintf(out, "%s =%s%s\n", o->key, value[0] ? " " : "", value);
}

/* True for the first row of its section; rows of a section need not stand together. */
static bool opens_section(const struct smoe_option *options, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (strcmp(options[j].section, options[i].section) == 0)
            return false;
    return true;
}

void smoe_config_dump(const struct smoe_config *c, const char *title, FILE *out)
{
    comment(out, title);
    for (size_t i = 0; i < c->options_len; i++) {
        if (!opens_section(c->options, i))
            continue;
        fprintf(out, "\n[%s]\n", c->options[i].section);
        for (size_t j = i; j < c->options_len; j++) {
            if (strcmp(c->options[j].section, c->options[i].section) != 0)
                continue;
            fputc('\n', out);
            dump_option(c, j, out);
        }
    }
}

/* ---- manual ---- */

static void cell(FILE *out, const char *text)
{
    fputs(" ", out);
    for (; *text; text++) {
        if (*text == '|')
            fputc('\\', out);
        fputc(*text, out);
    }
    fputs(" |", out);
}

static void markdown_row(const struct smoe_option *o, FILE *out)
{
    char text[200];
    fputs("|", out);
    snprintf(text, sizeof text, "`%s`", o->key);
    cell(out, text);
    smoe_option_range(o, text, sizeof text);
    cell(out, text);
    snprintf(text, sizeof text, "`%s`", smoe_option_default(o));
    cell(out, text);
    cell(out, o->reloadable ? "reload" : "restart");
    cell(out, o->help);
    fputs("\n", out);
}

void smoe_config_markdown(const struct smoe_option *options, size_t options_len, FILE *out)
{
    for (size_t i = 0; i < options_len; i++) {
        if (!opens_section(options, i))
            continue;
        fprintf(out, "%s### [%s]\n\n| key | value | default | takes effect | meaning |\n",
                i ? "\n" : "", options[i].section);
        fputs("|---|---|---|---|---|\n", out);
        for (size_t j = i; j < options_len; j++)
            if (strcmp(options[j].section, options[i].section) == 0)
                markdown_row(&options[j], out);
    }
}

/* ---- reload ---- */

void smoe_config_apply(struct smoe_config *c, const struct smoe_config *fresh,
                       struct smoe_config_changes *ret)
{
    smoe_assert(c->options == fresh->options && c->options_len == fresh->options_len);
    struct smoe_text names;
    *ret = (struct smoe_config_changes){0};
    smoe_text_init(&names, ret->names, sizeof ret->names - sizeof "...");
    for (size_t i = 0; i < c->options_len; i++) {
        const struct smoe_option *o = &c->options[i];
        if (smoe_option_equal(o, c->values, fresh->values))
            continue;
        if (o->reloadable) {
            smoe_option_copy(o, fresh->values, c->values);
            ret->applied++;
        } else {
            smoe_text_add(&names, "%s%s.%s", ret->kept ? ", " : "", o->section, o->key);
            ret->kept++;
        }
    }
    if (names.cut)
        memcpy(ret->names + names.len, "...", sizeof "...");
}
