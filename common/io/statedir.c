/* SPDX-License-Identifier: Apache-2.0
 *
 * A lock of the open file (F_OFD_SETLK): the process's own would be lost when any part of it closes any
 * descriptor of the file, and whether somebody has one like flock's cannot be asked without taking it. None
 * of them names the holder; it writes its pid after it has the lock, so there is a moment in which the file is
 * empty or stale, and the message then says "another process".
 */
#include "common/io/statedir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/text.h"

static int open_directory(const char *path, struct smoe_why *why)
{
    if (mkdir(path, 0750) < 0 && errno != EEXIST)
        return smoe_fail(why, -errno, "%s", smoe_strerror(-errno));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return smoe_fail(why, -errno, "%s", smoe_strerror(-errno));
    struct stat st;
    if (fstat(fd, &st) == 0 && (st.st_mode & S_IWOTH)) {
        close(fd);
        return smoe_fail(why, -EPERM, "everyone may write to it; chmod o-w, or take another");
    }
    return fd;
}

/* "pid 123", from what the holder wrote, or "another process". */
static void name_holder(int lock_fd, char *ret_text, size_t cap)
{
    char digits[24] = "";
    uint64_t pid;
    ssize_t n = pread(lock_fd, digits, sizeof digits - 1, 0);
    digits[n > 0 ? n : 0] = 0;
    digits[strcspn(digits, "\n")] = 0;
    if (smoe_parse_u64(digits, &pid) && pid > 0)
        snprintf(ret_text, cap, "pid %" PRIu64, pid);
    else
        snprintf(ret_text, cap, "another process");
}

static int take_lock(int lock_fd, struct smoe_why *why)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(lock_fd, F_OFD_SETLK, &whole) < 0) {
        if (errno != EAGAIN && errno != EACCES)
            return smoe_fail(why, -errno, "lock: %s", smoe_strerror(-errno));
        char holder[40];
        name_holder(lock_fd, holder, sizeof holder);
        return smoe_fail(why, -EBUSY, "in use by %s", holder);
    }
    char line[24];
    int n = snprintf(line, sizeof line, "%ld\n", (long)getpid());
    if (ftruncate(lock_fd, 0) < 0 || pwrite(lock_fd, line, (size_t)n, 0) != n)
        return smoe_fail(why, errno ? -errno : -EIO, "lock: cannot be written");
    return 0;
}

static int open_and_lock(struct smoe_statedir *s, const char *path, struct smoe_why *why)
{
    int dir = open_directory(path, why);
    if (dir < 0)
        return dir;
    int lock = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    int rc =
        lock < 0 ? smoe_fail(why, -errno, "lock: %s", smoe_strerror(-errno)) : take_lock(lock, why);
    if (rc) {
        if (lock >= 0)
            close(lock);
        close(dir);
        return rc;
    }
    *s = (struct smoe_statedir){.fd = dir, .lock_fd = lock, .open = true};
    return 0;
}

int smoe_statedir_open(struct smoe_statedir *s, const char *path, struct smoe_why *why)
{
    *s = (struct smoe_statedir){.fd = -1, .lock_fd = -1};
    int rc = open_and_lock(s, path, why);
    return rc ? smoe_fail_at(why, rc, "state directory %s", path) : 0;
}

bool smoe_statedir_held(int dir)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = openat(dir, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool held = fd >= 0 && fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    if (fd >= 0)
        close(fd);
    return held;
}

void smoe_statedir_release(struct smoe_statedir *s)
{
    if (s->open) {
        close(s->lock_fd); /* unlocks; the file stays, or two could lock two different ones */
        close(s->fd);
    }
    *s = (struct smoe_statedir){.fd = -1, .lock_fd = -1};
}
