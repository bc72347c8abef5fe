/* SPDX-License-Identifier: Apache-2.0
 *
 * read, change, write, tell the daemon: under a lock on the directory, so that two who do so at once do not
 * undo each other (the daemon's own lock is on a file in it). Whoever may do this is decided by the state
 * directory: root, and its owner.
 *
 * The last key is not revoked: the file would be empty, and an empty file is one that somebody broke.
 */
#include "client/ctl/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "client/ctl/ask.h"
#include "common/base/wipe.h"
#include "common/io/clock.h"
#include "common/io/keyring.h"
#include "common/io/statedir.h"

#define PATIENCE_NS UINT64_C(3000000000) /* for a daemon that does not listen yet */

struct store {
    const char *state_dir;
    int dir;
    struct smoe_keyring keys;
};

static int open_store(struct store *s, struct smoe_why *why)
{
    if (mkdir(s->state_dir, 0750) < 0 && errno != EEXIST)
        return smoe_fail(why, -errno, "state directory %s: %s", s->state_dir,
                         smoe_strerror(-errno));
    s->dir = open(s->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir < 0 || flock(s->dir, LOCK_EX) < 0)
        return smoe_fail(why, -errno, "state directory %s: %s%s", s->state_dir,
                         smoe_strerror(-errno),
                         errno == EACCES ? " (keys are for root and the gateway's user)" : "");
    int rc = smoe_keyring_read(s->dir, SMOE_KEYRING_FILE, &s->keys, why);
    if (rc && rc != -ENOENT)
        return smoe_fail_at(why, rc, "%s", s->state_dir);
    return 0;
}

static void release_store(struct store *s)
{
    smoe_keyring_release(&s->keys);
    if (s->dir >= 0)
        close(s->dir);
}

static bool nobody_listens(int rc)
{
    return rc == -ENOENT || rc == -ECONNREFUSED;
}

/* A daemon that does not run reads them when it starts. One that has the directory and does not listen is about
 * to, or is short of descriptors: it may have read them before they were changed. */
static int tell_daemon(const struct store *s, struct smoe_why *why)
{
    static const struct timespec pause = {.tv_nsec = 20000000};
    char *answer = NULL;
    uint64_t began_ns = smoe_clock_monotonic_ns();
    int rc;
    while (nobody_listens(rc = smoe_ctl_ask(s->state_dir, "reload-keys", &answer, why))) {
        if (!smoe_statedir_held(s->dir))
            return 0;
        if (smoe_clock_monotonic_ns() - began_ns > PATIENCE_NS)
            return smoe_fail(why, SMOE_ETIMEOUT,
                             "the file is written, and the daemon, which runs, does not listen on "
                             "its admin socket: tell it by `stablemoectl reload-keys`, or SIGHUP");
        (void)nanosleep(&pause, NULL);
    }
    if (rc == 0 && strcmp(answer, "{\"ok\":true}") != 0)
        rc = smoe_fail(why, SMOE_ESTATE,
                       "the file is written, and the daemon did not take it: %.150s", answer);
    free(answer);
    return rc;
}

static int write_keys(const struct store *s, struct smoe_why *why)
{
    int rc = smoe_keyring_write(s->dir, SMOE_KEYRING_FILE, &s->keys, why);
    return rc ? smoe_fail_at(why, rc, "%s", s->state_dir) : 0;
}

/* ---- the commands ---- */

static int add(struct store *s, char *const *operands, unsigned n, FILE *out, struct smoe_why *why)
{
    enum smoe_role role;
    struct smoe_key key;
    char line[SMOE_KEY_LINE_MAX];
    if (n != 2 || !smoe_role_parse(operands[0], strlen(operands[0]), &role))
        return smoe_fail(why, SMOE_ECONFIG, "key add: needs worker, trainer or admin, and a name");
    int rc = smoe_key_make(role, operands[1], &key, why);
    if (rc)
        return smoe_fail_at(why, SMOE_ECONFIG, "key add %.80s", operands[1]);
    rc = smoe_keyring_add(&s->keys, &key, why);
    rc = rc ? rc : write_keys(s, why);
    if (rc == 0) { /* it is in the file, whatever the daemon says */
        smoe_key_format(&key, line);
        fprintf(out, "%s\n", line);
        rc = tell_daemon(s, why);
    }
    smoe_wipe(line, sizeof line);
    smoe_wipe(&key, sizeof key);
    return rc;
}

static int list(struct store *s, char *const *operands, unsigned n, FILE *out, struct smoe_why *why)
{
    (void)operands;
    if (n)
        return smoe_fail(why, SMOE_ECONFIG, "key list: takes no argument");
    for (size_t i = 0; i < s->keys.len; i++) {
        const struct smoe_key *k = &s->keys.keys[i];
        fprintf(out, "%-8s %-24s %s\n", smoe_role_name(k->role), k->name, k->print);
    }
    return 0;
}

static int take_out(struct store *s, char *const *operands, unsigned n, FILE *out,
                    struct smoe_why *why)
{
    (void)out;
    if (n < 1 || n > 2)
        return smoe_fail(why, SMOE_ECONFIG, "key revoke: needs a name, and perhaps a fingerprint");
    int rc = smoe_keyring_revoke(&s->keys, operands[0], n == 2 ? operands[1] : NULL, why);
    if (rc == 0 && !s->keys.len)
        rc = smoe_fail(why, SMOE_ESTATE,
                       "key revoke: %.63s has the only key there is: add another one first, or "
                       "stop the gateway",
                       operands[0]);
    rc = rc ? rc : write_keys(s, why);
    return rc ? rc : tell_daemon(s, why);
}

static const struct {
    const char *name;
    int (*run)(struct store *s, char *const *operands, unsigned n, FILE *out, struct smoe_why *why);
} verbs[] = {{"add", add}, {"list", list}, {"revoke", take_out}};

int smoe_ctl_keys(const char *state_dir, char *const *operands, unsigned n, FILE *out,
                  struct smoe_why *why)
{
    for (size_t i = 0; n && i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verbs[i].name, operands[0]) != 0)
            continue;
        struct store s = {.state_dir = state_dir, .dir = -1};
        int rc = open_store(&s, why);
        if (rc == 0)
            rc = verbs[i].run(&s, operands + 1, n - 1, out, why);
        if (rc == 0 && (fflush(out) || ferror(out)))
            rc = smoe_fail(why, SMOE_ECLOSED, "standard output: cannot be written");
        release_store(&s);
        return rc;
    }
    return smoe_fail(why, SMOE_ECONFIG, "key: add, list or revoke; see --help");
}
