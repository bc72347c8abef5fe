/* SPDX-License-Identifier: Apache-2.0
 *
 * A daemon's configuration, from one option table. Later sources win over earlier ones:
 *
 *     defaults  <  FILE  <  FILE.d/ *.conf in lexical order  <  STABLEMOE_SECTION_KEY  <  --set
 *
 * Every mistake is refused with one sentence that names the place, the key, the value and the limit:
 * `/etc/stablemoe/stablemoed.conf:12: routing.slot: "5s" lies outside 1ms .. 1s`. Nothing is guessed:
 * an unknown key is an error that names the nearest known one.
 *
 * A reload builds a second object the same way; smoe_config_apply moves over what may change.
 */
#ifndef SMOE_IO_CONFIG_H
#define SMOE_IO_CONFIG_H

#include <stdio.h>

#include "common/io/option.h"

#define SMOE_CONFIG_LINE_MAX  199 /* bytes of a line; Debian's inih splits longer ones silently */
#define SMOE_CONFIG_FILE_MAX  (1u << 20)  /* bytes of one file */
#define SMOE_CONFIG_FILES_MAX 64          /* the main file and its drop-ins */
#define SMOE_CONFIG_ENV       "STABLEMOE" /* prefix of environment variables */

enum smoe_config_source {
    SMOE_CONFIG_DEFAULT,
    SMOE_CONFIG_FILE,
    SMOE_CONFIG_ENVIRONMENT,
    SMOE_CONFIG_SET,
};

/* Where an option's value came from. */
struct smoe_config_origin {
    enum smoe_config_source source;
    unsigned file; /* SMOE_CONFIG_FILE: index into smoe_config.files */
    unsigned line; /* of that file, from 1; 0: not set by the file being read */
};

/* What to load; everything is borrowed for the length of the call. */
struct smoe_config_sources {
    const char *file;                    /* NULL: no file and no drop-ins */
    bool file_required;                  /* a missing FILE is an error (the operator named it) */
    const char *const *environment;      /* `NAME=value`, NULL at the end; NULL: none */
    const struct smoe_option_list *sets; /* `section.key=value`; NULL: none */
};

/* Invariants: `origins` has `options_len` entries; `files` the paths that were read, in order. */
struct smoe_config {
    const struct smoe_option *options; /* borrowed, static */
    size_t options_len;
    void *values;                       /* the program's struct, borrowed */
    struct smoe_config_origin *origins; /* owned, [options_len] */
    char **files;                       /* owned, [files_len], each owned */
    size_t files_len;
};

/* Fills `values` (a zeroed struct of the program's) from all sources. On failure the object is
 * released and `values` is to be thrown away. SMOE_ECONFIG, SMOE_ENOMEMORY, or an errno of a file
 * that cannot be read. */
int smoe_config_load(struct smoe_config *c, const struct smoe_option *options, size_t options_len,
                     void *values, const struct smoe_config_sources *from, struct smoe_why *why);
void smoe_config_release(struct smoe_config *c);

/* The outcome of a reload. */
struct smoe_config_changes {
    unsigned applied; /* reloadable options that took a new value */
    unsigned kept;    /* options that differ but need a restart */
    char names[200];  /* the kept ones, `a.b, c.d`; ends in `...` if they do not fit */
};

/* Takes the reloadable values of `fresh`, which was loaded from the same table, into `c`; the others
 * keep their value and are named. `origins` stay those of the first load. */
void smoe_config_apply(struct smoe_config *c, const struct smoe_config *fresh,
                       struct smoe_config_changes *ret);

/* Writes the configuration in force as an INI file that loads back to the same values; comments
 * give help, range, default and origin. `title` is the first comment. */
void smoe_config_dump(const struct smoe_config *c, const char *title, FILE *out);

/* The table as markdown, one heading a section, for docs and manuals. */
void smoe_config_markdown(const struct smoe_option *options, size_t options_len, FILE *out);

#endif
