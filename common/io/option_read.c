/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to values. A reader fills a scratch copy of the field or explains why not; the caller copies
 * a whole success out, so that a refused value leaves the old one standing.
 */
#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/io/option_type.h"

static int refuse(const struct smoe_option *o, const char *text, struct smoe_why *why)
{
    char range[200];
    smoe_option_range(o, range, sizeof range);
    return smoe_fail(why, SMOE_ECONFIG, "\"%s\" is not %s", text, range);
}

static int check_limits(const struct smoe_option *o, double v, const char *text,
                        struct smoe_why *why)
{
    if (v >= o->min && (o->max == 0 || v <= o->max))
        return 0;
    if (o->min == 0 && o->max == 0)
        return 0; /* no limits; a SMOE_DOUBLE may be negative */
    char range[120];
    smoe_option_range(o, range, sizeof range);
    return smoe_fail(why, SMOE_ECONFIG, "\"%s\" lies outside %s", text, range);
}

static int read_bool(const struct smoe_option *o, const char *text, union smoe_option_scratch *ret,
                     struct smoe_why *why)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(text, words[i]) == 0) {
            ret->flag = i % 2 != 0;
            return 0;
        }
    }
    return refuse(o, text, why);
}

static int read_u64(const struct smoe_option *o, const char *text, union smoe_option_scratch *ret,
                    struct smoe_why *why)
{
    if (!smoe_parse_u64(text, &ret->u64))
        return refuse(o, text, why);
    return check_limits(o, (double)ret->u64, text, why);
}

static int read_bytes(const struct smoe_option *o, const char *text, union smoe_option_scratch *ret,
                      struct smoe_why *why)
{
    if (!smoe_parse_bytes(text, &ret->u64))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" is no size: 4096, 64KiB, 1.5MiB, 2GiB", text);
    return check_limits(o, (double)ret->u64, text, why);
}

static int read_double(const struct smoe_option *o, const char *text,
                       union smoe_option_scratch *ret, struct smoe_why *why)
{
    if (!smoe_parse_double(text, &ret->number))
        return refuse(o, text, why);
    return check_limits(o, ret->number, text, why);
}

/* A number and its unit, `20ms`, `1.5 s`; 0 may go without. */
static bool parse_duration(const char *text, double *ret_ns)
{
    size_t n = strspn(text, "0123456789.");
    char number[32];
    double v;
    if (n >= sizeof number)
        return false;
    memcpy(number, text, n);
    number[n] = 0;
    if (!smoe_parse_double(number, &v))
        return false;
    const char *unit = text + n + strspn(text + n, " ");
    if (!unit[0]) {
        *ret_ns = v;
        return v <= 0;
    }
    for (const struct smoe_option_scale *s = smoe_option_durations; s->suffix; s++) {
        if (strcmp(unit, s->suffix) == 0) {
            *ret_ns = v * (double)s->factor;
            return *ret_ns <= 0x1p53;
        }
    }
    return false;
}

static int read_duration(const struct smoe_option *o, const char *text,
                         union smoe_option_scratch *ret, struct smoe_why *why)
{
    double ns;
    if (!parse_duration(text, &ns))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" is no duration: 500us, 20ms, 1.5s, 2min, 1h",
                         text);
    ret->u64 = (uint64_t)(ns + 0.5);
    return check_limits(o, (double)ret->u64, text, why);
}

static int read_string(const struct smoe_option *o, const char *text,
                       union smoe_option_scratch *ret, struct smoe_why *why)
{
    size_t n = strlen(text);
    if (n >= o->size)
        return smoe_fail(why, SMOE_ECONFIG, "%zu bytes are more than %zu", n, o->size - 1);
    if (n > 0 && (text[0] == ' ' || text[n - 1] == ' ' || text[0] == ';' || strstr(text, " ;")))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\": blanks at an end and ` ;` cannot be kept",
                         text);
    memcpy(ret->text, text, n + 1);
    return 0;
}

static int read_name(const struct smoe_option *o, const char *text, union smoe_option_scratch *ret,
                     struct smoe_why *why)
{
    if (!smoe_name_valid(text, strlen(text)))
        return refuse(o, text, why);
    memcpy(ret->text, text, strlen(text) + 1);
    return 0;
}

static int read_enum(const struct smoe_option *o, const char *text, union smoe_option_scratch *ret,
                     struct smoe_why *why)
{
    for (unsigned i = 0; o->choices[i]; i++) {
        if (strcmp(text, o->choices[i]) == 0) {
            ret->choice = i;
            return 0;
        }
    }
    return refuse(o, text, why);
}

static int read_address(const struct smoe_option *o, const char *text,
                        union smoe_option_scratch *ret, struct smoe_why *why)
{
    int rc = smoe_addr_parse(text, &ret->addr, why);
    if (rc)
        return rc;
    double port = smoe_addr_port(&ret->addr);
    if (port < o->min || (o->max != 0 && port > o->max))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\": port %g lies outside %g .. %g", text, port,
                         o->min, o->max != 0 ? o->max : 65535);
    return 0;
}

static int read_endpoint(const struct smoe_option *o, const char *text,
                         union smoe_option_scratch *ret, struct smoe_why *why)
{
    char host[SMOE_HOST_MAX + 1];
    uint16_t port;
    int rc = smoe_addr_split(text, host, &port, why);
    return rc ? rc : read_string(o, text, ret, why);
}

const smoe_option_reader smoe_option_readers[] = {
    [SMOE_BOOL] = read_bool,         [SMOE_U64] = read_u64,           [SMOE_BYTES] = read_bytes,
    [SMOE_DOUBLE] = read_double,     [SMOE_DURATION] = read_duration, [SMOE_STRING] = read_string,
    [SMOE_NAME] = read_name,         [SMOE_ENUM] = read_enum,         [SMOE_ADDRESS] = read_address,
    [SMOE_ENDPOINT] = read_endpoint,
};
