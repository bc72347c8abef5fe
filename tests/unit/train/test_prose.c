/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/data/prose.h"

static struct smoe_why why;

static struct smoe_prose prose_of(const char *text, uint32_t vocabulary)
{
    struct smoe_prose prose;
    cr_assert_eq(smoe_prose_init((const uint8_t *)text, strlen(text), vocabulary, &prose, &why), 0,
                 "%s", why.text);
    return prose;
}

/* `text` is so many words, and the ids of the first are these. */
static void check(const char *text, uint32_t vocabulary, size_t n, const uint16_t *ids)
{
    struct smoe_prose prose = prose_of(text, vocabulary);
    cr_assert_eq(prose.n, n, "%s: %zu words", text, prose.n);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(prose.ids[i], ids[i], "%s: word %zu is %u", text, i, prose.ids[i]);
    smoe_prose_release(&prose);
    smoe_prose_release(&prose);
}

Test(prose, the_commonest_words_come_first_and_equals_in_the_order_of_their_bytes)
{
    check("b a b c b c", 10, 6, (uint16_t[]){1, 3, 1, 2, 1, 2});
    check("b c a", 10, 3, (uint16_t[]){2, 3, 1});
}

Test(prose, words_beyond_the_vocabulary_are_the_unknown_one)
{
    check("b a b c b c", 3, 6, (uint16_t[]){1, 0, 1, 2, 1, 2});
    check("b a b c b c", 2, 6, (uint16_t[]){1, 0, 1, 0, 1, 0});
}

Test(prose, letters_digits_and_apostrophes_make_words_and_the_rest_stands_alone)
{
    check("Don't DON'T don't", 10, 3, (uint16_t[]){1, 1, 1});
    check("x--x", 10, 4, (uint16_t[]){2, 1, 1, 2});      /* "-" sorts before "x" */
    check("'x' x'", 10, 5, (uint16_t[]){1, 2, 1, 2, 1}); /* quotes are no part of x */
    check("\xc3\xa9t\xc3\xa9 2nd\t2nd\r\n\x7f\x01", 10, 3, (uint16_t[]){2, 1, 1});
}

/* What is common only where it is held out must not be in the vocabulary. */
Test(prose, the_vocabulary_comes_from_what_is_trained_on)
{
    size_t n = 10 * SMOE_PROSE_BLOCK;
    char *text = malloc(2 * n + 1);
    for (size_t i = 0; i < n; i++) {
        text[2 * i] = smoe_prose_held_out(i) ? 'h' : "tu"[i % 2];
        text[2 * i + 1] = ' ';
    }
    text[2 * n] = 0;
    struct smoe_prose prose = prose_of(text, 10);
    cr_assert_eq(prose.n, n);
    cr_assert_eq(prose.vocabulary, 3);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(prose.ids[i] == SMOE_PROSE_UNKNOWN, smoe_prose_held_out(i));
    smoe_prose_release(&prose);
    free(text);
}

Test(prose, each_tenth_block_is_held_out)
{
    cr_assert_not(smoe_prose_held_out(0));
    cr_assert_not(smoe_prose_held_out(8999));
    cr_assert(smoe_prose_held_out(9000));
    cr_assert(smoe_prose_held_out(9999));
    cr_assert_not(smoe_prose_held_out(10000));
    cr_assert(smoe_prose_held_out(19500));
}

Test(prose, a_text_without_words_is_refused)
{
    struct smoe_prose prose;
    cr_assert_eq(smoe_prose_init((const uint8_t *)" \n\t", 3, 10, &prose, &why), SMOE_EDATA);
    cr_assert_eq(smoe_prose_init((const uint8_t *)"", 0, 10, &prose, &why), SMOE_EDATA);
}
