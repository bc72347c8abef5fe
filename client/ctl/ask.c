/* SPDX-License-Identifier: Apache-2.0
 *
 * socket, connect, write, read until the daemon closes. The descriptor is closed on every path by
 * smoe_ctl_ask; what `read_answer` has gathered is freed by itself on failure.
 */
#include "client/ctl/ask.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/ctl/shell/remote.h"

#define ANSWER_BYTES_MAX ((size_t)64 << 20)
#define TIMEOUT_S        5

static const char *advice(int error)
{
    switch (error) {
    case ENOENT:
        return " (is stablemoed running? --state-dir names its directory)";
    case ECONNREFUSED:
        return " (stablemoed is not running)";
    case EACCES:
        return " (its users are root and the group stablemoe)";
    default:
        return "";
    }
}

/* What errno says about the socket, with advice. */
static int fail_errno(struct smoe_why *why)
{
    int error = errno;
    if (error == EAGAIN || error == EWOULDBLOCK)
        return smoe_fail(why, SMOE_ETIMEOUT, "no answer within %d s", TIMEOUT_S);
    return smoe_fail(why, -error, "%s%s", smoe_strerror(-error), advice(error));
}

static int connect_to(const char *path, int *ret_fd, struct smoe_why *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    if (strlen(path) >= sizeof address.sun_path)
        return smoe_fail(why, -ENAMETOOLONG, "a socket's path has at most %zu bytes",
                         sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail_errno(why);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        int rc = fail_errno(why);
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

static int write_all(int fd, const char *bytes, size_t n, struct smoe_why *why)
{
    while (n) {
        ssize_t written = send(fd, bytes, n, MSG_NOSIGNAL);
        if (written < 0 && errno != EINTR)
            return fail_errno(why);
        if (written > 0) {
            bytes += written;
            n -= (size_t)written;
        }
    }
    return 0;
}

/* Reads to the end of the stream into a buffer that doubles; NUL-terminated. */
static int read_all(int fd, char **ret_text, size_t *ret_len, struct smoe_why *why)
{
    size_t len = 0, cap = 4096;
    char *text = malloc(cap);
    while (text) {
        ssize_t n = read(fd, text + len, cap - len - 1);
        if (n == 0)
            break;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int rc = fail_errno(why);
            free(text);
            return rc;
        }
        len += (size_t)n;
        if (len >= ANSWER_BYTES_MAX) {
            free(text);
            return smoe_fail(why, SMOE_ETOOBIG, "answer over %zu MiB", ANSWER_BYTES_MAX >> 20);
        }
        char *grown = len + 1 == cap ? realloc(text, cap *= 2) : text;
        if (!grown)
            free(text);
        text = grown;
    }
    if (!text)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory for the answer");
    text[len] = 0;
    *ret_text = text;
    *ret_len = len;
    return 0;
}

/* An answer is whole when it ends in its newline: a daemon that dies in between leaves half of one. */
static int read_answer(int fd, char **ret_answer, struct smoe_why *why)
{
    char *text = NULL;
    size_t len = 0;
    int rc = read_all(fd, &text, &len, why);
    if (rc)
        return rc;
    if (!len || text[len - 1] != '\n') {
        free(text);
        return smoe_fail(why, SMOE_EMALFORMED, "the answer is cut off after %zu bytes", len);
    }
    text[len - 1] = 0;
    *ret_answer = text;
    return 0;
}

int smoe_ctl_ask(const char *state_dir, const char *line, char **ret_answer, struct smoe_why *why)
{
    char path[300], question[300];
    int fd = -1;
    snprintf(path, sizeof path, "%s/admin.sock", state_dir);
    int n = snprintf(question, sizeof question, "%s\n", line);
    int rc = connect_to(path, &fd, why);
    if (rc == 0)
        rc = write_all(fd, question, (size_t)n, why);
    if (rc == 0)
        rc = read_answer(fd, ret_answer, why);
    if (fd >= 0)
        close(fd);
    return rc ? smoe_fail_at(why, rc, "admin socket %s", path) : 0;
}

int smoe_ctl_ask_target(const struct smoe_ctl_target *target, const char *line, char **ret_answer,
                        struct smoe_why *why)
{
    return target->gateway
               ? smoe_ctl_ask_remote(target->gateway, target->key, line, ret_answer, why)
               : smoe_ctl_ask(target->state_dir, line, ret_answer, why);
}
