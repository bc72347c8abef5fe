/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/journal.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct smoe_standing *copy_standings(const struct smoe_record *r)
{
    size_t bytes = r->layer.shape.experts * sizeof(struct smoe_standing);
    struct smoe_standing *copy = malloc(bytes);
    cr_assert_not_null(copy);
    memcpy(copy, r->standings, bytes);
    return copy;
}

void journal_add(struct journal *j, const struct smoe_record *record)
{
    cr_assert_eq(record->sequence, j->n ? journal_last(j) + 1 : record->sequence);
    if (j->n == j->capacity) {
        j->capacity = 2 * j->capacity + 16;
        j->records = realloc(j->records, j->capacity * sizeof *j->records);
        cr_assert_not_null(j->records);
    }
    struct smoe_record *r = &j->records[j->n++];
    *r = *record;
    r->standings = record->type == SMOE_RECORD_LAYER ? copy_standings(record) : NULL;
}

static void clear_records(struct journal *j)
{
    for (size_t i = 0; i < j->n; i++)
        free((void *)(uintptr_t)j->records[i].standings);
    j->n = 0;
}

void journal_clear(struct journal *j)
{
    clear_records(j);
    for (size_t i = 0; i < j->base.n_layers; i++)
        free(j->base.layers[i].standings);
    free(j->base.layers);
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

static struct smoe_restored_layer *find(const struct smoe_restored *of, const char *name)
{
    for (size_t i = 0; i < of->n_layers; i++)
        if (strcmp(of->layers[i].layer.name, name) == 0)
            return &of->layers[i];
    return NULL;
}

static void drop(struct smoe_restored *of, const char *name)
{
    struct smoe_restored_layer *layer = find(of, name);
    if (!layer)
        return;
    free(layer->standings);
    *layer = of->layers[--of->n_layers];
}

static void apply(const struct smoe_record *r, struct smoe_restored *to)
{
    if (r->type != SMOE_RECORD_COMMIT)
        drop(to, r->layer.name);
    if (r->type == SMOE_RECORD_LAYER) {
        cr_assert_lt(to->n_layers, (size_t)SMOE_LAYERS_MAX);
        to->layers[to->n_layers++] = (struct smoe_restored_layer){r->layer, copy_standings(r)};
    }
    for (size_t i = 0; i < r->n_layers; i++) {
        struct smoe_restored_layer *layer = find(to, r->layers[i]);
        cr_assert_not_null(layer, "a commit of a layer that is in no record before it");
        layer->layer.learned = true;
        layer->layer.step = r->layer.step;
        layer->layer.attempt = r->layer.attempt;
        layer->layer.done = r->layer.done;
    }
}

const struct smoe_restored_layer *journal_base(const struct journal *j, const char *name)
{
    return find(&j->base, name);
}

void journal_reopen(struct journal *j, uint64_t durable)
{
    if (!j->base.layers)
        j->base.layers = calloc(SMOE_LAYERS_MAX, sizeof *j->base.layers);
    cr_assert_not_null(j->base.layers);
    for (size_t i = 0; i < j->n && j->records[i].sequence <= durable; i++)
        apply(&j->records[i], &j->base);
    clear_records(j);
}
