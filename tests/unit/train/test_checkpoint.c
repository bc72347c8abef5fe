/* SPDX-License-Identifier: Apache-2.0
 *
 * A run's file, and experts that write down what they are asked for. What of the run is not concerned is made up here.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/checkpoint.h"
#include "common/io/file.h"
#include "tests/unit/io/scratch_dir.h"

enum { EXPERTS = 3, PARAMS = 4, VECTORS = 3, WORKERS = 2 };

const char *const smoe_train_routers[] = {"learned", NULL};
const char *const smoe_train_features[] = {"linear", NULL};

uint64_t smoe_train_batches(const struct smoe_train_run *run)
{
    (void)run;
    return 1;
}

int smoe_train_begin_stage_2(struct smoe_train_run *run, struct smoe_why *why)
{
    (void)run, (void)why;
    return 0;
}

static struct scene {
    struct scratch_dir dir;
    struct smoe_train_options options;
    struct smoe_experts experts;
    struct smoe_train_run run;
    smoe_real states[EXPERTS][VECTORS * PARAMS];
    smoe_real stored[EXPERTS][VECTORS * PARAMS];
    struct smoe_placement placement;
    unsigned fetched;
    char asked[64]; /* r: restore, p: place, s: store */
} s;

static void note(char what)
{
    s.asked[strlen(s.asked)] = what;
}

static int fetch(struct smoe_experts *e, uint32_t expert, smoe_real *ret, struct smoe_why *why)
{
    (void)e, (void)why;
    s.fetched++;
    memcpy(ret, s.states[expert], sizeof s.states[expert]);
    return 0;
}

static int restore(struct smoe_experts *e, uint64_t step, struct smoe_why *why)
{
    (void)e, (void)why;
    cr_assert_eq(step, 7);
    note('r');
    return 0;
}

static int store(struct smoe_experts *e, uint32_t expert, const smoe_real *state,
                 struct smoe_why *why)
{
    (void)e, (void)why;
    memcpy(s.stored[expert], state, sizeof s.stored[expert]);
    note('s');
    return 0;
}

static int placement(struct smoe_experts *e, const struct smoe_placement **ret,
                     struct smoe_why *why)
{
    (void)e, (void)why;
    *ret = &s.placement;
    return 0;
}

static int place(struct smoe_experts *e, const struct smoe_placement *wanted, bool *ret_kept,
                 struct smoe_why *why)
{
    (void)e, (void)why;
    cr_assert_eq(wanted->n_slots, EXPERTS);
    *ret_kept = true;
    note('p');
    return 0;
}

static const char *path(void)
{
    return scratch_path(&s.dir, "run.safetensors");
}

static int write_file(struct smoe_why *why)
{
    return smoe_checkpoint_write(&s.run, path(), why);
}

static void begin(void)
{
    static const struct smoe_experts_ops ops = {
        .fetch = fetch, .restore = restore, .store = store, .placement = placement, .place = place};
    static const char *const workers[] = {"a", "b"};
    static const uint32_t slots[] = {2, 1}, experts[] = {0, 1, 2};
    static const double popularity[] = {0.5, 0.25, 0.25};
    struct smoe_model_shape shape = {
        .pixels = 2, .d_model = 2, .experts = EXPERTS, .top_k = 1, .classes = 2};
    struct smoe_why why;
    memset(&s, 0, sizeof s);
    scratch_dir_init(&s.dir);
    s.options = (struct smoe_train_options){.experts = EXPERTS, .batch = 1};
    s.experts = (struct smoe_experts){.ops = &ops, .n_params = PARAMS};
    s.run = (struct smoe_train_run){.options = &s.options, .experts = &s.experts, .step = 7};
    s.run.feed.name = "none";
    cr_assert_eq(smoe_model_init(&s.run.model, &shape, 1), 0);
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < VECTORS * PARAMS; i++)
            s.states[e][i] = (smoe_real)(100 * e + i);
    s.placement = (struct smoe_placement){.rule = "highest-averages",
                                          .n_workers = WORKERS,
                                          .n_slots = EXPERTS,
                                          .n_experts = EXPERTS,
                                          .workers = workers,
                                          .slots = slots,
                                          .experts = experts,
                                          .popularity = popularity};
    cr_assert_eq(write_file(&why), 0, "%s", why.text);
}

static void end(void)
{
    smoe_model_release(&s.run.model);
    scratch_dir_release(&s.dir);
}

TestSuite(checkpoint, .init = begin, .fini = end);

Test(checkpoint, brings_every_expert_and_the_placement_back)
{
    struct smoe_why why;
    cr_assert_eq(smoe_checkpoint_resume(&s.run, path(), &why), 0, "%s", why.text);
    cr_assert_str_eq(s.asked, "rpsss");
    cr_assert_eq(memcmp(s.stored, s.states, sizeof s.states), 0);
}

/* Puts `to` in the place of `from`, once, somewhere in the file. */
static void damage(const void *from, const void *to, size_t n)
{
    struct smoe_why why;
    char *bytes, *at;
    size_t len;
    cr_assert_eq(smoe_file_read(AT_FDCWD, path(), 1 << 20, &bytes, &len, &why), 0);
    at = memmem(bytes, len, from, n);
    cr_assert_not_null(at);
    memcpy(at, to, n);
    cr_assert_eq(smoe_file_write(AT_FDCWD, path(), bytes, len, &why), 0);
    free(bytes);
}

static void assert_refused(const char *says)
{
    struct smoe_why why;
    cr_assert_eq(smoe_checkpoint_resume(&s.run, path(), &why), SMOE_EDATA, "%s", why.text);
    cr_assert_not_null(strstr(why.text, says), "%s", why.text);
    cr_assert_str_eq(s.asked, "", "the fleet was asked for something: %s", s.asked);
}

Test(checkpoint, that_lacks_an_expert_is_refused_before_the_fleet_hears_of_it)
{
    damage("experts.2.v", "experts.7.v", 11);
    assert_refused("no tensor experts.2.v");
}

Test(checkpoint, with_a_vector_of_another_size_is_refused_before_the_fleet_hears_of_it)
{
    s.experts.n_params = PARAMS + 1;
    assert_refused("tensor experts.0.weights: ");
}

Test(checkpoint, with_a_number_that_is_not_finite_is_refused_before_the_fleet_hears_of_it)
{
    const smoe_real bad[] = {(smoe_real)INFINITY, (smoe_real)NAN};
    for (int i = 0; i < 2; i++) {
        struct smoe_why why;
        cr_assert_eq(write_file(&why), 0);
        damage(&s.states[2][2 * PARAMS + 1], &bad[i], sizeof bad[i]);
        assert_refused("tensor experts.2.v: number 1 is not finite");
    }
}

Test(checkpoint, with_a_placement_that_cannot_be_is_refused_before_the_fleet_hears_of_it)
{
    const double shares[] = {0.5, 0.25}, more[] = {0.5, 0.5};
    damage(shares, more, sizeof more);
    assert_refused("placement.popularity: sum");
}

Test(checkpoint, that_could_not_be_read_again_is_not_begun)
{
    struct smoe_why why;
    s.fetched = 0;
    s.experts.n_params =
        (size_t)((double)SMOE_CHECKPOINT_BYTES_MAX / EXPERTS / VECTORS / sizeof(smoe_real));
    cr_assert_eq(smoe_checkpoint_fits(&s.run, &why), SMOE_ETOOBIG);
    cr_assert_str_eq(why.text, "a checkpoint of this run has 1024 GiB, the limit is 1024");
    cr_assert_eq(write_file(&why), SMOE_ETOOBIG);
    cr_assert_eq(s.fetched, 0);
    s.experts.n_params -= 1 << 20;
    cr_assert_eq(smoe_checkpoint_fits(&s.run, &why), 0, "%s", why.text);
}
