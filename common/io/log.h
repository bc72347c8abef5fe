/* SPDX-License-Identifier: Apache-2.0
 *
 * One event, one line of key=value pairs, one write(2) to stderr:
 *
 *     time=2025-01-31T12:00:00.123Z level=info msg="worker joined" id=pi-4 speed=0.25
 *
 *     smoe_log(&log, SMOE_LOG_INFO, smoe_msg("worker joined"), smoe_text_field("id", id),
 *              smoe_double_field("speed", speed));
 *
 * Under the journal a line starts with `<6>` instead of the time (sd-daemon(3)): the journal keeps
 * its own. Values are printed as printable ASCII only; anything else, and so everything a peer could
 * use to forge a line or move a cursor, becomes \xNN inside quotes.
 * Only shells and programs log; libraries return their errors.
 */
#ifndef SMOE_IO_LOG_H
#define SMOE_IO_LOG_H

#include <stdbool.h>
#include <stdint.h>

#define SMOE_LOG_LINE_MAX 2048 /* bytes of a line with its newline; longer ones end in ` cut=yes` */

/* In the order of syslog's severities; what is above the log's level is not written. */
enum smoe_log_level {
    SMOE_LOG_ERROR,   /* something the operator must act on */
    SMOE_LOG_WARNING, /* degraded, goes on */
    SMOE_LOG_NOTICE,  /* rare and worth knowing: started, stopping, policy changed */
    SMOE_LOG_INFO,    /* normal life of workers and trainers */
    SMOE_LOG_DEBUG,
};

/* NULL-terminated names of the levels, in order: the choices of a `level` option. */
extern const char *const smoe_log_levels[];

struct smoe_log {
    int fd; /* borrowed; normally 2 */
    enum smoe_log_level level;
    bool journal;              /* prefix <N>, no time */
    uint64_t (*wall_ms)(void); /* where the time comes from; NULL: lines carry none */
    uint64_t lost;             /* lines that fd did not take (a full pipe); never blocks on them */
};

/* A key and its value; a zeroed field ends the list. Texts are borrowed for the call. */
struct smoe_log_field {
    const char *key;
    char type; /* 't'ext, 'u'nsigned, 'i'nteger, 'd'ouble, 'f'lag */
    union {
        const char *text; /* NULL prints as - */
        uint64_t u64;
        int64_t i64;
        double number;
        bool flag;
    };
};

/* Writes to `fd`. `journal_stream` is the environment's JOURNAL_STREAM or NULL: the prefix is used
 * if it names the file behind `fd` (a redirected stderr is no journal). */
void smoe_log_init(struct smoe_log *log, int fd, enum smoe_log_level level,
                   const char *journal_stream, uint64_t (*wall_ms)(void));

/* smoe_log(log, level, fields...) */
#define smoe_log(log, level, ...) \
    smoe_log_write(log, level, (const struct smoe_log_field[]){__VA_ARGS__, {0}})

void smoe_log_write(struct smoe_log *log, enum smoe_log_level level,
                    const struct smoe_log_field *fields);

static inline struct smoe_log_field smoe_text_field(const char *key, const char *text)
{
    return (struct smoe_log_field){.key = key, .type = 't', .text = text};
}

/* The event itself; the first field of every line. */
static inline struct smoe_log_field smoe_msg(const char *text)
{
    return smoe_text_field("msg", text);
}

static inline struct smoe_log_field smoe_u64_field(const char *key, uint64_t value)
{
    return (struct smoe_log_field){.key = key, .type = 'u', .u64 = value};
}

static inline struct smoe_log_field smoe_i64_field(const char *key, int64_t value)
{
    return (struct smoe_log_field){.key = key, .type = 'i', .i64 = value};
}

static inline struct smoe_log_field smoe_double_field(const char *key, double value)
{
    return (struct smoe_log_field){.key = key, .type = 'd', .number = value};
}

static inline struct smoe_log_field smoe_flag_field(const char *key, bool value)
{
    return (struct smoe_log_field){.key = key, .type = 'f', .flag = value};
}

/* A message that a peer can cause at will gets one of these: at most `burst` lines at once, and one
 * more per `interval_ns`. */
struct smoe_log_limit {
    uint64_t interval_ns; /* > 0 */
    unsigned burst;       /* > 0 */
    unsigned used;        /* lines not yet paid back, <= burst */
    uint64_t since_ns;    /* time up to which `used` was paid back */
    uint64_t suppressed;  /* lines refused since the last one that went out */
};

/* Whether to write the line now. If so, `*ret_suppressed` is how many were left out before it, for
 * a `suppressed` field. Time may stand still but must not go back. */
bool smoe_log_allowed(struct smoe_log_limit *l, uint64_t now_ns, uint64_t *ret_suppressed);

#endif
