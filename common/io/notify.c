/* SPDX-License-Identifier: Apache-2.0
 *
 * A connected datagram socket, opened once: no message can fail for want of a descriptor later. What
 * was not delivered is reported to the caller and forgotten; every message is either repeated (signs
 * of life) or harmless to lose (status), and READY=1 has a start timeout behind it.
 */
#include "common/io/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/text.h"

static int connect_to(const char *path, size_t len)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    memcpy(to.sun_path, path, len);
    if (path[0] == '@')
        to.sun_path[0] =
            0; /* abstract: the name is the bytes after a NUL, without one at its end */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (connect(fd, (const struct sockaddr *)&to, size) == 0)
        return fd;
    int rc = -errno;
    close(fd);
    return rc;
}

int smoe_notify_init(struct smoe_notify *n, const char *path, struct smoe_why *why)
{
    *n = (struct smoe_notify){.fd = -1};
    if (!path || !path[0])
        return 0;
    size_t len = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || len >= sizeof((struct sockaddr_un *)0)->sun_path)
        return smoe_fail(why, -EINVAL, "NOTIFY_SOCKET %s: neither a path nor @name", path);
    int fd = connect_to(path, len);
    if (fd < 0)
        return smoe_fail(why, fd, "NOTIFY_SOCKET %s: %s", path, smoe_strerror(fd));
    n->fd = fd;
    return 0;
}

void smoe_notify_release(struct smoe_notify *n)
{
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}

/* MSG_DONTWAIT: a manager that does not read must not stop a slot; a lost sign of life costs
 * nothing, the next one comes half an interval later. */
static int send_text(const struct smoe_notify *n, const char *text)
{
    if (n->fd < 0)
        return 0;
    if (send(n->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return -errno;
    return 0;
}

int smoe_notify_ready(const struct smoe_notify *n)
{
    return send_text(n, "READY=1\n");
}

int smoe_notify_alive(const struct smoe_notify *n)
{
    return send_text(n, "WATCHDOG=1\n");
}

int smoe_notify_stopping(const struct smoe_notify *n)
{
    return send_text(n, "STOPPING=1\n");
}

int smoe_notify_status(const struct smoe_notify *n, const char *text)
{
    char line[256];
    snprintf(line, sizeof line - 1, "STATUS=%s", text);
    size_t len = strlen(line);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?'; /* a newline would start another assignment */
    line[len] = '\n';
    line[len + 1] = 0;
    return send_text(n, line);
}

int smoe_notify_reloading(const struct smoe_notify *n, uint64_t now_ns)
{
    char text[80];
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\n", now_ns / 1000);
    return send_text(n, text);
}

bool smoe_notify_watchdog(const char *usec, const char *pid, uint64_t *ret_interval_ns)
{
    uint64_t us, wanted;
    if (!usec || !smoe_parse_u64(usec, &us) || us == 0 || us > UINT64_MAX / 1000)
        return false;
    if (pid && (!smoe_parse_u64(pid, &wanted) || wanted != (uint64_t)getpid()))
        return false;
    *ret_interval_ns = us * 1000;
    return true;
}
