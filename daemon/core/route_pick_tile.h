/* SPDX-License-Identifier: Apache-2.0
 *
 * One vector kernel of the hot pass; route_pick_tile.c includes this file once for each width. It
 * defines `TILE(name)` functions from
 *
 *     TILE(x)      the name of x in this kernel
 *     TARGET       the attribute that lets the compiler use the instructions
 *     LANES        floats of a vector: 4, 8 or 16
 *     LESSER(a, b), GREATER(a, b)   lane by lane, no NaN
 *     OTHER(a, b, lesser)           the greater of the two, where the lesser is known
 *     LESS_PRODUCT(a, b, c)         a - b c, however it is rounded; b a scalar
 *     MARKED(x, mask, mark)         the bits of x, those of the mask replaced by the mark's
 *
 * Scores are read once; from then on keys stay in registers:
 *
 *     row      for K <= 2 and rows of middle length: along one token's row, the K+2 least of each lane. Four vectors
 *              of keys are sorted (sort) and joined to those so far (join), without a branch
 *     fold     four tokens' lists into the lanes of one: twice, half of each token's lanes join the other half. Now
 *              a block of four lanes has one of each token, lane 4 b + t of token t
 *     steps    otherwise: four tokens at once, LANES experts each, turned within each block of four lanes (a 4 x 4
 *              transposition), so that lane 4 b + t is of token t from the beginning. Then joined as above or, for
 *              K > 2, inserted one after the other: two instructions for each rank
 *     four     after either, block joins block, until every block has the least of all
 *     settle   from keys to results, four tokens at once; those not proven go on alone (route_pick_tile.c)
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
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

#define SORT(a, b)                          \
    do {                                    \
        TILE(floats) lesser = LESSER(a, b); \
        (b) = GREATER(a, b);                \
        (a) = lesser;                       \
    } while (0)

/* x joins the `count` least of its lane, in `least` from `rank` on: none of those below is above it. */
TARGET static inline __attribute__((always_inline)) void TILE(insert)(TILE(floats) * least,
                                                                      uint32_t rank, uint32_t count,
                                                                      TILE(floats) x)
{
    UNROLL
    for (uint32_t m = rank; m + 1 < count; m++) {
        TILE(floats) lesser = LESSER(least[m], x);
        x = OTHER(least[m], x, lesser);
        least[m] = lesser;
    }
    least[count - 1] = LESSER(least[count - 1], x);
}

/* Four rise. What is not used afterwards is not computed: the least three take 9 instructions instead of 10. */
TARGET static inline __attribute__((always_inline)) void TILE(sort)(TILE(floats) * four)
{
    SORT(four[0], four[1]);
    SORT(four[2], four[3]);
    SORT(four[0], four[2]);
    SORT(four[1], four[3]);
    SORT(four[1], four[2]);
}

/* The `count` least of two lists, both rising. Of threes by 7 instructions: the greater of the first two and the lesser
 * of the second two are the second and one that the third is not above. Of fours by 12: the lesser of the k-th of one
 * and the k-th from the end of the other is among the least of both, and these fall at most once, so that four
 * comparisons put them in order. */
TARGET static inline __attribute__((always_inline)) void TILE(join)(TILE(floats) * least,
                                                                    const TILE(floats) * other,
                                                                    uint32_t count)
{
    if (count == 3) {
        TILE(floats) third = LESSER(least[2], other[2]), second = LESSER(least[1], other[1]);
        TILE(floats) greater = other[0];
        SORT(least[0], greater);
        SORT(greater, second);
        least[1] = greater;
        least[2] = LESSER(second, third);
        return;
    }
    if (count == 4) {
        UNROLL
        for (uint32_t m = 0; m < 4; m++)
            least[m] = LESSER(least[m], other[3 - m]);
        SORT(least[0], least[2]);
        SORT(least[1], least[3]);
        SORT(least[0], least[1]);
        SORT(least[2], least[3]);
        return;
    }
    UNROLL
    for (uint32_t m = 0; m < count; m++) /* the m-th cannot come before rank m */
        TILE(insert)(least, m, count, other[m]);
}

/* Keys of LANES experts of one token: approximate costs with the expert in the lowest bits. */
TARGET static inline __attribute__((always_inline)) TILE(floats)
    TILE(keys)(const struct smoe_route_tile *tile, const float *scores, size_t e)
{
    TILE(floats) score, price;
    TILE(ints) expert;
    memcpy(&score, scores + e, sizeof score);
    memcpy(&price, tile->price + e, sizeof price);
    memcpy(&expert, tile->expert + e, sizeof expert);
    return MARKED(LESS_PRODUCT(price, tile->weight, score), tile->expert_mask, expert);
}

/* The `count` least keys of one token in each lane, 3 or 4; a row of at least three vectors and a part. */
TARGET static inline __attribute__((always_inline)) void TILE(row)(
    const struct smoe_route_tile *tile, const float *scores, uint32_t count, TILE(floats) * least)
{
    size_t n_experts = tile->n_experts, e = (size_t)4 * LANES;
    UNROLL
    for (size_t m = 0; m < 4; m++)
        least[m] = TILE(keys)(tile, scores, m * LANES);
    TILE(sort)(least);
    for (; e + (size_t)3 * LANES < n_experts; e += (size_t)4 * LANES) {
        TILE(floats) four[4];
        UNROLL
        for (size_t m = 0; m < 4; m++)
            four[m] = TILE(keys)(tile, scores, e + m * LANES);
        TILE(sort)(four);
        TILE(join)(least, four, count);
    }
    for (; e < n_experts; e += LANES)
        TILE(insert)(least, 0, count, TILE(keys)(tile, scores, e));
}

/* Lists of two tokens, or of two pairs, in the lanes of one: half of each token's lanes join the other half. */
TARGET static inline __attribute__((always_inline)) void TILE(fold)(const TILE(floats) * a,
                                                                    const TILE(floats) * b,
                                                                    bool pairs, uint32_t count,
                                                                    TILE(floats) * ret_least)
{
    TILE(floats) other[4];
    UNROLL
    for (uint32_t m = 0; m < count; m++) {
        TILE(floats) x = a[m], y = b[m];
        ret_least[m] = pairs ? SHUFFLE(x, y, LANES_FIRST) : SHUFFLE(x, y, LANES_LOW);
        other[m] = pairs ? SHUFFLE(x, y, LANES_LAST) : SHUFFLE(x, y, LANES_HIGH);
    }
    TILE(join)(ret_least, other, count);
}

/* The `count` least keys of four tokens in each block of four lanes, row by row. */
TARGET static inline __attribute__((always_inline)) void TILE(rows)(
    const struct smoe_route_tile *tile, const float *scores, uint32_t count,
    TILE(floats) * ret_least)
{
    size_t stride = tile->n_experts;
    TILE(floats) a[4], b[4], ab[4], cd[4];
    TILE(row)(tile, scores, count, a);
    TILE(row)(tile, scores + stride, count, b);
    TILE(fold)(a, b, false, count, ab);
    TILE(row)(tile, scores + 2 * stride, count, a);
    TILE(row)(tile, scores + 3 * stride, count, b);
    TILE(fold)(a, b, false, count, cd);
    TILE(fold)(ab, cd, true, count, ret_least);
}

/* The same, all four tokens step by step. */
TARGET static inline __attribute__((always_inline)) void TILE(steps)(
    const struct smoe_route_tile *tile, const float *scores, uint32_t count,
    TILE(floats) * ret_least)
{
    size_t stride = tile->n_experts;
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        ret_least[m] = SMOE_ROUTE_TILE_DEAD - (TILE(floats)){0};
    for (size_t e = 0; e < stride; e += LANES) {
        smoe_route_tile_ahead(scores + 4 * (stride + e), LANES, stride);
        TILE(floats) t0 = TILE(keys)(tile, scores, e), t1 = TILE(keys)(tile, scores + stride, e);
        TILE(floats) t2 = TILE(keys)(tile, scores + 2 * stride, e);
        TILE(floats) t3 = TILE(keys)(tile, scores + 3 * stride, e);
        TILE(floats) low01 = SHUFFLE(t0, t1, LANES_LOW), low23 = SHUFFLE(t2, t3, LANES_LOW);
        TILE(floats) high01 = SHUFFLE(t0, t1, LANES_HIGH), high23 = SHUFFLE(t2, t3, LANES_HIGH);
        TILE(floats)
        four[4] = {SHUFFLE(low01, low23, LANES_FIRST), SHUFFLE(low01, low23, LANES_LAST),
                   SHUFFLE(high01, high23, LANES_FIRST), SHUFFLE(high01, high23, LANES_LAST)};
        if (count <= 4) {
            TILE(sort)(four);
            TILE(join)(ret_least, four, count);
            continue;
        }
        UNROLL
        for (uint32_t m = 0; m < 4; m++)
            TILE(insert)(ret_least, 0, count, four[m]);
    }
}

/* What the `count` least keys of four tokens say. */
TARGET static inline __attribute__((always_inline)) void TILE(four)(
    const struct smoe_route_tile *tile, const float *scores, uint32_t count,
    struct smoe_route_tile_found *ret_found)
{
    TILE(floats) least[SMOE_ROUTE_TILE_KEYS];
    if (count <= 4 && tile->n_experts > 3 * LANES && tile->n_experts <= SMOE_ROUTE_TILE_ROW_MAX)
        TILE(rows)(tile, scores, count, least);
    else
        TILE(steps)(tile, scores, count, least);
#ifdef LANES_NEXT
    TILE(floats) other[SMOE_ROUTE_TILE_KEYS];
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        other[m] = SHUFFLE(least[m], least[m], LANES_NEXT);
    TILE(join)(least, other, count);
#endif
#ifdef LANES_CROSS
    UNROLL
    for (uint32_t m = 0; m < count; m++)
        other[m] = SHUFFLE(least[m], least[m], LANES_CROSS);
    TILE(join)(least, other, count);
#endif
    UNROLL
    for (uint32_t m = 0; m + 1 < count; m++) {
        TILE(ints) expert = (TILE(ints))least[m] & tile->expert_mask;
        memcpy(ret_found->expert[m], &expert, sizeof ret_found->expert[m]);
    }
    memcpy(ret_found->last, &least[count - 2], sizeof ret_found->last);
    memcpy(ret_found->next, &least[count - 1], sizeof ret_found->next);
}

/* From what was found to the results of four tokens; false, and nothing is written, if not all are proven and in
 * order. */
TARGET static inline __attribute__((always_inline)) bool TILE(settle)(
    const struct smoe_route_tile *tile, uint32_t token, uint32_t top_k,
    const struct smoe_route_tile_found *found)
{
    const struct smoe_route_pick *pick = tile->pick;
    size_t stride = tile->n_experts;
    const float *s0 = pick->scores + token * stride, *s1 = s0 + stride, *s2 = s1 + stride;
    const float *s3 = s2 + stride;
    const double *prices = pick->prices;
    four_doubles cost[SMOE_TOP_K_MAX + 1];
    four_longs rising = {-1, -1, -1, -1};
    UNROLL
    for (uint32_t m = 0; m <= top_k; m++) {
        const uint32_t *e = found->expert[m];
        if (m == top_k && tile->alone) { /* the next key's expert may be behind the last */
            cost[m] = (double)INFINITY - (four_doubles){0};
            break;
        }
        two_floats score01 = {s0[e[0]], s1[e[1]]}, score23 = {s2[e[2]], s3[e[3]]};
        two_doubles wide01 = __builtin_convertvector(score01, two_doubles);
        two_doubles wide23 = __builtin_convertvector(score23, two_doubles);
        four_doubles price = {prices[e[0]], prices[e[1]], prices[e[2]], prices[e[3]]};
        cost[m] = price - pick->weight * SHUFFLE(wide01, wide23, 0, 1, 2, 3);
        if (m > 0)
            rising &= cost[m - 1] < cost[m];
    }
    two_longs all = SHUFFLE(rising, rising, 0, 1) & SHUFFLE(rising, rising, 2, 3);
    if (!tile->alone)
        all &= smoe_route_tile_proven(tile, found);
    if ((all[0] & all[1]) != -1)
        return false;
    smoe_route_tile_tell(tile, token, top_k, found);
    four_doubles margin = cost[top_k] - cost[top_k - 1];
    memcpy(pick->cutoff + token, &cost[top_k - 1], sizeof margin);
    memcpy(pick->margin + token, &margin, sizeof margin);
    return true;
}

/* For a compile-time K all ranks stay in registers. Four tokens are settled after the next four were looked at, when
 * what was found of them has long arrived; both go on side by side. */
TARGET static inline __attribute__((always_inline)) void TILE(groups)(
    const struct smoe_route_tile *tile, uint32_t n_tokens, uint32_t top_k)
{
    struct smoe_route_tile_found found[2];
    for (uint32_t i = 0; i <= n_tokens; i += 4) {
        const struct smoe_route_tile_found *before = &found[(i / 4 + 1) % 2];
        if (i < n_tokens)
            TILE(four)
        (tile, tile->pick->scores + (size_t)i * tile->n_experts, top_k + 2, &found[i / 4 % 2]);
        if (i > 0 && !TILE(settle)(tile, i - 4, top_k, before))
            smoe_route_tile_settle(tile, i - 4, top_k, before);
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
#undef OTHER
#undef MARKED
#undef LESS_PRODUCT

#endif
