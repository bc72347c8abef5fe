/* SPDX-License-Identifier: Apache-2.0
 *
 * A keyring is made whole or not at all: a file with one bad line is no keyring, since somebody who
 * mistypes must not lock a node out (or leave one in) without a word. Whatever held secrets is wiped
 * before it is freed, on the way out of every function, also where reading went wrong.
 */
#include "common/io/keyring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/wipe.h"
#include "common/io/file.h"

#define FILE_BYTES_MAX ((size_t)SMOE_KEYRING_MAX * SMOE_KEY_LINE_MAX)

void smoe_keyring_release(struct smoe_keyring *ring)
{
    if (ring->keys)
        smoe_wipe(ring->keys, ring->len * sizeof *ring->keys);
    free(ring->keys);
    *ring = (struct smoe_keyring){0};
}

/* ---- private files ---- */

static bool is_trusted(uid_t owner, int dir)
{
    struct stat st;
    if (owner == 0 || owner == geteuid())
        return true;
    return dir != AT_FDCWD && fstatat(dir, ".", &st, 0) == 0 && st.st_uid == owner;
}

/* Whether `name` lies in the directory that systemd made for this unit's credentials. What it puts there may have an
 * access list for the unit's user, and the mode then shows that list's mask as the group's: 0440. Nobody else
 * gets as far as the file, because the directory is closed to others. */
static bool is_credential(int dir, const char *name)
{
    struct stat credentials, parent;
    char path[PATH_MAX];
    const char *given = getenv("CREDENTIALS_DIRECTORY"), *slash = strrchr(name, '/');
    size_t n = slash ? (size_t)(slash - name) + 1 : 0;
    if (!given || *given != '/' || n + 2 > sizeof path)
        return false;
    memcpy(path, name, n);
    memcpy(path + n, ".", 2);
    return stat(given, &credentials) == 0 && fstatat(dir, path, &parent, 0) == 0 &&
           parent.st_dev == credentials.st_dev && parent.st_ino == credentials.st_ino &&
           (parent.st_uid == 0 || parent.st_uid == geteuid()) && !(parent.st_mode & 07);
}

static int check_private(int dir, const char *name, const struct stat *st, struct smoe_why *why)
{
    mode_t others = is_credential(dir, name) ? 037 : 077;
    if (!S_ISREG(st->st_mode))
        return smoe_fail(why, -EINVAL, "%s: not a regular file", name);
    if (!is_trusted(st->st_uid, dir))
        return smoe_fail(why, -EPERM, "%s: belongs to another user (%u)", name,
                         (unsigned)st->st_uid);
    if (st->st_mode & others)
        return smoe_fail(why, -EPERM, "%s: others may read it; chmod 600", name);
    return 0;
}

static int read_all(int fd, const char *name, char *data, size_t max, size_t *ret_len,
                    struct smoe_why *why)
{
    size_t len = 0;
    ssize_t n = 1;
    while (n && len < max) {
        n = read(fd, data + len, max - len);
        if (n < 0 && errno != EINTR)
            return smoe_fail(why, -errno, "%s: %s", name, smoe_strerror(-errno));
        len += n > 0 ? (size_t)n : 0;
    }
    if (len == max)
        return smoe_fail(why, SMOE_ETOOBIG, "%s: longer than %zu bytes", name, max - 1);
    *ret_len = len;
    return 0;
}

static int read_open(int dir, int fd, const char *name, char *data, size_t max, size_t *ret_len,
                     struct smoe_why *why)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return smoe_fail(why, -errno, "%s: %s", name, smoe_strerror(-errno));
    int rc = check_private(dir, name, &st, why);
    return rc ? rc : read_all(fd, name, data, max, ret_len, why);
}

int smoe_private_read(int dir, const char *name, char *data, size_t max, size_t *ret_len,
                      struct smoe_why *why)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return smoe_fail(why, -errno, "%s: %s", name, smoe_strerror(-errno));
    int rc = read_open(dir, fd, name, data, max, ret_len, why);
    close(fd);
    return rc;
}

/* ---- the ring ---- */

static int compare(const void *a, const void *b)
{
    const struct smoe_key *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->print, y->print);
}

/* Keys of the name of keys[at], those before it left out. */
static size_t same_name(const struct smoe_keyring *ring, size_t at)
{
    size_t n = 1;
    while (at + n < ring->len && strcmp(ring->keys[at].name, ring->keys[at + n].name) == 0)
        n++;
    return n;
}

static int check_names(const struct smoe_keyring *ring, struct smoe_why *why)
{
    for (size_t i = 0, n; i < ring->len; i += n) {
        const struct smoe_key *k = &ring->keys[i];
        n = same_name(ring, i);
        if (n > SMOE_KEYS_OF_NAME)
            return smoe_fail(why, SMOE_EEXIST, "%s has two keys already: revoke one", k->name);
        if (n == 2 && k[0].role != k[1].role)
            return smoe_fail(why, SMOE_EEXIST, "%s is a name of two roles", k->name);
        if (n == 2 && strcmp(k[0].print, k[1].print) == 0)
            return smoe_fail(why, SMOE_EEXIST, "%s has the same key twice", k->name);
    }
    return 0;
}

static size_t count_lines(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += text[i] == '\n';
    return n;
}

static int parse_lines(const char *text, size_t len, struct smoe_keyring *ring,
                       struct smoe_why *why)
{
    const char *line = text;
    while (line < text + len) {
        const char *end = memchr(line, '\n', len - (size_t)(line - text));
        if (!end)
            return smoe_fail(why, SMOE_EDATA, "line %zu: cut off", ring->len + 1);
        int rc = smoe_key_parse(line, (size_t)(end - line), &ring->keys[ring->len], why);
        if (rc)
            return smoe_fail_at(why, rc, "line %zu", ring->len + 1);
        ring->len++;
        line = end + 1;
    }
    qsort(ring->keys, ring->len, sizeof *ring->keys, compare);
    return check_names(ring, why);
}

static int parse(const char *text, size_t len, struct smoe_keyring *ret, struct smoe_why *why)
{
    size_t lines = count_lines(text, len);
    struct smoe_keyring ring = {0};
    if (!len)
        return smoe_fail(why, SMOE_EDATA, "empty");
    if (lines > SMOE_KEYRING_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "more than %d keys", SMOE_KEYRING_MAX);
    ring.keys = calloc(lines ? lines : 1, sizeof *ring.keys);
    if (!ring.keys)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    int rc = parse_lines(text, len, &ring, why);
    if (rc)
        smoe_keyring_release(&ring);
    else
        *ret = ring;
    return rc;
}

int smoe_keyring_read(int dir, const char *name, struct smoe_keyring *ret, struct smoe_why *why)
{
    size_t len = 0;
    char *text = malloc(FILE_BYTES_MAX);
    if (!text)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", name);
    int rc = smoe_private_read(dir, name, text, FILE_BYTES_MAX, &len, why);
    if (rc == 0 && (rc = parse(text, len, ret, why)))
        smoe_fail_at(why, rc, "%s", name);
    smoe_wipe(text, FILE_BYTES_MAX);
    free(text);
    return rc;
}

int smoe_keyring_write(int dir, const char *name, const struct smoe_keyring *ring,
                       struct smoe_why *why)
{
    size_t cap = ring->len * SMOE_KEY_LINE_MAX + 1, len = 0;
    char *text = malloc(cap);
    if (!text)
        return smoe_fail(why, SMOE_ENOMEMORY, "%s: out of memory", name);
    for (size_t i = 0; i < ring->len; i++) {
        smoe_key_format(&ring->keys[i], text + len);
        len += strlen(text + len);
        text[len++] = '\n';
    }
    int rc = smoe_file_write_private(dir, name, text, len, why);
    smoe_wipe(text, cap);
    free(text);
    return rc;
}

const struct smoe_key *smoe_keyring_find(const struct smoe_keyring *ring, const char *identity,
                                         size_t len)
{
    char wanted[SMOE_KEY_IDENTITY_MAX], other[SMOE_KEY_IDENTITY_MAX];
    struct smoe_key like;
    if (len >= sizeof wanted || memchr(identity, 0, len))
        return NULL;
    memcpy(wanted, identity, len);
    wanted[len] = 0;
    const char *name = strchr(wanted, ':'), *print = strrchr(wanted, ':');
    size_t name_len = name ? (size_t)(print - name) : 0;
    if (name_len < 2 || name_len > SMOE_NAME_MAX + 1 || strlen(print + 1) >= sizeof like.print)
        return NULL;
    memcpy(like.name, name + 1, name_len - 1);
    like.name[name_len - 1] = 0;
    memcpy(like.print, print + 1, strlen(print));
    const struct smoe_key *found =
        ring->len ? bsearch(&like, ring->keys, ring->len, sizeof like, compare) : NULL;
    if (!found)
        return NULL;
    smoe_key_identity(found, other); /* the role is part of it */
    return strcmp(wanted, other) == 0 ? found : NULL;
}

/* ---- changes ---- */

/* Into memory of its own: realloc would leave secrets behind in what it frees. */
int smoe_keyring_add(struct smoe_keyring *ring, const struct smoe_key *key, struct smoe_why *why)
{
    if (ring->len >= SMOE_KEYRING_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "more than %d keys", SMOE_KEYRING_MAX);
    struct smoe_keyring fresh = {calloc(ring->len + 1, sizeof *fresh.keys), ring->len + 1};
    if (!fresh.keys)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    if (ring->len)
        memcpy(fresh.keys, ring->keys, ring->len * sizeof *fresh.keys);
    fresh.keys[ring->len] = *key;
    qsort(fresh.keys, fresh.len, sizeof *fresh.keys, compare);
    int rc = check_names(&fresh, why);
    if (rc == 0) {
        smoe_keyring_release(ring);
        *ring = fresh;
    } else {
        smoe_keyring_release(&fresh);
    }
    return rc;
}

int smoe_keyring_revoke(struct smoe_keyring *ring, const char *name, const char *print,
                        struct smoe_why *why)
{
    size_t kept = 0, before = ring->len;
    for (size_t i = 0; i < before; i++) {
        const struct smoe_key *k = &ring->keys[i];
        if (strcmp(k->name, name) != 0 || (print && strcmp(k->print, print) != 0))
            ring->keys[kept++] = *k;
    }
    smoe_wipe(ring->keys + kept, (before - kept) * sizeof *ring->keys);
    ring->len = kept;
    if (kept < before)
        return 0;
    return smoe_fail(why, SMOE_EUNKNOWN, "no key of %.63s%s%.8s", name, print ? " named " : "",
                     print ? print : "");
}

/* ---- a node's own ---- */

int smoe_key_read(const char *path, struct smoe_key *ret, struct smoe_why *why)
{
    char text[SMOE_KEY_LINE_MAX + 1];
    size_t len = 0;
    int rc = smoe_private_read(AT_FDCWD, path, text, sizeof text, &len, why);
    if (rc == 0) {
        size_t line = len && text[len - 1] == '\n' ? len - 1 : len;
        rc = smoe_key_parse(text, line, ret, why);
        if (rc)
            smoe_fail_at(why, rc, "%s", path);
    }
    smoe_wipe(text, sizeof text);
    return rc;
}
