/* SPDX-License-Identifier: Apache-2.0
 *
 * A server of one-line questions: a client sends a line, gets an answer and is closed. For status
 * (TCP) and administration (Unix socket). Everything about a client is bounded: a line of
 * SMOE_LINE_MAX bytes, LINE_TIMEOUT to send it and as long to read the answer, SMOE_LINE_CLIENTS
 * clients at a time (the oldest one waits no longer when more come: it is closed).
 */
#ifndef SMOE_DAEMON_LINES_H
#define SMOE_DAEMON_LINES_H

#include "common/base/err.h"
#include "common/io/addr.h"

#include <uv.h>

#define SMOE_LINE_MAX        256
#define SMOE_LINE_CLIENTS    16
#define SMOE_LINE_TIMEOUT_MS 2000

struct smoe_lines;

/* Returns the answer for a line (without its newline), to be freed with free(); NULL: no memory.
 * `problem` is not NULL when no proper line came: the answer should say so. */
typedef char *(*smoe_line_answer)(void *context, const char *line, const char *problem);

int smoe_lines_listen_tcp(uv_loop_t *loop, const struct smoe_addr *address, smoe_line_answer answer,
                          void *context, struct smoe_lines **ret, struct smoe_why *why);

/* A Unix socket of mode 0660; one left behind by a dead process is replaced. */
int smoe_lines_listen_unix(uv_loop_t *loop, const char *path, smoe_line_answer answer,
                           void *context, struct smoe_lines **ret, struct smoe_why *why);

void smoe_lines_address(const struct smoe_lines *lines, struct smoe_addr *ret);

/* Closes listener and clients; `done` follows when the object is freed. NULL is done at once. */
void smoe_lines_close(struct smoe_lines *lines, void (*done)(void *context), void *context);

#endif
