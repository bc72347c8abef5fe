/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/site.h"

#include <stdio.h>

#define WORDS_MAX 16 /* options of a worker */

static void name_of(unsigned i, char ret[16])
{
    snprintf(ret, 16, "w%u", i + 1); /* as smoe_fleet_add_worker names them */
}

static int make_keys(struct smoe_site *s, unsigned n_workers, struct smoe_key *ret,
                     struct smoe_why *why)
{
    char name[16];
    int rc = 0;
    for (unsigned i = 0; i <= n_workers && !rc; i++) {
        name_of(i, name);
        rc = i < n_workers ? smoe_key_make(SMOE_ROLE_WORKER, name, &ret[i], why)
                           : smoe_key_make(SMOE_ROLE_TRAINER, "bench", &ret[i], why);
        rc = rc ? rc : smoe_keyring_add(&s->keys, &ret[i], why);
    }
    return rc;
}

static int add_worker(const struct smoe_bench *bench, const struct smoe_site_options *o,
                      const struct smoe_key *key, struct smoe_site *s, struct smoe_why *why)
{
    char path[192];
    const char *words[WORDS_MAX] = {NULL};
    size_t n = 0;
    int rc = 0;
    for (; o->worker[n] && n + 3 < WORDS_MAX; n++)
        words[n] = o->worker[n];
    if (key) {
        rc = smoe_fleet_write_key(&s->fleet, key, path, sizeof path, why);
        words[n++] = "--key";
        words[n++] = path;
    }
    if (rc == 0 && o->star)
        rc = smoe_star_enter(o->star, s->fleet.n_workers + 1, why);
    return rc ? rc : smoe_fleet_add_worker(bench, words, &s->fleet, why);
}

static int start_secure(const struct smoe_bench *bench, const struct smoe_site_options *o,
                        struct smoe_site *s, struct smoe_why *why)
{
    struct smoe_key keys[SMOE_FLEET_WORKERS_MAX + 1];
    char listen[32] = SMOE_FLEET_HERE;
    int rc = make_keys(s, o->n_workers, keys, why);
    if (o->star)
        smoe_star_address(0, listen);
    if (rc == 0 && o->star)
        rc = smoe_star_enter(o->star, 0, why);
    rc = rc ? rc : smoe_fleet_start_at(bench, listen, o->settings, &s->keys, &s->fleet, why);
    rc = rc ? rc
            : smoe_fleet_write_key(&s->fleet, &keys[o->n_workers], s->trainer_key,
                                   sizeof s->trainer_key, why);
    for (unsigned i = 0; i < o->n_workers && !rc; i++)
        rc = add_worker(bench, o, &keys[i], s, why);
    if (o->star)
        smoe_star_leave(o->star);
    return rc;
}

int smoe_site_start(const struct smoe_bench *bench, const struct smoe_site_options *o,
                    struct smoe_site *ret, struct smoe_why *why)
{
    *ret = (struct smoe_site){.trainer_key = ""};
    if (o->secure || o->star)
        return start_secure(bench, o, ret, why);
    int rc = smoe_fleet_start(bench, o->settings, 0, &ret->fleet, why);
    for (unsigned i = 0; i < o->n_workers && !rc; i++)
        rc = add_worker(bench, o, NULL, ret, why);
    return rc;
}

void smoe_site_stop(struct smoe_site *s)
{
    smoe_fleet_stop(&s->fleet);
    smoe_keyring_release(&s->keys);
    *s = (struct smoe_site){.trainer_key = ""};
}
