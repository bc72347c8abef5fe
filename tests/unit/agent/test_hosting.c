/* SPDX-License-Identifier: Apache-2.0
 *
 * Host of a sharded layer where the nth allocation fails, for every n: what the worker holds is then as it was, or it
 * is torn and gone, and whoever looks at it can tell.
 */
#include <criterion/criterion.h>

#include "client/worker/agent/experts_state.h"
#include "tests/unit/io/alloc_fault.h"

enum { EXPERTS = 3, D = 4, H = 6, HOSTS = 5 };
#define BYTES_MAX (UINT64_C(1) << 20)

static const uint32_t slots[] = {0, 2};
static const uint64_t whole_at[] = {0, 20}, whole_n[] = {20, 10};
static const uint64_t other_at[] = {5, 30}, other_n[] = {20, 10};

static struct smoe_experts store;
static struct smoe_why why;

static struct smoe_msg_host host_of(uint32_t replicas, const uint64_t *offsets,
                                    const uint64_t *lengths)
{
    return (struct smoe_msg_host){
        .layer = 1,
        .name = "moe",
        .run = 9,
        .shape = {.experts = EXPERTS,
                  .d_model = D,
                  .d_ff = H,
                  .activation = SMOE_RELU,
                  .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                  .optimizer = SMOE_ADAMW,
                  .seed = 3},
        .experts = slots,
        .n_experts = 2,
        .fresh = true,
        .sharded = true,
        .replicas = replicas,
        .pieces = {offsets, lengths, 2},
        .pieces_owned = 1,
        .pieces_followed = 1,
    };
}

static void begin(void)
{
    struct smoe_msg_host host = host_of(HOSTS, whole_at, whole_n);
    cr_assert_eq(smoe_experts_init(&store, BYTES_MAX), 0);
    cr_assert_eq(smoe_experts_host(&store, &host, &why), 0, "%s", why.text);
}

static void end(void)
{
    smoe_experts_release(&store);
}

static bool is_as_it_was(const struct smoe_held_layer *layer, uint64_t bytes)
{
    return layer && layer->replicas == HOSTS && layer->sums && layer->sum_elements &&
           layer->layout.elements == 30 && store.bytes == bytes && store.n_used == 2 + EXPERTS;
}

/* Every allocation of the Host fails once; how many there are. */
static unsigned host_with_each_failing(const struct smoe_msg_host *host, bool may_tear)
{
    for (unsigned n = 1;; n++) {
        begin();
        uint64_t bytes = store.bytes;
        smoe_alloc_fail_at(n);
        int rc = smoe_experts_host(&store, host, &why);
        if (!smoe_alloc_failed()) {
            cr_assert_eq(rc, 0, "%s", why.text);
            end();
            return n - 1;
        }
        cr_assert_eq(rc, SMOE_ENOMEMORY, "allocation %u", n);
        const struct smoe_held_layer *layer = smoe_experts_layer(&store, 1);
        cr_assert(store.torn ? may_tear && !layer && store.bytes == 0 && store.n_used == 0
                             : is_as_it_was(layer, bytes),
                  "allocation %u", n);
        end();
    }
}

/* Each expert's local sums had room for all hosts, and after a refusal a step that counts on it must find it. */
Test(hosting, without_memory_for_more_sums_leaves_those_there_are)
{
    struct smoe_msg_host more = host_of(HOSTS + 3, whole_at, whole_n);
    cr_assert_geq(host_with_each_failing(&more, false), 2);
}

Test(hosting, without_memory_for_another_cut_changes_nothing_or_says_that_all_is_gone)
{
    struct smoe_msg_host other = host_of(HOSTS, other_at, other_n);
    cr_assert_geq(host_with_each_failing(&other, true), 2 + EXPERTS);
}

/* While a new cut is made old sums and one old shard are still there. */
Test(hosting, counts_what_is_there_for_a_moment)
{
    struct smoe_msg_host more = host_of(HOSTS + 3, whole_at, whole_n);
    begin();
    uint64_t peak = store.bytes + smoe_held_sums_bytes(HOSTS + 3, 30);
    store.bytes_max = peak - 1;
    cr_assert_eq(smoe_experts_host(&store, &more, &why), SMOE_ENOMEMORY);
    store.bytes_max = peak;
    cr_assert_eq(smoe_experts_host(&store, &more, &why), 0, "%s", why.text);
    cr_assert_eq(store.bytes, peak - smoe_held_sums_bytes(HOSTS, 30));
    end();
}
