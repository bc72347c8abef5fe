/* SPDX-License-Identifier: Apache-2.0
 *
 * Codebooks, Hash, BASE, and which router is in force when.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/router/choice.h"
#include "client/train/router/codebook.h"
#include "client/train/router/router.h"
#include "common/base/rng.h"
#include "common/kernels/gemm.h"
#include "common/kernels/score.h"
#include "tests/unit/kernels/tensors.h"

/* ---- hash ---- */

Test(hash, a_code_has_k_distinct_experts_for_ever_and_all_get_their_share)
{
    enum { N = 4000, E = 8, K = 3 };
    static uint16_t codes[N];
    static float scores[N * E], again[N * E];
    size_t load[E] = {0};
    for (size_t i = 0; i < N; i++)
        codes[i] = (uint16_t)i;
    smoe_hash_scores(5, E, K, N, codes, scores);
    smoe_hash_scores(5, E, K, N, codes, again);
    cr_assert_eq(memcmp(scores, again, sizeof scores), 0);
    for (size_t i = 0; i < N; i++) {
        size_t chosen = 0;
        for (size_t e = 0; e < E; e++) {
            chosen += scores[i * E + e] == 1;
            load[e] += scores[i * E + e] == 1;
        }
        cr_assert_eq(chosen, K);
    }
    for (size_t e = 0; e < E; e++) /* 1500 expected, deviation 31 */
        cr_assert(load[e] > 1350 && load[e] < 1650, "%zu", load[e]);
    smoe_hash_scores(6, E, K, N, codes, again);
    cr_assert_neq(memcmp(scores, again, sizeof scores), 0);
    smoe_hash_scores(5, K, K, 1, codes, again);
    cr_assert(again[0] == 1 && again[1] == 1 && again[2] == 1, "K = E takes them all");
}

/* ---- base ---- */

enum { BASE_N = 6, BASE_E = 3 };

static void draw_scores(size_t n, size_t experts, uint64_t seed, float *scores)
{
    smoe_real *logits = tensor_normal(n * experts, seed, 2);
    smoe_softmax_rows(n, experts, logits);
    for (size_t i = 0; i < n * experts; i++)
        scores[i] = (float)logits[i];
    free(logits);
}

/* The best sum of log scores over all assignments of 6 tokens to 3 experts, two each. */
static double best_by_hand(const float *scores)
{
    double best = -(double)INFINITY;
    for (int code = 0; code < 729; code++) {
        int load[BASE_E] = {0}, rest = code;
        double sum = 0;
        for (int i = 0; i < BASE_N; i++, rest /= BASE_E) {
            load[rest % BASE_E]++;
            sum += log((double)scores[i * BASE_E + rest % BASE_E]);
        }
        if (load[0] == 2 && load[1] == 2 && load[2] == 2)
            best = fmax(best, sum);
    }
    return best;
}

Test(base, the_assignment_is_balanced_and_no_other_is_better)
{
    struct smoe_balancer *b;
    cr_assert_eq(smoe_balancer_new(BASE_E, 1, BASE_N, &b), 0);
    for (uint64_t seed = 0; seed < 50; seed++) {
        float scores[BASE_N * BASE_E], given[BASE_N * BASE_E];
        size_t load[BASE_E] = {0};
        double sum = 0;
        draw_scores(BASE_N, BASE_E, seed, given);
        memcpy(scores, given, sizeof scores);
        smoe_balancer_assign(b, BASE_N, scores);
        for (size_t i = 0; i < (size_t)BASE_N * BASE_E; i++)
            if (scores[i] > 1) {
                load[i % BASE_E]++;
                sum += log((double)given[i]);
            }
        cr_assert(load[0] == 2 && load[1] == 2 && load[2] == 2);
        cr_assert_float_eq(sum, best_by_hand(given), 1e-5, "seed %d", (int)seed);
    }
    smoe_balancer_free(b);
    smoe_balancer_free(NULL);
}

Test(base, every_token_visits_k_experts_and_loads_differ_by_rounding_only)
{
    enum { N = 50, E = 8, K = 2 };
    struct smoe_balancer *b;
    static float scores[N * E];
    uint16_t top[K];
    size_t load[E] = {0};
    cr_assert_eq(smoe_balancer_new(E, K, N, &b), 0);
    draw_scores(N, E, 3, scores);
    smoe_balancer_assign(b, N, scores);
    for (size_t i = 0; i < N; i++) {
        smoe_topk(E, scores + i * E, K, top);
        for (size_t j = 0; j < K; j++) {
            cr_assert_gt(scores[i * E + top[j]], 1);
            load[top[j]]++;
        }
    }
    for (size_t e = 0; e < E; e++)
        cr_assert_leq(load[e], 13); /* 12.5 each */
    smoe_balancer_assign(b, 0, scores);
    smoe_balancer_free(b);
}

/* ---- codebooks ---- */

Test(codebook, separated_clusters_are_found_and_told_apart)
{
    enum { N = 300, P = 5, CODES = 3 };
    struct smoe_codebook book;
    smoe_real *x = tensor_normal(N * P, 4, 0.1);
    uint16_t codes[N];
    for (size_t i = 0; i < N; i++)
        x[i * P + i % CODES] += 10;
    cr_assert_eq(smoe_codebook_init(&book, CODES, P, N, x, 10, 2), 0);
    smoe_codebook_encode(&book, N, x, codes);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(codes[i], codes[i % CODES], "%zu", i);
    cr_assert(codes[0] != codes[1] && codes[1] != codes[2] && codes[0] != codes[2]);
    free(x);
    smoe_codebook_release(&book);
    smoe_codebook_release(&book);
}

static size_t nearest_by_hand(const struct smoe_codebook *book, const smoe_real *x)
{
    size_t best = 0;
    double least = (double)INFINITY;
    for (size_t c = 0; c < book->codes; c++) {
        double sum = 0;
        for (size_t v = 0; v < book->values; v++) {
            double d = (double)x[v] - (double)book->centroids[v * book->codes + c];
            sum += d * d;
        }
        if (sum < least - 1e-4) {
            least = sum;
            best = c;
        }
    }
    return best;
}

Test(codebook, a_code_is_the_nearest_centroid_and_the_bits_repeat)
{
    enum { N = 500, P = 7, CODES = 40 };
    struct smoe_codebook book, again;
    smoe_real *x = tensor_normal(N * P, 5, 1);
    uint16_t codes[N];
    size_t differ = 0;
    cr_assert_eq(smoe_codebook_init(&book, CODES, P, N, x, 5, 2), 0);
    cr_assert_eq(smoe_codebook_init(&again, CODES, P, N, x, 5, 2), 0);
    cr_assert_eq(memcmp(book.centroids, again.centroids, CODES * P * sizeof(float)), 0);
    cr_assert_eq(smoe_codebook_digest(&book), smoe_codebook_digest(&again));
    again.centroids[CODES * P - 1] *= -1;
    cr_assert_neq(smoe_codebook_digest(&book), smoe_codebook_digest(&again));
    smoe_codebook_encode(&book, N, x, codes);
    for (size_t i = 0; i < N; i++)
        differ += codes[i] != nearest_by_hand(&book, x + i * P);
    cr_assert_leq(differ, 1, "%zu", differ); /* rounding may decide one that lies between two */
    free(x);
    smoe_codebook_release(&book);
    smoe_codebook_release(&again);
}

/* The contract: these patches have these codes everywhere. */
Test(codebook, codes_are_the_same_on_every_machine)
{
    enum { N = 200, P = 6, CODES = 16 };
    struct smoe_codebook book;
    smoe_real *x = tensor_normal(N * P, 6, 1);
    uint16_t codes[N];
    uint64_t digest = 0;
    cr_assert_eq(smoe_codebook_init(&book, CODES, P, N, x, 5, 2), 0);
    smoe_codebook_encode(&book, N, x, codes);
    for (size_t i = 0; i < N; i++)
        digest = smoe_mix64(digest ^ codes[i]);
    cr_assert_eq(digest, UINT64_C(0x81115df1f27cc8bc), "0x%016llx", (unsigned long long)digest);
    free(x);
    smoe_codebook_release(&book);
}

Test(codebook, as_many_codes_as_patches_gives_each_its_own)
{
    enum { N = 9, P = 2 };
    struct smoe_codebook book;
    smoe_real *x = tensor_normal(N * P, 7, 1);
    uint16_t codes[N];
    bool seen[N] = {false};
    cr_assert_eq(smoe_codebook_init(&book, N, P, N, x, 3, 2), 0);
    smoe_codebook_encode(&book, N, x, codes);
    for (size_t i = 0; i < N; i++) {
        cr_assert(!seen[codes[i]]);
        seen[codes[i]] = true;
    }
    free(x);
    smoe_codebook_release(&book);
}

/* ---- comparing, and which router is in force ---- */

Test(choice, what_differs_is_counted_whatever_the_order)
{
    const uint16_t a[] = {0, 1, 2, 3}, b[] = {1, 0, 2, 5}, c[] = {7, 8, 7, 8};
    cr_assert_eq(smoe_choices_differ(2, 2, a, a), 0);
    cr_assert_eq(smoe_choices_differ(2, 2, a, b), 0.25);
    cr_assert_eq(smoe_choices_differ(2, 2, a, c), 1);
    cr_assert_eq(smoe_choices_differ(4, 1, a, b), 0.75);
    cr_assert_eq(smoe_choices_differ(0, 2, a, b), 0);
}

enum { N = 12, E = 4, K = 2, CODES = 5 };
static const uint16_t codes[N] = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1};

static struct smoe_router router_new(enum smoe_router_kind kind)
{
    struct smoe_router router;
    struct smoe_router_options options = {.kind = kind,
                                          .experts = E,
                                          .top_k = K,
                                          .rows_max = N,
                                          .seed = 1,
                                          .distilled = {SMOE_FEATURE_TABLE, CODES, 3, E},
                                          .distil_weight = 0.3};
    smoe_gemm_setup();
    cr_assert_eq(smoe_router_init(&router, &options), 0);
    return router;
}

Test(router, the_gates_scores_are_left_alone_where_the_gate_decides)
{
    const struct {
        enum smoe_router_kind kind;
        bool training, evaluating; /* does the router write scores of its own? */
        unsigned stage;
    } cases[] = {{SMOE_ROUTER_LEARNED, false, false, 0},
                 {SMOE_ROUTER_SWITCH, false, false, 0},
                 {SMOE_ROUTER_STABLEMOE, false, false, 1},
                 {SMOE_ROUTER_BASE, true, false, 0},
                 {SMOE_ROUTER_HASH, true, true, 0}};
    struct smoe_tokens tokens = {N, codes, NULL};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_router router = router_new(cases[i].kind);
        float given[N * E], scores[N * E];
        draw_scores(N, E, 1, given);
        cr_assert_eq(smoe_router_stage(&router), cases[i].stage);
        memcpy(scores, given, sizeof given);
        cr_assert_eq(smoe_router_scores(&router, &tokens, false, scores), cases[i].evaluating);
        cr_assert_eq(memcmp(scores, given, sizeof given) != 0, cases[i].evaluating);
        memcpy(scores, given, sizeof given);
        cr_assert_eq(smoe_router_scores(&router, &tokens, true, scores), cases[i].training);
        cr_assert_eq(memcmp(scores, given, sizeof given) != 0, cases[i].training);
        smoe_router_release(&router);
    }
}

Test(router, after_the_freeze_nothing_is_learned_and_a_code_keeps_its_scores)
{
    struct smoe_router router = router_new(SMOE_ROUTER_STABLEMOE);
    struct smoe_tokens tokens = {N, codes, NULL};
    struct smoe_optimizer adamw = {SMOE_ADAMW, 0.05, 0, 0.9, 0.999, 1e-8, 0, 1, 1};
    uint16_t top[N * K];
    float scores[N * E], later[N * E];
    for (size_t v = 0; v < (size_t)N * K; v++)
        top[v] = (uint16_t)((codes[v / K] + v % K) % E);
    cr_assert_gt(smoe_router_learn(&router, &tokens, top), 0);
    smoe_router_step(&router, &adamw);
    cr_assert_eq(smoe_router_freeze(&router), 0);
    cr_assert_eq(smoe_router_stage(&router), 2);
    draw_scores(N, E, 1, scores);
    draw_scores(N, E, 2, later);
    cr_assert(smoe_router_scores(&router, &tokens, true, scores));
    cr_assert_eq(smoe_router_learn(&router, &tokens, top), 0);
    smoe_router_step(&router, &adamw);
    cr_assert(smoe_router_scores(&router, &tokens, false, later));
    cr_assert_eq(memcmp(scores, later, sizeof scores), 0);
    cr_assert_eq(memcmp(scores, scores + CODES * E, E * sizeof *scores), 0, "the same code");
    smoe_router_release(&router);
}

Test(router, one_that_was_frozen_before_goes_on_where_it_was)
{
    struct smoe_router router = router_new(SMOE_ROUTER_STABLEMOE);
    struct smoe_router resumed = router_new(SMOE_ROUTER_STABLEMOE);
    struct smoe_tokens tokens = {N, codes, NULL};
    float scores[N * E], again[N * E];
    cr_assert_eq(smoe_router_freeze(&router), 0);
    cr_assert_eq(smoe_router_take_frozen(&resumed, router.frozen.values), 0);
    cr_assert_eq(smoe_router_stage(&resumed), 2);
    cr_assert_eq(resumed.frozen.digest, router.frozen.digest);
    cr_assert(smoe_router_scores(&router, &tokens, true, scores));
    cr_assert(smoe_router_scores(&resumed, &tokens, true, again));
    cr_assert_eq(memcmp(scores, again, sizeof scores), 0);
    smoe_router_release(&router);
    smoe_router_release(&resumed);
}
