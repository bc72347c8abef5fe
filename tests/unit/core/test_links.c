/* SPDX-License-Identifier: Apache-2.0
 *
 * Which workers are told of each other, by whom a link is dialled, and when it is taken back.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "daemon/core/links.h"
#include "tests/unit/core/linked.h"

enum { WORKERS = 4 };

static const char *const places[] = {"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"};
static struct linked l;

static void begin_at(uint32_t workers, const char *const *where)
{
    struct smoe_core_options options = linked_options(workers);
    linked_begin(&l, &options, workers, where);
    linked_layer(&l, 4, 4, 8);
}

static void begin(void)
{
    begin_at(WORKERS, places);
}

static void end(void)
{
    linked_end(&l);
}

TestSuite(links, .fini = end);

/* The last that the worker was told of the other. */
static bool was_told(uint32_t worker, uint32_t peer, struct smoe_msg_peer *ret)
{
    bool found = false;
    for (size_t i = 0; i < l.scene.mail.n; i++) {
        const struct letter *m = &l.scene.mail.letters[i];
        if (m->session != l.sessions[worker] || m->m.type != SMOE_MSG_PEER ||
            m->m.peer.peer != peer)
            continue;
        *ret = m->m.peer;
        found = true;
    }
    return found;
}

static struct smoe_msg_peer told_of(uint32_t worker, uint32_t peer)
{
    struct smoe_msg_peer m = {0};
    cr_assert(was_told(worker, peer, &m), "%u was not told of %u", worker, peer);
    return m;
}

static bool knows(uint32_t worker, uint32_t peer)
{
    struct smoe_msg_peer unused;
    return was_told(worker, peer, &unused);
}

static size_t n_told(uint32_t worker)
{
    return mail_count(&l.scene.mail, l.sessions[worker], SMOE_MSG_PEER);
}

static struct smoe_links_view view_of(uint32_t worker)
{
    return smoe_core_links(l.scene.core, worker);
}

Test(links, both_ends_are_told_of_one_link_and_one_of_them_dials)
{
    begin();
    uint64_t seen[WORKERS * WORKERS] = {0};
    size_t n_seen = 0;
    for (uint32_t a = 0; a < WORKERS; a++)
        for (uint32_t b = a + 1; b < WORKERS; b++) {
            struct smoe_msg_peer ab = told_of(a, b), ba = told_of(b, a);
            cr_expect_eq(ab.link, ba.link);
            cr_expect(ab.dial && !ba.dial, "the lower number dials");
            cr_expect_str_eq(ab.address, places[b]);
            cr_expect_str_eq(ba.address, places[a]);
            char name[8];
            snprintf(name, sizeof name, "w%u", b);
            cr_expect_str_eq(ab.name, name);
            for (size_t i = 0; i < n_seen; i++)
                cr_expect_neq(seen[i], ab.link, "no link has another's identity");
            seen[n_seen++] = ab.link;
        }
    for (uint32_t w = 0; w < WORKERS; w++)
        cr_expect_eq(n_told(w), WORKERS - 1, "nobody is told twice, nor of itself");
    cr_expect_eq(mail_count(&l.scene.mail, l.trainer, SMOE_MSG_PEER), 0);
}

Test(links, the_core_puts_no_key_into_what_it_says)
{
    static const struct smoe_link_key none;
    begin();
    struct smoe_msg_peer m = told_of(0, 1);
    cr_expect_eq(memcmp(&m.key, &none, sizeof none), 0);
}

Test(links, nobody_is_told_of_anybody_before_a_layer_needs_it)
{
    struct smoe_core_options options = linked_options(WORKERS);
    linked_begin(&l, &options, WORKERS, places);
    scene_pass(&l.scene, 100 * MS);
    cr_expect_eq(mail_count(&l.scene.mail, ANYONE, SMOE_MSG_PEER), 0);
    linked_layer(&l, 4, 4, 8);
    cr_expect_gt(mail_count(&l.scene.mail, ANYONE, SMOE_MSG_PEER), 0);
}

Test(links, who_says_no_address_has_none_and_the_others_have)
{
    const char *const some[WORKERS] = {places[0], NULL, places[2], places[3]};
    begin_at(WORKERS, some);
    cr_expect_eq(n_told(1), 0);
    for (uint32_t w = 0; w < WORKERS; w++)
        cr_expect_not(knows(w, 1));
    cr_expect(knows(0, 2));
    cr_expect_eq(view_of(1).up + view_of(1).relayed, 0);
}

Test(links, whom_others_cannot_reach_dials)
{
    const char *const mixed[WORKERS] = {"10.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "[::1]:4"};
    begin_at(WORKERS, mixed);
    cr_expect_not(told_of(0, 1).dial, "nobody reaches 127.0.0.1 from elsewhere");
    cr_expect(told_of(1, 0).dial);
    cr_expect(told_of(3, 0).dial);
    cr_expect(told_of(1, 2).dial, "of two at home the lower number");
    cr_expect_not(told_of(3, 1).dial);
}

Test(links, without_the_option_nobody_is_told_and_states_count_for_nothing)
{
    struct smoe_core_options options = linked_options(WORKERS);
    options.links = false;
    linked_begin(&l, &options, WORKERS, places);
    linked_layer(&l, 4, 4, 8);
    cr_expect_eq(mail_count(&l.scene.mail, ANYONE, SMOE_MSG_PEER), 0);
    linked_state(&l, 0, &(struct smoe_msg_peer){.peer = 1, .link = 1}, true);
    cr_expect_eq(view_of(0).up, 0);
}

Test(links, who_leaves_is_taken_back_from_all_others_at_once)
{
    begin();
    linked_up(&l);
    scene_close(&l.scene, l.sessions[1]);
    scene_tick(&l.scene, 0);
    for (uint32_t w = 0; w < WORKERS; w++) {
        if (w == 1)
            continue;
        cr_expect_eq(told_of(w, 1).link, 0);
        cr_expect_str_empty(told_of(w, 1).address);
        cr_expect_eq(view_of(w).up, WORKERS - 2);
    }
    cr_expect_eq(view_of(1).up + view_of(1).relayed, 0);
}

Test(links, who_comes_back_has_new_links_and_old_words_about_them_count_for_nothing)
{
    begin();
    linked_up(&l);
    struct smoe_msg_peer old = told_of(0, 1);
    scene_close(&l.scene, l.sessions[1]);
    scene_tick(&l.scene, 0);
    l.sessions[1] = linked_worker(&l, "w1", "10.0.0.9:9");
    scene_work_all(&l.scene);
    cr_assert_eq(scene_index(&l.scene, "w1"), 1);
    struct smoe_msg_peer now = told_of(0, 1);
    cr_assert_gt(now.link, old.link);
    cr_expect_str_eq(now.address, "10.0.0.9:9");
    uint32_t up = view_of(0).up;
    linked_state(&l, 0, &old, true);
    cr_expect_eq(view_of(0).up, up, "that link is no more");
    linked_up(&l);
    cr_expect_eq(view_of(0).up, WORKERS - 1);
}

Test(links, an_end_may_only_speak_of_its_own)
{
    begin();
    struct smoe_msg_peer other = told_of(2, 3);
    linked_state(&l, 0, &(struct smoe_msg_peer){.peer = 3, .link = other.link}, true);
    linked_state(&l, 0, &(struct smoe_msg_peer){.peer = 0, .link = other.link}, true);
    linked_state(&l, 0, &(struct smoe_msg_peer){.peer = 9999, .link = other.link}, true);
    for (uint32_t w = 0; w < WORKERS; w++)
        cr_expect_eq(view_of(w).up, 0);
}

/* ---- what is given over them ---- */

static bool reaches(uint32_t from, uint32_t to)
{
    struct smoe_peer_list list;
    smoe_links_reach(l.scene.core, from, &to, 1, &list);
    return list.n == 1 && list.peers[0] == to;
}

Test(links, one_is_used_while_both_ends_say_that_it_is_up)
{
    begin();
    struct smoe_msg_peer ab = told_of(0, 1), ba = told_of(1, 0);
    cr_expect_not(reaches(0, 1));
    linked_state(&l, 0, &ab, true);
    cr_expect_not(reaches(0, 1), "the other end does not know of it");
    linked_state(&l, 1, &ba, true);
    cr_expect(reaches(0, 1) && reaches(1, 0));
    cr_expect_not(reaches(0, 2));
    linked_state(&l, 1, &ba, false);
    cr_expect_not(reaches(0, 1), "one end sees no more of the other");
    cr_expect_not(reaches(1, 0));
}

Test(links, peers_of_a_transfer_rise_and_are_no_more_than_fit)
{
    begin();
    linked_up(&l);
    const uint32_t takers[] = {3, 1, 2};
    struct smoe_peer_list list;
    smoe_links_reach(l.scene.core, 0, takers, 3, &list);
    cr_assert_eq(list.n, 3);
    cr_expect(list.peers[0] == 1 && list.peers[1] == 2 && list.peers[2] == 3);
    uint32_t many[SMOE_TRANSFER_PEERS_MAX + 1];
    for (uint32_t i = 0; i <= SMOE_TRANSFER_PEERS_MAX; i++)
        many[i] = 1;
    smoe_links_reach(l.scene.core, 0, many, SMOE_TRANSFER_PEERS_MAX + 1, &list);
    cr_expect_eq(list.n, SMOE_TRANSFER_PEERS_MAX);
    cr_expect(smoe_peers_have(&list, 1) && !smoe_peers_have(&list, 2));
}

/* ---- a large fleet is told in parts ---- */

Test(links, an_update_tells_of_so_many_and_the_next_of_the_rest)
{
    static char texts[LINKED_MAX][24];
    const char *where[LINKED_MAX];
    struct smoe_core_options options = linked_options(LINKED_MAX);
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    size_t pairs = LINKED_MAX * (LINKED_MAX - 1) / 2;
    cr_assert_gt(pairs, SMOE_LINKS_AT_ONCE);
    options.limits.workers_max = 32;
    for (int i = 0; i < LINKED_MAX; i++) {
        snprintf(texts[i], sizeof texts[i], "10.0.1.%d:1", i);
        where[i] = texts[i];
    }
    linked_begin(&l, &options, LINKED_MAX, where);
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1, .name = "moe", .run = 1, .shape = scene_shape(8)};
    scene_say(&l.scene, l.trainer, &m);
    cr_expect_eq(mail_count(&l.scene.mail, ANYONE, SMOE_MSG_PEER), 2 * SMOE_LINKS_AT_ONCE);
    cr_expect_eq(l.scene.wake_ns, l.scene.now_ns, "the rest is due now");
    scene_tick(&l.scene, 0);
    cr_expect_eq(mail_count(&l.scene.mail, ANYONE, SMOE_MSG_PEER), 2 * pairs);
}
