/* SPDX-License-Identifier: Apache-2.0
 *
 * What every program that connects to a gateway does with the file it was given: read it, see that it is for this role
 * and name, make a context of it, and leave no secret behind.
 */
#include <string.h>

#include "common/base/wipe.h"
#include "common/io/tls.h"

static int check_bearer(const struct smoe_tls_node *node, const struct smoe_key *key,
                        struct smoe_why *why)
{
    if (key->role != node->role)
        return smoe_fail(why, SMOE_ECONFIG, "%s %s: is for role %s, and this needs one for %s %s",
                         node->option, node->path, smoe_role_name(key->role),
                         node->role == SMOE_ROLE_ADMIN ? "an" : "a", smoe_role_name(node->role));
    if (node->name && *node->name && strcmp(node->name, key->name) != 0)
        return smoe_fail(why, SMOE_ECONFIG, "%s %s: is for %s, not for %.63s", node->option,
                         node->path, key->name, node->name);
    return 0;
}

int smoe_tls_context_of(const struct smoe_tls_node *node, struct smoe_tls_context **ret,
                        smoe_name ret_name, struct smoe_why *why)
{
    struct smoe_key key;
    struct smoe_certificate certificate;
    struct smoe_tls_options options = {.key = &key};
    int rc = smoe_credential_read(node->path, &key, &certificate, why);
    if (rc)
        return smoe_fail_at(why, rc, "%s", node->option);
    memcpy(ret_name, key.name, sizeof(smoe_name));
    options.certificate = certificate.own ? &certificate : NULL;
    rc = check_bearer(node, &key, why);
    if (rc == 0)
        rc = smoe_tls_context_new(&options, ret, why);
    smoe_certificate_release(&certificate);
    smoe_wipe(&key, sizeof key);
    return rc;
}
