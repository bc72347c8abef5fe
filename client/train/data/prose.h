/* SPDX-License-Identifier: Apache-2.0
 *
 * Prose as words, pure: bytes in, numbers out.
 *
 * A word is a run of letters, digits and bytes above 127, with apostrophes inside, in lower case; every
 * other printable byte is a word by itself; blanks and control characters only separate. The vocabulary
 * are the V - 1 commonest words of the part that is trained on, the commonest first, equals in the order of
 * their bytes; all others are word 0.
 *
 * The text is cut into blocks of 1,000 words, and each tenth block is held out: a dictionary read to its
 * end would be tested on other letters than it was trained on.
 */
#ifndef SMOE_TRAIN_DATA_PROSE_H
#define SMOE_TRAIN_DATA_PROSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define SMOE_PROSE_UNKNOWN  0
#define SMOE_PROSE_BLOCK    1000 /* words */
#define SMOE_PROSE_HELD_OUT 10   /* every so many blocks, the last of them */

struct smoe_prose {
    uint32_t vocabulary; /* V, or less where the text has fewer words */
    size_t n;
    uint16_t *ids; /* owned; [n], each below the vocabulary */
};

/* vocabulary 2..65536, len < 2^32. SMOE_EDATA for a text without a word to train on, SMOE_ENOMEMORY. */
int smoe_prose_init(const uint8_t *bytes, size_t len, uint32_t vocabulary, struct smoe_prose *ret,
                    struct smoe_why *why);
void smoe_prose_release(struct smoe_prose *text);

/* Is word `i` of a text in a block that is held out? */
bool smoe_prose_held_out(size_t i);

#endif
