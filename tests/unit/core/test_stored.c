/* SPDX-License-Identifier: Apache-2.0
 *
 * States that are stored in a sharded layer between steps: they have no step of their own, so that it is the attempt
 * that tells a holder who has them all from one who was away for some.
 */
#include <criterion/criterion.h>

#include "tests/unit/core/scene.h"

enum { EXPERTS = 4, WORKERS = 3 };

static struct scene s;
static uint32_t workers[WORKERS], t, layer;

static void begin(void)
{
    static const char *const names[WORKERS] = {"a", "b", "c"};
    struct smoe_core_options options = scene_options();
    struct smoe_layer_shape shape = scene_shape(EXPERTS);
    options.sharded = true;
    options.settings.workers_min = WORKERS;
    cr_assert(smoe_place_parse("highest-averages", &options.placement));
    scene_begin(&s, &options);
    for (int w = 0; w < WORKERS; w++) {
        struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, names[w]);
        struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
        hello.memory_bytes = 1 << 20;
        hello.expert_slots = 3;
        workers[w] = scene_join(&s, &hello);
        scene_say(&s, workers[w], &inventory);
    }
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void end(void)
{
    scene_end(&s);
}

TestSuite(stored, .init = begin, .fini = end);

static void store(uint32_t expert)
{
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORE};
    m.expert_store =
        (struct smoe_msg_expert_store){.request = 7 + expert,
                                       .layer = layer,
                                       .expert = expert,
                                       .parts = SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS};
    cr_assert_eq(scene_say(&s, t, &m).kind, SMOE_TAKE);
}

/* Of the layer, as the worker was told last. */
static uint64_t attempt_told(uint32_t worker)
{
    return mail_last(&s.mail, worker, SMOE_MSG_HOST)->m.host.attempt;
}

Test(stored, states_are_of_a_new_attempt_once_a_holder_is_away)
{
    uint64_t before = attempt_told(workers[0]);
    scene_close(&s, workers[2]);
    scene_work_all(&s);
    store(0);
    cr_assert_gt(attempt_told(workers[0]), before);
    cr_assert_eq(attempt_told(workers[1]), attempt_told(workers[0]));
}

Test(stored, states_of_several_experts_are_of_one_attempt)
{
    scene_close(&s, workers[2]);
    scene_work_all(&s);
    store(0);
    uint64_t attempt = attempt_told(workers[0]);
    for (uint32_t e = 1; e < EXPERTS; e++)
        store(e);
    cr_assert_eq(attempt_told(workers[0]), attempt);
}

Test(stored, states_need_no_new_attempt_while_all_holders_are_there)
{
    uint64_t before = attempt_told(workers[0]);
    store(0);
    cr_assert_eq(attempt_told(workers[0]), before);
}
