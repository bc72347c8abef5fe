/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/checkpoint_placement.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cutter.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "stablemoe/error.h"

#define RULE        "placement.rule"
#define WORKERS     "placement.workers"
#define EXACT_MAX   9007199254740992.0 /* up to here a double is every whole number */
#define NUMBERS_MAX 1e9

static const char *const names[SMOE_PLACED_TENSORS] = {
    "placement.slots", "placement.experts", "placement.popularity", "placement.evidence"};
static const enum smoe_tensor_dtype dtypes[SMOE_PLACED_TENSORS] = {
    SMOE_TENSOR_I64, SMOE_TENSOR_I64, SMOE_TENSOR_F64, SMOE_TENSOR_F64};

/* What lies in the block. */
struct room {
    size_t n_workers, n_slots, n_experts, text;
    int64_t *wide_slots, *wide_experts;
    uint32_t *slots, *experts;
    double *popularity;
    const char **workers;
    char *names; /* [text] */
};

static void lay_out(void *head, struct smoe_cutter *cutter)
{
    struct room *r = head;
    r->wide_slots = smoe_cut(cutter, r->n_workers, sizeof *r->wide_slots);
    r->wide_experts = smoe_cut(cutter, r->n_slots, sizeof *r->wide_experts);
    r->slots = smoe_cut(cutter, r->n_workers, sizeof *r->slots);
    r->experts = smoe_cut(cutter, r->n_slots, sizeof *r->experts);
    r->popularity = smoe_cut(cutter, r->n_experts, sizeof *r->popularity);
    r->workers = smoe_cut(cutter, r->n_workers, sizeof *r->workers);
    r->names = smoe_cut(cutter, r->text, 1);
}

static struct room *new_room(struct smoe_placed *p, struct room head)
{
    p->block = smoe_cut_block(&head, sizeof head, lay_out);
    return p->block;
}

void smoe_placed_release(struct smoe_placed *p)
{
    free(p->block);
    *p = (struct smoe_placed){.block = NULL};
}

/* ---- writing ---- */

static void set_tensor(struct smoe_placed *p, int i, size_t n, const void *data)
{
    p->tensors[i] = (struct smoe_tensor){
        .name = names[i], .dtype = dtypes[i], .rank = 1, .shape = {n}, .data = data};
}

int smoe_placed_fill(struct smoe_placed *p, const struct smoe_placement *from)
{
    struct room head = {.n_workers = from->n_workers, .n_slots = from->n_slots, .text = 1};
    for (uint32_t w = 0; w < from->n_workers; w++)
        head.text += strlen(from->workers[w]) + 1;
    struct room *r = new_room(p, head);
    if (!r)
        return SMOE_ENOMEMORY;
    char *at = r->names;
    for (uint32_t w = 0; w < from->n_workers; w++) {
        r->wide_slots[w] = from->slots[w];
        at += sprintf(at, "%s%s", w ? " " : "", from->workers[w]);
    }
    *at = 0;
    for (uint32_t q = 0; q < from->n_slots; q++)
        r->wide_experts[q] = from->experts[q];
    p->evidence[0] = from->covariance;
    p->evidence[1] = from->variance;
    p->evidence[2] = (double)from->seen;
    p->evidence[3] = (double)from->planned;
    set_tensor(p, 0, from->n_workers, r->wide_slots);
    set_tensor(p, 1, from->n_slots, r->wide_experts);
    set_tensor(p, 2, from->n_experts, from->popularity);
    set_tensor(p, 3, 4, p->evidence);
    if (from->interval)
        snprintf(p->rule, sizeof p->rule, "%s=%" PRIu32, from->rule, from->interval);
    else
        snprintf(p->rule, sizeof p->rule, "%s", from->rule);
    p->metadata[0] = (struct smoe_metadata){RULE, p->rule};
    p->metadata[1] = (struct smoe_metadata){WORKERS, r->names};
    return 0;
}

/* ---- reading ---- */

static int find_tensor(const struct smoe_safetensors *file, int i, uint64_t most,
                       const struct smoe_tensor **ret, struct smoe_why *why)
{
    const struct smoe_tensor *t = smoe_safetensors_find(file, names[i]);
    if (!t)
        return smoe_fail(why, SMOE_EDATA, "no tensor %s", names[i]);
    if (t->dtype != dtypes[i] || t->rank != 1)
        return smoe_fail(why, SMOE_EDATA, "tensor %s: not a vector of %s", names[i],
                         smoe_tensor_dtype_name(dtypes[i]));
    if (t->shape[0] > most)
        return smoe_fail(why, SMOE_EDATA, "tensor %s: %" PRIu64 " elements, at most %" PRIu64,
                         names[i], t->shape[0], most);
    *ret = t;
    return 0;
}

/* Whole numbers from 0 to what anybody could have. */
static int narrow(const struct smoe_tensor *t, size_t n, uint32_t *to, struct smoe_why *why)
{
    for (size_t i = 0; i < n; i++) {
        int64_t value;
        memcpy(&value, (const char *)t->data + i * sizeof value, sizeof value);
        if (value < 0 || value > (int64_t)NUMBERS_MAX)
            return smoe_fail(why, SMOE_EDATA, "tensor %s: %" PRId64 " at %zu: not in 0..%.0f",
                             t->name, value, i, NUMBERS_MAX);
        to[i] = (uint32_t)value;
    }
    return 0;
}

static int read_rule(const struct smoe_safetensors *file, struct smoe_placed *p,
                     struct smoe_why *why)
{
    const char *text = smoe_safetensors_metadata(file, RULE);
    uint64_t interval = 0;
    size_t len = text ? strcspn(text, "=") : 0;
    if (!text || len > SMOE_NAME_MAX)
        return smoe_fail(why, SMOE_EDATA, "metadata %s: missing, or over %d bytes", RULE,
                         SMOE_NAME_MAX);
    if (text[len] && (!smoe_parse_u64(text + len + 1, &interval) || interval > UINT32_MAX))
        return smoe_fail(why, SMOE_EDATA, "metadata %s: no number after =", RULE);
    memcpy(p->rule, text, len);
    p->rule[len] = 0;
    p->value.rule = p->rule;
    p->value.interval = (uint32_t)interval;
    return 0;
}

static int split_names(struct room *r, struct smoe_why *why)
{
    size_t n = 0;
    for (char *at = r->names; *at; n++) {
        size_t len = strcspn(at, " ");
        bool more = at[len] == ' ';
        if (n < r->n_workers)
            r->workers[n] = at;
        at[len] = 0;
        at += len + more;
    }
    return n == r->n_workers
               ? 0
               : smoe_fail(why, SMOE_EDATA, "metadata %s: %zu names for the %zu of %s", WORKERS, n,
                           r->n_workers, names[0]);
}

static int read_evidence(const struct smoe_tensor *t, struct smoe_placed *p, struct smoe_why *why)
{
    double *e = p->evidence;
    if (t->shape[0] != 4)
        return smoe_fail(why, SMOE_EDATA, "tensor %s: %" PRIu64 " numbers, expected 4", t->name,
                         t->shape[0]);
    memcpy(e, t->data, sizeof p->evidence);
    for (int i = 2; i < 4; i++)
        if (!(e[i] >= 0 && e[i] < EXACT_MAX))
            return smoe_fail(why, SMOE_EDATA, "tensor %s: %g at %d: not in 0..2^53", t->name, e[i],
                             i);
    p->value.covariance = e[0];
    p->value.variance = e[1];
    p->value.seen = (uint64_t)e[2];
    p->value.planned = (uint64_t)e[3];
    return 0;
}

static int read_arrays(const struct smoe_tensor *const *t, const char *workers,
                       struct smoe_placed *p, struct smoe_why *why)
{
    struct room head = {t[0]->shape[0],
                        t[1]->shape[0],
                        t[2]->shape[0],
                        strlen(workers) + 1,
                        NULL,
                        NULL,
                        NULL,
                        NULL,
                        NULL,
                        NULL,
                        NULL};
    struct room *r = new_room(p, head);
    if (!r)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    memcpy(r->names, workers, head.text);
    if (head.n_experts)
        memcpy(r->popularity, t[2]->data, head.n_experts * sizeof *r->popularity);
    p->value.n_workers = (uint32_t)head.n_workers;
    p->value.n_slots = (uint32_t)head.n_slots;
    p->value.n_experts = (uint32_t)head.n_experts;
    p->value.slots = r->slots;
    p->value.experts = r->experts;
    p->value.popularity = r->popularity;
    p->value.workers = r->workers;
    int rc = split_names(r, why);
    rc = rc ? rc : narrow(t[0], head.n_workers, r->slots, why);
    return rc ? rc : narrow(t[1], head.n_slots, r->experts, why);
}

int smoe_placed_read(const struct smoe_safetensors *file, struct smoe_placed *p,
                     struct smoe_why *why)
{
    static const uint64_t most[SMOE_PLACED_TENSORS] = {
        SMOE_PLACEMENT_WORKERS_MAX, SMOE_LAYER_REPLICAS_MAX, SMOE_EXPERTS_MAX, 4};
    const struct smoe_tensor *t[SMOE_PLACED_TENSORS];
    const char *workers = smoe_safetensors_metadata(file, WORKERS);
    int rc = 0;
    if (!workers && !smoe_safetensors_find(file, names[2]))
        return 0;
    if (!workers)
        return smoe_fail(why, SMOE_EDATA, "metadata %s: missing", WORKERS);
    for (int i = 0; i < SMOE_PLACED_TENSORS && !rc; i++)
        rc = find_tensor(file, i, most[i], &t[i], why);
    rc = rc ? rc : read_rule(file, p, why);
    rc = rc ? rc : read_evidence(t[3], p, why);
    return rc ? rc : read_arrays(t, workers, p, why);
}
