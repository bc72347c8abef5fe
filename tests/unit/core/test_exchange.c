/* SPDX-License-Identifier: Apache-2.0
 *
 * In which order workers of a sharded layer are asked for what they give each other, and how much of it is under
 * way: six workers of two slots and four experts, of 8 MB each, so that no bound is out of reach.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/linked.h"

enum { WORKERS = 6, EXPERTS = 4, D_MODEL = 512, D_FF = 2048, OPEN_MAX = 512 };

#define MIB      (UINT64_C(1) << 20)
#define ELEMENTS (2 * UINT64_C(512) * 2048 + 512 + 2048)

static const char *const places[WORKERS] = {"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1",
                                            "10.0.0.4:1", "10.0.0.5:1", "10.0.0.6:1"};
static struct linked l;

/* What is asked for and not taken, and what was ever asked for. */
static struct {
    uint32_t from, n_takers, takers[WORKERS];
    struct smoe_msg_shard_ask ask;
} open[OPEN_MAX];
static size_t n_open;
static uint64_t asked[EXPERTS][WORKERS]; /* elements, by expert and rank */

static void begin_linked(bool links)
{
    struct smoe_core_options options = linked_options(WORKERS);
    options.tensor_bytes_max = 64 * MIB;
    linked_begin(&l, &options, WORKERS, links ? places : NULL);
    linked_layer(&l, EXPERTS, D_MODEL, D_FF);
    linked_up(&l);
    linked_step(&l, 1);
}

static void begin(void)
{
    begin_linked(true);
}

static void end(void)
{
    linked_end(&l);
}

TestSuite(exchange, .fini = end);

/* Of the piece with that element: [owner, follower]. */
static struct smoe_shard_piece piece_at(uint64_t offset)
{
    const struct smoe_shard_map *map = smoe_core_layer(l.scene.core, l.layer).map;
    uint32_t i = 0;
    while (i + 1 < map->n_pieces && map->pieces[i + 1].offset <= offset)
        i++;
    return map->pieces[i];
}

static void hear_ask(uint32_t from, const struct smoe_msg_shard_ask *ask)
{
    struct smoe_shard_piece p = piece_at(ask->offset);
    uint32_t holders[] = {p.owner, p.follower};
    cr_assert_lt(n_open, OPEN_MAX);
    cr_assert_eq(ask->kind, SMOE_SHARD_GRADIENT);
    open[n_open].from = from;
    open[n_open].ask = *ask;
    open[n_open].n_takers = 0;
    for (int i = 0; i < 2; i++)
        if (holders[i] != from)
            open[n_open].takers[open[n_open].n_takers++] = holders[i];
    asked[ask->expert][ask->rank] += ask->length;
    n_open++;
}

/* Takes note of what was asked since the last time. */
static void hear(void)
{
    for (; l.heard < l.scene.mail.n; l.heard++) {
        const struct letter *m = &l.scene.mail.letters[l.heard];
        if (m->m.type == SMOE_MSG_SHARD_ASK)
            hear_ask(linked_number(&l, m->session), &m->m.shard_ask);
    }
}

static uint64_t bytes_of(size_t i)
{
    return 4 * open[i].ask.length;
}

static uint64_t bytes_from(uint32_t worker)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n_open; i++)
        bytes += open[i].from == worker ? bytes_of(i) : 0;
    return bytes;
}

static uint64_t bytes_to(uint32_t worker)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n_open; i++)
        for (uint32_t k = 0; k < open[i].n_takers; k++)
            bytes += open[i].takers[k] == worker ? bytes_of(i) : 0;
    return bytes;
}

/* The worker sends it, and all who need it say that they have it. */
static void carry_out(size_t i)
{
    linked_send(&l, open[i].from, &open[i].ask);
    for (uint32_t k = 0; open[i].ask.send && k < open[i].n_takers; k++)
        linked_taken(&l, open[i].takers[k], open[i].ask.number);
    open[i] = open[--n_open];
    hear();
}

Test(exchange, all_give_at_once_and_each_begins_with_another)
{
    begin();
    hear();
    bool given[WORKERS] = {false}, gets[WORKERS] = {false};
    for (size_t i = 0; i < n_open; i++) {
        uint32_t from = open[i].from, owner = piece_at(open[i].ask.offset).owner;
        if (given[from])
            continue; /* not its first */
        given[from] = true;
        cr_expect_not(gets[owner], "two begin with worker %u", owner);
        gets[owner] = true;
    }
    for (uint32_t w = 0; w < WORKERS; w++)
        cr_expect(given[w], "worker %u has nothing to do", w);
}

Test(exchange, a_worker_gives_so_much_at_a_time_and_gets_four_times_as_much)
{
    begin();
    hear();
    for (unsigned turn = 0; n_open; turn = turn * 31 + 7) {
        uint64_t all = 0;
        for (uint32_t w = 0; w < WORKERS; w++) {
            cr_assert_leq(bytes_from(w), 4 * MIB);
            cr_assert_leq(bytes_to(w), 16 * MIB);
            all += bytes_from(w);
        }
        cr_assert_leq(all, 64 * MIB);
        carry_out(turn % n_open);
    }
}

Test(exchange, every_element_of_every_local_sum_is_asked_for_once_whoever_answers_first)
{
    begin();
    hear();
    for (unsigned turn = 1; n_open; turn = turn * 31 + 7)
        carry_out(turn % n_open);
    const struct smoe_layer_view layer = smoe_core_layer(l.scene.core, l.layer);
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t r = 0; r < layer.replica_first[e + 1] - layer.replica_first[e]; r++)
            cr_expect_eq(asked[e][r], ELEMENTS, "expert %u rank %u", e, r);
    scene_work_all(&l.scene);
    cr_expect_eq(mail_count(&l.scene.mail, l.trainer, SMOE_MSG_STEP_DONE), 1);
}

Test(exchange, what_the_gateway_must_pass_on_has_a_bound_of_its_own)
{
    begin_linked(false);
    hear();
    uint64_t most = 0;
    for (unsigned turn = 1; n_open; turn = turn * 31 + 7) {
        uint64_t all = 0;
        for (uint32_t w = 0; w < WORKERS; w++)
            all += bytes_from(w);
        most = all > most ? all : most;
        carry_out(turn % n_open);
    }
    cr_expect_leq(most, 16 * MIB);
    cr_expect_geq(most, 15 * MIB);
}

/* Everybody's first ask leads to somebody, who does not take it: the lanes behind are the only ones that stand. */
Test(exchange, who_takes_nothing_holds_up_only_what_leads_there)
{
    begin();
    hear();
    uint32_t slow = 2;
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n_open && !more; i++) {
            bool held = open[i].from == slow;
            for (uint32_t k = 0; k < open[i].n_takers; k++)
                held |= open[i].takers[k] == slow;
            if (!held) {
                carry_out(i);
                more = true;
            }
        }
    }
    cr_expect_leq(bytes_to(slow), 16 * MIB);
    for (size_t i = 0; i < n_open; i++)
        cr_expect(open[i].from == slow || open[i].takers[0] == slow ||
                  (open[i].n_takers > 1 && open[i].takers[1] == slow));
    for (size_t i = 0; n_open;) /* and in the end all is there */
        carry_out(i);
    scene_work_all(&l.scene);
    cr_expect_eq(mail_count(&l.scene.mail, l.trainer, SMOE_MSG_STEP_DONE), 1);
}

/* The step is made again from its beginning: nothing counts twice, and nobody's window stays shut. */
Test(exchange, whoever_leaves_takes_what_was_under_way_along)
{
    begin();
    hear();
    for (int i = 0; i < 5; i++)
        carry_out(0);
    scene_close(&l.scene, l.sessions[1]);
    scene_tick(&l.scene, 0);
    size_t before = mail_count(&l.scene.mail, ANYONE, SMOE_MSG_SHARD_ASK);
    for (size_t i = 0; i < n_open; i++) /* late answers are passed over */
        if (open[i].from != 1)
            linked_send(&l, open[i].from, &open[i].ask);
    cr_expect_eq(mail_count(&l.scene.mail, ANYONE, SMOE_MSG_SHARD_ASK), before);
    cr_expect_eq(mail_count(&l.scene.mail, ANYONE, SMOE_MSG_SHARD_PART), 0);
    cr_expect_eq(mail_count(&l.scene.mail, l.trainer, SMOE_MSG_STEP_DONE), 0);
}
