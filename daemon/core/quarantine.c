/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/core/quarantine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

int smoe_quarantine_init(struct smoe_quarantine *q, uint32_t n_max)
{
    *q = (struct smoe_quarantine){.n_max = n_max};
    q->conducts = calloc(n_max, sizeof *q->conducts);
    return q->conducts ? 0 : SMOE_ENOMEMORY;
}

void smoe_quarantine_release(struct smoe_quarantine *q)
{
    free(q->conducts);
    *q = (struct smoe_quarantine){0};
}

static struct smoe_conduct *look_up(const struct smoe_quarantine *q, const char *worker)
{
    for (uint32_t i = 0; i < q->n; i++)
        if (strcmp(q->conducts[i].worker, worker) == 0)
            return &q->conducts[i];
    return NULL;
}

static bool is_over(const struct smoe_conduct *c, const struct smoe_quarantine_rules *rules,
                    uint64_t now_ns)
{
    return now_ns - c->struck_ns >= rules->quarantine_ns;
}

/* An entry for one more name. */
static struct smoe_conduct *new_conduct(struct smoe_quarantine *q)
{
    if (q->n < q->n_max)
        return &q->conducts[q->n++];
    struct smoe_conduct *oldest = &q->conducts[0];
    for (uint32_t i = 1; i < q->n; i++)
        if (q->conducts[i].struck_ns < oldest->struck_ns)
            oldest = &q->conducts[i];
    return oldest;
}

uint32_t smoe_quarantine_strike(struct smoe_quarantine *q,
                                const struct smoe_quarantine_rules *rules, const char *worker,
                                const char *why, uint64_t now_ns)
{
    struct smoe_conduct *c = look_up(q, worker);
    if (!c || is_over(c, rules, now_ns)) {
        c = c ? c : new_conduct(q);
        *c = (struct smoe_conduct){0};
        snprintf(c->worker, sizeof c->worker, "%s", worker);
    }
    c->struck_ns = now_ns;
    snprintf(c->why, sizeof c->why, "%s", why);
    q->strikes++;
    return ++c->strikes;
}

const struct smoe_conduct *smoe_quarantine_find(const struct smoe_quarantine *q,
                                                const struct smoe_quarantine_rules *rules,
                                                const char *worker, uint64_t now_ns)
{
    const struct smoe_conduct *c = look_up(q, worker);
    return c && !is_over(c, rules, now_ns) ? c : NULL;
}

uint64_t smoe_quarantine_left_ns(const struct smoe_conduct *c,
                                 const struct smoe_quarantine_rules *rules, uint64_t now_ns)
{
    bool out = rules->strikes_max && c->strikes >= rules->strikes_max && !is_over(c, rules, now_ns);
    return out ? c->struck_ns + rules->quarantine_ns - now_ns : 0;
}

bool smoe_quarantine_knows(const struct smoe_quarantine *q, const char *worker)
{
    return look_up(q, worker) != NULL;
}

static void remove_conduct(struct smoe_quarantine *q, struct smoe_conduct *c)
{
    *c = q->conducts[--q->n];
}

bool smoe_quarantine_pardon(struct smoe_quarantine *q, const char *worker)
{
    struct smoe_conduct *c = look_up(q, worker);
    if (c)
        remove_conduct(q, c);
    return c != NULL;
}

static bool same(const struct smoe_doubt *a, const struct smoe_doubt *b)
{
    return a->layer == b->layer && a->expert == b->expert && a->run == b->run && a->step == b->step;
}

static void take_back_strike(struct smoe_quarantine *q, const char *worker)
{
    struct smoe_conduct *c = look_up(q, worker);
    if (c && --c->strikes == 0)
        remove_conduct(q, c);
}

bool smoe_quarantine_confirmed(struct smoe_quarantine *q, const struct smoe_doubt *doubt,
                               const char *worker)
{
    bool diverged = false;
    for (uint32_t i = 0; i < SMOE_DOUBTS_KEPT; i++) {
        const char *before = q->doubts[i].worker;
        if (!*before || !same(&q->doubts[i].doubt, doubt))
            continue;
        if (!q->doubts[i].diverged && strcmp(before, worker) != 0) {
            take_back_strike(q, before);
            q->doubts[i].diverged = true;
        }
        diverged |= q->doubts[i].diverged;
    }
    return diverged;
}

bool smoe_quarantine_doubt(struct smoe_quarantine *q, const struct smoe_doubt *doubt,
                           const char *worker)
{
    if (smoe_quarantine_confirmed(q, doubt, worker))
        return false;
    uint32_t i = q->next_doubt++ % SMOE_DOUBTS_KEPT;
    q->doubts[i].doubt = *doubt;
    q->doubts[i].diverged = false;
    snprintf(q->doubts[i].worker, sizeof q->doubts[i].worker, "%s", worker);
    return true;
}
