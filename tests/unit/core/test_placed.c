/* SPDX-License-Identifier: Apache-2.0
 *
 * Placements that a trainer asks for and brings back: four experts on three workers with three slots each.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/scene.h"

enum { EXPERTS = 4, WORKERS = 3, SLOTS = 3, REQUEST = 77 };

static struct scene s;
static uint32_t workers[WORKERS], t, guest, layer;

static uint32_t join_worker(const char *name)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, name);
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    hello.memory_bytes = 1 << 20;
    hello.expert_slots = SLOTS;
    uint32_t session = scene_join(&s, &hello);
    scene_say(&s, session, &inventory);
    return session;
}

static void begin_with(const char *rule, bool sharded)
{
    static const char *const names[WORKERS] = {"a", "b", "c"};
    struct smoe_core_options options = scene_options();
    struct smoe_layer_shape shape = scene_shape(EXPERTS);
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    options.sharded = sharded;
    options.settings.workers_min = WORKERS;
    cr_assert(smoe_place_parse(rule, &options.placement));
    scene_begin(&s, &options);
    for (int w = 0; w < WORKERS; w++)
        workers[w] = join_worker(names[w]);
    t = scene_trainer(&s, "t");
    guest = scene_trainer(&s, "guest");
    layer = scene_layer(&s, t, "moe", &shape);
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1, .name = "moe", .shape = shape, .evaluate_only = true};
    scene_say(&s, guest, &m);
}

static void begin(void)
{
    begin_with("highest-averages", true);
}

static void end(void)
{
    scene_end(&s);
}

TestSuite(placed, .init = begin, .fini = end);

/* The answer to the last request. */
static struct smoe_placement answered(uint32_t session)
{
    const struct letter *l = mail_last(&s.mail, session, SMOE_MSG_PLACEMENT);
    cr_assert_not_null(l);
    cr_assert_eq(l->m.placement.request, REQUEST);
    cr_assert_eq(l->m.placement.layer, layer);
    return l->m.placement.placement;
}

static struct smoe_placement fetch(uint32_t session)
{
    struct smoe_message m = {.type = SMOE_MSG_PLACEMENT_FETCH};
    m.placement_fetch = (struct smoe_msg_placement_fetch){REQUEST, layer};
    scene_say(&s, session, &m);
    return answered(session);
}

static void bring(uint32_t session, const struct smoe_placement *p)
{
    struct smoe_message m = {.type = SMOE_MSG_PLACEMENT};
    m.placement = (struct smoe_msg_placement){REQUEST, layer, *p};
    scene_say(&s, session, &m);
}

/* Another plan of the same fleet: the workers' parts go round by one. */
static struct smoe_placement turned(const struct smoe_placement *p, uint32_t *experts)
{
    struct smoe_placement q = *p;
    for (uint32_t i = 0; i < p->n_slots; i++)
        experts[(i + SLOTS) % p->n_slots] = p->experts[i];
    q.experts = experts;
    return q;
}

static const double skewed[EXPERTS] = {0.7, 0.1, 0.1, 0.1};

Test(placed, whoever_knows_the_layer_may_ask)
{
    struct smoe_placement p = fetch(t);
    cr_assert_str_eq(p.rule, "highest-averages");
    cr_assert(p.n_workers == WORKERS && p.n_slots == WORKERS * SLOTS && p.n_experts == EXPERTS);
    cr_assert_str_eq(p.workers[2], "c");
    cr_assert_eq(p.slots[2], SLOTS);
    cr_assert(p.popularity[3] == 0.25 && p.seen == 0);
    p = fetch(guest);
    cr_assert_eq(p.n_slots, WORKERS * SLOTS);
}

Test(placed, a_layer_that_nobody_declared_has_none)
{
    struct smoe_message m = {.type = SMOE_MSG_PLACEMENT_FETCH};
    m.placement_fetch = (struct smoe_msg_placement_fetch){REQUEST, layer + 1};
    scene_say(&s, t, &m);
    scene_assert_error(&s, t, SMOE_EUNKNOWN, "PLACEMENT_FETCH.layer");
    m.type = SMOE_MSG_PLACEMENT;
    m.placement = (struct smoe_msg_placement){REQUEST, layer + 1, {.rule = "static"}};
    scene_say(&s, t, &m);
    scene_assert_error(&s, t, SMOE_EUNKNOWN, "PLACEMENT.layer");
}

Test(placed, on_the_same_workers_it_is_in_force_at_once)
{
    uint32_t experts[WORKERS * SLOTS];
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    q.popularity = skewed;
    q.covariance = 0.25;
    q.variance = 0.5;
    q.seen = 9;
    q.planned = 10;
    bring(t, &q);
    p = answered(t);
    cr_assert_arr_eq(p.experts, experts, sizeof experts);
    cr_assert_arr_eq(p.popularity, skewed, sizeof skewed);
    cr_assert(p.covariance == 0.25 && p.variance == 0.5 && p.seen == 9 && p.planned == 10);
    scene_work_all(&s);
    p = fetch(t);
    cr_assert_arr_eq(p.experts, experts, sizeof experts);
}

Test(placed, workers_are_known_by_their_names)
{
    static const char *const others[WORKERS] = {"c", "a", "b"};
    uint32_t experts[WORKERS * SLOTS];
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    q.workers = others;
    bring(t, &q);
    struct smoe_placement in_force = answered(t);
    cr_assert_arr_eq(in_force.experts, p.experts, sizeof experts, "turned twice it is the old one");
}

/* How many slots the expert has. */
static uint32_t count(const struct smoe_placement *p, uint32_t expert)
{
    uint32_t n = 0;
    for (uint32_t q = 0; q < p->n_slots; q++)
        n += p->experts[q] == expert;
    return n;
}

Test(placed, on_other_workers_it_is_planned_anew_from_its_popularity)
{
    static const char *const others[WORKERS] = {"a", "b", "stranger"};
    uint32_t experts[WORKERS * SLOTS];
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    q.workers = others;
    q.popularity = skewed;
    q.covariance = q.variance = 1; /* forecasts were right */
    q.seen = 5;
    bring(t, &q);
    p = answered(t);
    cr_assert_eq(count(&p, 0), WORKERS, "the popular one stands everywhere");
    cr_assert(p.popularity[0] == 0.7 && p.seen == 5);
}

Test(placed, slots_that_are_not_there_make_it_another_fleet)
{
    uint32_t experts[WORKERS * SLOTS], fewer[WORKERS] = {SLOTS, SLOTS, SLOTS - 1};
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    q.slots = fewer;
    q.n_slots--;
    bring(t, &q);
    p = answered(t);
    cr_assert_eq(p.n_slots, WORKERS * SLOTS);
    fewer[0]++; /* as many in all, elsewhere */
    q.n_slots++;
    bring(t, &q);
    p = answered(t);
    cr_assert_eq(p.slots[0], SLOTS);
    q.n_workers = q.n_slots = 0; /* popularity alone */
    bring(t, &q);
    p = answered(t);
    cr_assert_eq(p.n_slots, WORKERS * SLOTS);
}

Test(placed, another_rule_plans_for_itself)
{
    uint32_t experts[WORKERS * SLOTS];
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    q.rule = "interval";
    q.interval = 5;
    q.seen = 9;
    q.planned = 8;
    bring(t, &q);
    p = answered(t);
    cr_assert_str_eq(p.rule, "highest-averages");
    cr_assert(p.seen == 9 && p.planned == 10, "it was planned just now");
}

Test(placed, an_interval_goes_on_where_it_was)
{
    uint32_t experts[WORKERS * SLOTS];
    scene_end(&s);
    begin_with("interval=5", true);
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    cr_assert_eq(p.interval, 5);
    q.seen = 9;
    q.planned = 8;
    bring(t, &q);
    p = answered(t);
    cr_assert_arr_eq(p.experts, experts, sizeof experts);
    cr_assert(p.interval == 5 && p.planned == 8);
}

Test(placed, a_pinned_layer_has_none_and_takes_none)
{
    uint32_t experts[WORKERS * SLOTS];
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    static const char *const names[] = {"a", "b", "c"};
    static const uint32_t slots[] = {SLOTS, SLOTS, SLOTS};
    scene_end(&s);
    begin_with("static", false);
    q.workers = names;
    q.slots = slots;
    q.popularity = skewed;
    bring(t, &q);
    p = answered(t);
    cr_assert_str_eq(p.rule, "pinned");
    cr_assert_eq(p.n_experts + p.n_workers + p.n_slots, 0);
}

Test(placed, only_the_owner_of_a_layer_at_rest_may_bring_one)
{
    uint32_t experts[WORKERS * SLOTS];
    struct smoe_placement p = fetch(t), q = turned(&p, experts);
    bring(guest, &q);
    scene_assert_error(&s, guest, SMOE_EROLE, "evaluation only");
    q.n_experts = EXPERTS - 1;
    bring(t, &q);
    scene_assert_error(&s, t, SMOE_EFIELD, "count 3: layer moe has 4 experts");
    q.n_experts = EXPERTS;
    struct scene_submit batch = {.batch = 1, .layer = layer, .tokens = 8, .top_k = 2};
    cr_assert_eq(scene_submit(&s, t, &batch).kind, SMOE_TAKE);
    bring(t, &q);
    scene_assert_error(&s, t, SMOE_ESTATE, "RESTORE it first");
    p = fetch(t);
    cr_assert_arr_neq(p.experts, experts, sizeof experts);
}
