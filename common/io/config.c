/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading: defaults into the values, then each source in turn overwrites some of them, and the
 * origin of every option says which one had the last word.
 *
 * inih does the INI syntax; three of its habits (Debian's build) are turned around here:
 *   - it splits lines over 199 bytes silently and gives handlers no line numbers, so the lines come
 *     from our own reader, which counts and refuses;
 *   - it joins indented lines to the value above, so indentation is taken off before it looks;
 *   - it goes on after an error, so the reader ends the file at the first one.
 *
 * A key given twice in one file is refused (one of the two is a mistake); in a drop-in, or in the
 * environment, it overrides. Everything allocated hangs off `struct smoe_config` at once, and any
 * failure leaves through smoe_config_release.
 */
#include "common/io/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/io/file.h"

/* One file being read. */
struct reading {
    struct smoe_config *c;
    const char *path; /* borrowed: c->files[file] */
    unsigned file;
    const char *at; /* the next line */
    const char *end;
    unsigned line; /* the number of the line last handed to inih */
    int rc;        /* the first error, with its sentence in `why` */
    struct smoe_why *why;
};

/* ---- names ---- */

static size_t find(const struct smoe_config *c, const char *section, const char *key)
{
    for (size_t i = 0; i < c->options_len; i++)
        if (strcmp(c->options[i].section, section) == 0 && strcmp(c->options[i].key, key) == 0)
            return i;
    return c->options_len;
}

/* The option whose key, or whose section, is nearest to `name`; of one section, or of all if it is
 * NULL. A table has at least one row. */
static const struct smoe_option *nearest(const struct smoe_config *c, const char *section,
                                         const char *name, bool by_section)
{
    const struct smoe_option *best = &c->options[0];
    unsigned least = UINT_MAX;
    for (size_t i = 0; i < c->options_len; i++) {
        const struct smoe_option *o = &c->options[i];
        if (section && strcmp(o->section, section) != 0)
            continue;
        unsigned d = smoe_option_distance(name, by_section ? o->section : o->key);
        if (d < least) {
            least = d;
            best = o;
        }
    }
    return best;
}

static int unknown(const struct smoe_config *c, const char *section, const char *key,
                   struct smoe_why *why)
{
    if (!section[0])
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" stands before any [section]", key);
    const struct smoe_option *like = nearest(c, NULL, section, true);
    if (strcmp(like->section, section) != 0)
        return smoe_fail(why, SMOE_ECONFIG, "no section [%s]; nearest is [%s]", section,
                         like->section);
    like = nearest(c, NULL, key, false);
    if (strcmp(like->key, key) == 0)
        return smoe_fail(why, SMOE_ECONFIG, "no key \"%s\" in [%s]; it belongs to [%s]", key,
                         section, like->section);
    like = nearest(c, section, key, false);
    return smoe_fail(why, SMOE_ECONFIG, "no key \"%s\" in [%s]; nearest is \"%s\"", key, section,
                     like->key);
}

/* ---- files ---- */

static int set_from_file(struct reading *r, const char *section, const char *key, const char *value)
{
    struct smoe_config *c = r->c;
    size_t i = find(c, section, key);
    if (i == c->options_len)
        return unknown(c, section, key, r->why);
    struct smoe_config_origin *origin = &c->origins[i];
    if (origin->source == SMOE_CONFIG_FILE && origin->file == r->file)
        return smoe_fail(r->why, SMOE_ECONFIG, "%s.%s: given before, on line %u", section, key,
                         origin->line);
    int rc = smoe_option_parse(&c->options[i], value, c->values, r->why);
    if (rc)
        return smoe_fail_at(r->why, rc, "%s.%s", section, key);
    *origin =
        (struct smoe_config_origin){.source = SMOE_CONFIG_FILE, .file = r->file, .line = r->line};
    return 0;
}

static void stop(struct reading *r, int rc)
{
    r->rc = smoe_fail_at(r->why, rc, "%s:%u", r->path, r->line);
}

/* inih's handler: 0 is an error. */
static int on_value(void *user, const char *section, const char *key, const char *value)
{
    struct reading *r = user;
    int rc = set_from_file(r, section, key, value);
    if (rc)
        stop(r, rc);
    return rc == 0;
}

/* inih's reader, like fgets: the next line without its indentation, or NULL at the end. */
static char *next_line(char *line, int cap, void *user)
{
    struct reading *r = user;
    if (r->rc || r->at == r->end)
        return NULL;
    const char *newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
    const char *end = newline ? newline : r->end;
    const char *start = r->at;
    size_t n = (size_t)(end - start);
    r->at = newline ? newline + 1 : r->end;
    r->line++;
    smoe_assert(cap > SMOE_CONFIG_LINE_MAX);
    if (n > SMOE_CONFIG_LINE_MAX) {
        stop(r, smoe_fail(r->why, SMOE_ECONFIG, "line of %zu bytes is longer than %d", n,
                          SMOE_CONFIG_LINE_MAX));
        return NULL;
    }
    if (memchr(start, 0, n)) {
        stop(r, smoe_fail(r->why, SMOE_ECONFIG, "line holds a NUL byte"));
        return NULL;
    }
    while (n > 0 && (*start == ' ' || *start == '\t')) {
        start++;
        n--;
    }
    memcpy(line, start, n);
    line[n] = 0;
    return line;
}

static int parse_text(struct smoe_config *c, const char *text, size_t len, struct smoe_why *why)
{
    unsigned file = (unsigned)(c->files_len - 1);
    struct reading r = {
        .c = c, .path = c->files[file], .file = file, .at = text, .end = text + len, .why = why};
    int bad_line = ini_parse_stream(next_line, &r, on_value, &r);
    /* inih names the first line it could not take: ours, if on_value refused it, or a syntax error
     * before it, whose sentence then is the one that counts. */
    if (bad_line > 0 && (r.rc == 0 || (unsigned)bad_line < r.line)) {
        r.line = (unsigned)bad_line;
        stop(&r, smoe_fail(why, SMOE_ECONFIG, "neither [section] nor key = value nor # comment"));
    }
    return r.rc;
}

/* Keeps the path; origins refer to it by its place in `files`. */
static int remember(struct smoe_config *c, const char *path, struct smoe_why *why)
{
    if (c->files_len == SMOE_CONFIG_FILES_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "%s: more than %d files", path, SMOE_CONFIG_FILES_MAX);
    char *copy = strdup(path);
    if (!copy)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", path);
    c->files[c->files_len++] = copy;
    return 0;
}

static int load_file(struct smoe_config *c, const char *path, bool required, struct smoe_why *why)
{
    char *text = NULL;
    size_t len = 0;
    int rc = smoe_file_read(AT_FDCWD, path, SMOE_CONFIG_FILE_MAX, &text, &len, why);
    if (rc == -ENOENT && !required)
        return 0;
    if (rc)
        return rc;
    rc = remember(c, path, why);
    if (rc == 0)
        rc = parse_text(c, text, len, why);
    free(text);
    return rc;
}

static int is_drop_in(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return entry->d_name[0] != '.' && n > 5 && strcmp(entry->d_name + n - 5, ".conf") == 0;
}

/* By byte, whatever the locale: 10-a before 9-b, as run-parts and systemd order theirs. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int load_drop_ins(struct smoe_config *c, const char *file, struct smoe_why *why)
{
    char path[PATH_MAX];
    struct dirent **entries = NULL;
    int n = snprintf(path, sizeof path, "%s.d", file);
    if (n < 0 || (size_t)n >= sizeof path)
        return smoe_fail(why, -ENAMETOOLONG, "%s.d: name too long", file);
    int count = scandir(path, &entries, is_drop_in, by_name);
    if (count < 0)
        return errno == ENOENT ? 0 : smoe_fail(why, -errno, "%s: %s", path, smoe_strerror(-errno));
    int rc = 0;
    for (int i = 0; i < count; i++) {
        n = snprintf(path, sizeof path, "%s.d/%s", file, entries[i]->d_name);
        if (rc == 0 && (size_t)n >= sizeof path)
            rc = smoe_fail(why, -ENAMETOOLONG, "%s.d: name too long", file);
        if (rc == 0)
            rc = load_file(c, path, true, why);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

/* ---- environment and command line ---- */

/* STABLEMOE_SECTION_KEY */
static void variable_of(const struct smoe_option *o, char *ret_name, size_t cap)
{
    snprintf(ret_name, cap, "%s_%s_%s", SMOE_CONFIG_ENV, o->section, o->key);
    for (char *p = ret_name; *p; p++) {
        if (*p >= 'a' && *p <= 'z')
            *p = (char)(*p - 'a' + 'A');
        else if (*p == '-' || *p == '.')
            *p = '_';
    }
}

/* A variable that starts like one of our sections but names none of its keys is a mistake; other
 * STABLEMOE_ variables belong to somebody else (a build, a test). */
static int unknown_variable(const struct smoe_config *c, const char *name, size_t len,
                            struct smoe_why *why)
{
    char given[128], known[128];
    snprintf(given, sizeof given, "%.*s", (int)len, name);
    bool ours = false;
    const struct smoe_option *like = &c->options[0];
    unsigned least = UINT_MAX;
    for (size_t i = 0; i < c->options_len; i++) {
        const struct smoe_option *o = &c->options[i];
        variable_of(o, known, sizeof known);
        size_t prefix = sizeof SMOE_CONFIG_ENV + strlen(o->section) + 1;
        ours = ours || (len > prefix && strncmp(known, given, prefix) == 0);
        unsigned d = smoe_option_distance(given, known);
        if (d < least) {
            least = d;
            like = o;
        }
    }
    if (!ours)
        return 0;
    variable_of(like, known, sizeof known);
    return smoe_fail(why, SMOE_ECONFIG, "environment: no option behind %s; nearest is %s", given,
                     known);
}

static int load_variable(struct smoe_config *c, const char *entry, struct smoe_why *why)
{
    const char *equals = strchr(entry, '=');
    if (!equals || strncmp(entry, SMOE_CONFIG_ENV "_", sizeof SMOE_CONFIG_ENV) != 0)
        return 0;
    size_t len = (size_t)(equals - entry);
    for (size_t i = 0; i < c->options_len; i++) {
        char name[128];
        variable_of(&c->options[i], name, sizeof name);
        if (strlen(name) != len || memcmp(name, entry, len) != 0)
            continue;
        int rc = smoe_option_parse(&c->options[i], equals + 1, c->values, why);
        if (rc)
            return smoe_fail_at(why, rc, "environment: %s", name);
        c->origins[i] = (struct smoe_config_origin){.source = SMOE_CONFIG_ENVIRONMENT};
        return 0;
    }
    return unknown_variable(c, entry, len, why);
}

static int load_set(struct smoe_config *c, const char *text, struct smoe_why *why)
{
    char section[64], key[64];
    const char *equals = strchr(text, '=');
    const char *dot = strchr(text, '.');
    if (!equals || !dot || dot > equals || dot - text >= (int)sizeof section ||
        equals - dot > (int)sizeof key)
        return smoe_fail(why, SMOE_ECONFIG, "--set: \"%s\" is not section.key=value", text);
    snprintf(section, sizeof section, "%.*s", (int)(dot - text), text);
    snprintf(key, sizeof key, "%.*s", (int)(equals - dot - 1), dot + 1);
    size_t i = find(c, section, key);
    if (i == c->options_len)
        return smoe_fail_at(why, unknown(c, section, key, why), "--set");
    int rc = smoe_option_parse(&c->options[i], equals + 1, c->values, why);
    if (rc)
        return smoe_fail_at(why, rc, "--set %s.%s", section, key);
    c->origins[i] = (struct smoe_config_origin){.source = SMOE_CONFIG_SET};
    return 0;
}

/* ---- the whole ---- */

static int load_all(struct smoe_config *c, const struct smoe_config_sources *from,
                    struct smoe_why *why)
{
    int rc = 0;
    if (from->file) {
        rc = load_file(c, from->file, from->file_required, why);
        if (rc == 0)
            rc = load_drop_ins(c, from->file, why);
    }
    for (size_t i = 0; rc == 0 && from->environment && from->environment[i]; i++)
        rc = load_variable(c, from->environment[i], why);
    for (size_t i = 0; rc == 0 && from->sets && i < from->sets->len; i++)
        rc = load_set(c, from->sets->items[i], why);
    return rc;
}

int smoe_config_load(struct smoe_config *c, const struct smoe_option *options, size_t options_len,
                     void *values, const struct smoe_config_sources *from, struct smoe_why *why)
{
    smoe_assert(options_len > 0);
    *c = (struct smoe_config){.options = options, .options_len = options_len, .values = values};
    c->origins = calloc(options_len, sizeof *c->origins);
    c->files = calloc(SMOE_CONFIG_FILES_MAX, sizeof *c->files);
    if (!c->origins || !c->files) {
        smoe_config_release(c);
        return smoe_fail(why, SMOE_ENOMEMORY, "configuration: out of memory");
    }
    smoe_options_defaults(options, options_len, values);
    int rc = load_all(c, from, why);
    if (rc)
        smoe_config_release(c);
    return rc;
}

void smoe_config_release(struct smoe_config *c)
{
    for (size_t i = 0; c->files && i < c->files_len; i++)
        free(c->files[i]);
    free(c->files);
    free(c->origins);
    *c = (struct smoe_config){0};
}
