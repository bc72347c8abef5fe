/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/data/feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/data/gzip.h"
#include "client/train/router/codebook.h"
#include "common/base/assert.h"
#include "common/base/rng.h"

#define TEXT_BYTES_MAX  (64u << 20)
#define CODEBOOK_SAMPLE 20000 /* patches, or all of fewer */
#define CODEBOOK_ROUNDS 10    /* of Lloyd's algorithm */

/* A text of Debian's, or with --data-dir the same file elsewhere. */
struct text_source {
    const char *name, *dir, *file, *package;
};

static const struct text_source texts[] = {
    {"jargon", "/usr/share/doc/jargon-text", "jargon.txt.gz", "Debian package jargon-text"},
};

enum { N_TEXTS = sizeof texts / sizeof *texts };

const char *smoe_feed_names(void)
{
    return "fashion-mnist, cifar10, cifar100, jargon";
}

/* ---- sets ---- */

static void set_release(struct smoe_feed_set *set)
{
    free(set->order);
    free(set->position);
    free(set->codes);
    *set = (struct smoe_feed_set){.n = 0};
}

static int start_order(struct smoe_feed_set *set, struct smoe_why *why)
{
    set->order = malloc((set->n + 1) * sizeof *set->order);
    if (!set->order)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    for (size_t i = 0; i < set->n; i++)
        set->order[i] = (uint32_t)i;
    return 0;
}

void smoe_feed_shuffle(struct smoe_feed_set *set, uint64_t seed, uint64_t epoch)
{
    smoe_order_shuffle(set->order, set->n, seed, epoch);
}

/* ---- texts ---- */

/* The places whose word and context lie in one block of that part. */
static int find_places(struct smoe_feed *feed, struct smoe_feed_set *set, bool held_out,
                       struct smoe_why *why)
{
    set->position = malloc((feed->text.n + 1) * sizeof *set->position);
    if (!set->position)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    for (size_t i = 0; i < feed->text.n; i++)
        if (smoe_prose_held_out(i) == held_out && i % SMOE_PROSE_BLOCK >= feed->context)
            set->position[set->n++] = (uint32_t)i;
    if (set->n == 0)
        return smoe_fail(why, SMOE_EDATA, "%zu words: too short to hold a part of it out",
                         feed->text.n);
    return 0;
}

static int load_text(struct smoe_feed *feed, const struct text_source *source,
                     const struct smoe_feed_options *o, struct smoe_why *why)
{
    char path[512];
    uint8_t *bytes = NULL;
    size_t len = 0;
    snprintf(path, sizeof path, "%s/%s", o->dir ? o->dir : source->dir, source->file);
    int rc = smoe_gzip_read(path, TEXT_BYTES_MAX, &bytes, &len, why);
    if (rc)
        return smoe_fail_at(why, rc, "data set %s (%s)", source->name, source->package);
    rc = smoe_prose_init(bytes, len, o->vocabulary, &feed->text, why);
    free(bytes);
    feed->name = source->name;
    feed->tokens = 1;
    feed->classes = feed->vocabulary = feed->codes = feed->text.vocabulary;
    feed->context = o->context;
    for (size_t i = 0; i < feed->text.n; i++)
        feed->meaning = smoe_mix64(feed->meaning ^ feed->text.ids[i]);
    if (rc == 0)
        rc = find_places(feed, &feed->train, false, why);
    if (rc == 0)
        rc = find_places(feed, &feed->test, true, why);
    return rc ? smoe_fail_at(why, rc, "%s", path) : 0;
}

static void fill_words(const struct smoe_feed *feed, const struct smoe_feed_set *set,
                       const uint32_t *samples, size_t n, const struct smoe_feed_batch *batch)
{
    size_t context = feed->context;
    for (size_t i = 0; i < n; i++) {
        const uint16_t *at = feed->text.ids + set->position[samples[i]];
        memcpy(batch->words + i * context, at - context, context * sizeof *at);
        batch->codes[i] = at[-1];
        batch->labels[i] = *at;
    }
}

/* ---- images ---- */

/* One image as tokens, x [T, values]. */
static void cut(const struct smoe_feed *feed, const uint8_t *pixels, smoe_real *x)
{
    size_t height = feed->images.height, width = feed->images.width, side = feed->patches;
    size_t rows = height / side, columns = width / side;
    for (size_t token = 0; token < side * side; token++)
        for (uint32_t c = 0; c < feed->images.channels; c++)
            for (size_t r = 0; r < rows; r++) {
                size_t line = token / side * rows + r, from = token % side * columns;
                const uint8_t *at = pixels + (c * height + line) * width + from;
                for (size_t i = 0; i < columns; i++)
                    *x++ = feed->normalizer.table[c][at[i]];
            }
}

static const struct smoe_image_set *images_of(const struct smoe_feed *feed,
                                              const struct smoe_feed_set *set)
{
    return set == &feed->train ? &feed->images.train : &feed->images.test;
}

static void fill_images(const struct smoe_feed *feed, const struct smoe_feed_set *set,
                        const uint32_t *samples, size_t n, const struct smoe_feed_batch *batch)
{
    const struct smoe_image_set *images = images_of(feed, set);
    size_t tokens = feed->tokens;
    for (size_t i = 0; i < n; i++) {
        cut(feed, images->pixels + samples[i] * feed->images.pixels,
            batch->x + i * tokens * feed->values);
        batch->labels[i] = images->labels[samples[i]];
        if (feed->codes)
            memcpy(batch->codes + i * tokens, set->codes + samples[i] * tokens,
                   tokens * sizeof *set->codes);
    }
}

/* From patches of images spread over the training set. */
static int make_codebook(const struct smoe_feed *feed, const struct smoe_feed_options *o,
                         struct smoe_codebook *book, struct smoe_why *why)
{
    size_t all = feed->images.train.n, tokens = feed->tokens;
    size_t images = CODEBOOK_SAMPLE / tokens < all ? CODEBOOK_SAMPLE / tokens : all;
    if (images * tokens < o->codes)
        return smoe_fail(why, SMOE_ECONFIG, "%zu patches are too few for a codebook of %u",
                         images * tokens, (unsigned)o->codes);
    smoe_real *x = malloc(images * tokens * feed->values * sizeof *x);
    for (size_t i = 0; x && i < images; i++)
        cut(feed, feed->images.train.pixels + i * all / images * feed->images.pixels,
            x + i * tokens * feed->values);
    int rc = x ? smoe_codebook_init(book, o->codes, feed->values, images * tokens, x,
                                    CODEBOOK_ROUNDS, o->seed)
               : SMOE_ENOMEMORY;
    free(x);
    return rc ? smoe_fail(why, rc, "out of memory") : 0;
}

static int encode(const struct smoe_feed *feed, struct smoe_feed_set *set,
                  struct smoe_codebook *book, struct smoe_why *why)
{
    const struct smoe_image_set *images = images_of(feed, set);
    smoe_real *x = malloc(feed->tokens * feed->values * sizeof *x);
    set->codes = malloc((set->n * feed->tokens + 1) * sizeof *set->codes);
    int rc = x && set->codes ? 0 : smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    for (size_t i = 0; i < set->n && rc == 0; i++) {
        cut(feed, images->pixels + i * feed->images.pixels, x);
        smoe_codebook_encode(book, feed->tokens, x, set->codes + i * feed->tokens);
    }
    free(x);
    return rc;
}

static int encode_all(struct smoe_feed *feed, const struct smoe_feed_options *o,
                      struct smoe_why *why)
{
    struct smoe_codebook book = {.codes = 0};
    int rc = make_codebook(feed, o, &book, why);
    if (rc == 0)
        rc = encode(feed, &feed->train, &book, why);
    if (rc == 0)
        rc = encode(feed, &feed->test, &book, why);
    feed->codes = o->codes;
    feed->meaning = smoe_codebook_digest(&book);
    smoe_codebook_release(&book);
    return rc;
}

static int load_images(struct smoe_feed *feed, const struct smoe_feed_options *o,
                       struct smoe_why *why)
{
    int rc = smoe_dataset_load(o->dataset, o->dir, &feed->images, why);
    if (rc == SMOE_EUNKNOWN)
        return smoe_fail(why, rc, "data set %.64s: not one of %s", o->dataset, smoe_feed_names());
    if (rc)
        return rc;
    struct smoe_dataset *images = &feed->images;
    if (images->height % o->patches || images->width % o->patches)
        return smoe_fail(why, SMOE_ECONFIG, "images of %u x %u cannot be cut into %u x %u patches",
                         (unsigned)images->height, (unsigned)images->width, (unsigned)o->patches,
                         (unsigned)o->patches);
    if (o->limit && o->limit < images->train.n)
        images->train.n = o->limit;
    smoe_normalizer_init(&feed->normalizer, images);
    feed->name = images->name;
    feed->classes = images->classes;
    feed->patches = o->patches;
    feed->tokens = o->patches * o->patches;
    feed->values = (uint32_t)images->pixels / feed->tokens;
    feed->train.n = images->train.n;
    feed->test.n = images->test.n;
    return o->codes ? encode_all(feed, o, why) : 0;
}

/* ---- either ---- */

int smoe_feed_init(struct smoe_feed *feed, const struct smoe_feed_options *o, struct smoe_why *why)
{
    const struct text_source *text = NULL;
    *feed = (struct smoe_feed){.name = NULL};
    for (size_t i = 0; i < N_TEXTS; i++)
        if (strcmp(texts[i].name, o->dataset) == 0)
            text = &texts[i];
    int rc = text ? load_text(feed, text, o, why) : load_images(feed, o, why);
    if (rc == 0 && o->limit && o->limit < feed->train.n)
        feed->train.n = o->limit;
    if (rc == 0)
        rc = start_order(&feed->train, why);
    if (rc == 0)
        rc = start_order(&feed->test, why);
    if (rc)
        smoe_feed_release(feed);
    return rc;
}

void smoe_feed_release(struct smoe_feed *feed)
{
    set_release(&feed->train);
    set_release(&feed->test);
    smoe_dataset_release(&feed->images);
    smoe_prose_release(&feed->text);
    *feed = (struct smoe_feed){.name = NULL};
}

void smoe_feed_fill(const struct smoe_feed *feed, const struct smoe_feed_set *set, size_t first,
                    size_t n, const struct smoe_feed_batch *batch)
{
    smoe_assert(first + n <= set->n);
    if (feed->vocabulary)
        fill_words(feed, set, set->order + first, n, batch);
    else
        fill_images(feed, set, set->order + first, n, batch);
}
