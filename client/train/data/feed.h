/* SPDX-License-Identifier: Apache-2.0
 *
 * What a trainer is fed: samples of T tokens with a label, whether they are images or places in a text.
 *
 *     images   T = patches^2 tokens of one image, rows of patches from the top, each [channels, h, w] of
 *              normalised pixels; the label is what it shows. A token's code, where codes are asked for, is
 *              that of its patch in a k-means codebook over training patches (router/codebook.h).
 *     a text   T = 1: the c words before a word, oldest first; the label is the word that follows. A
 *              token's code is the last of its words. Neither the words nor the label leave their block
 *              (prose.h), so nothing held out is ever seen in training.
 *
 * The order of an epoch is a function of (seed, epoch), as in batches.h.
 */
#ifndef SMOE_TRAIN_DATA_FEED_H
#define SMOE_TRAIN_DATA_FEED_H

#include "client/train/data/batches.h"
#include "client/train/data/prose.h"

struct smoe_feed_options {
    const char *dataset;
    const char *dir;     /* NULL: where Debian puts it */
    size_t limit;        /* use only the first training samples; 0: all */
    uint32_t patches;    /* images: cut into so many along each side, >= 1 */
    uint32_t codes;      /* images: of the codebook; 0: no codes */
    uint32_t vocabulary; /* text: 2..65536 */
    uint32_t context;    /* text: c, 1..64 */
    uint64_t seed;       /* of the codebook */
};

struct smoe_feed_set {
    size_t n;           /* samples */
    uint32_t *order;    /* owned, as all below; a permutation of 0..n-1 */
    uint32_t *position; /* text: [n] the place of the word to be guessed */
    uint16_t *codes;    /* images with codes: [n, T] */
};

struct smoe_feed {
    const char *name;             /* static */
    uint32_t tokens;              /* T */
    uint32_t values;              /* of one token's x; 0 for a text */
    uint32_t classes;             /* of labels */
    uint32_t codes;               /* of tokens; 0: none */
    uint32_t vocabulary, context; /* 0 for images */
    uint32_t patches;             /* along a side */
    uint64_t meaning; /* digest of what codes stand for: codebook or words; 0: no codes */
    struct smoe_dataset images;
    struct smoe_normalizer normalizer;
    struct smoe_prose text;
    struct smoe_feed_set train, test;
};

/* Room for n samples; what does not apply may be NULL. */
struct smoe_feed_batch {
    smoe_real *x;     /* images: [n, T, values] */
    uint16_t *words;  /* text: [n, c] */
    uint16_t *codes;  /* [n, T] if there are codes */
    uint16_t *labels; /* [n] */
};

/* The names of all data sets, for sentences. */
const char *smoe_feed_names(void);

/* As smoe_dataset_load; SMOE_ECONFIG where images cannot be cut so, or a text is too short. */
int smoe_feed_init(struct smoe_feed *feed, const struct smoe_feed_options *options,
                   struct smoe_why *why);
void smoe_feed_release(struct smoe_feed *feed);

void smoe_feed_shuffle(struct smoe_feed_set *set, uint64_t seed, uint64_t epoch);

/* Samples order[first..first + n) of the set, which has them. */
void smoe_feed_fill(const struct smoe_feed *feed, const struct smoe_feed_set *set, size_t first,
                    size_t n, const struct smoe_feed_batch *batch);

#endif
