/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops over rows of grains, for one width of vectors; route_grain_rows.c includes this file once for each. It
 * defines `TILE(name)` functions from
 *
 *     TILE(x)    the name of x in this kernel
 *     TARGET     the attribute that lets the compiler use the instructions
 *     LANES      grains of a vector: 8, 16 or 32
 *     LESS(a, b), MORE(a, b)      lane by lane
 *     PLUS(a, b), MINUS(a, b)     lane by lane; what does not fit stays at the limit
 *     MASK(a)    a bit for each lane of a comparison, from the lowest
 *     NARROW(a, b)    the grains of two vectors of integers
 *     LIST(bits, f, to)    puts f + b into `to` for each bit b, rising; returns how many; 16 more may be written
 *     LEAST(a)        of eight lanes, all >= 0
 *     ALL(a)          the same, in all lanes of a vector
 *     LEAST_FLOAT(a)  of all lanes
 *     SAME(a, b)      a bit for each lane that is the same in both
 */
#ifdef TILE /* by itself the header is nothing */

typedef int16_t TILE(grains) __attribute__((vector_size(LANES * 2)));
typedef float TILE(floats) __attribute__((vector_size(LANES * 2)));
typedef int32_t TILE(ints) __attribute__((vector_size(LANES * 2)));

TARGET static inline __attribute__((always_inline)) TILE(grains) TILE(load)(const int16_t *from)
{
    TILE(grains) a;
    memcpy(&a, from, sizeof a);
    return a;
}

TARGET static inline __attribute__((always_inline)) void TILE(store)(int16_t *to, TILE(grains) a)
{
    memcpy(to, &a, sizeof a);
}

/* What LANES / 2 experts cost. */
TARGET static inline __attribute__((always_inline)) TILE(floats)
    TILE(cost)(const struct smoe_grain_scale *scale, const float *scores, uint32_t f)
{
    TILE(floats) score, price;
    memcpy(&score, scores + f, sizeof score);
    memcpy(&price, scale->prices + f, sizeof price);
    return price - scale->weight * score;
}

TARGET static inline __attribute__((always_inline)) TILE(grains)
    TILE(choose)(TILE(grains) a, TILE(grains) b, TILE(grains) first)
{
    return (a & first) | (b & ~first);
}

/* The experts of the first vector. */
TARGET static inline __attribute__((always_inline)) TILE(grains) TILE(lanes)(void)
{
    TILE(grains) lane;
    for (uint32_t l = 0; l < LANES; l++)
        lane[l] = (int16_t)l;
    return lane;
}

#if LANES == 32
#define PART(a, p)                                                                             \
    __builtin_shufflevector(a, a, 8 * (p), 8 * (p) + 1, 8 * (p) + 2, 8 * (p) + 3, 8 * (p) + 4, \
                            8 * (p) + 5, 8 * (p) + 6, 8 * (p) + 7)
#elif LANES == 16
#define PART(a, p)                                                                             \
    __builtin_shufflevector(a, a, 8 * (p), 8 * (p) + 1, 8 * (p) + 2, 8 * (p) + 3, 8 * (p) + 4, \
                            8 * (p) + 5, 8 * (p) + 6, 8 * (p) + 7)
#else
#define PART(a, p) (a)
#endif

/* The same in grains, above the least. */
TARGET static inline __attribute__((always_inline)) TILE(ints)
    TILE(whole)(const struct smoe_grain_scale *scale, const float *scores, uint32_t f, float least)
{
    TILE(floats) farthest = (float)SMOE_GRAIN_FAR - (TILE(floats)){0};
    TILE(floats) grains = TILE(cost)(scale, scores, f) - least;
    return __builtin_convertvector(LESS_FLOATS(grains, farthest), TILE(ints));
}

TARGET static inline __attribute__((always_inline)) float TILE(least_cost)(
    const struct smoe_grain_scale *scale, const float *scores, uint32_t n)
{
    TILE(floats) all = INFINITY - (TILE(floats)){0};
    uint32_t f = 0;
    for (; f + LANES / 2 <= n; f += LANES / 2)
        all = LESS_FLOATS(TILE(cost)(scale, scores, f), all); /* of what is no number, the second */
    float least = LEAST_FLOAT(all);
    for (; f < n; f++) {
        float cost = scale->prices[f] - scale->weight * scores[f];
        least = cost < least ? cost : least;
    }
    return least;
}

TARGET static inline __attribute__((always_inline)) void TILE(row)(
    const struct smoe_grain_scale *scale, const float *scores, uint32_t n, float least,
    int16_t *ret)
{
    uint32_t f = 0;
    for (; f + LANES <= n; f += LANES)
        TILE(store)
    (ret + f, NARROW(TILE(whole)(scale, scores, f, least),
                     TILE(whole)(scale, scores, f + LANES / 2, least)));
    for (; f < n; f++) {
        float grains = (scale->prices[f] - scale->weight * scores[f]) - least;
        ret[f] = (int16_t)(grains < (float)SMOE_GRAIN_FAR ? grains : (float)SMOE_GRAIN_FAR);
    }
    for (; f % SMOE_GRAIN_STEP; f++)
        ret[f] = SMOE_GRAIN_FAR;
}

/* Step by step over all rows: what rows wait for is short then, and they wait beside each other. */
TARGET static float TILE(costs)(const struct smoe_grain_scale *scale, const float *scores,
                                uint32_t n, uint32_t count, int16_t *ret)
{
    const uint32_t stride = smoe_grain_steps(n);
    float least[SMOE_GRAIN_ROWS], size = 0;
    for (uint32_t i = 0; i < count; i++)
        least[i] = TILE(least_cost)(scale, scores + (size_t)i * n, n);
    for (uint32_t i = 0; i < count; i++) {
        const float *next = scores + (size_t)(count + i) * n;
        for (uint32_t f = 0; f < n; f += 16) { /* a cache line */
            __builtin_prefetch(next + f);
            __builtin_prefetch(next + f + SMOE_GRAIN_AHEAD, 0, 2); /* to the second cache */
        }
        TILE(row)(scale, scores + (size_t)i * n, n, least[i], ret + (size_t)i * stride);
        size = fabsf(least[i]) > size ? fabsf(least[i]) : size;
    }
    return size;
}

TARGET static inline __attribute__((always_inline)) eight TILE(fold_least)(TILE(grains) least)
{
#if LANES == 32
    return LESS_8(LESS_8(PART(least, 0), PART(least, 1)), LESS_8(PART(least, 2), PART(least, 3)));
#elif LANES == 16
    return LESS_8(PART(least, 0), PART(least, 1));
#else
    return least;
#endif
}

/* Lane by lane first, then of what lanes have: a lane that has the least shows what it has next instead. */
TARGET static inline __attribute__((always_inline)) void TILE(two_of)(
    const int16_t *row, const int16_t *lift, uint32_t stride, const struct smoe_grain_two *but,
    struct smoe_grain_two *ret)
{
    TILE(grains) gone = (int16_t)(but ? but->expert : 0) - (TILE(grains)){0};
    TILE(grains) least = SMOE_GRAIN_FAR - (TILE(grains)){0}, second = least;
    TILE(grains) now = TILE(lanes)(), at = now;
    for (uint32_t f = 0; f < stride; f += LANES, now += LANES) {
        TILE(grains) cost = PLUS(TILE(load)(row + f), TILE(load)(lift + f));
        if (but)
            cost = TILE(choose)(SMOE_GRAIN_FAR - (TILE(grains)){0}, cost, now == gone);
        at = TILE(choose)(now, at, cost < least);
        second = LESS(second, MORE(least, cost));
        least = LESS(least, cost);
    }
    TILE(grains) found = ALL(TILE(fold_least)(least)), own = least == found;
    TILE(grains) next = TILE(choose)(second, least, own);
    uint32_t bits = SAME(least, found);
    at = TILE(choose)(at, SMOE_GRAIN_FAR - (TILE(grains)){0}, own);
    ret->least = found[0];
    ret->expert = (uint32_t)LEAST(TILE(fold_least)(at));
    ret->second = bits & (bits - 1) ? found[0] : LEAST(TILE(fold_least)(next));
}

TARGET static void TILE(two)(const int16_t *rows, uint32_t count, const int16_t *lift,
                             uint32_t stride, const struct smoe_grain_two *but,
                             struct smoe_grain_two *ret)
{
    if (but)
        for (uint32_t i = 0; i < count; i++)
            TILE(two_of)(rows + (size_t)i * stride, lift, stride, &but[i], &ret[i]);
    else
        for (uint32_t i = 0; i < count; i++)
            TILE(two_of)(rows + (size_t)i * stride, lift, stride, NULL, &ret[i]);
}

TARGET static int32_t TILE(least)(const int16_t *row, const int16_t *lift, uint32_t stride)
{
    TILE(grains) least = SMOE_GRAIN_FAR - (TILE(grains)){0};
    for (uint32_t f = 0; f < stride; f += LANES)
        least = LESS(least, PLUS(TILE(load)(row + f), TILE(load)(lift + f)));
    return LEAST(TILE(fold_least)(least));
}

TARGET static uint32_t TILE(lowest)(const int16_t *bids, uint32_t count, uint32_t but)
{
    TILE(grains) least = SMOE_GRAIN_FAR - (TILE(grains)){0}, none = least;
    TILE(grains) lane = TILE(lanes)(), at = none;
    for (uint32_t f = 0; f < count; f += LANES, lane += LANES) {
        TILE(grains) bid = TILE(load)(bids + f);
        TILE(grains) lower = (bid < least) & (lane != (int16_t)but);
        least = TILE(choose)(bid, least, lower);
        at = TILE(choose)(lane, at, lower);
    }
    at = TILE(choose)(at, none, least == ALL(TILE(fold_least)(least)));
    return (uint32_t)LEAST(TILE(fold_least)(at));
}

TARGET static inline __attribute__((always_inline)) void TILE(offers_of)(
    int16_t *row, uint32_t stride, const struct smoe_grain_group *group, bool more, bool large)
{
    for (uint32_t f = 0; f < stride; f += LANES) {
        TILE(grains) least = more ? TILE(load)(row + f) : SMOE_GRAIN_FAR - (TILE(grains)){0};
        for (uint32_t i = 0; i < group->count; i++) {
            TILE(grains) cost = TILE(load)(group->costs[i] + f), far = cost == SMOE_GRAIN_FAR;
            cost = MINUS(cost, group->held[i] - (TILE(grains)){0});
            least = LESS(least, large ? (SMOE_GRAIN_FAR & far) | (cost & ~far) : cost);
        }
        TILE(store)(row + f, least);
    }
}

TARGET static void TILE(offers)(int16_t *row, uint32_t stride, const struct smoe_grain_group *group,
                                bool more, bool large)
{
    if (large)
        TILE(offers_of)(row, stride, group, more, true);
    else
        TILE(offers_of)(row, stride, group, more, false);
}

/* Takes the open vertices no farther than `within` out of those, rising, in whole steps as long as there is room for
 * SMOE_GRAIN_WAVE. Returns how many. */
TARGET static inline __attribute__((always_inline)) uint32_t TILE(take)(
    const struct smoe_grain_front *front, int32_t within, uint32_t *ret_from)
{
    TILE(grains) bound = (int16_t)within - (TILE(grains)){0};
    uint32_t count = 0;
    for (uint32_t f = 0; f < front->stride; f += SMOE_GRAIN_STEP) {
        uint32_t bits = 0;
        for (uint32_t g = 0; g < SMOE_GRAIN_STEP; g += LANES)
            bits |= (uint32_t)MASK(TILE(load)(front->open + f + g) <= bound) << g;
        if (count + (uint32_t)__builtin_popcount(bits) > SMOE_GRAIN_WAVE)
            break;
        for (uint32_t g = 0; g < SMOE_GRAIN_STEP; g += LANES) { /* as it will be read */
            TILE(grains) open = TILE(load)(front->open + f + g);
            TILE(store)(front->open + f + g, open | ((open <= bound) & SMOE_GRAIN_FAR));
        }
        count += LIST(bits, f, ret_from + count);
    }
    return count;
}

/* The way from all to itself, `n` vectors from f on: how far it goes on to the sink. */
TARGET static inline __attribute__((always_inline)) TILE(grains)
    TILE(start_from)(const struct smoe_grain_front *front, uint32_t f)
{
    TILE(grains) base = MINUS(TILE(load)(front->key + f), TILE(load)(front->lift + f));
    TILE(store)(front->base + f, base);
    return PLUS(PLUS(base, TILE(load)(front->up + f)),
                (int16_t)front->sink_lift - (TILE(grains)){0});
}

/* Whoever among n vectors from f on is nearer by way of the wave comes from there, of equals from the first, and is
 * open. `least` is the nearest that is open, `leave` the nearest way on to the sink. */
TARGET static inline __attribute__((always_inline)) void TILE(spread)(
    const struct smoe_grain_front *front, const struct smoe_grain_wave *wave, uint32_t f,
    const uint32_t n, TILE(grains) * least, TILE(grains) * leave)
{
    TILE(grains) to[4], from[4];
    UNROLL
    for (uint32_t b = 0; b < n; b++)
        to[b] = from[b] = SMOE_GRAIN_FAR - (TILE(grains)){0};
    for (uint32_t i = 0; i < wave->count; i++) {
        const int16_t *row = wave->row[i] + f;
        TILE(grains) base = wave->base[i] - (TILE(grains)){0};
        TILE(grains) id = (int16_t)wave->from[i] - (TILE(grains)){0};
        UNROLL
        for (uint32_t b = 0; b < n; b++) {
            TILE(grains) by = PLUS(TILE(load)(row + (size_t)b * LANES), base);
            from[b] = TILE(choose)(id, from[b], by < to[b]);
            to[b] = LESS(to[b], by);
        }
    }
    UNROLL
    for (uint32_t b = 0; b < n; b++, f += LANES) {
        TILE(grains) way = PLUS(to[b], TILE(load)(front->lift + f));
        TILE(grains) key = TILE(load)(front->key + f), nearer = way < key;
        TILE(grains) open = TILE(choose)(way, TILE(load)(front->open + f), nearer);
        TILE(store)(front->came + f, TILE(choose)(from[b], TILE(load)(front->came + f), nearer));
        TILE(store)(front->key + f, LESS(key, way));
        TILE(store)(front->open + f, open);
        *least = LESS(*least, open);
        *leave = LESS(*leave, TILE(start_from)(front, f));
    }
}

TARGET static uint32_t TILE(search)(struct smoe_grain_front *front, int32_t width, int32_t most)
{
    const TILE(grains) far = SMOE_GRAIN_FAR - (TILE(grains)){0};
    struct smoe_grain_wave wave;
    TILE(grains) leave = far, least = far;
    uint32_t expanded = 0, stride = front->stride;
    for (uint32_t f = 0; f < stride; f += LANES) {
        leave = LESS(leave, TILE(start_from)(front, f));
        least = LESS(least, TILE(load)(front->open + f));
    }
    for (;;) {
        smoe_grain_reach_sink(front, LEAST(TILE(fold_least)(MORE(leave, (TILE(grains)){0}))));
        int32_t nearest = LEAST(TILE(fold_least)(least));
        nearest = front->sink_open < nearest ? front->sink_open : nearest;
        if (nearest > most)
            return expanded;
        wave.count = TILE(take)(front, nearest + width, wave.from);
        smoe_grain_complete_wave(front, nearest + width, &wave);
        expanded += wave.count;
        leave = least = far;
        uint32_t f = 0;
        for (; f + 4 * LANES <= stride; f += 4 * LANES)
            TILE(spread)(front, &wave, f, 4, &least, &leave);
        if (f + 2 * LANES <= stride) {
            TILE(spread)(front, &wave, f, 2, &least, &leave);
            f += 2 * LANES;
        }
        if (f + LANES <= stride)
            TILE(spread)(front, &wave, f, 1, &least, &leave);
    }
}

TARGET static void TILE(raise)(int16_t *lift, const int16_t *far, uint32_t stride, int16_t way)
{
    for (uint32_t f = 0; f < stride; f += LANES) {
        TILE(grains) rise = MINUS(way - (TILE(grains)){0}, TILE(load)(far + f));
        TILE(store)(lift + f, PLUS(TILE(load)(lift + f), MORE(rise, (TILE(grains)){0})));
    }
}

#undef PART
#undef TILE
#undef TARGET
#undef LANES
#undef LESS
#undef MORE
#undef PLUS
#undef MINUS
#undef LEAST
#undef ALL
#undef LIST
#undef SAME
#undef MASK
#undef LESS_FLOATS
#undef LEAST_FLOAT
#undef NARROW

#endif
