/* SPDX-License-Identifier: Apache-2.0
 *
 * One option of a program, as a row of a table. The same row says how its text is read, what it may
 * be, where the value goes, and how help, dumps and manuals describe it, so that none of these can
 * disagree. A config file key and a command line option are the same kind of thing; config.h and
 * cli.h each drive a table of these rows.
 *
 *     struct settings { uint64_t slot_ns; };
 *     static const struct smoe_option table[] = {
 *         {"routing", "slot", SMOE_DURATION, .standard = "20ms", .min = 1e6, .max = 1e9,
 *          .help = "length of a slot", SMOE_OPTION_AT(struct settings, slot_ns)},
 *     };
 */
#ifndef SMOE_IO_OPTION_H
#define SMOE_IO_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/io/addr.h"

#define SMOE_OPTION_VALUE_MAX \
    150                         /* bytes of a value's text, so that `key = value` is one INI line */
#define SMOE_OPTION_LIST_MAX 32 /* items of a SMOE_LIST */

enum smoe_option_type {
    SMOE_BOOL,     /* bool: yes, no (also true/false, on/off, 1/0) */
    SMOE_U64,      /* uint64_t */
    SMOE_BYTES,    /* uint64_t: 4096, 64KiB, 1.5MiB, 2GiB */
    SMOE_DOUBLE,   /* double, finite */
    SMOE_DURATION, /* uint64_t in ns; the text carries its unit: ns, us, ms, s, min, h */
    SMOE_STRING,   /* char[n]: printable text of at most n - 1 bytes, without ` ;` */
    SMOE_NAME,     /* char[SMOE_NAME_MAX + 1]: [A-Za-z0-9._-] */
    SMOE_ENUM,     /* unsigned or an enum: an index into `choices` */
    SMOE_ADDRESS,  /* struct smoe_addr: where to listen, numeric; min and max bound the port */
    SMOE_ENDPOINT, /* char[n]: HOST:PORT to connect to, kept as text because names may move */
    SMOE_LIST,     /* struct smoe_option_list: texts in the order given (command line only) */
};

/* Borrowed texts, as they came. */
struct smoe_option_list {
    const char *items[SMOE_OPTION_LIST_MAX];
    size_t len;
};

struct smoe_option {
    const char *section; /* INI section; NULL for a command line option */
    const char *key;     /* name inside the section, or the long option without "--" */
    enum smoe_option_type type;
    const char *standard;       /* the default as text; NULL: zero, false or empty */
    double min;                 /* inclusive, in the stored unit; min = max = 0: no limits, */
    double max;                 /* max = 0 with min > 0: no upper limit. Exact up to 2^53 */
    const char *unit;           /* of a bare number, for people ("tokens"); NULL: none */
    const char *const *choices; /* SMOE_ENUM: names in order, NULL at the end */
    const char *help;           /* one or two sentences without a final stop */
    bool reloadable;            /* takes effect at SIGHUP; others need a restart */
    size_t offset;              /* of the field in the program's struct ... */
    size_t size;                /* ... its size, */
    char store;                 /* and its C type, as SMOE_OPTION_AT saw it */
};

/* Binds a row to a field. The field's C type is recorded, so that smoe_options_check can refuse a
 * SMOE_DOUBLE that would be written into a uint64_t. */
#define SMOE_OPTION_AT(type, member) \
    .offset = offsetof(type, member), .size = sizeof(((type *)0)->member),                  \
    .store = _Generic(&((type *)0)->member, bool * : 'b', uint64_t * : 'u', double * : 'd', \
                      unsigned * : 'e', struct smoe_addr * : 'a',                           \
                      struct smoe_option_list * : 'l', default : 'c')

/* Reads `text` into the option's field of `values`, which is unchanged on failure. The sentence
 * quotes the text and names the limit: `"5s" lies outside 1ms .. 1s`. SMOE_ECONFIG. */
int smoe_option_parse(const struct smoe_option *o, const char *text, void *values,
                      struct smoe_why *why);

/* Writes every default. The table is ours, so a default that does not parse is an assertion. */
void smoe_options_defaults(const struct smoe_option *options, size_t len, void *values);

/* The value in `values` as text that smoe_option_parse takes back to the same value. */
void smoe_option_format(const struct smoe_option *o, const void *values,
                        char ret_text[SMOE_OPTION_VALUE_MAX + 1]);

/* What the option may be, for people: `1ms .. 1s`, `lyapunov, topk or random`, `yes or no`. */
void smoe_option_range(const struct smoe_option *o, char *ret_text, size_t cap);

/* The default for people: `standard`, or what its absence means. */
const char *smoe_option_default(const struct smoe_option *o);

/* Whether the two structs hold the same value of this option. */
bool smoe_option_equal(const struct smoe_option *o, const void *a, const void *b);

/* Copies this option's field. */
void smoe_option_copy(const struct smoe_option *o, const void *from, void *to);

/* Asserts that the table is sound: field types fit, keys are unique and their lines fit an INI
 * file, help is there, defaults parse. One call in a unit test of each program's table. */
void smoe_options_check(const struct smoe_option *options, size_t len);

/* Edit distance between two names, at most 255; what "nearest" is measured by. */
unsigned smoe_option_distance(const char *a, const char *b);

#endif
