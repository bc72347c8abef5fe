/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cutter.h"

struct head {
    size_t n;
    char *bytes;
    double *numbers;
    char *none, *last;
};

static void lay_out(void *head, struct smoe_cutter *cutter)
{
    struct head *h = head;
    h->bytes = smoe_cut(cutter, h->n, 1);
    h->numbers = smoe_cut(cutter, h->n, sizeof *h->numbers);
    h->none = smoe_cut(cutter, 0, 1);
    h->last = smoe_cut(cutter, 65, 1);
}

Test(cutter, pieces_follow_the_head_on_lines_of_their_own_and_do_not_overlap)
{
    struct head head = {.n = 3};
    struct head *h = smoe_cut_block(&head, sizeof head, lay_out);
    cr_assert_not_null(h);
    cr_assert_eq(h->n, 3);
    cr_assert_eq((uintptr_t)h % 64, 0);
    cr_assert_eq(h->bytes - (char *)h, 64);
    cr_assert_eq((char *)h->numbers - h->bytes, 64);
    cr_assert_eq(h->none - (char *)h->numbers, 64);
    cr_assert_eq(h->last, h->none, "of nothing is nothing");
    memset(h->last, 1, 65); /* up to the end, as a sanitizer sees it */
    free(h);
}
