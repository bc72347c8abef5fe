/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/freqlink.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

union control {
    struct cmsghdr header; /* aligns the bytes */
    char bytes[CMSG_SPACE(sizeof(int))];
};

void smoe_freqlink_patience(int fd, int ms)
{
    struct timeval patience = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience,
                     sizeof patience); /* fails for no socket */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

int smoe_freqlink_open(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof to.sun_path)
        return -ENAMETOOLONG;
    memcpy(to.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    smoe_freqlink_patience(fd, SMOE_FREQLINK_PATIENCE_MS);
    if (connect(fd, (const struct sockaddr *)&to, sizeof to)) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

static int descriptor_of(struct msghdr *message)
{
    int descriptor = -1;
    const struct cmsghdr *header = CMSG_FIRSTHDR(message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof descriptor))
        memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
    return descriptor;
}

int smoe_freqlink_ask(int fd, struct smoe_freq_request request, struct smoe_freq_answer *ret,
                      int *ret_descriptor)
{
    struct smoe_freq_answer answer;
    union control control;
    struct iovec io = {&answer, sizeof answer};
    struct msghdr message = {.msg_iov = &io,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    request.magic = SMOE_FREQ_MAGIC;
    request.version = SMOE_FREQ_VERSION;
    if (send(fd, &request, sizeof request, MSG_NOSIGNAL) != (ssize_t)sizeof request)
        return -errno;
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    int descriptor = descriptor_of(&message);
    bool matches = n == (ssize_t)sizeof answer && answer.magic == SMOE_FREQ_MAGIC &&
                   answer.version == SMOE_FREQ_VERSION && answer.kind == request.kind &&
                   answer.subject == request.subject;
    if (descriptor >= 0 && (!matches || !ret_descriptor)) {
        close(descriptor);
        descriptor = -1;
    }
    if (!matches)
        return n == 0 ? -ECONNRESET : -EPROTO;
    *ret = answer;
    if (ret_descriptor)
        *ret_descriptor = descriptor;
    return 0;
}
