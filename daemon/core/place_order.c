/* SPDX-License-Identifier: Apache-2.0
 *
 * Sorting and a heap, without qsort (which may allocate) and with one order everywhere: the greater key first,
 * the lower index among equals. Indices are distinct, so the order is total and what comes out does not
 * depend on how it was found.
 */
#include "daemon/core/place_internal.h"

static bool before(struct smoe_place_key a, struct smoe_place_key b)
{
    return a.key > b.key || (a.key == b.key && a.index < b.index);
}

/* Shell's sort with Ciura's gaps: short, in place, no worst case at the sizes that occur. */
void smoe_place_sort(struct smoe_place_key *items, uint32_t n)
{
    static const uint32_t gaps[] = {99205, 44091, 19595, 8709, 3870, 1720, 764,
                                    340,   151,   57,    23,   10,   4,    1};
    unsigned first = n < 57 ? 9 : 0; /* most sorts are of a few */
    for (unsigned g = first; g < sizeof gaps / sizeof *gaps; g++)
        for (uint32_t gap = gaps[g], i = gap; i < n; i++) {
            struct smoe_place_key item = items[i];
            uint32_t at = i;
            for (; at >= gap && before(item, items[at - gap]); at -= gap)
                items[at] = items[at - gap];
            items[at] = item;
        }
}

/* `item` goes in at the hole `at`, or below it. */
static void sift_down(struct smoe_place_heap *heap, uint32_t at, struct smoe_place_key item)
{
    struct smoe_place_key *items = heap->items;
    for (uint32_t child; (child = 2 * at + 1) < heap->n; at = child) {
        if (child + 1 < heap->n && before(items[child + 1], items[child]))
            child++;
        if (!before(items[child], item))
            break;
        items[at] = items[child];
    }
    items[at] = item;
}

void smoe_place_heapify(struct smoe_place_heap *heap)
{
    for (uint32_t at = heap->n / 2; at-- > 0;)
        sift_down(heap, at, heap->items[at]);
}

void smoe_place_sink(struct smoe_place_heap *heap, double key)
{
    sift_down(heap, 0, (struct smoe_place_key){key, heap->items[0].index});
}

struct smoe_place_key smoe_place_pop(struct smoe_place_heap *heap)
{
    struct smoe_place_key top = heap->items[0];
    heap->n--;
    if (heap->n)
        sift_down(heap, 0, heap->items[heap->n]);
    return top;
}

void smoe_place_push(struct smoe_place_heap *heap, struct smoe_place_key item)
{
    uint32_t at = heap->n++;
    for (; at && before(item, heap->items[(at - 1) / 2]); at = (at - 1) / 2)
        heap->items[at] = heap->items[(at - 1) / 2];
    heap->items[at] = item;
}
