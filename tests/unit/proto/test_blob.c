/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "common/base/err.h"
#include "proto/arena.h"
#include "proto/blob.h"
#include "tests/unit/io/alloc_fault.h"

Test(blob, is_aligned_and_charged_until_its_last_reference_goes)
{
    struct smoe_budget budget = {.max_bytes = 1000};
    struct smoe_blob *blob = smoe_blob_new(&budget, 600);
    cr_assert_eq((uintptr_t)blob->data % 64, 0);
    memset(blob->data, 1, blob->bytes);
    cr_assert_eq(budget.used_bytes, 600);
    cr_assert_eq(smoe_blob_ref(blob), blob);
    smoe_blob_unref(blob);
    cr_assert_eq(budget.used_bytes, 600);
    smoe_blob_unref(blob);
    cr_assert(budget.used_bytes == 0 && budget.peak_bytes == 600);
    smoe_blob_unref(NULL);
}

Test(blob, budget_holds_at_one_below_and_one_above)
{
    struct smoe_budget budget = {.max_bytes = 1000};
    struct smoe_blob *held = smoe_blob_new(&budget, 1);
    cr_assert_null(smoe_blob_new(&budget, 1000));
    cr_assert_eq(budget.used_bytes, 1);
    struct smoe_blob *at = smoe_blob_new(&budget, 999);
    cr_assert_not_null(at);
    cr_assert_null(smoe_blob_new(&budget, 1));
    smoe_blob_unref(at);
    struct smoe_blob *below = smoe_blob_new(&budget, 998);
    cr_assert_not_null(below);
    smoe_blob_unref(below);
    smoe_blob_unref(held);
    cr_assert(budget.used_bytes == 0 && budget.peak_bytes == 1000);
}

Test(blob, a_size_near_the_end_of_the_address_space_is_refused)
{
    struct smoe_budget budget = {.max_bytes = SIZE_MAX};
    cr_assert_null(smoe_blob_new(&budget, SIZE_MAX));
    cr_assert_null(smoe_blob_new(&budget, SIZE_MAX / 2 + 1));
    cr_assert_null(smoe_blob_new(NULL, SIZE_MAX - 63));
    cr_assert_eq(budget.used_bytes, 0);
}

Test(blob, one_reference_too_few_is_a_bug_of_the_caller, .signal = SIGABRT)
{
    struct smoe_blob *blob = smoe_blob_new(NULL, 8);
    blob->refs = 0; /* as after the last unref, if the memory were still ours */
    smoe_blob_ref(blob);
}

Test(arena, gives_aligned_pieces_until_it_is_full_and_all_of_it_again_after_a_reset)
{
    struct smoe_arena arena;
    cr_assert_eq(smoe_arena_init(&arena, 100), 0);
    for (int round = 0; round < 2; round++) {
        uint8_t *a = smoe_arena_alloc(&arena, 1), *b = smoe_arena_alloc(&arena, 20);
        cr_assert(a && b == a + 16);
        cr_assert_eq((uintptr_t)a % 16, 0);
        cr_assert_null(smoe_arena_alloc(&arena, 53), "48 + 53 > 100");
        cr_assert_not_null(smoe_arena_alloc(&arena, 52));
        cr_assert_null(smoe_arena_alloc(&arena, 1));
        smoe_arena_reset(&arena);
    }
    smoe_arena_release(&arena);
    smoe_arena_release(&arena);
}

Test(arena, a_size_that_would_wrap_around_is_refused)
{
    struct smoe_arena arena;
    cr_assert_eq(smoe_arena_init(&arena, 64), 0);
    cr_assert_not_null(smoe_arena_alloc(&arena, 17));
    cr_assert_null(smoe_arena_alloc(&arena, SIZE_MAX));
    cr_assert_null(smoe_arena_alloc(&arena, SIZE_MAX - 31));
    cr_assert_not_null(smoe_arena_alloc(&arena, 0));
    smoe_arena_release(&arena);
}

Test(arena, without_memory_it_stays_empty)
{
    struct smoe_arena arena;
    smoe_alloc_fail_at(1);
    cr_assert_eq(smoe_arena_init(&arena, 64), SMOE_ENOMEMORY);
    cr_assert(smoe_alloc_failed());
    cr_assert_null(smoe_arena_alloc(&arena, 1));
    smoe_arena_release(&arena);
}
