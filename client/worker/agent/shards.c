/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker has few ranges (two or three, unless the fleet has changed often), so they are searched one by one.
 */
#include "client/worker/agent/shards.h"

#include <stdlib.h>
#include <string.h>

static int by_offset(const void *a, const void *b)
{
    const struct smoe_shard_range *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int check_overlap(const struct smoe_shard_range *sorted, size_t n, size_t n_params,
                         struct smoe_why *why)
{
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        if (sorted[i].offset < end || sorted[i].offset > n_params ||
            sorted[i].length > n_params - sorted[i].offset)
            return smoe_fail(why, SMOE_EFIELD,
                             "HOST: the piece of %zu elements at %zu overlaps another, or the end "
                             "at %zu",
                             sorted[i].length, sorted[i].offset, n_params);
        end = sorted[i].offset + sorted[i].length;
    }
    return 0;
}

/* Neighbours of one role become one range: the gateway may ask across them, when it has come to see them as one. */
static void coalesce(struct smoe_shard_layout *layout)
{
    size_t n = 0, n_owned = layout->n_owned, n_held = layout->n_held;
    struct smoe_shard_range *r = layout->ranges;
    for (size_t i = 0; i < layout->n; i++) {
        bool begins = i == 0 || i == n_owned || i == n_held; /* another role */
        layout->n_owned = i == n_owned ? n : layout->n_owned;
        layout->n_held = i == n_held ? n : layout->n_held;
        if (!begins && r[n - 1].offset + r[n - 1].length == r[i].offset)
            r[n - 1].length += r[i].length;
        else
            r[n++] = r[i];
    }
    layout->n_owned = n_owned == layout->n ? n : layout->n_owned;
    layout->n_held = n_held == layout->n ? n : layout->n_held;
    layout->n = n;
}

int smoe_shard_layout_make(const struct smoe_msg_host *host, size_t n_params,
                           struct smoe_shard_layout *ret, struct smoe_why *why)
{
    size_t n = host->pieces.n;
    struct smoe_shard_layout layout = {.n = n,
                                       .n_owned = host->pieces_owned,
                                       .n_held = host->pieces_owned + host->pieces_followed};
    struct smoe_shard_range *ranges = malloc((n + 1) * sizeof *ranges);
    if (!ranges)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    for (size_t i = 0; i < n; i++)
        ranges[i] = (struct smoe_shard_range){(size_t)host->pieces.offsets[i],
                                              (size_t)host->pieces.lengths[i], 0};
    qsort(ranges, n, sizeof *ranges, by_offset);
    int rc = check_overlap(ranges, n, n_params, why);
    for (size_t i = 0; i < n && !rc; i++) {
        ranges[i] = (struct smoe_shard_range){(size_t)host->pieces.offsets[i],
                                              (size_t)host->pieces.lengths[i], layout.elements};
        layout.elements += ranges[i].length;
        layout.elements_owned += i < layout.n_owned ? ranges[i].length : 0;
    }
    if (rc) {
        free(ranges);
        return rc;
    }
    layout.ranges = ranges;
    coalesce(&layout);
    *ret = layout;
    return 0;
}

void smoe_shard_layout_release(struct smoe_shard_layout *layout)
{
    free(layout->ranges);
    *layout = (struct smoe_shard_layout){0};
}

bool smoe_shard_layout_same(const struct smoe_shard_layout *a, const struct smoe_shard_layout *b)
{
    for (size_t i = 0; i < a->n && a->n == b->n; i++)
        if (a->ranges[i].offset != b->ranges[i].offset ||
            a->ranges[i].length != b->ranges[i].length)
            return false;
    return a->n == b->n && a->n_owned == b->n_owned && a->n_held == b->n_held;
}

size_t smoe_shard_find(const struct smoe_shard_layout *layout, uint64_t offset, uint64_t length)
{
    for (size_t i = 0; i < layout->n; i++) {
        const struct smoe_shard_range *r = &layout->ranges[i];
        if (offset >= r->offset && offset - r->offset < r->length &&
            length <= r->length - (offset - r->offset))
            return r->local + (size_t)(offset - r->offset);
    }
    return SMOE_SHARD_NOWHERE;
}

/* Elements that both ranges have, from `*ret_begin` on. */
static size_t common(const struct smoe_shard_range *a, const struct smoe_shard_range *b,
                     size_t *ret_begin)
{
    size_t a_end = a->offset + a->length, b_end = b->offset + b->length;
    size_t begin = a->offset > b->offset ? a->offset : b->offset;
    size_t end = a_end < b_end ? a_end : b_end;
    *ret_begin = begin;
    return begin < end ? end - begin : 0;
}

bool smoe_shard_covers(const struct smoe_shard_layout *before,
                       const struct smoe_shard_layout *layout)
{
    for (size_t i = 0; i < layout->n_held; i++) {
        size_t had = 0, begin;
        for (size_t j = 0; j < before->n; j++)
            had += common(&layout->ranges[i], &before->ranges[j], &begin);
        if (had < layout->ranges[i].length)
            return false;
    }
    return true;
}

void smoe_shard_cut_out(const struct smoe_shard_range *ranges, size_t n_ranges, size_t at, size_t n,
                        const smoe_real *part, smoe_real *ret_local)
{
    struct smoe_shard_range here = {.offset = at, .length = n};
    for (size_t i = 0; i < n_ranges; i++) {
        size_t begin, both = common(&ranges[i], &here, &begin);
        if (both)
            memcpy(ret_local + ranges[i].local + (begin - ranges[i].offset), part + (begin - at),
                   both * sizeof *part);
    }
}

void smoe_shard_carry(const struct smoe_shard_layout *from, const smoe_real *vector,
                      const struct smoe_shard_layout *to, smoe_real *ret_vector)
{
    for (size_t i = 0; i < from->n; i++) {
        const struct smoe_shard_range *a = &from->ranges[i];
        for (size_t j = 0; j < to->n; j++) {
            const struct smoe_shard_range *b = &to->ranges[j];
            size_t begin, n = common(a, b, &begin);
            if (n)
                memcpy(ret_vector + b->local + (begin - b->offset),
                       vector + a->local + (begin - a->offset), n * sizeof *vector);
        }
    }
}
