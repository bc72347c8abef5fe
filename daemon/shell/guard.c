/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS borrows the ring, so that new keys are in force from one handshake to the next. They take the old
 * ones' place in memory only when they have been read whole: whatever fails before, also a lack of
 * descriptors, leaves the old ones, and never none.
 */
#include "daemon/shell/guard.h"

#include <errno.h>
#include <fcntl.h>

#include "common/io/reticence.h"

/* ---- handshakes ---- */

static void on_turn(uv_idle_t *idle)
{
    struct smoe_guard *guard = idle->data;
    if (!smoe_tls_context_turn(guard->tls))
        uv_idle_stop(idle);
}

/* An idle handle also keeps the loop from sleeping. */
static void on_shaking(void *context)
{
    struct smoe_guard *guard = context;
    uv_idle_start(&guard->turns, on_turn);
}

void smoe_guard_start(struct smoe_guard *guard, uv_loop_t *loop)
{
    uv_idle_init(loop, &guard->turns);
    guard->turns.data = guard;
}

void smoe_guard_close(struct smoe_guard *guard)
{
    uv_close((uv_handle_t *)&guard->turns, NULL);
}

/* ---- who is known ---- */

/* What a restart would not mend is a mistake of configuration. */
static int as_configuration(int rc)
{
    bool lasting = rc == -EPERM || rc == -EACCES || rc == -EINVAL || rc == SMOE_EDATA ||
                   rc == SMOE_EEXIST || rc == SMOE_ELIMIT || rc == SMOE_ETOOBIG;
    return lasting ? SMOE_ECONFIG : rc;
}

static int read_keys(int dir, struct smoe_keyring *ret, struct smoe_why *why)
{
    int rc = smoe_keyring_read(dir, SMOE_KEYRING_FILE, ret, why);
    if (rc == -ENOENT)
        return smoe_fail(why, SMOE_ECONFIG,
                         "no keys, so nobody could join: make one with `stablemoectl key add "
                         "worker NAME`, or set security.insecure = loopback-only");
    return rc ? as_configuration(rc) : 0;
}

static int read_certificate(const char *path, struct smoe_certificate *ret, struct smoe_why *why)
{
    int rc = smoe_certificate_read(AT_FDCWD, path, ret, why);
    if (rc == 0 && !ret->is_gateway) {
        smoe_certificate_release(ret);
        rc = smoe_fail(why, SMOE_ECONFIG,
                       "%s: is no gateway's: it needs URI:stablemoe:gateway:NAME", path);
    }
    rc = rc == -ENOENT ? SMOE_ECONFIG : as_configuration(rc);
    return rc ? smoe_fail_at(why, rc, "security.certificate") : 0;
}

static int init_certified(struct smoe_guard *guard, struct smoe_tls_options *options,
                          struct smoe_why *why)
{
    struct smoe_certificate certificate;
    int rc = read_certificate(guard->certificate, &certificate, why);
    if (rc)
        return rc;
    options->certificate = &certificate;
    rc = smoe_tls_context_new(options, &guard->tls, why);
    smoe_certificate_release(&certificate);
    return rc;
}

int smoe_guard_init(struct smoe_guard *guard, enum smoe_insecure insecure, int dir,
                    const char *certificate,
                    void (*established)(void *context, const struct smoe_key *peer),
                    struct smoe_why *why)
{
    if (insecure == SMOE_INSECURE_LOOPBACK)
        return 0;
    smoe_keep_to_itself();
    struct smoe_tls_options options = {.keys = &guard->keys,
                                       .established = established,
                                       .shakes_a_turn = SMOE_GUARD_SHAKES_A_TURN,
                                       .shaking = on_shaking,
                                       .loop = guard};
    guard->certificate = *certificate ? certificate : NULL;
    if (guard->certificate)
        return init_certified(guard, &options, why);
    int rc = read_keys(dir, &guard->keys, why);
    if (rc == 0)
        rc = smoe_tls_context_new(&options, &guard->tls, why);
    return rc;
}

static int renew_certificate(struct smoe_guard *guard, struct smoe_why *why)
{
    struct smoe_certificate fresh;
    int rc = read_certificate(guard->certificate, &fresh, why);
    if (rc)
        return rc;
    rc = smoe_tls_context_renew(guard->tls, &fresh);
    smoe_certificate_release(&fresh);
    return rc ? smoe_fail(why, rc, "out of memory") : 0;
}

int smoe_guard_reload(struct smoe_guard *guard, int dir, struct smoe_why *why)
{
    struct smoe_keyring fresh;
    if (guard->certificate)
        return renew_certificate(guard, why);
    int rc = guard->tls ? read_keys(dir, &fresh, why) : 0;
    if (rc || !guard->tls)
        return rc;
    smoe_keyring_release(&guard->keys);
    guard->keys = fresh;
    return 0;
}

void smoe_guard_release(struct smoe_guard *guard)
{
    smoe_tls_context_free(guard->tls);
    smoe_keyring_release(&guard->keys);
    guard->tls = NULL;
}
