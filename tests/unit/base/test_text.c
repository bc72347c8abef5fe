/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "common/base/text.h"

Test(text, pieces_are_joined_and_the_first_that_does_not_fit_ends_it)
{
    char buf[8];
    struct smoe_text t;
    smoe_text_init(&t, buf, sizeof buf);
    smoe_text_add(&t, "%d-", 12);
    smoe_text_add(&t, "abcd");
    cr_assert_str_eq(buf, "12-abcd");
    cr_assert_not(t.cut);
    smoe_text_add(&t, "e");
    cr_assert(t.cut);
    cr_assert_str_eq(buf, "12-abcd");
}

Test(text, names_are_checked_at_their_limits)
{
    char longest[65];
    memset(longest, 'a', sizeof longest);
    cr_assert(smoe_name_valid(longest, 63));
    cr_assert_not(smoe_name_valid(longest, 64));
    cr_assert_not(smoe_name_valid("", 0));
    cr_assert_not(smoe_name_valid("a b", 3));
    cr_assert_not(smoe_name_valid("a\0b", 3));
    cr_assert_not(smoe_name_valid("-x", 2));
    cr_assert_not(smoe_name_valid("..", 2));
    cr_assert(smoe_name_valid("pi-4.attic_2", 12));
}

Test(text, numbers_are_whole_or_refused)
{
    uint64_t u = 0;
    double d = 0;
    cr_assert(smoe_parse_u64("18446744073709551615", &u));
    cr_assert_eq(u, UINT64_MAX);
    const char *bad_u64[] = {"", "-1", "+1", " 1", "1 ", "1x", "18446744073709551616", "0x10"};
    for (size_t i = 0; i < sizeof bad_u64 / sizeof *bad_u64; i++)
        cr_assert_not(smoe_parse_u64(bad_u64[i], &u), "%s", bad_u64[i]);
    cr_assert(smoe_parse_double("-2.5e-3", &d));
    cr_assert_float_eq(d, -0.0025, 1e-18);
    const char *bad_double[] = {"", "nan", "inf", "1e999", "0x1p3", "1.2.3", "1,5", " 1", "e5"};
    for (size_t i = 0; i < sizeof bad_double / sizeof *bad_double; i++)
        cr_assert_not(smoe_parse_double(bad_double[i], &d), "%s", bad_double[i]);
}

Test(text, sizes_take_binary_units)
{
    uint64_t b = 0;
    cr_assert(smoe_parse_bytes("512", &b));
    cr_assert_eq(b, 512);
    cr_assert(smoe_parse_bytes("1.5MiB", &b));
    cr_assert_eq(b, 3u << 19);
    cr_assert(smoe_parse_bytes("2 GiB", &b));
    cr_assert_eq(b, UINT64_C(2) << 30);
    cr_assert_not(smoe_parse_bytes("2GB", &b));
    cr_assert_not(smoe_parse_bytes("-1", &b));
    cr_assert_not(smoe_parse_bytes("1e17", &b));
}
