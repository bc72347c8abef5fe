/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/linked.h"

#include <criterion/criterion.h>
#include <stdio.h>

struct smoe_core_options linked_options(uint32_t workers)
{
    struct smoe_core_options options = scene_options();
    options.sharded = options.links = true;
    options.placement = (struct smoe_place_rule){.kind = SMOE_PLACE_STATIC, .interval = 1};
    options.settings.workers_min = workers;
    return options;
}

uint32_t linked_worker(struct linked *l, const char *name, const char *place)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, name);
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    hello.memory_bytes = UINT64_C(1) << 40;
    hello.expert_slots = 2;
    snprintf(hello.peer_address, sizeof hello.peer_address, "%s", place ? place : "");
    uint32_t session = scene_join(&l->scene, &hello);
    scene_say(&l->scene, session, &inventory);
    return session;
}

void linked_begin(struct linked *l, const struct smoe_core_options *options, uint32_t workers,
                  const char *const *places)
{
    cr_assert_leq(workers, LINKED_MAX);
    *l = (struct linked){.n = workers};
    scene_begin(&l->scene, options);
    for (uint32_t i = 0; i < workers; i++) {
        char name[8];
        snprintf(name, sizeof name, "w%u", i);
        l->sessions[i] = linked_worker(l, name, places ? places[i] : NULL);
        cr_assert_eq(scene_index(&l->scene, name), i);
    }
    l->trainer = scene_trainer(&l->scene, "t");
}

void linked_end(struct linked *l)
{
    scene_end(&l->scene);
}

void linked_layer(struct linked *l, uint32_t experts, uint32_t d_model, uint32_t d_ff)
{
    struct smoe_layer_shape shape = scene_shape(experts);
    shape.d_model = d_model;
    shape.d_ff = d_ff;
    l->layer = scene_layer(&l->scene, l->trainer, "moe", &shape);
    scene_work_all(&l->scene);
}

void linked_state(struct linked *l, uint32_t worker, const struct smoe_msg_peer *peer, bool up)
{
    struct smoe_message m = {.type = SMOE_MSG_LINK_STATE};
    m.link_state = (struct smoe_msg_link_state){peer->peer, peer->link, up};
    scene_say(&l->scene, l->sessions[worker], &m);
}

void linked_up(struct linked *l)
{
    for (; l->met < l->scene.mail.n; l->met++) {
        const struct letter *told = &l->scene.mail.letters[l->met];
        if (told->m.type != SMOE_MSG_PEER || !told->m.peer.link)
            continue;
        struct smoe_msg_peer peer = told->m.peer; /* letters move when there are more */
        linked_state(l, linked_number(l, told->session), &peer, true);
    }
}

void linked_step(struct linked *l, uint64_t step)
{
    struct scene_submit o = {.batch = step, .layer = l->layer, .tokens = 8, .top_k = 1};
    cr_assert_eq(scene_submit(&l->scene, l->trainer, &o).kind, SMOE_TAKE);
    scene_work_all(&l->scene);
    cr_assert_eq(scene_gradient(&l->scene, l->trainer, step).kind, SMOE_TAKE);
    scene_work_all(&l->scene);
    scene_step(&l->scene, l->trainer, step, &step, 1);
}

uint32_t linked_number(const struct linked *l, uint32_t session)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->sessions[i] == session)
            return i;
    cr_assert_fail("session %u is no worker's", session);
    return UINT32_MAX;
}

void linked_send(struct linked *l, uint32_t from, const struct smoe_msg_shard_ask *ask)
{
    struct smoe_message m = {.type = SMOE_MSG_SHARD_SENT};
    if (!ask->send) {
        linked_taken(l, from, ask->number);
        return;
    }
    m.shard_sent = (struct smoe_msg_shard_sent){ask->number, ask->peers};
    if (ask->others) {
        m.type = SMOE_MSG_SHARD_PART;
        m.shard_part = smoe_msg_shard_part_of(ask);
        m.shard_part.direct = ask->peers;
    }
    scene_say(&l->scene, l->sessions[from], &m);
}

void linked_taken(struct linked *l, uint32_t worker, uint64_t number)
{
    struct smoe_message m = {.type = SMOE_MSG_SHARD_TAKEN};
    m.shard_taken.number = number;
    scene_say(&l->scene, l->sessions[worker], &m);
}
