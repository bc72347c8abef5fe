/* SPDX-License-Identifier: Apache-2.0
 *
 * Sorting, and who is greatest while keys change, with one order everywhere: the greater key first, the lower index
 * among equals. Indices are distinct, so the order is total and what comes out does not depend on how it was found.
 *
 * Popularity is random to the branch predictor, and a plan is a few thousand comparisons: a heap spent half
 * of the planner's time on guessing wrong. So nothing here branches on the outcome of a comparison. The
 * contest is a knock-out: contenders are leaves in the order of their indices, each node has the winner of
 * its two, and who changes plays its way up again, always as many matches as the tree has levels, against
 * opponents that are known beforehand. Sorting ranks blocks of eight by counting who comes before whom, and
 * merges them.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/place_internal.h"

/* ---- sorting ---- */

#define BLOCK 8

static bool before(struct smoe_place_key a, struct smoe_place_key b)
{
    return (a.key > b.key) | ((a.key == b.key) & (a.index < b.index));
}

static void sort_block(const struct smoe_place_key *from, struct smoe_place_key *to, uint32_t n)
{
    uint32_t rank[BLOCK] = {0};
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = 0; j < i; j++) {
            bool swapped = before(from[i], from[j]);
            rank[j] += swapped;
            rank[i] += !swapped;
        }
    for (uint32_t i = 0; i < n; i++)
        to[rank[i]] = from[i];
}

/* from[0..mid) and from[mid..n) are sorted. */
static void merge(const struct smoe_place_key *from, uint32_t mid, uint32_t n,
                  struct smoe_place_key *to)
{
    uint32_t a = 0, b = mid, at = 0;
    while (a < mid && b < n) {
        bool second = before(from[b], from[a]);
        to[at++] = from[second ? b : a];
        b += second;
        a += !second;
    }
    memcpy(to + at, from + a, (mid - a) * sizeof *to);
    memcpy(to + at + (mid - a), from + b, (n - b) * sizeof *to);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

void smoe_place_sort(struct smoe_place_scratch *scratch, struct smoe_place_key *items, uint32_t n)
{
    struct smoe_place_key *from = scratch->spare, *to = items;
    for (uint32_t i = 0; i < n; i += BLOCK)
        sort_block(items + i, from + i, least(BLOCK, n - i));
    for (uint32_t width = BLOCK; width < n; width *= 2) {
        for (uint32_t i = 0; i < n; i += 2 * width)
            merge(from + i, least(width, n - i), least(2 * width, n - i), to + i);
        struct smoe_place_key *merged = to;
        to = from;
        from = merged;
    }
    if (from != items && n)
        memcpy(items, from, n * sizeof *items);
}

/* ---- the contest ---- */

/* Whole numbers in the order of the keys: choices between those can be made by their bits. Both zeros are one. */
static uint64_t order_of(double key)
{
    uint64_t bits;
    key += 0.0; /* -0 becomes 0 */
    memcpy(&bits, &key, sizeof bits);
    return bits >> 63 ? ~bits : bits | UINT64_C(1) << 63;
}

double smoe_place_winning_key(const struct smoe_place_contest *c)
{
    uint64_t bits = c->order[1];
    double key;
    bits = bits >> 63 ? bits & ~(UINT64_C(1) << 63) : ~bits;
    memcpy(&key, &bits, sizeof key);
    return key;
}

void smoe_place_contest_open(struct smoe_place_contest *c, uint32_t n)
{
    c->width = 1;
    while (c->width < n)
        c->width *= 2;
    for (uint32_t i = 0; i < c->width; i++) {
        c->order[c->width + i] = order_of(SMOE_PLACE_OUT);
        c->index[c->width + i] = i;
    }
}

void smoe_place_contest_enter(struct smoe_place_contest *c, uint32_t contender, double key)
{
    c->order[c->width + contender] = order_of(key);
}

void smoe_place_contest_begin(struct smoe_place_contest *c)
{
    for (uint32_t at = c->width - 1; at > 0; at--) {
        uint32_t right = c->order[2 * at + 1] > c->order[2 * at];
        c->order[at] = c->order[2 * at + right];
        c->index[at] = c->index[2 * at + right];
    }
}

void smoe_place_contest_change(struct smoe_place_contest *c, uint32_t contender, double key)
{
    uint64_t *order = c->order, own = order_of(key);
    uint32_t *index = c->index, winner = contender;
    order[c->width + contender] = own;
    for (uint32_t at = c->width + contender; at > 1; at /= 2) {
        uint64_t other = order[at ^ 1];
        uint32_t opponent = index[at ^ 1];
        uint64_t lost =
            -(uint64_t)(other + (at & 1) > own); /* all bits; a right child loses a draw */
        winner ^= (winner ^ opponent) & (uint32_t)lost;
        own ^= (own ^ other) & lost;
        order[at / 2] = own;
        index[at / 2] = winner;
    }
}
