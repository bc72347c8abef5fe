/* SPDX-License-Identifier: Apache-2.0
 *
 * Workers that did what no worker of ours does: strikes by name, which outlive connection and lease. One
 * with too many of them is out for a while. A restarted daemon begins with a clean slate.
 *
 * A message that breaks the protocol is a strike at once. Numbers that cannot be are not: an expert that
 * has diverged gives them on any machine. So they are doubted first, and the same expert at the same step
 * is asked of another worker; if its numbers are no better, the fault is the expert's, and the first is
 * cleared. Where there is no other to ask, nobody is struck (conduct.c).
 */
#ifndef SMOE_CORE_QUARANTINE_H
#define SMOE_CORE_QUARANTINE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "proto/wire.h"

struct smoe_quarantine_rules {
    uint32_t strikes_max;   /* that many, and it is out; 0: never */
    uint64_t quarantine_ns; /* for so long after the last one; then all are forgotten */
};

struct smoe_conduct {
    smoe_name worker;
    uint32_t strikes;
    uint64_t struck_ns; /* the last */
    smoe_sentence why;  /* the last */
};

/* What is doubted: numbers of this expert as it was after `step`. */
struct smoe_doubt {
    uint32_t layer, expert;
    uint64_t run, step; /* of the layer */
};

#define SMOE_DOUBTS_KEPT 64

struct smoe_quarantine {
    struct smoe_conduct *conducts; /* [n], owned */
    uint32_t n, n_max;
    struct {
        struct smoe_doubt doubt;
        smoe_name worker;       /* "": none */
        bool diverged;          /* it was the expert's fault */
    } doubts[SMOE_DOUBTS_KEPT]; /* a ring: the oldest is forgotten first */
    uint32_t next_doubt;
    uint64_t strikes; /* so far, of all */
};

/* SMOE_ENOMEMORY. Remembers n_max names; then the one that was struck longest ago is forgotten. */
int smoe_quarantine_init(struct smoe_quarantine *quarantine, uint32_t n_max);
void smoe_quarantine_release(struct smoe_quarantine *quarantine);

/* One more strike; returns how many it has now. */
uint32_t smoe_quarantine_strike(struct smoe_quarantine *quarantine,
                                const struct smoe_quarantine_rules *rules, const char *worker,
                                const char *why, uint64_t now_ns);

/* What is held against the worker now; NULL: nothing. */
const struct smoe_conduct *smoe_quarantine_find(const struct smoe_quarantine *quarantine,
                                                const struct smoe_quarantine_rules *rules,
                                                const char *worker, uint64_t now_ns);

/* How long it is still out; 0: it may come. [ns] */
uint64_t smoe_quarantine_left_ns(const struct smoe_conduct *conduct,
                                 const struct smoe_quarantine_rules *rules, uint64_t now_ns);

/* Is it remembered at all? */
bool smoe_quarantine_knows(const struct smoe_quarantine *quarantine, const char *worker);

/* Forgets its strikes; false if there were none. */
bool smoe_quarantine_pardon(struct smoe_quarantine *quarantine, const char *worker);

/* Numbers that cannot be came from the worker. True: the expert has diverged, for another worker gave no
 * better ones; its strikes for that are taken back. */
bool smoe_quarantine_confirmed(struct smoe_quarantine *quarantine, const struct smoe_doubt *doubt,
                               const char *worker);

/* The same, where a strike follows unless that is so. True: the worker is to blame, as far as is known, and
 * the next one to be asked may clear it. */
bool smoe_quarantine_doubt(struct smoe_quarantine *quarantine, const struct smoe_doubt *doubt,
                           const char *worker);

#endif
