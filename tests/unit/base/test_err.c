/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "common/base/err.h"

Test(err, each_code_has_a_text_and_a_name)
{
#define X(name, value, text)                      \
    cr_assert_str_eq(smoe_strerror(value), text); \
    cr_assert_str_eq(smoe_error_name(value), #name);
    SMOE_ERROR_MAP(X)
#undef X
    cr_assert_str_eq(smoe_strerror(-EADDRINUSE), strerror(EADDRINUSE));
    cr_assert_str_eq(smoe_strerror(-1999), "unknown error");
    cr_assert_null(smoe_error_name(-EADDRINUSE));
}

Test(err, layers_put_themselves_in_front)
{
    struct smoe_why why;
    cr_assert_eq(smoe_fail(&why, SMOE_EFIELD, "top_k %d: not in 1..%d", 9, 8), SMOE_EFIELD);
    cr_assert_eq(smoe_fail_at(&why, SMOE_EFIELD, "submit %d", 7), SMOE_EFIELD);
    cr_assert_str_eq(why.text, "submit 7: top_k 9: not in 1..8");
}

Test(err, untrusted_text_cannot_break_the_line_or_overflow)
{
    struct smoe_why why;
    char flood[1000];
    memset(flood, 'x', sizeof flood - 1);
    flood[sizeof flood - 1] = 0;
    smoe_fail(&why, -EINVAL, "a\nb\x1b[2J");
    cr_assert_str_eq(why.text, "a?b?[2J");
    smoe_fail(&why, -EINVAL, "%s", flood);
    smoe_fail_at(&why, -EINVAL, "%s", flood);
    cr_assert_eq(strlen(why.text), sizeof why.text - 1);
}
