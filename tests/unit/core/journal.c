/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/journal.h"

#include <criterion/criterion.h>
#include <stdlib.h>

void journal_add(struct journal *j, const struct smoe_record *record)
{
    cr_assert_eq(record->sequence, j->n ? journal_last(j) + 1 : record->sequence);
    if (j->n == j->capacity) {
        j->capacity = 2 * j->capacity + 16;
        j->records = realloc(j->records, j->capacity * sizeof *j->records);
        cr_assert_not_null(j->records);
    }
    cr_assert_eq(smoe_record_copy(record, &j->records[j->n++]), 0);
}

static void clear_records(struct journal *j)
{
    for (size_t i = 0; i < j->n; i++)
        smoe_record_release(&j->records[i]);
    j->n = 0;
}

void journal_clear(struct journal *j)
{
    clear_records(j);
    smoe_restored_release(&j->base);
    free(j->records);
    *j = (struct journal){0};
}

uint64_t journal_last(const struct journal *j)
{
    return j->n ? j->records[j->n - 1].sequence : 0;
}

uint64_t journal_last_of(const struct journal *j, enum smoe_record_type type)
{
    for (size_t i = j->n; i > 0; i--)
        if (j->records[i - 1].type == type)
            return j->records[i - 1].sequence;
    return 0;
}

const struct smoe_restored_layer *journal_base(const struct journal *j, const char *name)
{
    return smoe_restored_find(&j->base, name);
}

void journal_reopen(struct journal *j, uint64_t durable)
{
    for (size_t i = 0; i < j->n && j->records[i].sequence <= durable; i++)
        cr_assert_eq(smoe_restored_apply(&j->base, &j->records[i]), 0);
    clear_records(j);
}
