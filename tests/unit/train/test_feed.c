/* SPDX-License-Identifier: Apache-2.0
 *
 * Samples as a trainer gets them, from small files.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/data/feed.h"
#include "tests/unit/train/files.h"

static struct smoe_why why;

static struct smoe_feed_options options_of(const char *dataset, const struct directory *directory)
{
    return (struct smoe_feed_options){.dataset = dataset,
                                      .dir = directory->path,
                                      .patches = 1,
                                      .vocabulary = 100,
                                      .context = 3,
                                      .seed = 1};
}

/* ---- images: 7 of 4 x 5, pixel p of the set is p % 251 ---- */

enum { IMAGES = 7, PIXELS = 20 };

static struct smoe_feed images_of(const struct smoe_feed_options *options)
{
    struct smoe_feed feed;
    cr_assert_eq(smoe_feed_init(&feed, options, &why), 0, "%s", why.text);
    return feed;
}

Test(feed, an_image_is_one_token_as_batches_give_it)
{
    struct directory directory = directory_new();
    put_small_mnist(&directory, ".gz");
    struct smoe_feed_options options = options_of("fashion-mnist", &directory);
    struct smoe_feed feed = images_of(&options);
    struct smoe_batches batches;
    smoe_real x[IMAGES * PIXELS], want[IMAGES * PIXELS];
    uint16_t labels[IMAGES], want_labels[IMAGES];
    struct smoe_feed_batch batch = {.x = x, .labels = labels};
    cr_assert_eq(
        smoe_batches_init(&batches, &feed.images, &feed.images.train, &feed.normalizer, IMAGES), 0);
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        smoe_batches_shuffle(&batches, 5, epoch);
        smoe_feed_shuffle(&feed.train, 5, epoch);
        cr_assert_eq(smoe_batches_fill(&batches, 0, want, want_labels), IMAGES);
        smoe_feed_fill(&feed, &feed.train, 0, IMAGES, &batch);
        cr_assert_eq(memcmp(x, want, sizeof x), 0);
        cr_assert_eq(memcmp(labels, want_labels, sizeof labels), 0);
    }
    cr_assert(feed.tokens == 1 && feed.values == PIXELS && feed.codes == 0);
    smoe_batches_release(&batches);
    smoe_feed_release(&feed);
    smoe_feed_release(&feed);
    directory_remove(&directory);
}

/* 4 x 5 pixels have no two equal sides to be cut at; CIFAR's 3 x 32 x 32 have. */
Test(feed, patches_come_in_rows_from_the_top_each_channel_by_channel)
{
    struct directory directory = directory_new();
    size_t len;
    uint8_t *bytes = cifar_bytes(2, 2, 100, &len);
    file_put(&directory, "train.bin", bytes, len);
    file_put(&directory, "test.bin", bytes, len);
    struct smoe_feed_options options = options_of("cifar100", &directory);
    options.patches = 4;
    struct smoe_feed feed = images_of(&options);
    static smoe_real x[3072];
    uint16_t label;
    struct smoe_feed_batch batch = {.x = x, .labels = &label};
    cr_assert(feed.tokens == 16 && feed.values == 192);
    smoe_feed_fill(&feed, &feed.test, 1, 1, &batch);
    for (size_t token = 0; token < 16; token++)
        for (size_t i = 0; i < 192; i++) {
            size_t c = i / 64, row = token / 4 * 8 + i % 64 / 8, column = token % 4 * 8 + i % 8;
            uint8_t pixel = feed.images.test.pixels[3072 + c * 1024 + row * 32 + column];
            cr_assert_eq(x[token * 192 + i], feed.normalizer.table[c][pixel]);
        }
    smoe_feed_release(&feed);
    options.patches = 5;
    cr_assert_eq(smoe_feed_init(&feed, &options, &why), SMOE_ECONFIG);
    cr_assert(strstr(why.text, "32 x 32"), "%s", why.text);
    free(bytes);
    directory_remove(&directory);
}

Test(feed, equal_patches_have_equal_codes_in_training_and_test)
{
    struct directory directory = directory_new();
    put_small_mnist(&directory, "");
    struct smoe_feed_options options = options_of("fashion-mnist", &directory);
    options.codes = 4;
    struct smoe_feed feed = images_of(&options);
    smoe_real x[IMAGES * PIXELS];
    uint16_t labels[IMAGES], codes[IMAGES], test_codes[3];
    struct smoe_feed_batch batch = {.x = x, .codes = codes, .labels = labels};
    struct smoe_feed_batch test = {.x = x, .codes = test_codes, .labels = labels};
    smoe_feed_shuffle(&feed.train, 1, 1);
    smoe_feed_fill(&feed, &feed.train, 0, IMAGES, &batch);
    smoe_feed_fill(&feed, &feed.test, 0, 3, &test);
    cr_assert_eq(feed.codes, 4);
    for (size_t i = 0; i < IMAGES; i++) {
        cr_assert_lt(codes[i], 4);
        if (feed.train.order[i] < 3) /* both sets begin with the same three images */
            cr_assert_eq(codes[i], test_codes[feed.train.order[i]]);
    }
    smoe_feed_release(&feed);
    options.codes = 8;
    cr_assert_eq(smoe_feed_init(&feed, &options, &why), SMOE_ECONFIG);
    cr_assert(strstr(why.text, "codebook of 8"), "%s", why.text);
    directory_remove(&directory);
}

/* ---- a text ---- */

/* n words, word i being `i` in decimal modulo 90. */
static void put_text(const struct directory *directory, size_t n)
{
    char *text = malloc(4 * n + 1), *at = text;
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, "%zu ", i % 90);
    file_put(directory, "jargon.txt.gz", text, (size_t)(at - text));
    free(text);
}

Test(feed, a_sample_of_a_text_is_the_words_before_a_word_and_stays_in_its_block)
{
    enum { N = 20000, CONTEXT = 3 };
    struct directory directory = directory_new();
    put_text(&directory, N);
    struct smoe_feed_options options = options_of("jargon", &directory);
    struct smoe_feed feed = images_of(&options);
    const struct smoe_feed_set *sets[] = {&feed.train, &feed.test};
    uint16_t words[CONTEXT], code, label;
    struct smoe_feed_batch batch = {.words = words, .codes = &code, .labels = &label};
    cr_assert_eq(feed.vocabulary, 91);
    cr_assert(feed.classes == 91 && feed.codes == 91 && feed.tokens == 1);
    cr_assert_eq(feed.train.n, 18 * (SMOE_PROSE_BLOCK - CONTEXT));
    cr_assert_eq(feed.test.n, 2 * (SMOE_PROSE_BLOCK - CONTEXT));
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; i < sets[s]->n; i++) {
            size_t at = sets[s]->position[i];
            smoe_feed_fill(&feed, sets[s], i, 1, &batch);
            cr_assert_eq(label, feed.text.ids[at]);
            cr_assert_eq(code, feed.text.ids[at - 1]);
            cr_assert_eq(memcmp(words, feed.text.ids + at - CONTEXT, sizeof words), 0);
            for (size_t j = 0; j <= CONTEXT; j++)
                cr_assert_eq(smoe_prose_held_out(at - j), s == 1);
        }
    smoe_feed_release(&feed);
    directory_remove(&directory);
}

Test(feed, a_short_text_a_missing_one_and_an_unknown_name_are_said)
{
    struct directory directory = directory_new();
    struct smoe_feed feed;
    struct smoe_feed_options options = options_of("jargon", &directory);
    cr_assert_lt(smoe_feed_init(&feed, &options, &why), 0);
    cr_assert(strstr(why.text, "jargon-text"), "%s", why.text);
    put_text(&directory, 5000);
    cr_assert_eq(smoe_feed_init(&feed, &options, &why), SMOE_EDATA);
    cr_assert(strstr(why.text, "too short"), "%s", why.text);
    options.dataset = "poetry";
    cr_assert_eq(smoe_feed_init(&feed, &options, &why), SMOE_EUNKNOWN);
    cr_assert(strstr(why.text, "jargon"), "%s", why.text);
    directory_remove(&directory);
}

Test(feed, a_limit_takes_the_first_of_what_is_trained_on)
{
    struct directory directory = directory_new();
    put_small_mnist(&directory, "");
    put_text(&directory, 20000);
    struct smoe_feed_options options = options_of("fashion-mnist", &directory);
    options.limit = 5;
    struct smoe_feed feed = images_of(&options);
    cr_assert(feed.train.n == 5 && feed.test.n == 3);
    smoe_feed_release(&feed);
    options.dataset = "jargon";
    feed = images_of(&options);
    cr_assert(feed.train.n == 5 && feed.test.n == 2 * (SMOE_PROSE_BLOCK - 3));
    smoe_feed_release(&feed);
    directory_remove(&directory);
}
