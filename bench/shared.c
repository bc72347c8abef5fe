/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/shared.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int smoe_shared_init(struct smoe_shared *shared, size_t size)
{
    *shared = (struct smoe_shared){.fd = memfd_create("stablemoe-bench", 0)};
    if (shared->fd < 0)
        return -errno;
    if (ftruncate(shared->fd, (off_t)size))
        return -errno;
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, shared->fd, 0);
    if (bytes == MAP_FAILED)
        return -errno;
    /* As malloc's large blocks are, where the system lets it: 4 KiB pages would cost every lane. */
    (void)madvise(bytes, size, MADV_HUGEPAGE);
    memset(bytes, 0, size);
    shared->bytes = bytes;
    shared->size = size;
    return 0;
}

void smoe_shared_release(struct smoe_shared *shared)
{
    if (shared->bytes)
        munmap(shared->bytes, shared->size);
    if (shared->fd >= 0)
        close(shared->fd);
    *shared = (struct smoe_shared){.fd = -1};
}
