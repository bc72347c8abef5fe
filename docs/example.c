/* SPDX-License-Identifier: Apache-2.0
 *
 * Four experts on a fleet learn to answer a token x with -x. Prints the loss of each tenth step.
 *
 *     cc example.c -o example $(pkg-config --cflags --libs stablemoe) && ./example 127.0.0.1:7700
 */
#include <stablemoe/stablemoe.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 256, EXPERTS = 4, WIDTH = 8, STEPS = 100 };

static struct smoe_client *client;

static void must(int rc)
{
    if (rc) {
        fprintf(stderr, "%s\n", smoe_client_error(client));
        exit(1);
    }
}

/* One batch there and back: its gradient stays with the experts until the step. Returns its loss. */
static double train_batch(struct smoe_expert_layer *layer, const smoe_real *x, const float *scores)
{
    static smoe_real dy[TOKENS * WIDTH];
    struct smoe_submit_options batch = {.tokens = TOKENS, .top_k = 1, .scores = scores, .x = x};
    struct smoe_ticket *ticket;
    const smoe_real *dx; /* a model below the layer would go on with it */
    double loss = 0;
    must(smoe_submit(layer, &batch, &ticket));
    must(smoe_wait(ticket));
    const smoe_real *y = smoe_ticket_outputs(ticket);
    for (int i = 0; i < TOKENS * WIDTH; i++) {
        dy[i] = (y[i] + x[i]) / TOKENS;
        loss += (double)(dy[i] * (y[i] + x[i])) / 2;
    }
    must(smoe_gradient(ticket, dy));
    must(smoe_wait_gradient(ticket, &dx));
    smoe_ticket_release(ticket);
    return loss;
}

int main(int argc, char **argv)
{
    struct smoe_client_options where = {.gateway = argc > 1 ? argv[1] : "127.0.0.1:7700"};
    struct smoe_layer_options shape = {"example",       EXPERTS,          WIDTH,    32,
                                       SMOE_LAYER_GELU, SMOE_LAYER_ADAMW, .seed = 1};
    struct smoe_step_options step = {SMOE_LAYER_ADAMW, .learning_rate = 0.01,
                                     .beta1 = 0.9,     .beta2 = 0.999,
                                     .epsilon = 1e-8,  .gradient_divisor = 1};
    struct smoe_expert_layer *layer;
    struct smoe_step_result done;
    smoe_real x[TOKENS * WIDTH];
    float scores[TOKENS * EXPERTS];
    for (int i = 0; i < TOKENS * WIDTH; i++)
        x[i] = (smoe_real)(i * 7919 % 1000) / 500 - 1;
    for (int i = 0; i < TOKENS * EXPERTS; i++) /* a gate that spreads the tokens evenly */
        scores[i] = i % EXPERTS == i / EXPERTS % EXPERTS ? 0.7f : 0.1f;
    must(smoe_client_open(&where, &client));
    must(smoe_layer_declare(client, &shape, &layer));
    for (int t = 1; t <= STEPS; t++) {
        double loss = train_batch(layer, x, scores);
        must(smoe_step(client, &step, &done));
        if (t % 10 == 0)
            printf("step %llu loss %.5f\n", (unsigned long long)done.step, loss);
    }
    smoe_client_close(client);
    return 0;
}
