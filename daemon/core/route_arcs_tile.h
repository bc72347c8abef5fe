/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops over rows of arcs, for one width of vectors; route_arcs.c includes this file once for each. It
 * defines `TILE(name)` functions from
 *
 *     TILE(x)    the name of x in this kernel
 *     TARGET     the attribute that lets the compiler use the instructions
 *     LANES      doubles of a vector
 */
#ifdef TILE /* by itself the header is nothing */

typedef float TILE(floats) __attribute__((vector_size(LANES * 4)));
typedef double TILE(doubles) __attribute__((vector_size(LANES * 8)));
typedef int64_t TILE(longs) __attribute__((vector_size(LANES * 8)));

TARGET static inline __attribute__((always_inline)) TILE(doubles)
    TILE(lesser)(TILE(doubles) a, TILE(doubles) b)
{
    TILE(longs) first = a < b;
    return (TILE(doubles))(((TILE(longs))a & first) | ((TILE(longs))b & ~first));
}

TARGET static void TILE(offer)(double *row, uint32_t n, const float *scores, double weight,
                               double held)
{
    uint32_t f = 0;
    for (; f + LANES <= n; f += LANES) {
        TILE(floats) score;
        TILE(doubles) least;
        memcpy(&score, scores + f, sizeof score);
        memcpy(&least, row + f, sizeof least);
        TILE(doubles) cost = held - weight * __builtin_convertvector(score, TILE(doubles));
        least = TILE(lesser)(cost, least);
        memcpy(row + f, &least, sizeof least);
    }
    for (; f < n; f++) {
        double cost = held - weight * (double)scores[f];
        row[f] = cost < row[f] ? cost : row[f];
    }
}

/* Are any lanes of two comparisons true? */
TARGET static inline __attribute__((always_inline)) bool TILE(any)(TILE(longs) a, TILE(longs) b)
{
    int64_t any = 0;
    a |= b;
    UNROLL
    for (uint32_t l = 0; l < LANES; l++)
        any |= a[l];
    return any != 0;
}

/* Does the row say of these experts what the token offers them? */
TARGET static inline __attribute__((always_inline)) TILE(longs)
    TILE(same)(const double *row, const float *scores, double weight, double held)
{
    TILE(floats) score;
    TILE(doubles) least;
    memcpy(&score, scores, sizeof score);
    memcpy(&least, row, sizeof least);
    return held - weight * __builtin_convertvector(score, TILE(doubles)) == least;
}

TARGET static uint32_t TILE(owned)(const double *row, uint32_t n, const float *scores,
                                   double weight, double held, uint16_t *ret_expert)
{
    uint32_t found = 0, f = 0;
    while (f < n) {
        uint32_t end = f + 2 * LANES;
        if (end > n)
            end = n;
        else if (!TILE(any)(TILE(same)(row + f, scores + f, weight, held),
                            TILE(same)(row + f + LANES, scores + f + LANES, weight, held)))
            f = end;
        for (; f < end; f++)
            if (held - weight * (double)scores[f] == row[f])
                ret_expert[found++] = (uint16_t)f;
    }
    return found;
}

/* To which of these experts is it less far than was known, and than the radius? */
TARGET static inline __attribute__((always_inline)) TILE(longs)
    TILE(near)(const double *row, const double *label, const double *distance, double base,
               double radius)
{
    TILE(doubles) cost, to, known;
    memcpy(&cost, row, sizeof cost);
    memcpy(&to, label, sizeof to);
    memcpy(&known, distance, sizeof known);
    return base + (to + cost) < TILE(lesser)(known, radius - (TILE(doubles)){0});
}

TARGET static uint32_t TILE(nearer)(const double *row, const double *label, const double *distance,
                                    uint32_t n, double base, double radius, uint16_t *ret_expert)
{
    uint32_t found = 0, f = 0;
    while (f < n) {
        uint32_t end = f + 2 * LANES, g = f + LANES;
        if (end > n)
            end = n;
        else if (!TILE(any)(TILE(near)(row + f, label + f, distance + f, base, radius),
                            TILE(near)(row + g, label + g, distance + g, base, radius)))
            f = end;
        for (; f < end; f++)
            if (base + (label[f] + row[f]) < (distance[f] < radius ? distance[f] : radius))
                ret_expert[found++] = (uint16_t)f;
    }
    return found;
}

#undef TILE
#undef TARGET
#undef LANES

#endif
