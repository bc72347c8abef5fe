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
 *     LEAST(a)        of eight lanes, all >= 0
 *     LEAST_OF(e)                 the two least of eight lanes, and the expert of the least, of equals the lowest
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
#define EIGHT(p) ((struct lanes){PART(least, p), PART(second, p), PART(at, p)})

/* Lanes of the same place among eight. */
TARGET static inline __attribute__((always_inline)) struct lanes TILE(fold)(TILE(grains) least,
                                                                            TILE(grains) second,
                                                                            TILE(grains) at)
{
#if LANES == 32
    return fold(fold(EIGHT(0), EIGHT(1)), fold(EIGHT(2), EIGHT(3)));
#elif LANES == 16
    return fold(EIGHT(0), EIGHT(1));
#else
    return EIGHT(0);
#endif
}

/* The same in grains, above the least. */
TARGET static inline __attribute__((always_inline)) TILE(ints)
    TILE(whole)(const struct smoe_grain_scale *scale, const float *scores, uint32_t f, float least)
{
    TILE(floats) farthest = (float)SMOE_GRAIN_FAR - (TILE(floats)){0};
    TILE(floats) grains = (TILE(cost)(scale, scores, f) - least) * scale->per_cost;
    return __builtin_convertvector(LESS_FLOATS(grains, farthest), TILE(ints));
}

TARGET static void TILE(costs)(const struct smoe_grain_scale *scale, const float *scores,
                               uint32_t n, float least, int16_t *ret)
{
    uint32_t f = 0;
    for (; f + LANES <= n; f += LANES)
        TILE(store)
    (ret + f, NARROW(TILE(whole)(scale, scores, f, least),
                     TILE(whole)(scale, scores, f + LANES / 2, least)));
    for (; f < n; f++) {
        float grains = ((scale->prices[f] - scale->weight * scores[f]) - least) * scale->per_cost;
        ret[f] = (int16_t)(grains < (float)SMOE_GRAIN_FAR ? grains : (float)SMOE_GRAIN_FAR);
    }
    for (; f % SMOE_GRAIN_STEP; f++)
        ret[f] = SMOE_GRAIN_FAR;
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

TARGET static struct smoe_grain_two TILE(two)(const int16_t *row, const int16_t *lift,
                                              uint32_t stride)
{
    TILE(grains) least = SMOE_GRAIN_FAR - (TILE(grains)){0}, second = least;
    TILE(grains) now = TILE(lanes)(), at = now;
    for (uint32_t f = 0; f < stride; f += LANES, now += LANES) {
        TILE(grains) cost = PLUS(TILE(load)(row + f), TILE(load)(lift + f));
        at = TILE(choose)(now, at, cost < least);
        second = LESS(second, MORE(least, cost));
        least = LESS(least, cost);
    }
    struct lanes lanes = TILE(fold)(least, second, at);
    return LEAST_OF(&lanes);
}

TARGET static void TILE(offers)(int16_t *row, uint32_t stride, const struct smoe_grain_group *group,
                                int more)
{
    for (uint32_t f = 0; f < stride; f += LANES) {
        TILE(grains) least = more ? TILE(load)(row + f) : SMOE_GRAIN_FAR - (TILE(grains)){0};
        for (uint32_t i = 0; i < group->count; i++) {
            TILE(grains) cost = TILE(load)(group->costs[i] + f), far = cost == SMOE_GRAIN_FAR;
            cost = MINUS(cost, group->held[i] - (TILE(grains)){0});
            least = LESS(least, (SMOE_GRAIN_FAR & far) | (cost & ~far));
        }
        TILE(store)(row + f, least);
    }
}

TARGET static uint32_t TILE(take)(const struct smoe_grain_front *front, int32_t within,
                                  uint16_t *ret_from)
{
    TILE(grains) bound = (int16_t)within - (TILE(grains)){0};
    uint32_t count = 0;
    for (uint32_t f = 0; f < front->stride; f += SMOE_GRAIN_STEP) {
        uint32_t bits = 0;
        for (uint32_t g = 0; g < SMOE_GRAIN_STEP; g += LANES)
            bits |= (uint32_t)MASK(TILE(load)(front->open + f + g) <= bound) << g;
        if (!bits)
            continue;
        if (count + (uint32_t)__builtin_popcount(bits) > SMOE_GRAIN_WAVE)
            break;
        for (uint32_t g = 0; g < SMOE_GRAIN_STEP;
             g += LANES) { /* whole vectors, as they will be read */
            TILE(grains) open = TILE(load)(front->open + f + g);
            TILE(store)(front->open + f + g, open | ((open <= bound) & SMOE_GRAIN_FAR));
        }
        for (; bits; bits &= bits - 1)
            ret_from[count++] = (uint16_t)(f + (uint32_t)__builtin_ctz(bits));
    }
    return count;
}

TARGET static int32_t TILE(spread)(const struct smoe_grain_front *front,
                                   const struct smoe_grain_wave *wave)
{
    const uint32_t stride = front->stride, count = (wave->count + 3) / 4 * 4;
    TILE(grains) least = SMOE_GRAIN_FAR - (TILE(grains)){0};
    for (uint32_t f = 0; f < stride; f += LANES) {
        TILE(grains) to = SMOE_GRAIN_FAR - (TILE(grains)){0}, from = to;
        UNROLL
        for (uint32_t i = 0; i < count; i++) {
            TILE(grains) by = PLUS(TILE(load)(wave->row[i] + f), wave->base[i] - (TILE(grains)){0});
            from = TILE(choose)((int16_t)wave->from[i] - (TILE(grains)){0}, from, by < to);
            to = LESS(to, by);
        }
        to = PLUS(to, TILE(load)(front->lift + f));
        TILE(grains) key = TILE(load)(front->key + f), nearer = to < key;
        TILE(store)(front->came + f, TILE(choose)(from, TILE(load)(front->came + f), nearer));
        TILE(store)(front->key + f, LESS(key, to));
        TILE(grains) open = TILE(choose)(to, TILE(load)(front->open + f), nearer);
        TILE(store)(front->open + f, open);
        least = LESS(least, open);
    }
    return LEAST(TILE(fold_least)(least));
}

TARGET static void TILE(raise)(int16_t *lift, const int16_t *far, uint32_t stride, int16_t way)
{
    for (uint32_t f = 0; f < stride; f += LANES) {
        TILE(grains) rise = MINUS(way - (TILE(grains)){0}, TILE(load)(far + f));
        TILE(store)(lift + f, PLUS(TILE(load)(lift + f), MORE(rise, (TILE(grains)){0})));
    }
}

#undef PART
#undef EIGHT
#undef TILE
#undef TARGET
#undef LANES
#undef LESS
#undef MORE
#undef PLUS
#undef MINUS
#undef LEAST_OF
#undef LEAST
#undef MASK
#undef LESS_FLOATS
#undef NARROW

#endif
