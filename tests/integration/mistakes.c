/* SPDX-License-Identifier: Apache-2.0
 *
 * integration_mistakes GATEWAY BUSY_LAYER
 *
 * A trainer that does everything wrong that the library lets it try, and says what it was told: one
 * line `MISTAKE\tCODE\tSENTENCE` each. In between and at the end it does it right, which must go as
 * if nothing had been. BUSY_LAYER is a layer that somebody else owns.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "stablemoe/stablemoe.h"

enum { TOKENS = 16, EXPERTS = 4, WIDTH = 8 };

struct trainer {
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    struct smoe_ticket *done; /* of the last batch that was right */
    smoe_real x[TOKENS * WIDTH], dy[TOKENS * EXPERTS * WIDTH];
    float scores[TOKENS * EXPERTS];
};

static const struct smoe_layer_options right = {.name = "mistakes",
                                                .experts = EXPERTS,
                                                .d_model = WIDTH,
                                                .d_ff = 16,
                                                .activation = SMOE_LAYER_RELU,
                                                .optimizer = SMOE_LAYER_SGD,
                                                .seed = 1};

static void say(const struct smoe_client *client, const char *mistake, int rc)
{
    printf("%s\t%d\t%s\n", mistake, rc, rc ? smoe_client_error(client) : "");
    fflush(stdout);
}

static void must(const struct smoe_client *client, const char *what, int rc)
{
    if (!rc)
        return;
    fprintf(stderr, "%s: %d: %s\n", what, rc, smoe_client_error(client));
    exit(1);
}

/* ---- layers; a refused declaration may cost the connection, so each has a client of its own ---- */

static void declare(const char *gateway, const char *mistake, const struct smoe_layer_options *o)
{
    struct smoe_client_options options = {.gateway = gateway, .name = "declares"};
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    must(client, "open", smoe_client_open(&options, &client));
    say(client, mistake, smoe_layer_declare(client, o, &layer));
    smoe_client_close(client);
}

static void wrong_layers(const char *gateway, const char *busy)
{
    struct smoe_layer_options o[11];
    for (size_t i = 0; i < sizeof o / sizeof *o; i++)
        o[i] = right;
    o[0].experts = 0;
    o[1].experts = 1025;
    o[2].d_model = 0;
    o[3].d_model = 65537;
    o[4].d_ff = 65537;
    o[5].activation = (enum smoe_layer_activation)9;
    o[6].optimizer = (enum smoe_layer_optimizer)9;
    o[7].name = "no such name";
    o[8].name = busy;
    o[9].name = "nobodys";
    o[9].evaluate_only = true;
    o[10].name = "huge";
    o[10].d_model = o[10].d_ff = 65536; /* well formed, and more than any worker can hold */
    static const char *const names[] = {
        "no experts",  "1025 experts",       "d_model 0",         "d_model 65537",
        "d_ff 65537",  "unknown activation", "unknown optimizer", "bad name",
        "owned layer", "no such layer",      "too large a layer"};
    for (size_t i = 0; i < sizeof o / sizeof *o; i++)
        declare(gateway, names[i], &o[i]);
}

/* ---- batches ---- */

static int submit(struct trainer *t, uint32_t tokens, uint32_t top_k, struct smoe_ticket **ret)
{
    struct smoe_submit_options o = {
        .tokens = tokens, .top_k = top_k, .scores = t->scores, .x = t->x};
    return smoe_submit(t->layer, &o, ret);
}

static void wrong_batches(struct trainer *t)
{
    struct smoe_ticket *ticket;
    say(t->client, "no tokens", submit(t, 0, 1, &ticket));
    say(t->client, "top-k 0", submit(t, TOKENS, 0, &ticket));
    say(t->client, "top-k larger than experts", submit(t, TOKENS, EXPERTS + 1, &ticket));
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const names[] = {"score NaN", "score inf", "score -inf"};
    for (int i = 0; i < 3; i++) {
        float kept = t->scores[TOKENS * EXPERTS - 1];
        t->scores[TOKENS * EXPERTS - 1] = bad[i];
        say(t->client, names[i], submit(t, TOKENS, 2, &ticket));
        t->scores[TOKENS * EXPERTS - 1] = kept;
    }
}

static void wrong_order(struct trainer *t)
{
    struct smoe_ticket *ticket;
    const smoe_real *dx;
    must(t->client, "submit", submit(t, TOKENS, EXPERTS, &ticket));
    say(t->client, "gradient waited for, not given", smoe_wait_gradient(ticket, &dx));
    must(t->client, "wait", smoe_wait(ticket));
    must(t->client, "gradient", smoe_gradient(ticket, t->dy));
    say(t->client, "gradient twice", smoe_gradient(ticket, t->dy));
    must(t->client, "wait for the gradient", smoe_wait_gradient(ticket, &dx));
    smoe_ticket_release(ticket);
}

/* ---- steps and states ---- */

static struct smoe_step_options step_options(void)
{
    return (struct smoe_step_options){
        .kind = SMOE_LAYER_SGD, .learning_rate = 0.1, .gradient_divisor = TOKENS};
}

static void wrong_steps(struct trainer *t)
{
    struct smoe_step_options o = step_options();
    struct smoe_step_result done;
    o.kind = SMOE_LAYER_ADAMW;
    o.epsilon = 1e-8;
    say(t->client, "another optimizer than declared", smoe_step(t->client, &o, &done));
    smoe_real *state = calloc(smoe_expert_elements(t->layer, 7), sizeof *state);
    say(t->client, "state of expert 99", smoe_expert_fetch(t->layer, 99, 1, state));
    say(t->client, "no part of a state", smoe_expert_fetch(t->layer, 0, 0, state));
    say(t->client, "parts unknown", smoe_expert_fetch(t->layer, 0, 8, state));
    free(state);
}

/* A batch with its gradient and the step, as it should be. Its ticket is released before the next one; the
 * last goes with its client, or LeakSanitizer says so. */
static void do_right(struct trainer *t)
{
    struct smoe_step_options o = step_options();
    struct smoe_step_result done;
    const smoe_real *dx;
    smoe_ticket_release(t->done);
    must(t->client, "submit", submit(t, TOKENS, EXPERTS, &t->done));
    must(t->client, "wait", smoe_wait(t->done));
    must(t->client, "gradient", smoe_gradient(t->done, t->dy));
    must(t->client, "wait for the gradient", smoe_wait_gradient(t->done, &dx));
    must(t->client, "step", smoe_step(t->client, &o, &done));
    printf("step\t%llu\n", (unsigned long long)done.step);
    fflush(stdout);
}

static void start(struct trainer *t, const char *gateway)
{
    struct smoe_client_options options = {.gateway = gateway, .name = "mistakes"};
    for (int i = 0; i < TOKENS * WIDTH; i++)
        t->x[i] = (smoe_real)(i % 7) / 7;
    for (int i = 0; i < TOKENS * EXPERTS; i++)
        t->scores[i] = (float)(i % 5) / 5;
    for (int i = 0; i < TOKENS * EXPERTS * WIDTH; i++)
        t->dy[i] = (smoe_real)(i % 3) - 1;
    must(t->client, "open", smoe_client_open(&options, &t->client));
    must(t->client, "declare", smoe_layer_declare(t->client, &right, &t->layer));
}

int main(int argc, char **argv)
{
    static struct trainer t;
    if (argc != 3) {
        fprintf(stderr, "usage: integration_mistakes GATEWAY BUSY_LAYER\n");
        return 2;
    }
    start(&t, argv[1]);
    do_right(&t);
    wrong_layers(argv[1], argv[2]);
    wrong_batches(&t);
    do_right(&t);
    wrong_order(&t);
    do_right(&t);
    wrong_steps(&t);
    do_right(&t);
    t.done = NULL; /* its client alone knows it now */
    smoe_client_close(t.client);
    return 0;
}
