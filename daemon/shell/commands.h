/* SPDX-License-Identifier: Apache-2.0
 *
 * What can be asked of a running daemon, one line each: by anybody on the status port (reading only)
 * and by administrators on the Unix socket. Every answer is one JSON object and a newline; a mistake
 * gets {"error": sentence, "code": number}.
 */
#ifndef SMOE_DAEMON_COMMANDS_H
#define SMOE_DAEMON_COMMANDS_H

#include "daemon/gateway/report.h"

struct smoe_commands {
    struct smoe_gateway *gateway;
    const char *version;
    const char *listen;
    uint64_t started_ns;
    uint64_t (*now_ns)(void);
    /* Fills in what only the shell knows; `trace` is room for what is being recorded, if anything is. */
    void (*tell)(void *context, struct smoe_report_context *to, struct smoe_report_trace *trace);
    /* The shell's part of what administrators may do; each returns 0 or a code with a sentence. */
    void *context;
    int (*reload)(void *context, struct smoe_why *why);
    int (*reload_keys)(void *context, struct smoe_why *why);
    int (*set_policy)(void *context, const char *name, struct smoe_why *why);
    /* `watts`: what was typed. */
    int (*set_budget)(void *context, const char *worker_id, const char *watts,
                      struct smoe_why *why);
    int (*drain)(void *context, const char *worker_id, bool drain, struct smoe_why *why);
};

/* smoe_line_answer of the status port and of the admin socket; context: struct smoe_commands. */
char *smoe_commands_status(void *context, const char *line, const char *problem);
char *smoe_commands_admin(void *context, const char *line, const char *problem);

#endif
