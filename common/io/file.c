/* SPDX-License-Identifier: Apache-2.0
 *
 * The write follows the only order that survives a crash at every point: a complete temporary file
 * on the disk before the rename, and the rename on the disk before success is reported. A temporary
 * that a crash left behind, or that somebody put there, is removed by the next write of the same name, which makes
 * its own: whoever has the old one open, or another name for it, has nothing of what is written.
 */
#include "common/io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Up to `cap` bytes; the count, or a negative errno. */
static ssize_t read_some(int fd, char *data, size_t cap)
{
    size_t done = 0;
    while (done < cap) {
        ssize_t n = read(fd, data + done, cap - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static int read_open(int fd, const char *name, size_t max, char **ret_data, size_t *ret_len,
                     struct smoe_why *why)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return smoe_fail(why, -errno, "%s: %s", name, smoe_strerror(-errno));
    if (!S_ISREG(st.st_mode))
        return smoe_fail(why, -EINVAL, "%s: not a regular file", name);
    if ((uintmax_t)st.st_size > max)
        return smoe_fail(why, SMOE_ETOOBIG, "%s: %jd bytes, the limit is %zu", name,
                         (intmax_t)st.st_size, max);
    /* One byte more than it had: a file that grows meanwhile is seen, not cut. */
    size_t cap = (size_t)st.st_size + 1;
    char *data = malloc(cap);
    if (!data)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", name);
    ssize_t n = read_some(fd, data, cap);
    if (n < 0 || (size_t)n == cap) {
        free(data);
        int rc = n < 0 ? (int)n : -EAGAIN;
        return smoe_fail(why, rc, "%s: %s", name, n < 0 ? smoe_strerror(rc) : "changed while read");
    }
    data[n] = 0;
    *ret_data = data;
    *ret_len = (size_t)n;
    return 0;
}

int smoe_file_read(int dir, const char *name, size_t max, char **ret_data, size_t *ret_len,
                   struct smoe_why *why)
{
    /* O_NONBLOCK: opening a fifo somebody put there must not hang; it is refused just after. */
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return smoe_fail(why, -errno, "%s: %s", name, smoe_strerror(-errno));
    int rc = read_open(fd, name, max, ret_data, ret_len, why);
    close(fd);
    return rc;
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Before anything is in it: the mode, whatever was there, and the owner of its directory. */
static int make_private(int fd, int dir)
{
    struct stat st;
    if (fchmod(fd, 0600) < 0 || fstatat(dir, ".", &st, 0) < 0)
        return -errno;
    if (geteuid() == 0 && fchown(fd, st.st_uid, st.st_gid) < 0)
        return -errno;
    return 0;
}

/* The complete file under its temporary name, on the disk. */
static int write_temporary(int dir, const char *temporary, const void *data, size_t len,
                           bool private)
{
    if (unlinkat(dir, temporary, 0) < 0 && errno != ENOENT)
        return -errno;
    int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                    private ? 0600 : 0640);
    if (fd < 0)
        return -errno;
    int rc = private ? make_private(fd, dir) : 0;
    if (rc == 0)
        rc = write_all(fd, data, len);
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

/* The directory that holds `name`, for its fsync. */
static int sync_directory(int dir, const char *name)
{
    char path[PATH_MAX];
    const char *slash = strrchr(name, '/');
    size_t n = slash ? (size_t)(slash - name) + 1 : 0;
    memcpy(path, name, n);
    memcpy(path + n, ".", 2);
    int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

static int replace(int dir, const char *name, const void *data, size_t len, bool private,
                   bool *ret_replaced, struct smoe_why *why)
{
    char temporary[PATH_MAX];
    *ret_replaced = false;
    int n = snprintf(temporary, sizeof temporary, "%s.tmp", name);
    if (n < 0 || (size_t)n >= sizeof temporary)
        return smoe_fail(why, -ENAMETOOLONG, "%s: name too long", name);
    int rc = write_temporary(dir, temporary, data, len, private);
    if (rc == 0 && renameat(dir, temporary, dir, name) < 0)
        rc = -errno;
    if (rc) {
        unlinkat(dir, temporary, 0);
        return smoe_fail(why, rc, "%s: %s", name, smoe_strerror(rc));
    }
    *ret_replaced = true;
    rc = sync_directory(dir, name);
    if (rc)
        return smoe_fail(why, rc, "%s: written, but its directory: %s", name, smoe_strerror(rc));
    return 0;
}

int smoe_file_write(int dir, const char *name, const void *data, size_t len, struct smoe_why *why)
{
    bool unused;
    return replace(dir, name, data, len, false, &unused, why);
}

int smoe_file_replace(int dir, const char *name, const void *data, size_t len, bool *ret_replaced,
                      struct smoe_why *why)
{
    return replace(dir, name, data, len, false, ret_replaced, why);
}

int smoe_file_write_private(int dir, const char *name, const void *data, size_t len,
                            struct smoe_why *why)
{
    bool unused;
    return replace(dir, name, data, len, true, &unused, why);
}
