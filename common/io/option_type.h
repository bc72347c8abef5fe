/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the option module: one reader and one writer per type. Included by option*.c only.
 */
#ifndef SMOE_IO_OPTION_TYPE_H
#define SMOE_IO_OPTION_TYPE_H

#include "common/base/text.h"
#include "common/io/option.h"

/* What a reader fills; SMOE_LIST has none, it is appended to in place. */
union smoe_option_scratch {
    bool flag;
    uint64_t u64;
    double number;
    unsigned choice;
    struct smoe_addr addr;
    char text[SMOE_OPTION_VALUE_MAX + 1];
};

typedef int (*smoe_option_reader)(const struct smoe_option *o, const char *text,
                                  union smoe_option_scratch *ret, struct smoe_why *why);
typedef void (*smoe_option_writer)(const struct smoe_option *o, const void *field,
                                   struct smoe_text *t);

/* Indexed by enum smoe_option_type. */
extern const smoe_option_reader smoe_option_readers[];
extern const smoe_option_writer smoe_option_writers[];

/* Units of SMOE_DURATION (ns) and SMOE_BYTES, largest first, ended by a NULL suffix. */
struct smoe_option_scale {
    const char *suffix;
    uint64_t factor;
};
extern const struct smoe_option_scale smoe_option_durations[];
extern const struct smoe_option_scale smoe_option_sizes[];

#endif
