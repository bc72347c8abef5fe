/* SPDX-License-Identifier: Apache-2.0
 *
 * The gateway's journal for the fuzzer: records wait until they are synced; a crash forgets those that
 * still wait. What it holds is what the next gateway is restored from.
 */
#ifndef SMOE_FUZZ_DISK_H
#define SMOE_FUZZ_DISK_H

#include "daemon/core/journal.h"

struct fuzz_disk {
    uint64_t epoch; /* of the last gateway that started, or of a commit that is durable */
    uint64_t epoch_waiting;
    struct smoe_restored image;  /* owned */
    struct smoe_record *waiting; /* owned, with their standings */
    size_t n_waiting, cap;
    uint64_t sequence; /* of the last record that came */
};

void fuzz_disk_release(struct fuzz_disk *disk);
void fuzz_disk_append(struct fuzz_disk *disk, const struct smoe_record *record, uint64_t epoch);
/* Makes durable what waits; the last sequence number, 0 if nothing waited. */
uint64_t fuzz_disk_sync(struct fuzz_disk *disk);
void fuzz_disk_crash(struct fuzz_disk *disk);

#endif
