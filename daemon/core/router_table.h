/* SPDX-License-Identifier: Apache-2.0
 *
 * A frozen router as a table (StableMoE, stage 2; docs/training.md): the scores of every code of a
 * vocabulary, and for each code its best experts in order, found once. Scoring a token is then reading a
 * row, and choosing its experts is reading the beginning of a list: no product, no search, and the same bits
 * for the same code on every machine. Pure.
 */
#ifndef SMOE_CORE_ROUTER_TABLE_H
#define SMOE_CORE_ROUTER_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define SMOE_ROUTER_CODES_MAX (UINT32_C(1) << 20) /* more than any vocabulary in use */

struct smoe_router_table {
    uint32_t codes, experts;
    uint32_t listed;  /* best experts that are listed for each code: min(E, SMOE_TOP_K_MAX) */
    float *scores;    /* owned, as all below; [codes, E] */
    uint16_t *expert; /* [codes, listed] largest score first, ties to the lowest index */
    float *best;      /* [codes, listed] their scores */
};

/* Bytes of the lists of one of this size, beside its scores. */
size_t smoe_router_table_lists(uint32_t codes, uint32_t experts);

/* From scores [codes, E], copied; 1 <= codes <= SMOE_ROUTER_CODES_MAX, 1 <= E <= SMOE_EXPERTS_MAX. 0,
 * SMOE_EFIELD if a score is not finite, or SMOE_ENOMEMORY. */
int smoe_router_table_init(struct smoe_router_table *table, uint32_t codes, uint32_t experts,
                           const float *scores);
void smoe_router_table_release(struct smoe_router_table *table);

/* The first of n codes that the table does not have; n if it has them all. Codes come from outside: ask before
 * reading. */
size_t smoe_router_table_unknown(const struct smoe_router_table *table, size_t n,
                                 const uint32_t *codes);

/* The K best experts of n tokens, ret_expert [n, K], with their scores ret_score [n, K]; K <= listed. */
void smoe_router_table_top(const struct smoe_router_table *table, size_t n, const uint32_t *codes,
                           uint32_t top_k, uint16_t *ret_expert, float *ret_score);

/* All scores of n tokens, ret [n, E]: what a solve trades experts by. */
void smoe_router_table_scores(const struct smoe_router_table *table, size_t n,
                              const uint32_t *codes, float *ret);

#endif
