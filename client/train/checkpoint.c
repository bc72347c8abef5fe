/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/checkpoint.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/checkpoint_placement.h"
#include "common/base/text.h"
#include "common/io/file.h"
#include "proto/safetensors.h"
#include "proto/wire.h"

#define NAME_BYTES   48
#define POSITION_MAX (UINT64_C(1) << 53) /* of steps and epochs: no run goes there */

static const enum smoe_tensor_dtype REAL =
    sizeof(smoe_real) == 8 ? SMOE_TENSOR_F64 : SMOE_TENSOR_F32;

/* Names of vectors: of the backbone `gate_weight`, `gate_weight.m`; of experts `experts.3.weights`. */
static const char *const dense_suffix[] = {"", ".m", ".v"};
#define ROUTER_LEARNED \
    "router.distilled"                /* stage 1: D and Ehat; its moments with the suffixes above */
#define ROUTER_FROZEN "router.frozen" /* stage 2: smoe_frozen.values, always float32 */
static const char *const expert_suffix[] = {"weights", "m", "v"};

static smoe_real *dense_vector(const struct smoe_train_run *run, unsigned kind)
{
    smoe_real *vectors[] = {run->model.params, run->model.moments_m, run->model.moments_v};
    return vectors[kind];
}

static unsigned vectors_per_expert(const struct smoe_train_run *run)
{
    return run->options->optimizer == 0 ? 3 : 2;
}

/* ---- writing ---- */

struct writer {
    struct smoe_tensor *tensors;
    char (*names)[NAME_BYTES];
    smoe_real *experts; /* [E, vectors, n_params] */
    size_t n;
    const struct smoe_placement *placement; /* NULL: there is none */
    struct smoe_placed placed;
};

static void add(struct writer *w, const void *data, size_t rows, size_t columns)
{
    w->tensors[w->n] = (struct smoe_tensor){.name = w->names[w->n],
                                            .dtype = REAL,
                                            .rank = columns ? 2 : 1,
                                            .shape = {rows, columns},
                                            .data = data};
    w->n++;
}

static void add_dense(struct writer *w, const struct smoe_train_run *run)
{
    struct smoe_model_tensor list[SMOE_MODEL_TENSORS];
    smoe_model_tensors(&run->model.shape, list);
    for (unsigned kind = 0; kind < 3; kind++)
        for (size_t i = 0; i < SMOE_MODEL_TENSORS; i++) {
            if (list[i].rows == 0)
                continue; /* this shape has none */
            snprintf(w->names[w->n], NAME_BYTES, "%s%s", list[i].name, dense_suffix[kind]);
            add(w, dense_vector(run, kind) + list[i].offset, list[i].rows, list[i].columns);
        }
}

static void add_router(struct writer *w, const struct smoe_train_run *run)
{
    const struct smoe_distilled *d = &run->router.distilled;
    const struct smoe_frozen *f = &run->router.frozen;
    const smoe_real *vectors[] = {d->params, d->moments_m, d->moments_v};
    if (smoe_router_stage(&run->router) == 2) {
        snprintf(w->names[w->n], NAME_BYTES, ROUTER_FROZEN);
        add(w, f->values, (size_t)f->inputs * f->experts, 0);
        w->tensors[w->n - 1].dtype = SMOE_TENSOR_F32;
    }
    for (unsigned kind = 0; kind < 3 && smoe_router_stage(&run->router) == 1; kind++) {
        snprintf(w->names[w->n], NAME_BYTES, ROUTER_LEARNED "%s", dense_suffix[kind]);
        add(w, vectors[kind], d->n_params, 0);
    }
}

static int add_experts(struct writer *w, struct smoe_train_run *run, struct smoe_why *why)
{
    size_t n_params = run->experts->n_params;
    unsigned vectors = vectors_per_expert(run);
    for (uint32_t e = 0; e < run->options->experts; e++) {
        smoe_real *state = w->experts + (size_t)e * vectors * n_params;
        int rc = run->experts->ops->fetch(run->experts, e, state, why);
        if (rc)
            return smoe_fail_at(why, rc, "checkpoint: expert %u", e);
        for (unsigned v = 0; v < vectors; v++) {
            snprintf(w->names[w->n], NAME_BYTES, "experts.%u.%s", e, expert_suffix[v]);
            add(w, state + v * n_params, n_params, 0);
        }
    }
    return 0;
}

/* After the experts: they are told when a step's placement has been taken in. */
static int add_placement(struct writer *w, struct smoe_train_run *run, struct smoe_why *why)
{
    const struct smoe_placement *p;
    if (!run->experts->ops->placement)
        return 0;
    int rc = run->experts->ops->placement(run->experts, &p, why);
    if (rc || !p->n_experts)
        return rc ? smoe_fail_at(why, rc, "checkpoint: placement") : 0;
    rc = smoe_placed_fill(&w->placed, p);
    if (rc)
        return smoe_fail(why, rc, "checkpoint: out of memory");
    w->placement = p;
    for (size_t i = 0; i < SMOE_PLACED_TENSORS; i++)
        w->tensors[w->n++] = w->placed.tensors[i];
    return 0;
}

enum {
    META_DATASET,
    META_STEP,
    META_EPOCH,
    META_BATCH,
    META_BATCHES,
    META_SEED,
    META_SHAPE,
    META_CODES,
    METAS
};
static const char *const meta_keys[METAS] = {"dataset", "step", "epoch", "batch",
                                             "batches", "seed", "shape", "codes"};

/* What a resumed run must agree with, in words. */
static void describe_shape(const struct smoe_train_run *run, char *to, size_t cap)
{
    const struct smoe_train_options *o = run->options;
    snprintf(to, cap, "%llu experts %llu-%llu activation %u optimizer %u",
             (unsigned long long)o->experts, (unsigned long long)o->d_model,
             (unsigned long long)o->d_ff, o->activation, o->optimizer);
    size_t used = strlen(to);
    if (o->router != SMOE_ROUTER_LEARNED)
        snprintf(to + used, cap - used, " router %s %s", smoe_train_routers[o->router],
                 smoe_train_features[o->feature]);
}

static void fill_metadata(const struct smoe_train_run *run, char values[METAS][96],
                          struct smoe_metadata metadata[METAS])
{
    snprintf(values[META_DATASET], 96, "%s", run->feed.name);
    snprintf(values[META_STEP], 96, "%" PRIu64, run->step);
    snprintf(values[META_EPOCH], 96, "%" PRIu64, run->epoch);
    snprintf(values[META_BATCH], 96, "%" PRIu64, run->next);
    snprintf(values[META_BATCHES], 96, "%" PRIu64 " of %zu samples", run->options->batch,
             run->feed.train.n);
    snprintf(values[META_SEED], 96, "%" PRIu64, run->options->seed);
    describe_shape(run, values[META_SHAPE], 96);
    snprintf(values[META_CODES], 96, "%016" PRIx64, run->feed.meaning);
    for (int i = 0; i < METAS; i++)
        metadata[i] = (struct smoe_metadata){meta_keys[i], values[i]};
}

static int write_file(const struct smoe_train_run *run, const struct writer *w, const char *path,
                      struct smoe_why *why)
{
    char values[METAS][96];
    struct smoe_metadata metadata[METAS + SMOE_PLACED_METADATA];
    uint8_t *bytes;
    size_t len, n_placed = w->placement ? SMOE_PLACED_METADATA : 0;
    fill_metadata(run, values, metadata);
    for (size_t i = 0; i < n_placed; i++)
        metadata[METAS + i] = w->placed.metadata[i];
    struct smoe_safetensors_content content = {w->tensors, w->n, metadata, METAS + n_placed};
    int rc = smoe_safetensors_build(&content, &bytes, &len, why);
    if (rc == 0) {
        rc = smoe_file_write(AT_FDCWD, path, bytes, len, why);
        free(bytes);
    }
    return rc ? smoe_fail_at(why, rc, "checkpoint %s", path) : 0;
}

int smoe_checkpoint_fits(const struct smoe_train_run *run, struct smoe_why *why)
{
    double numbers =
        3.0 * (double)run->model.n_params + 3.0 * (double)run->router.distilled.n_params +
        (double)run->options->experts * vectors_per_expert(run) * (double)run->experts->n_params;
    double bytes =
        numbers * sizeof(smoe_real) + SMOE_SAFETENSORS_HEADER_MAX + SMOE_PLACED_BYTES_MAX;
    if (bytes <= (double)SMOE_CHECKPOINT_BYTES_MAX)
        return 0;
    return smoe_fail(why, SMOE_ETOOBIG, "a checkpoint of this run has %.0f GiB, the limit is %.0f",
                     bytes * 0x1p-30, (double)SMOE_CHECKPOINT_BYTES_MAX * 0x1p-30);
}

int smoe_checkpoint_write(struct smoe_train_run *run, const char *path, struct smoe_why *why)
{
    if (smoe_checkpoint_fits(run, why))
        return SMOE_ETOOBIG;
    size_t experts = run->options->experts, vectors = vectors_per_expert(run);
    size_t most = (SMOE_MODEL_TENSORS + 1) * 3 + experts * vectors + SMOE_PLACED_TENSORS;
    struct writer w = {
        .tensors = calloc(most, sizeof *w.tensors),
        .names = calloc(most, sizeof *w.names),
        .experts = malloc(experts * vectors * run->experts->n_params * sizeof *w.experts),
    };
    int rc = SMOE_ENOMEMORY;
    if (w.tensors && w.names && w.experts) {
        add_dense(&w, run);
        add_router(&w, run);
        rc = add_experts(&w, run, why);
        if (rc == 0)
            rc = add_placement(&w, run, why);
        if (rc == 0)
            rc = write_file(run, &w, path, why);
    } else {
        smoe_fail(why, rc, "checkpoint: out of memory");
    }
    free(w.tensors);
    free(w.names);
    free(w.experts);
    smoe_placed_release(&w.placed);
    return rc;
}

/* ---- resuming ---- */

/* One vector of the file, of exactly n elements, all of them finite; `to` NULL: it is looked at. */
static int read_vector(const struct smoe_safetensors *file, const char *name, size_t n,
                       smoe_real *to, struct smoe_why *why)
{
    const struct smoe_tensor *t = smoe_safetensors_find(file, name);
    if (!t)
        return smoe_fail(why, SMOE_EDATA, "no tensor %s", name);
    if (t->dtype != REAL || t->n_bytes != n * sizeof *to)
        return smoe_fail(why, SMOE_EDATA, "tensor %s: %llu bytes of %s, expected %zu of %s", name,
                         (unsigned long long)t->n_bytes, smoe_tensor_dtype_name(t->dtype),
                         n * sizeof *to, smoe_tensor_dtype_name(REAL));
    for (size_t i = 0; i < n; i++) {
        smoe_real value; /* where it is in the file it may not be aligned */
        memcpy(&value, (const char *)t->data + i * sizeof value, sizeof value);
        if (!isfinite(value))
            return smoe_fail(why, SMOE_EDATA, "tensor %s: number %zu is not finite", name, i);
    }
    if (to)
        memcpy(to, t->data, n * sizeof *to);
    return 0;
}

static int read_dense(struct smoe_train_run *run, const struct smoe_safetensors *file,
                      struct smoe_why *why)
{
    struct smoe_model_tensor list[SMOE_MODEL_TENSORS];
    char name[NAME_BYTES];
    int rc = 0;
    smoe_model_tensors(&run->model.shape, list);
    for (unsigned kind = 0; kind < 3; kind++)
        for (size_t i = 0; i < SMOE_MODEL_TENSORS && !rc; i++) {
            size_t n = list[i].rows * (list[i].columns ? list[i].columns : 1);
            snprintf(name, sizeof name, "%s%s", list[i].name, dense_suffix[kind]);
            if (n > 0)
                rc = read_vector(file, name, n, dense_vector(run, kind) + list[i].offset, why);
        }
    return rc;
}

/* `data` lies in the file as it comes: perhaps not aligned. */
static int take_frozen(struct smoe_train_run *run, const void *data, size_t n)
{
    float *values = malloc(n * sizeof *values);
    if (!values)
        return SMOE_ENOMEMORY;
    memcpy(values, data, n * sizeof *values);
    int rc = smoe_router_take_frozen(&run->router, values);
    free(values);
    return rc;
}

/* The run's router has just been made: stage 1. */
static int read_router(struct smoe_train_run *run, const struct smoe_safetensors *file,
                       struct smoe_why *why)
{
    struct smoe_distilled *d = &run->router.distilled;
    smoe_real *vectors[] = {d->params, d->moments_m, d->moments_v};
    const struct smoe_tensor *frozen = smoe_safetensors_find(file, ROUTER_FROZEN);
    char name[NAME_BYTES];
    int rc = 0;
    if (smoe_router_stage(&run->router) == 0)
        return 0;
    for (unsigned kind = 0; kind < 3 && !rc && !frozen; kind++) {
        snprintf(name, sizeof name, ROUTER_LEARNED "%s", dense_suffix[kind]);
        rc = read_vector(file, name, d->n_params, vectors[kind], why);
    }
    if (!frozen)
        return rc;
    size_t n = (size_t)d->shape.inputs * d->shape.experts;
    if (frozen->dtype != SMOE_TENSOR_F32 || frozen->n_bytes != n * sizeof(float))
        return smoe_fail(why, SMOE_EDATA, "tensor %s: not %zu numbers of F32", ROUTER_FROZEN, n);
    rc = take_frozen(run, frozen->data, n);
    if (rc)
        return smoe_fail(why, rc, "tensor %s: %s", ROUTER_FROZEN, smoe_strerror(rc));
    return smoe_train_begin_stage_2(run, why);
}

static int read_expert(struct smoe_train_run *run, const struct smoe_safetensors *file, uint32_t e,
                       smoe_real *state, struct smoe_why *why)
{
    size_t n_params = run->experts->n_params;
    char name[NAME_BYTES];
    int rc = 0;
    for (unsigned v = 0; v < vectors_per_expert(run) && !rc; v++) {
        snprintf(name, sizeof name, "experts.%u.%s", e, expert_suffix[v]);
        rc = read_vector(file, name, n_params, state ? state + v * n_params : NULL, why);
    }
    return rc;
}

static int check_experts(struct smoe_train_run *run, const struct smoe_safetensors *file,
                         struct smoe_why *why)
{
    int rc = 0;
    for (uint32_t e = 0; e < run->options->experts && !rc; e++)
        rc = read_expert(run, file, e, NULL, why);
    return rc;
}

/* Files of pinned layers, and those from before there were any, have none: n_experts is 0. */
static int read_placement(const struct smoe_train_run *run, const struct smoe_safetensors *file,
                          struct smoe_placed *placed, struct smoe_why *why)
{
    int rc = run->experts->ops->place ? smoe_placed_read(file, placed, why) : 0;
    uint32_t n = placed->value.n_experts;
    if (rc || !n)
        return rc;
    rc = smoe_placement_check(&placed->value, why);
    if (rc == 0 && n != run->options->experts)
        rc = smoe_fail(why, SMOE_EDATA, "placement: of %u experts", n);
    return rc ? smoe_fail_code(SMOE_EDATA, why) : 0;
}

/* What the fleet is told begins here; what is in the file has been looked at. */
static int store_experts(struct smoe_train_run *run, const struct smoe_safetensors *file,
                         const struct smoe_placement *placement, struct smoe_why *why)
{
    size_t n_params = run->experts->n_params;
    smoe_real *state = malloc(vectors_per_expert(run) * n_params * sizeof *state);
    bool kept;
    if (!state)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    int rc = run->experts->ops->restore(run->experts, run->step, why);
    if (rc == 0 && placement->n_experts)
        rc = run->experts->ops->place(run->experts, placement, &kept, why);
    for (uint32_t e = 0; e < run->options->experts && !rc; e++) {
        rc = read_expert(run, file, e, state, why);
        if (rc)
            break;
        rc = run->experts->ops->store(run->experts, e, state, why);
        if (rc)
            smoe_fail_at(why, rc, "expert %u", e);
    }
    free(state);
    return rc;
}

static int read_number(const struct smoe_safetensors *file, int key, uint64_t most, uint64_t *ret,
                       struct smoe_why *why)
{
    const char *text = smoe_safetensors_metadata(file, meta_keys[key]);
    uint64_t number;
    if (!text || !smoe_parse_u64(text, &number) || number > most)
        return smoe_fail(why, SMOE_EDATA, "metadata %s: missing, or not a number in 0..%" PRIu64,
                         meta_keys[key], most);
    *ret = number;
    return 0;
}

/* In the middle of an epoch its batches must be cut as they were: else some samples would be trained on twice,
 * and others not at all. Files from before that was said do not have the key. */
static int read_position(struct smoe_train_run *run, const struct smoe_safetensors *file,
                         struct smoe_why *why)
{
    char values[METAS][96];
    struct smoe_metadata expected[METAS];
    const char *cut = smoe_safetensors_metadata(file, meta_keys[META_BATCHES]);
    int rc;
    if ((rc = read_number(file, META_STEP, POSITION_MAX, &run->step, why)) ||
        (rc = read_number(file, META_EPOCH, POSITION_MAX, &run->epoch, why)) ||
        (rc = read_number(file, META_BATCH, POSITION_MAX, &run->next, why)))
        return rc;
    fill_metadata(run, values, expected);
    if (run->next && cut && strcmp(cut, values[META_BATCHES]) != 0)
        return smoe_fail(why, SMOE_EDATA,
                         "it is of the middle of an epoch, in batches of \"%.60s\", this run's are "
                         "\"%s\"",
                         cut, values[META_BATCHES]);
    return read_number(file, META_BATCH, smoe_train_batches(run) - 1, &run->next, why);
}

static int check_same(const struct smoe_train_run *run, const struct smoe_safetensors *file,
                      struct smoe_why *why)
{
    char values[METAS][96];
    struct smoe_metadata expected[METAS];
    static const int must_match[] = {META_DATASET, META_SHAPE, META_SEED, META_CODES};
    fill_metadata(run, values, expected);
    /* Codes concern who reads them; files from before there were any do not have the key. */
    size_t n = sizeof must_match / sizeof *must_match - !run->feed.meaning;
    for (size_t i = 0; i < n; i++) {
        const char *key = meta_keys[must_match[i]];
        const char *found = smoe_safetensors_metadata(file, key);
        if (!found || strcmp(found, values[must_match[i]]) != 0)
            return smoe_fail(why, SMOE_EDATA, "%s is \"%.90s\", this run's is \"%s\"", key,
                             found ? found : "missing", values[must_match[i]]);
    }
    return 0;
}

static int take_up(struct smoe_train_run *run, const struct smoe_safetensors *file,
                   struct smoe_why *why)
{
    struct smoe_placed placed = {0};
    int rc;
    if ((rc = check_same(run, file, why)) == 0 && (rc = read_position(run, file, why)) == 0 &&
        (rc = read_dense(run, file, why)) == 0 && (rc = check_experts(run, file, why)) == 0 &&
        (rc = read_placement(run, file, &placed, why)) == 0 &&
        (rc = read_router(run, file, why)) == 0)
        rc = store_experts(run, file, &placed.value, why);
    smoe_placed_release(&placed);
    return rc;
}

int smoe_checkpoint_resume(struct smoe_train_run *run, const char *path, struct smoe_why *why)
{
    char *bytes;
    size_t len;
    struct smoe_safetensors file;
    int rc = smoe_file_read(AT_FDCWD, path, SMOE_CHECKPOINT_BYTES_MAX, &bytes, &len, why);
    if (rc)
        return smoe_fail_at(why, rc, "resume");
    rc = smoe_safetensors_parse(bytes, len, &file, why);
    if (rc == 0) {
        rc = take_up(run, &file, why);
        smoe_safetensors_release(&file);
    }
    free(bytes);
    return rc ? smoe_fail_at(why, rc, "resume %s", path) : 0;
}
