/* SPDX-License-Identifier: Apache-2.0
 *
 * One vector kernel of the hot pass; route_pick_tile.c includes this file once for each width. It
 * defines `TILE(name)` functions from
 *
 *     TILE(x)      the name of x in this kernel
 *     TARGET       the attribute that lets the compiler use the instructions
 *     LANES        floats of a vector: 4, 8 or 16
 *     LESSER(a, b), GREATER(a, b)   lane by lane, no NaN
 *     LESS_PRODUCT(a, b, c)         a - b c, however it is rounded; b a scalar
 *
 * A row of vectors is read once, turned, and kept in registers:
 *
 *     load     four tokens, LANES experts each: four vectors of keys (route_pick_tile.c)
 *     turn     within each block of four lanes a 4 x 4 transposition: now a vector has one expert of every
 *              block for all four tokens, lane 4 b + t for token t
 *     insert   into the K+2 least so far, lane by lane: two instructions for each rank, no branch; for K = 2
 *              four vectors at once (merge)
 *     merge    after the last expert, block with block, until every block has the least of all
 */
#ifdef TILE /* by itself the header is nothing */

typedef float TILE(floats) __attribute__((vector_size(LANES * 4)));
typedef int32_t TILE(ints) __attribute__((vector_size(LANES * 4)));

/* Which lanes of (a, b) make the interleaved halves of a 4-lane block, and which two pairs. */
#if LANES == 4
#define LANES_LOW   0, 4, 1, 5
#define LANES_HIGH  2, 6, 3, 7
#define LANES_FIRST 0, 1, 4, 5
#define LANES_LAST  2, 3, 6, 7
#elif LANES == 8
#define LANES_LOW   0, 8, 1, 9, 4, 12, 5, 13
#define LANES_HIGH  2, 10, 3, 11, 6, 14, 7, 15
#define LANES_FIRST 0, 1, 8, 9, 4, 5, 12, 13
#define LANES_LAST  2, 3, 10, 11, 6, 7, 14, 15
#define LANES_NEXT  4, 5, 6, 7, 0, 1, 2, 3
#else
#define LANES_LOW   0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define LANES_HIGH  2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define LANES_FIRST 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define LANES_LAST  2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LANES_NEXT  4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11
#define LANES_CROSS 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#endif
#define SHUFFLE(a, b, lanes) __builtin_shufflevector(a, b, lanes)

/* x joins the `count` least of its lane, in `least` from `rank` on: none of those below is above it. */
TARGET static inline __attribute__((always_inline)) void TILE(insert)(TILE(floats) * least,
                                                                      uint32_t rank, uint32_t count,
                                                                      TILE(floats) x)
{
    UNROLL
    for (uint32_t m = rank; m + 1 < count; m++) {
        TILE(floats) was = least[m];
        least[m] = LESSER(was, x);
        x = GREATER(was, x);
    }
    least[count - 1] = LESSER(least[count - 1], x);
}

#define SORT(a, b)                          \
    do {                                    \
        TILE(floats) lesser = LESSER(a, b); \
        (b) = GREATER(a, b);                \
        (a) = lesser;                       \
    } while (0)

/* Four at once join the four least, by 22 instructions instead of 28. They are sorted first; the lesser of the k-th
 * of one four and the k-th from the end of the other is among the least of both, and these fall at most once, so
 * that four comparisons put them in order. */
TARGET static inline __attribute__((always_inline)) void TILE(merge)(TILE(floats) * least,
                                                                     TILE(floats) a, TILE(floats) b,
                                                                     TILE(floats) c, TILE(floats) d)
{
    SORT(a, b);
    SORT(c, d);
    SORT(a, c);
    SORT(b, d);
    SORT(b, c);
    least[0] = LESSER(least[0], d);
    least[1] = LESSER(least[1], c);
    least[2] = LESSER(least[2], b);
    least[3] = LESSER(least[3], a);
    SORT(least[0], least[2]);
    SORT(least[1], least[3]);
    SORT(least[0], least[1]);
    SORT(least[2], least[3]);
}

/* Keys of LANES experts of one token: approximate costs with the expert in the lowest bits. */
TARGET static inline __attribute__((always_inline)) TILE(floats)
    TILE(keys)(const struct smoe_route_tile *tile, const float *scores, uint32_t e)
{
    TILE(floats) score, price;
    TILE(ints) expert;
    memcpy(&score, scores + e, sizeof score);
    memcpy(&price, tile->price + e, sizeof price);
    memcpy(&expert, tile->expert + e, sizeof expert);
    TILE(floats) cost = LESS_PRODUCT(price, tile->weight, score);
    return (TILE(floats))(((TILE(ints))cost & ~tile->expert_mask) | expert);
}

/* The `count` least keys of four tokens; ret_keys[m * 4 + t] is the m-th of token t. */
TARGET static inline __attribute__((always_inline)) void TILE(four)(
    const struct smoe_route_tile *tile, const float *scores, uint32_t count, float *ret_keys)
{
    TILE(floats) least[SMOE_ROUTE_TILE_KEYS];
    size_t stride = tile->n_experts;
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        least[m] = SMOE_ROUTE_TILE_DEAD - (TILE(floats)){0};
    for (uint32_t e = 0; e < tile->n_experts; e += LANES) {
        smoe_route_tile_ahead(scores + 4 * (stride + e), LANES, stride);
        TILE(floats) t0 = TILE(keys)(tile, scores, e), t1 = TILE(keys)(tile, scores + stride, e);
        TILE(floats) t2 = TILE(keys)(tile, scores + 2 * stride, e);
        TILE(floats) t3 = TILE(keys)(tile, scores + 3 * stride, e);
        TILE(floats) low01 = SHUFFLE(t0, t1, LANES_LOW), low23 = SHUFFLE(t2, t3, LANES_LOW);
        TILE(floats) high01 = SHUFFLE(t0, t1, LANES_HIGH), high23 = SHUFFLE(t2, t3, LANES_HIGH);
        t0 = SHUFFLE(low01, low23, LANES_FIRST);
        t1 = SHUFFLE(low01, low23, LANES_LAST);
        t2 = SHUFFLE(high01, high23, LANES_FIRST);
        t3 = SHUFFLE(high01, high23, LANES_LAST);
        if (count == 4) {
            TILE(merge)(least, t0, t1, t2, t3);
            continue;
        }
        TILE(insert)(least, 0, count, t0);
        TILE(insert)(least, 0, count, t1);
        TILE(insert)(least, 0, count, t2);
        TILE(insert)(least, 0, count, t3);
    }
#ifdef LANES_NEXT
    TILE(floats) other[SMOE_ROUTE_TILE_KEYS];
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        other[m] = SHUFFLE(least[m], least[m], LANES_NEXT);
    UNROLL
    for (uint32_t m = 0; m < count; m++) /* both rise, so the m-th cannot come before rank m */
        TILE(insert)(least, m, count, other[m]);
#endif
#ifdef LANES_CROSS
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        other[m] = SHUFFLE(least[m], least[m], LANES_CROSS);
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        TILE(insert)(least, m, count, other[m]);
#endif
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        memcpy(ret_keys + (size_t)m * 4, &least[m], 4 * sizeof *ret_keys);
}

/* For a compile-time K all ranks stay in registers. */
TARGET static inline __attribute__((always_inline)) void TILE(groups)(
    const struct smoe_route_tile *tile, uint32_t n_tokens, uint32_t top_k)
{
    float keys[4 * SMOE_ROUTE_TILE_KEYS];
    for (uint32_t i = 0; i < n_tokens; i += 4) {
        TILE(four)(tile, tile->pick->scores + (size_t)i * tile->n_experts, top_k + 2, keys);
        for (uint32_t t = 0; t < 4; t++)
            smoe_route_tile_settle(tile, i + t, top_k, keys + t);
    }
}

TARGET static void TILE(run)(const struct smoe_route_tile *tile, uint32_t n_tokens)
{
    switch (tile->pick->top_k) {
    case 1:
        TILE(groups)(tile, n_tokens, 1);
        return;
    case 2:
        TILE(groups)(tile, n_tokens, 2);
        return;
    case 3:
        TILE(groups)(tile, n_tokens, 3);
        return;
    case 4:
        TILE(groups)(tile, n_tokens, 4);
        return;
    case 5:
        TILE(groups)(tile, n_tokens, 5);
        return;
    case 6:
        TILE(groups)(tile, n_tokens, 6);
        return;
    case 7:
        TILE(groups)(tile, n_tokens, 7);
        return;
    case 8:
        TILE(groups)(tile, n_tokens, 8);
        return;
    default:
        smoe_assert(tile->pick->top_k <= SMOE_TOP_K_MAX);
    }
}

#undef SHUFFLE
#undef SORT
#undef LANES_LOW
#undef LANES_HIGH
#undef LANES_FIRST
#undef LANES_LAST
#undef LANES_NEXT
#undef LANES_CROSS
#undef TILE
#undef TARGET
#undef LANES
#undef LESSER
#undef GREATER
#undef LESS_PRODUCT

#endif
