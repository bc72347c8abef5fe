/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of keys. A gateway's is `keys` in its state directory, one line a key (key.h); a node's holds its own
 * line and nothing else. Both belong to whoever reads them, to root, or to the owner of the state directory
 * (where root reads), and nobody else may read them (in $CREDENTIALS_DIRECTORY the group may, as systemd has it); one
 * that is empty, too long, readable by others, or not of keys through and through is refused as a whole.
 */
#ifndef SMOE_IO_KEYRING_H
#define SMOE_IO_KEYRING_H

#include "common/io/key.h"

#define SMOE_KEYRING_FILE "keys"
#define SMOE_KEYRING_MAX  8192 /* keys of a gateway */
#define SMOE_KEYS_OF_NAME 2    /* of one node: the old and the new one, while keys change */

/* A gateway's keys, in order of name and print. Names are unique among all roles: at most
 * SMOE_KEYS_OF_NAME keys, of one role. Zeroed: empty. */
struct smoe_keyring {
    struct smoe_key *keys; /* owned */
    size_t len;
};

/* Wipes and frees; may be zeroed. */
void smoe_keyring_release(struct smoe_keyring *ring);

/* Reads the file `name` of the directory `dir`. -ENOENT if there is none; SMOE_EDATA if it is not as it should be,
 * -EPERM if others may read it; or whatever else keeps it from being read. */
int smoe_keyring_read(int dir, const char *name, struct smoe_keyring *ret, struct smoe_why *why);

/* Replaces the file: mode 0600, the owner of the directory's. */
int smoe_keyring_write(int dir, const char *name, const struct smoe_keyring *ring,
                       struct smoe_why *why);

/* The key of this identity, or NULL. */
const struct smoe_key *smoe_keyring_find(const struct smoe_keyring *ring, const char *identity,
                                         size_t len);

/* SMOE_EEXIST: the name is another role's, or has two keys already. SMOE_ELIMIT: too many. */
int smoe_keyring_add(struct smoe_keyring *ring, const struct smoe_key *key, struct smoe_why *why);

/* Takes out the keys of `name`, or only the one of this print, if not NULL. SMOE_EUNKNOWN: there is none. */
int smoe_keyring_revoke(struct smoe_keyring *ring, const char *name, const char *print,
                        struct smoe_why *why);

/* Reads a private file: belonging to whom it should, and readable by nobody else. Up to max - 1 bytes into `data`;
 * SMOE_ETOOBIG, with the first `max` in it, if there are more. Errors as smoe_keyring_read's: -ENOENT, -EPERM. */
int smoe_private_read(int dir, const char *name, char *data, size_t max, size_t *ret_len,
                      struct smoe_why *why);

/* Reads a node's own key file. */
int smoe_key_read(const char *path, struct smoe_key *ret, struct smoe_why *why);

#endif
