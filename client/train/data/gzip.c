/* SPDX-License-Identifier: Apache-2.0
 *
 * The buffer doubles while there is more to read, and reading goes on until zlib reports the end: only
 * there are gzip's checksum and length compared. A file that unpacks to more than the caller allows is
 * given up at that point, so a bomb costs at most `max` bytes.
 */
#include "client/train/data/gzip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { FIRST_BYTES = 1 << 20 };

/* What is read so far; bytes is the caller's to free even on failure. */
struct buffer {
    uint8_t *bytes;
    size_t len, capacity;
};

static int grow(struct buffer *b, size_t max)
{
    size_t capacity = b->capacity ? b->capacity * 2 : FIRST_BYTES;
    if (capacity > max)
        capacity = max + 1; /* the one byte more tells `exactly max` from `too many` */
    uint8_t *bytes = realloc(b->bytes, capacity);
    if (!bytes)
        return SMOE_ENOMEMORY;
    b->bytes = bytes;
    b->capacity = capacity;
    return 0;
}

static int fail_read(gzFile file, const char *path, size_t at, struct smoe_why *why)
{
    int code;
    const char *text = gzerror(file, &code);
    if (code == Z_ERRNO) {
        int err = errno ? errno : EIO;
        return smoe_fail(why, -err, "%s: %s", path, strerror(err));
    }
    if (code == Z_MEM_ERROR)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", path);
    return smoe_fail(why, SMOE_EDATA, "%s: damaged gzip after %zu bytes: %s", path, at,
                     code == Z_BUF_ERROR ? "the file is cut off" : text);
}

static int read_all(gzFile file, const char *path, size_t max, struct buffer *b,
                    struct smoe_why *why)
{
    for (;;) {
        if (b->len > max)
            return smoe_fail(why, SMOE_ETOOBIG, "%s: more than %zu bytes", path, max);
        if (b->len == b->capacity && grow(b, max))
            return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory at %zu bytes", path, b->len);
        size_t room = b->capacity - b->len;
        errno = 0;
        int n = gzread(file, b->bytes + b->len, room < FIRST_BYTES ? (unsigned)room : FIRST_BYTES);
        int code = Z_OK;
        gzerror(file, &code);
        if (n < 0 || code == Z_BUF_ERROR)
            return fail_read(file, path, b->len, why);
        if (n == 0)
            return 0;
        b->len += (size_t)n;
    }
}

int smoe_gzip_read(const char *path, size_t max, uint8_t **ret_bytes, size_t *ret_len,
                   struct smoe_why *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int err = errno;
        return smoe_fail(why, -err, "%s: %s", path, strerror(err));
    }
    gzFile file = gzdopen(fd, "rb"); /* owns fd from here on */
    if (!file) {
        close(fd);
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", path);
    }
    struct buffer buffer = {0};
    int rc = read_all(file, path, max, &buffer, why);
    gzclose(file);
    if (rc) {
        free(buffer.bytes);
        return rc;
    }
    *ret_bytes = buffer.bytes;
    *ret_len = buffer.len;
    return 0;
}
