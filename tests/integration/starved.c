/* SPDX-License-Identifier: Apache-2.0
 *
 * integration_starved GATEWAY
 *
 * A trainer whose library finds no memory once, at the nth allocation of a whole session, for every n from 1 to the
 * last: the library's own and libuv's. Whatever it was for, the call says so (SMOE_ENOMEMORY or UV_ENOMEM, with a
 * sentence) and can be made again, or the library helps itself; and the session comes to what an undisturbed one
 * comes to, bit for bit. Prints {"allocations":N,"refusals":M}.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "stablemoe/error.h"
#include "stablemoe/stablemoe.h"
#include "tests/unit/io/alloc_fault.h"

enum { TOKENS = 6, TOP_K = 2, EXPERTS = 3, D = 4, STEPS = 3, CODES = 5, SESSIONS_MAX = 1000 };

/* What a session comes to. */
struct course {
    smoe_real y[STEPS][TOKENS * TOP_K * D], dx[STEPS][TOKENS * D];
    double square_norms[STEPS];
    uint64_t step;
    smoe_real *state; /* of the last expert, elements of it */
    size_t elements;
    uint64_t router;
};

static uint64_t nth, refusals;

static void fail(const char *what, int rc, const char *sentence)
{
    fprintf(stderr, "allocation %" PRIu64 ": %s: %d: %s\n", nth, what, rc, sentence);
    exit(1);
}

/* True if the call was refused for want of memory, and is to be made again. */
static bool again(struct smoe_client *client, const char *what, int rc)
{
    if (!rc)
        return false;
    const char *sentence = smoe_client_error(client);
    if ((rc != SMOE_ENOMEMORY && rc != UV_ENOMEM) || !*sentence || !smoe_alloc_failed())
        fail(what, rc, sentence);
    refusals++;
    return true;
}

static struct smoe_client *open_client(const char *gateway)
{
    struct smoe_client_options o = {.gateway = gateway, .patience_ms = 20000};
    struct smoe_client *client;
    for (;;) { /* not in one call: arguments are evaluated in any order */
        int rc = smoe_client_open(&o, &client);
        if (!again(client, "open", rc))
            return client;
        smoe_client_close(client);
    }
}

static struct smoe_expert_layer *declare(struct smoe_client *client)
{
    struct smoe_layer_options o = {.name = "starved",
                                   .experts = EXPERTS,
                                   .d_model = D,
                                   .d_ff = 6,
                                   .activation = SMOE_LAYER_GELU,
                                   .optimizer = SMOE_LAYER_ADAMW,
                                   .seed = 1};
    struct smoe_expert_layer *layer;
    while (again(client, "declare", smoe_layer_declare(client, &o, &layer)))
        ;
    return layer;
}

static void freeze(struct smoe_client *client, struct smoe_expert_layer *layer, struct course *c)
{
    float values[CODES * EXPERTS];
    struct smoe_frozen_head head;
    for (int i = 0; i < CODES * EXPERTS; i++)
        values[i] = (float)(i * 7 % 5);
    struct smoe_freeze_options o = {1, SMOE_FROZEN_TABLE, CODES, values};
    while (again(client, "freeze", smoe_freeze(layer, &o, &head)))
        ;
    while (again(client, "router in force", smoe_router_in_force(layer, &head)))
        ;
    c->router = head.digest;
}

/* Results of a batch; one that failed for want of memory is submitted again. */
static struct smoe_ticket *submit(struct smoe_client *client, struct smoe_expert_layer *layer,
                                  const smoe_real *x)
{
    static const uint32_t codes[TOKENS] = {0, 1, 2, 3, 4, 2};
    struct smoe_submit_options o = {.tokens = TOKENS, .top_k = TOP_K, .codes = codes, .x = x};
    struct smoe_ticket *ticket;
    for (;;) {
        while (again(client, "submit", smoe_submit(layer, &o, &ticket)))
            ;
        if (!again(client, "wait", smoe_wait(ticket)))
            return ticket;
        smoe_ticket_release(ticket);
    }
}

static void train(struct smoe_client *client, struct smoe_expert_layer *layer, int t,
                  struct course *c)
{
    static const struct smoe_step_options step = {.kind = SMOE_LAYER_ADAMW,
                                                  .learning_rate = 0.01,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.99,
                                                  .epsilon = 1e-6,
                                                  .gradient_divisor = TOKENS};
    smoe_real x[TOKENS * D];
    const smoe_real *dx;
    struct smoe_step_result result;
    for (int i = 0; i < TOKENS * D; i++)
        x[i] = (smoe_real)((i * 5 + t * 3) % 7 - 3) / 4;
    struct smoe_ticket *ticket = submit(client, layer, x);
    memcpy(c->y[t], smoe_ticket_outputs(ticket), sizeof c->y[t]);
    while (again(client, "gradient", smoe_gradient(ticket, c->y[t])))
        ;
    while (again(client, "wait for gradient", smoe_wait_gradient(ticket, &dx)))
        ;
    memcpy(c->dx[t], dx, sizeof c->dx[t]);
    while (again(client, "step", smoe_step_begin(client, &step)))
        ;
    while (again(client, "wait for step", smoe_step_wait(client, &result)))
        ;
    c->square_norms[t] = result.square_norm;
    smoe_ticket_release(ticket);
}

static void read_states(struct smoe_client *client, struct smoe_expert_layer *layer,
                        struct course *c)
{
    const unsigned parts = SMOE_EXPERT_WEIGHTS | SMOE_EXPERT_MOMENTS;
    const struct smoe_placement *placement;
    c->elements = smoe_expert_elements(layer, parts);
    smoe_alloc_shelter();
    c->state = calloc(EXPERTS * c->elements, sizeof *c->state);
    smoe_alloc_expose();
    for (uint32_t e = 0; e < EXPERTS; e++)
        while (
            again(client, "fetch", smoe_expert_fetch(layer, e, parts, c->state + e * c->elements)))
            ;
    while (again(client, "store", smoe_expert_store(layer, 0, c->state)))
        ;
    while (again(client, "placement", smoe_placement_fetch(layer, &placement)))
        ;
}

static void session(const char *gateway, struct course *c)
{
    struct smoe_client *client = open_client(gateway);
    struct smoe_expert_layer *layer = declare(client);
    freeze(client, layer, c);
    for (int t = 0; t < STEPS; t++)
        train(client, layer, t, c);
    read_states(client, layer, c);
    c->step = smoe_client_step(client);
    smoe_client_close(client);
}

static void compare(const struct course *a, const struct course *b)
{
    if (a->step != b->step || a->router != b->router || a->elements != b->elements)
        fail("another step, router or layer than without a fault", 0, "");
    if (memcmp(a->y, b->y, sizeof a->y) || memcmp(a->dx, b->dx, sizeof a->dx) ||
        memcmp(a->square_norms, b->square_norms, sizeof a->square_norms) ||
        memcmp(a->state, b->state, EXPERTS * a->elements * sizeof *a->state))
        fail("other numbers than without a fault", 0, "");
}

/* libuv grows its table of descriptors by it, and ends the process where it cannot: that is not ours to test. */
static void *grow(void *old, size_t bytes)
{
    smoe_alloc_shelter();
    void *p = realloc(old, bytes);
    smoe_alloc_expose();
    return p;
}

int main(int argc, char **argv)
{
    static struct course undisturbed, c;
    bool failed = true;
    if (argc != 2) {
        fprintf(stderr, "usage: integration_starved GATEWAY\n");
        return 2;
    }
    uv_replace_allocator(malloc, grow, calloc, free); /* those that fail */
    session(argv[1], &undisturbed);
    for (nth = 1; failed && nth < SESSIONS_MAX; nth++) {
        smoe_alloc_fail_at(nth);
        session(argv[1], &c);
        failed = smoe_alloc_failed() || smoe_alloc_count() >= nth;
        compare(&undisturbed, &c);
        free(c.state);
    }
    printf("{\"allocations\":%" PRIu64 ",\"refusals\":%" PRIu64 "}\n", nth - 2, refusals);
    free(undisturbed.state);
    return failed;
}
