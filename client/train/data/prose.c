/* SPDX-License-Identifier: Apache-2.0
 *
 * All occurrences of all words are sorted by their bytes, so that equal words lie together: a run is a word
 * and its occurrences. Runs are then sorted by how often they occur in what is trained on, and the first
 * get numbers. No hash table, and no order that would depend on one.
 */
#include "client/train/data/prose.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

struct occurrence {
    const uint8_t *at; /* in the lower-case copy */
    uint32_t len, position;
};

struct run {
    const struct occurrence *first;
    size_t n;     /* occurrences */
    size_t count; /* of these, in blocks that are trained on */
};

struct work {
    uint8_t *bytes; /* owned, as all below; [len] in lower case */
    size_t len;
    struct occurrence *words; /* [len] at most, n in use */
    struct run *runs;         /* [len] at most, n_runs in use */
    size_t n, n_runs;
};

static bool is_letter(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 128;
}

/* Bytes of the word that begins at `i`; 0: none does. */
static size_t word_at(const struct work *w, size_t i)
{
    size_t end = i;
    if (w->bytes[i] <= ' ' || w->bytes[i] == 127)
        return 0;
    while (end < w->len &&
           (is_letter(w->bytes[end]) ||
            (w->bytes[end] == '\'' && end > i && end + 1 < w->len && is_letter(w->bytes[end + 1]))))
        end++;
    return end > i ? end - i : 1;
}

static void find_words(struct work *w)
{
    for (size_t i = 0; i < w->len;) {
        size_t len = word_at(w, i);
        if (len) {
            w->words[w->n] = (struct occurrence){w->bytes + i, (uint32_t)len, (uint32_t)w->n};
            w->n++;
        }
        i += len ? len : 1;
    }
}

static int compare_bytes(const struct occurrence *a, const struct occurrence *b)
{
    int order = memcmp(a->at, b->at, a->len < b->len ? a->len : b->len);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static int by_bytes(const void *a, const void *b)
{
    const struct occurrence *x = a, *y = b;
    int order = compare_bytes(x, y);
    return order ? order : (x->position > y->position) - (x->position < y->position);
}

static int by_count(const void *a, const void *b)
{
    const struct run *x = a, *y = b;
    if (x->count != y->count)
        return x->count > y->count ? -1 : 1;
    return compare_bytes(x->first, y->first);
}

static void find_runs(struct work *w)
{
    qsort(w->words, w->n, sizeof *w->words, by_bytes);
    for (size_t i = 0; i < w->n; i++) {
        if (i == 0 || compare_bytes(&w->words[i - 1], &w->words[i]) != 0)
            w->runs[w->n_runs++] = (struct run){.first = &w->words[i]};
        struct run *run = &w->runs[w->n_runs - 1];
        run->n++;
        run->count += !smoe_prose_held_out(w->words[i].position);
    }
    qsort(w->runs, w->n_runs, sizeof *w->runs, by_count);
}

/* ids of the commonest; the others stay 0. How many words there are with the unknown one. */
static uint32_t number(const struct work *w, uint32_t vocabulary, uint16_t *ids)
{
    uint32_t id = 1;
    for (size_t r = 0; r < w->n_runs && id < vocabulary && w->runs[r].count > 0; r++, id++)
        for (size_t i = 0; i < w->runs[r].n; i++)
            ids[w->runs[r].first[i].position] = (uint16_t)id;
    return id;
}

static void work_release(struct work *w)
{
    free(w->bytes);
    free(w->words);
    free(w->runs);
}

static int work_init(struct work *w, const uint8_t *bytes, size_t len)
{
    *w = (struct work){.bytes = malloc(len + 1),
                       .len = len,
                       .words = malloc((len + 1) * sizeof *w->words),
                       .runs = malloc((len + 1) * sizeof *w->runs)};
    if (!w->bytes || !w->words || !w->runs)
        return SMOE_ENOMEMORY;
    for (size_t i = 0; i < len; i++)
        w->bytes[i] =
            bytes[i] >= 'A' && bytes[i] <= 'Z' ? (uint8_t)(bytes[i] - 'A' + 'a') : bytes[i];
    return 0;
}

int smoe_prose_init(const uint8_t *bytes, size_t len, uint32_t vocabulary, struct smoe_prose *ret,
                    struct smoe_why *why)
{
    struct work w;
    struct smoe_prose text = {.ids = NULL};
    smoe_assert(vocabulary >= 2 && vocabulary <= 65536 && len < UINT32_MAX);
    int rc = work_init(&w, bytes, len);
    if (rc == 0) {
        find_words(&w);
        find_runs(&w);
        text.n = w.n;
        text.ids = calloc(w.n + 1, sizeof *text.ids);
        rc = text.ids ? 0 : SMOE_ENOMEMORY;
    }
    if (rc == 0)
        text.vocabulary = number(&w, vocabulary, text.ids);
    work_release(&w);
    if (rc)
        return smoe_fail(why, rc, "out of memory for a text of %zu bytes", len);
    if (text.vocabulary < 2) {
        smoe_prose_release(&text);
        return smoe_fail(why, SMOE_EDATA, "no words in a text of %zu bytes", len);
    }
    *ret = text;
    return 0;
}

void smoe_prose_release(struct smoe_prose *text)
{
    free(text->ids);
    *text = (struct smoe_prose){.ids = NULL};
}

bool smoe_prose_held_out(size_t i)
{
    return i / SMOE_PROSE_BLOCK % SMOE_PROSE_HELD_OUT == SMOE_PROSE_HELD_OUT - 1;
}
