/* SPDX-License-Identifier: Apache-2.0
 *
 * A trainer of its own goes through StableMoE's two stages (stablemoe/twostage.h): it learns to route, distils
 * that into a table over its vocabulary, freezes the table at the gateway, and from then on sends codes. Prints
 * the loss of each tenth step, and at the end whether any token ever changed its expert after the freeze.
 *
 *     cc twostage.c -o twostage $(pkg-config --cflags --libs stablemoe) && ./twostage 127.0.0.1:7700
 */
#include <stablemoe/twostage.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 256, CODES = 24, EXPERTS = 4, WIDTH = 8, DIM = 6, STAGE_1 = 40, STEPS = 160 };

static struct smoe_client *client;
static smoe_real words[CODES * WIDTH];       /* what a token of a code looks like */
static smoe_real centroids[EXPERTS * WIDTH]; /* the gate */
static smoe_real features[CODES * DIM], readers[EXPERTS * DIM]; /* the distilled router: D, Ehat */
static uint32_t codes[TOKENS];
static smoe_real h[TOKENS * WIDTH];
static int expert_of[CODES]; /* after the freeze; -1: not seen yet */
static int changed;

static void must(int rc)
{
    if (rc) {
        fprintf(stderr, "%s\n", smoe_client_error(client));
        exit(1);
    }
}

static smoe_real noise(void)
{
    static uint32_t state = 12345;
    state = state * 1664525 + 1013904223;
    return (smoe_real)(state >> 8) / (1 << 23) - 1;
}

/* shat = Ehat . D(X), [TOKENS, EXPERTS] */
static void distilled(smoe_real *ret)
{
    for (int t = 0; t < TOKENS; t++)
        for (int e = 0; e < EXPERTS; e++) {
            ret[t * EXPERTS + e] = 0;
            for (uint32_t i = 0; i < DIM; i++)
                ret[t * EXPERTS + e] += readers[e * DIM + (int)i] * features[codes[t] * DIM + i];
        }
}

/* Stage 1: a plain gradient step of L_dis; it reaches D and Ehat and nothing else. */
static void distil(const uint16_t *top)
{
    static smoe_real shat[TOKENS * EXPERTS];
    distilled(shat);
    smoe_distil_loss(TOKENS, EXPERTS, 1, top, shat, 0.3, shat);
    for (int t = 0; t < TOKENS; t++)
        for (int e = 0; e < EXPERTS; e++)
            for (int i = 0; i < DIM; i++) {
                smoe_real *d = &features[codes[t] * DIM + (uint32_t)i], *r = &readers[e * DIM + i];
                smoe_real step = 20 * shat[t * EXPERTS + e], was = *d;
                *d -= step * *r;
                *r -= step * was;
            }
}

/* The end of stage 1: softmax(shat) of every code, a copy that nothing moves any more. */
static void freeze(struct smoe_expert_layer *layer)
{
    static smoe_real unused[CODES * EXPERTS];
    static float
        values[CODES * EXPERTS]; /* softmax(Ehat . D): what a gate's scores are, of features */
    struct smoe_freeze_options o = {1, SMOE_FROZEN_TABLE, CODES, values};
    struct smoe_frozen_head head;
    smoe_centroid_gate(CODES, EXPERTS, DIM, features, readers, unused, values);
    must(smoe_freeze(layer, &o, &head));
    printf("frozen: version %llu, digest %016llx\n", (unsigned long long)head.version,
           (unsigned long long)head.digest);
}

/* out = h + g y is to be -2 h. One batch there and back; the gate's own step. */
static double train_batch(struct smoe_expert_layer *layer, int stage)
{
    static smoe_real gates[TOKENS * EXPERTS], dgates[TOKENS * EXPERTS], dy[TOKENS * WIDTH];
    static smoe_real dcentroids[EXPERTS * WIDTH];
    static float scores[TOKENS * EXPERTS];
    static uint16_t top[TOKENS];
    smoe_centroid_gate(TOKENS, EXPERTS, WIDTH, h, centroids, gates, scores);
    struct smoe_submit_options batch = {.tokens = TOKENS, .top_k = 1, .x = h};
    batch.scores = stage == 1 ? scores : NULL;
    batch.codes = stage == 1 ? NULL : codes;
    struct smoe_ticket *ticket;
    const smoe_real *dx;
    double loss = 0;
    must(smoe_submit(layer, &batch, &ticket));
    must(smoe_wait(ticket));
    const smoe_real *y = smoe_ticket_outputs(ticket);
    const uint16_t *used = smoe_ticket_experts(ticket);
    for (int i = 0; i < TOKENS * EXPERTS; i++)
        dgates[i] = 0;
    for (int t = 0; t < TOKENS; t++) {
        smoe_real *g = &gates[t * EXPERTS + used[t]], *dg = &dgates[t * EXPERTS + used[t]];
        for (int i = t * WIDTH; i < (t + 1) * WIDTH; i++) {
            smoe_real error = 3 * h[i] + *g * y[i];
            loss += (double)(error * error) / (2 * TOKENS);
            *dg += error * y[i] / TOKENS;
            dy[i] = *g * error / TOKENS;
        }
        top[t] = 0; /* the gate's own choice, whoever served the token */
        for (uint16_t e = 1; e < EXPERTS; e++)
            if (scores[t * EXPERTS + e] > scores[t * EXPERTS + top[t]])
                top[t] = e;
        if (stage == 2 && expert_of[codes[t]] >= 0 && expert_of[codes[t]] != used[t])
            changed++;
        expert_of[codes[t]] = stage == 2 ? used[t] : -1;
    }
    must(smoe_gradient(ticket, dy));
    must(smoe_wait_gradient(ticket, &dx));
    smoe_ticket_release(ticket);
    if (stage == 1) {
        smoe_balance_loss(TOKENS, EXPERTS, 1, top, gates, 0.3, dgates);
        distil(top);
    }
    for (int i = 0; i < EXPERTS * WIDTH; i++)
        dcentroids[i] = 0;
    smoe_centroid_gate_backward(TOKENS, EXPERTS, WIDTH, h, centroids, gates, dgates, dcentroids,
                                NULL);
    for (int i = 0; i < EXPERTS * WIDTH; i++)
        centroids[i] -= (smoe_real)0.1 * dcentroids[i];
    return loss;
}

int main(int argc, char **argv)
{
    struct smoe_client_options where = {.gateway = argc > 1 ? argv[1] : "127.0.0.1:7700"};
    struct smoe_layer_options shape = {
        "twostage",      EXPERTS,          WIDTH,     32,
        SMOE_LAYER_GELU, SMOE_LAYER_ADAMW, .seed = 1, .zero_output = true};
    struct smoe_step_options step = {SMOE_LAYER_ADAMW, .learning_rate = 0.01,
                                     .beta1 = 0.9,     .beta2 = 0.999,
                                     .epsilon = 1e-8,  .gradient_divisor = 1};
    struct smoe_expert_layer *layer;
    struct smoe_step_result done;
    for (int i = 0; i < CODES * WIDTH; i++)
        words[i] = noise();
    for (int i = 0; i < EXPERTS * WIDTH; i++)
        centroids[i] = (smoe_real)0.1 * noise();
    for (int i = 0; i < CODES * DIM; i++)
        features[i] = (smoe_real)0.4 * noise();
    for (int i = 0; i < EXPERTS * DIM; i++)
        readers[i] = (smoe_real)0.4 * noise();
    must(smoe_client_open(&where, &client));
    must(smoe_layer_declare(client, &shape, &layer));
    for (int s = 1; s <= STEPS; s++) {
        for (int t = 0; t < TOKENS; t++) {
            codes[t] = (uint32_t)(t * 7 + s * 13) % CODES;
            for (int i = 0; i < WIDTH; i++) /* a word in its context */
                h[t * WIDTH + i] = words[codes[t] * WIDTH + (uint32_t)i] + noise() / 8;
        }
        if (s == STAGE_1 + 1)
            freeze(layer);
        double loss = train_batch(layer, s <= STAGE_1 ? 1 : 2);
        must(smoe_step(client, &step, &done));
        if (s % 10 == 0)
            printf("step %llu loss %.5f\n", (unsigned long long)done.step, loss);
    }
    printf("%d tokens changed their expert after the freeze\n", changed);
    smoe_client_close(client);
    return 0;
}
