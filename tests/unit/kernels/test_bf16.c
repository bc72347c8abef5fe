/* SPDX-License-Identifier: Apache-2.0
 *
 * The oracle knows nothing of bits that are cut off: it walks to the next bf16 on either side and takes the nearer
 * one, in double precision, which has every bf16, every float32 and their differences exactly.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/kernels/bf16.h"

#define INFINITE 0x7f80u
#define SIGN     0x8000u

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double double_of(unsigned half)
{
    return (double)float_of((uint32_t)half << 16);
}

/* Of a number that is not NaN. The first half beyond the largest is where infinity begins, as if it were the next. */
static unsigned nearest(double value)
{
    unsigned sign = signbit(value) ? SIGN : 0, below = 0;
    double magnitude = fabs(value);
    for (unsigned bit = 0x4000; bit; bit >>= 1) /* the largest that is not above, bit by bit */
        if ((below | bit) < INFINITE && double_of(below | bit) <= magnitude)
            below |= bit;
    double above = below + 1 == INFINITE ? 0x1p128 : double_of(below + 1);
    double down = magnitude - double_of(below), up = above - magnitude;
    bool rise = up < down || (!(down < up) && (below & 1));
    return sign | (below + rise);
}

static void assert_rounds(float value)
{
    unsigned got = smoe_bf16_round((smoe_real)value), want = nearest((double)value);
    cr_assert_eq(got, want, "%a becomes %04x, not %04x", (double)value, got, want);
}

Test(bf16, takes_the_nearest_and_the_even_one_of_two)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 7, 0);
    for (uint32_t half = 0; half < INFINITE;
         half++) { /* every number, tie, and what is beside a tie */
        static const uint32_t rests[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
        for (size_t r = 0; r < sizeof rests / sizeof *rests; r++) {
            assert_rounds(float_of(half << 16 | rests[r]));
            assert_rounds(-float_of(half << 16 | rests[r]));
        }
        assert_rounds(float_of(half << 16 | (uint32_t)(smoe_rng_u64(&rng) & 0xffff)));
    }
}

Test(bf16, has_zeros_subnormals_and_infinities_of_both_signs)
{
    static const uint32_t same[] = {0,          0x80000000, 0x7f800000, 0xff800000,
                                    0x00010000, 0x80010000, 0x007f0000, 0x7f7f0000};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        cr_assert_eq(smoe_bf16_round((smoe_real)float_of(same[i])), same[i] >> 16);
    cr_assert_eq(smoe_bf16_round((smoe_real)FLT_MAX), INFINITE, "it is nearer to 2^128");
    cr_assert_eq(smoe_bf16_round((smoe_real)-FLT_MAX), INFINITE | SIGN);
    cr_assert_eq(smoe_bf16_round((smoe_real)float_of(0x7f7f7fff)), INFINITE - 1);
    cr_assert_eq(smoe_bf16_round((smoe_real)float_of(1)), 0, "the smallest float32");
    cr_assert_eq(smoe_bf16_round((smoe_real)float_of(0x8001)), 1, "subnormal as before");
}

Test(bf16, keeps_nan_a_nan_whatever_its_bits)
{
    static const uint32_t nans[] = {0x7f800001, 0x7f80ffff, 0x7fbfffff, 0x7fc00000,
                                    0x7fffffff, 0xff800001, 0xffffffff};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        unsigned half = smoe_bf16_round((smoe_real)float_of(nans[i]));
        cr_assert((half & ~SIGN) > INFINITE, "%08x becomes %04x", nans[i], half);
        cr_assert_eq(half & SIGN, nans[i] >> 16 & SIGN);
    }
    smoe_real back = smoe_bf16_value(0x7fc0);
    cr_assert(memcmp(&back, &back, sizeof back) == 0 && isnan((double)back));
}

Test(bf16, gives_back_every_number_it_has)
{
    for (uint32_t half = 0; half <= UINT16_MAX; half++)
        if ((half & 0x7fff) <= INFINITE)
            cr_assert_eq(smoe_bf16_round(smoe_bf16_value((uint16_t)half)), half);
}

Test(bf16, is_off_by_at_most_the_error_it_names)
{
    struct smoe_rng rng;
    double worst = 0;
    smoe_rng_init(&rng, 3, 0);
    for (int i = 0; i < 200000; i++) {
        double value = 1 + smoe_rng_unit(&rng);
        double back = (double)smoe_bf16_value(smoe_bf16_round((smoe_real)value));
        double error = fabs(back - value) / value;
        worst = error > worst ? error : worst;
    }
    cr_assert(worst <= SMOE_BF16_ERROR && worst > 0.98 * SMOE_BF16_ERROR, "%g", worst);
}

Test(bf16, packs_arrays_as_it_rounds_numbers)
{
    enum { N = 67 };
    smoe_real values[N + 1], back[N + 1], through[N + 1];
    uint16_t packed[N + 1];
    struct smoe_rng rng;
    smoe_rng_init(&rng, 5, 0);
    for (size_t n = 0; n <= N; n++) {
        for (size_t i = 0; i <= N; i++) {
            values[i] = (smoe_real)smoe_rng_normal(&rng);
            packed[i] = 0xabcd;
            back[i] = through[i] = values[i];
        }
        smoe_bf16_pack(n, values, packed);
        smoe_bf16_unpack(n, packed, back);
        smoe_bf16_through(n, through);
        for (size_t i = 0; i <= N; i++) {
            cr_assert_eq(packed[i], i < n ? smoe_bf16_round(values[i]) : 0xabcd);
            smoe_real want = i < n ? smoe_bf16_value(packed[i]) : values[i];
            cr_assert(memcmp(&back[i], &want, sizeof want) == 0);
            cr_assert(memcmp(&through[i], &want, sizeof want) == 0);
        }
    }
}
