/* SPDX-License-Identifier: Apache-2.0
 *
 * Local sums: those of all hosts of a sharded layer's experts have room beside its shards, until they are added up.
 */
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/experts_state.h"

uint64_t smoe_held_sums_bytes(uint32_t replicas, size_t elements)
{
    return elements ? replicas * (elements * sizeof(smoe_real) + sizeof(size_t)) : 0;
}

void smoe_held_sums_release(struct smoe_held_sums *sums)
{
    smoe_blob_unref(sums->blob);
    free(sums->came);
}

int smoe_held_sums_make(uint32_t replicas, size_t elements, struct smoe_held_sums *ret,
                        struct smoe_why *why)
{
    struct smoe_held_sums sums = {0};
    *ret = sums;
    if (!replicas || !elements)
        return 0;
    sums.blob = smoe_blob_new(NULL, replicas * elements * sizeof(smoe_real));
    sums.came = calloc(replicas, sizeof *sums.came);
    *ret = sums;
    if (sums.blob && sums.came)
        return 0;
    smoe_held_sums_release(ret);
    return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
}

void smoe_held_sums_take(struct smoe_experts *store, struct smoe_held_layer *layer,
                         struct smoe_held_sums *sums, uint32_t replicas, size_t elements)
{
    struct smoe_held_sums before = {layer->sums_blob, layer->sum_elements};
    store->bytes -= smoe_held_sums_bytes(layer->replicas, layer->layout.elements);
    store->bytes += smoe_held_sums_bytes(replicas, elements);
    layer->sums_blob = sums->blob;
    layer->sums = sums->blob ? (smoe_real *)(void *)sums->blob->data : NULL;
    layer->sum_elements = sums->came;
    layer->replicas = replicas;
    memset(layer->first_sum, 0, (layer->shape.experts + 1) * sizeof *layer->first_sum);
    smoe_held_sums_release(&before);
}

int smoe_experts_sums_for(struct smoe_experts *store, struct smoe_held_layer *layer,
                          uint32_t replicas, struct smoe_why *why)
{
    uint64_t bytes = smoe_held_sums_bytes(replicas, layer->layout.elements);
    struct smoe_held_sums sums = {0};
    if (replicas <= layer->replicas)
        return 0;
    int rc =
        smoe_held_check_room(store, 0, bytes, why); /* the old ones are there until it has them */
    rc = rc ? rc : smoe_held_sums_make(replicas, layer->layout.elements, &sums, why);
    if (rc == 0)
        smoe_held_sums_take(store, layer, &sums, replicas, layer->layout.elements);
    return rc;
}
