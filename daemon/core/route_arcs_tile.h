/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops over rows of arcs, for one width of vectors; route_arcs.c includes this file once for each. It
 * defines `TILE(name)` functions from
 *
 *     TILE(x)    the name of x in this kernel
 *     TARGET     the attribute that lets the compiler use the instructions
 *     LANES      doubles of a vector
 *     LESSER(a, b), GREATER(a, b)   lane by lane; the second where they are equal
 *     ANY(a)     is any lane of a comparison true?
 */
#ifdef TILE /* by itself the header is nothing */

typedef float TILE(floats) __attribute__((vector_size(LANES * 4)));
typedef double TILE(doubles) __attribute__((vector_size(LANES * 8)));
typedef int64_t TILE(longs) __attribute__((vector_size(LANES * 8)));

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
        least = LESSER(cost, least);
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
    return ANY(a | b);
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
    return base + (to + cost) < LESSER(known, radius - (TILE(doubles)){0});
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

TARGET static struct smoe_route_two TILE(two)(const double *prices, uint32_t n, const float *scores,
                                              double weight)
{
    TILE(doubles) least = (double)INFINITY - (TILE(doubles)){0}, second = least;
    TILE(longs) at = (int64_t)UINT32_MAX - (TILE(longs)){0}, now;
    for (uint32_t l = 0; l < LANES; l++)
        now[l] = l;
    uint32_t f = 0;
    for (; f + LANES <= n; f += LANES, now += LANES) {
        TILE(floats) score;
        TILE(doubles) price;
        memcpy(&score, scores + f, sizeof score);
        memcpy(&price, prices + f, sizeof price);
        TILE(doubles) cost = price - weight * __builtin_convertvector(score, TILE(doubles));
        TILE(longs) less = cost < least;
        TILE(doubles)
        more = (TILE(doubles))(((TILE(longs))least & less) | ((TILE(longs))cost & ~less));
        second = LESSER(more, second);
        least = LESSER(cost, least);
        at = (now & less) | (at & ~less);
    }
    struct smoe_route_two two = {UINT32_MAX, (double)INFINITY, (double)INFINITY};
    for (uint32_t l = 0; l < LANES; l++) {
        if (second[l] < two.second)
            two.second = second[l];
        if (least[l] < two.least || (least[l] == two.least && (uint32_t)at[l] < two.expert)) {
            two.second = two.least < two.second ? two.least : two.second;
            two.least = least[l];
            two.expert = (uint32_t)at[l];
        } else if (least[l] < two.second)
            two.second = least[l];
    }
    for (; f < n; f++) {
        double cost = prices[f] - weight * (double)scores[f];
        if (cost < two.least) {
            two.second = two.least;
            two.least = cost;
            two.expert = f;
        } else if (cost < two.second)
            two.second = cost;
    }
    return two;
}

/* The lowest index of an entry of that value, which there must be. */
typedef float TILE(cells) __attribute__((vector_size(LANES * 8)));
typedef int32_t TILE(marks) __attribute__((vector_size(LANES * 8)));

/* The lowest index of an entry of that value, which there must be. */
TARGET static inline __attribute__((always_inline)) uint32_t TILE(find)(const float *key,
                                                                        uint32_t n, float value)
{
    uint32_t f = 0;
    for (; f + 4 * LANES <= n; f += 4 * LANES) {
        TILE(cells) a, b;
        memcpy(&a, key + f, sizeof a);
        memcpy(&b, key + f + 2 * LANES, sizeof b);
        if (ANY((TILE(longs))((a == value) | (b == value))))
            break;
    }
    while (f < n && key[f] != value)
        f++;
    return f;
}

/* The front at f, by way of `from`; returns the keys there. */
TARGET static inline __attribute__((always_inline)) TILE(cells)
    TILE(reach)(const struct smoe_route_front *front, const float *row, uint32_t f, float base,
                TILE(cells) floor, TILE(marks) from)
{
    TILE(cells) slack, open, key;
    TILE(marks) came;
    memcpy(&slack, row + f, sizeof slack);
    memcpy(&open, front->open + f, sizeof open);
    memcpy(&key, front->key + f, sizeof key);
    memcpy(&came, front->came + f, sizeof came);
    TILE(cells) to = MORE(base + (open + slack), floor);
    TILE(marks) nearer = to < key;
    came = (from & nearer) | (came & ~nearer);
    key = LESS(to, key);
    memcpy(front->came + f, &came, sizeof came);
    memcpy(front->key + f, &key, sizeof key);
    return key;
}

TARGET static uint32_t TILE(spread)(const struct smoe_route_front *front, const float *row,
                                    uint32_t from, float distance, float base)
{
    uint32_t n = front->n, f = 0;
    TILE(cells) nearest = INFINITY - (TILE(cells)){0}, other = nearest;
    TILE(cells) floor = distance - (TILE(cells)){0};
    TILE(marks) marks = (int32_t)from - (TILE(marks)){0};
    for (; f + 4 * LANES <= n; f += 4 * LANES) {
        nearest = LESS(TILE(reach)(front, row, f, base, floor, marks), nearest);
        other = LESS(TILE(reach)(front, row, f + 2 * LANES, base, floor, marks), other);
    }
    for (; f + 2 * LANES <= n; f += 2 * LANES)
        nearest = LESS(TILE(reach)(front, row, f, base, floor, marks), nearest);
    float least = LEAST(LESS(nearest, other));
    for (; f < n; f++) {
        float to = base + (front->open[f] + row[f]);
        to = to > distance ? to : distance;
        if (to < front->key[f]) {
            front->key[f] = to;
            front->came[f] = (int32_t)from;
        }
        least = front->key[f] < least ? front->key[f] : least;
    }
    return isinf(least) ? n : TILE(find)(front->key, n, least);
}

TARGET static void TILE(offers)(float *row, uint32_t n, const struct smoe_route_offers *offers,
                                float weight, const float *prices)
{
    uint32_t f = 0;
    for (; f + 2 * LANES <= n; f += 2 * LANES) {
        TILE(cells) least = INFINITY - (TILE(cells)){0}, price;
        memcpy(&price, prices + f, sizeof price);
        if (offers->more)
            memcpy(&least, row + f, sizeof least);
        for (uint32_t i = 0; i < offers->count; i++) {
            TILE(cells) score;
            memcpy(&score, offers->scores[i] + f, sizeof score);
            least = LESS((price - weight * score) - offers->held[i], least);
        }
        memcpy(row + f, &least, sizeof least);
    }
    for (; f < n; f++) {
        float least = offers->more ? row[f] : INFINITY;
        for (uint32_t i = 0; i < offers->count; i++) {
            float cost = (prices[f] - weight * offers->scores[i][f]) - offers->held[i];
            least = cost < least ? cost : least;
        }
        row[f] = least;
    }
}

TARGET static double TILE(cheapest)(const double *prices, uint32_t n, const float *scores,
                                    double weight)
{
    TILE(doubles) least = (double)INFINITY - (TILE(doubles)){0}, other = least;
    uint32_t f = 0;
    for (; f + 2 * LANES <= n; f += 2 * LANES) {
        TILE(floats) a, b;
        TILE(doubles) p, q;
        memcpy(&a, scores + f, sizeof a);
        memcpy(&b, scores + f + LANES, sizeof b);
        memcpy(&p, prices + f, sizeof p);
        memcpy(&q, prices + f + LANES, sizeof q);
        least = LESSER(p - weight * __builtin_convertvector(a, TILE(doubles)), least);
        other = LESSER(q - weight * __builtin_convertvector(b, TILE(doubles)), other);
    }
    least = LESSER(other, least);
    double cost = (double)INFINITY;
    for (uint32_t l = 0; l < LANES; l++)
        cost = least[l] < cost ? least[l] : cost;
    for (; f < n; f++) {
        double c = prices[f] - weight * (double)scores[f];
        cost = c < cost ? c : cost;
    }
    return cost;
}

#undef TILE
#undef TARGET
#undef LANES
#undef LESSER
#undef ANY
#undef LEAST
#undef LESS
#undef MORE

#endif
