/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes the seeds of the corpora: small tapes on which whole sessions stand, so that a fuzzer begins
 * in the middle of things and not at the door.
 *
 *   fuzz_seeds DIRECTORY      makes DIRECTORY/NAME/seed-* for every target
 *
 * A tape's meaning is its target's: see the operations in fuzz_agent.c and fuzz_gateway.c. They are
 * replayed by every build, and what a fuzzer starts from.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/proto/messages.h"
#include "tests/unit/proto/traces.h"

static const char *root;

static void write_seed(const char *target, const char *name, const void *bytes, size_t n)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/seed-%s", root, target, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

#define SEED(target, name, ...)                      \
    do {                                             \
        const uint8_t tape[] = {__VA_ARGS__};        \
        write_seed(target, name, tape, sizeof tape); \
    } while (0)

/* ---- trace: random entries ---- */

static void trace_seeds(void)
{
    static struct traces_room room;
    static uint8_t bytes[1 << 16];
    struct smoe_trace_codec *codec;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, 0);
    if (smoe_trace_codec_new(sizeof bytes, &codec))
        exit(1);
    for (int made = 0; made < 60;) {
        struct smoe_trace_entry e;
        char name[32];
        size_t n;
        traces_random(&rng, &room, &e);
        if (smoe_trace_encode(codec, &e, (uint32_t)made % 3, bytes, sizeof bytes, &n) || n > 1200)
            continue; /* long lists teach nothing more */
        snprintf(name, sizeof name, "%d-%d", e.type, made++);
        bytes[SMOE_TRACE_FRAME_BYTES - 1] = (uint8_t)e.type;
        write_seed("trace", name, bytes + SMOE_TRACE_FRAME_BYTES - 1,
                   n - SMOE_TRACE_FRAME_BYTES + 1);
    }
    smoe_trace_codec_free(codec);
}

/* ---- wire, flat: two random messages of every type ---- */

static void wire_seeds(void)
{
    static struct messages_room room;
    static uint8_t tape[1 + SMOE_CONTROL_BYTES_MAX];
    struct smoe_rng rng;
    struct smoe_wire *wire;
    smoe_rng_init(&rng, 1, 0);
    if (smoe_wire_new(&wire))
        exit(1);
    for (size_t t = 0; t < messages_n_types; t++) {
        for (int made = 0; made < 2;) {
            struct smoe_message m;
            const uint8_t *body;
            char name[64];
            size_t n;
            messages_random(&rng, messages_types[t], &room, &m);
            if (smoe_wire_encode(wire, &m, &body, &n) || n > 400)
                continue; /* long lists teach nothing more */
            tape[0] = (uint8_t)t;
            memcpy(tape + 1, body, n);
            snprintf(name, sizeof name, "%s-%d", smoe_message_name(messages_types[t]), made++);
            write_seed("wire", name, tape, n + 1);
            write_seed("flat", name, tape, n + 1);
        }
    }
    smoe_wire_free(wire);
}

/* ---- inbox, channel ---- */

static void inbox_seeds(void)
{
    SEED("inbox", "plain", 7, /**/ 9, 0x04, 5, 'h', 'e', 'l', 'l', 'o', /**/ 0, 0x08, 0);
    SEED("inbox", "raw-part", 3, /**/ 0xff, 0x01, 2, 60, 0, 'x', 'y', /**/ 0, 0x04, 0);
    SEED("inbox", "skipped", 3, /**/ 0xff, 0x03, 2, 60, 0, 'x', 'y', /**/ 0, 0x04, 0);
    SEED("inbox", "spoilt-header", 200, /**/ 0, 0xf0, 0, 16, 1);
    SEED("inbox", "too-large", 200, /**/ 0, 0x0e, 0, 0, 0, 0, 16);
}

/* Type indices are places in SMOE_MESSAGE_MAP: 2 ERROR, 3 PING, 8 SUBMIT, 25 DECISION, 26 OUTPUT. */
static void channel_seeds(void)
{
    SEED("channel", "pings", 0, /**/ 64, 0, 3, 0, /**/ 64, 0, 3, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8,
         /**/ 0, 50);
    SEED("channel", "interleaved", 0,
         /* a Decision with one parcel and 16 raw bytes on channel 1, the same on channel 2 */
         65, 8, 25, 16, 15, 8, 1, 0x22, 11, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0x20, 4, 66, 8, 25, 16, 15,
         8, 2, 0x22, 11, 9, 2, 0, 0, 0, 0, 0, 0, 0, 0x20, 4,
         /* all but the end of both, then the ends */
         1, 40, 2, 40, 1, 20, 2, 20);
    SEED("channel", "skipped-and-refused", 2, 14, 15,
         /* two Outputs with raw parts */
         66, 8, 26, 16, 9, 9, 1, 0, 0, 0, 0, 0, 0, 0, 66, 8, 26, 16, 9, 9, 1, 0, 0, 0, 0, 0, 0, 0,
         2, 200);
    SEED("channel", "hello-opens", 2, 64, 128, /* answers to the two deliveries */
         64, 0, 0, 30, 8, 1, 16, 1, 24, 2, 34, 2, 'p', 'i', 41, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0,
         3, 0, /**/ 0, 100);
}

/* ---- agent ---- */

enum {
    A_OTHER,
    A_TAPE,
    A_WELCOME,
    A_HOST,
    A_DECISION,
    A_BACKPROP = 6,
    A_FORGET,
    A_RESET,
    A_PREPARE,
    A_STAGE,
    A_COMMIT,
    A_STATE,
    A_START,
    A_FINISH,
    A_LISTEN
};
#define A_LINK    A_OTHER /* connect or disconnect */
#define A_LEAVE   (A_OTHER | 1 << 4)
#define A_TICK    (A_OTHER | 2 << 4) /* milliseconds, two bytes */
#define A_RUN     (A_OTHER | 3 << 4) /* all there is to compute */
#define A_SUM     (A_OTHER | 4 << 4) /* StepGradient: step, expert */
#define A_INPUTS  (A_OTHER | 5 << 4) /* ParcelInputs */
#define A_START1  (A_START | 1 << 4) /* on the second lane */
#define A_FINISH1 (A_FINISH | 1 << 4)
/* A Welcome's epoch is 0 in all of them but where a commit has raised it: 0x10 to 2, 0x18 to 3. A
 * Decision's is in bits 4 and 5 of its first byte.
 * Host: layer and name, shape, experts, copies, {step, attempt, not fresh} */
#define HOST(which, experts) A_HOST, which, 0x4a, experts, 0, 0
#define UP                   A_WELCOME, 0, HOST(0, 0xff) /* 8 experts of 3 x 3 on layer 0 */
#define UP_WITH_COPIES       A_WELCOME, 0, A_HOST, 0, 0x4a, 0x0f, 0xf0, 0
#define KEEP                 32 /* of a parcel: a gradient follows */

static void agent_seeds(void)
{
    SEED("agent", "training", UP, A_DECISION, 2, 0, KEEP + 3, 4, KEEP + 1, A_RUN, A_LISTEN,
         A_BACKPROP, 3, 0, A_RUN, A_LISTEN, A_PREPARE, 0x10, 1, 3, A_RUN, A_STAGE, 0x10, A_RUN,
         A_COMMIT, 0x18, A_LISTEN, A_DECISION, 0x31, 0, 2, A_RUN, A_TICK, 50, 0);
    SEED("agent", "evaluation", UP, A_DECISION, 3, 0, 1, 4, 17, 8, 2, A_START, A_START1, A_FINISH,
         A_FINISH1, A_RUN, A_LISTEN);
    SEED("agent", "reset-while-backward-runs", UP, A_DECISION, 1, 0, KEEP, A_RUN, A_BACKPROP, 1, 0,
         A_START, A_RESET, 1, A_PREPARE, 0x10, 1, 0, A_FINISH, A_RUN, A_STAGE, 0x10, A_RUN,
         A_COMMIT, 0x10);
    SEED("agent", "reset-while-the-norm-is-taken", UP, A_PREPARE, 0x10, 1, 0, A_START, A_RESET, 1,
         A_PREPARE, 0x14, 1, 0, A_FINISH, A_RUN, A_STAGE, 0x14, A_START, A_RESET, 1, A_FINISH,
         A_RUN);
    SEED("agent", "reset-of-one-layer-of-a-step", UP, HOST(5, 3), A_PREPARE, 0x10, 3, 0, A_START,
         A_RESET, 1, A_FINISH, A_RUN, A_PREPARE, 0x10, 3, 0, A_RUN);
    SEED("agent", "dropped-with-visits-queued", UP, A_DECISION, 2, 0, 1, 4, KEEP, HOST(0, 0),
         A_START, A_FINISH, A_RUN);
    SEED("agent", "dropped-while-a-task-runs", UP, A_DECISION, 2, 0, 1, 0, 2, A_START, A_STATE, 0,
         2, HOST(0, 2), HOST(0, 3), A_FINISH, A_RUN);
    SEED("agent", "renumbered-in-a-step", UP, A_PREPARE, 0x10, 1, 0, HOST(1, 0xff), A_RUN,
         A_PREPARE, 0x10, 2, 0, A_RUN);
    SEED("agent", "store-in-a-step", UP, A_PREPARE, 0x10, 1, 0, A_STATE, 0, 8, A_RUN, A_PREPARE,
         0x10, 1, 0, A_RUN, A_STAGE, 0x10, A_RUN, A_COMMIT, 0x10);
    SEED("agent", "reconnected-while-a-task-runs", UP, A_DECISION, 1, 0, 255, A_START, A_LINK,
         A_LINK, UP, A_DECISION, 1, 0, 255, A_FINISH, A_RUN, A_LISTEN);
    SEED("agent", "states", UP, A_STATE, 0, 0, A_STATE, 4, 6, A_STATE, 0, 8, A_STATE, 8, 1,
         A_LISTEN, A_LEAVE);
    SEED("agent", "two-owners", UP, HOST(5, 3), A_PREPARE, 0x10, 1, 0, A_PREPARE, 0x30, 2, 0, A_RUN,
         A_STAGE, 0x30, A_STAGE, 0x10, A_RUN, A_COMMIT, 0x10, A_COMMIT, 0x30);
}

#define SUMS(number) \
    A_SUM, number, 4 * 4, A_SUM, number, 5 * 4, A_SUM, number, 6 * 4, A_SUM, number, 7 * 4

/* Step 1 of attempt 0 (0x10), with gradients for the copies of experts 0..3 and of 4..7 here. */
static void copy_seeds(void)
{
    SEED("agent", "copies-make-a-step", UP_WITH_COPIES, A_PREPARE, 0x10, 1, 15, A_RUN, SUMS(0x10),
         A_STAGE, 0x10, A_RUN, A_COMMIT, 0x10, A_LISTEN, A_PREPARE, 0x11, 1, 15, SUMS(0x11), A_RUN,
         A_STAGE, 0x11, A_RUN, A_COMMIT, 0x11, A_LISTEN);
    SEED("agent", "a-copy-comes-to-serve", UP_WITH_COPIES, A_PREPARE, 0x10, 1, 15, A_RUN,
         SUMS(0x10), A_STAGE, 0x10, A_RUN, A_COMMIT, 0x10, A_HOST, 0, 0x4a, 0xff, 0, 1, A_DECISION,
         0x22, 7 * 4, KEEP, 0, KEEP, A_RUN, A_LISTEN);
    SEED("agent", "a-copy-is-filled", A_WELCOME, 0, A_HOST, 0, 0x4a, 1, 2, 8, A_STATE, 0, 1,
         A_STATE, 4, 8, A_STATE, 4, 1, A_PREPARE, 0x10, 1, 1, A_RUN, A_SUM, 0x10, 4, A_STAGE, 0x10,
         A_RUN, A_COMMIT, 0x10, A_LISTEN);
    SEED("agent", "an-empty-copy-in-a-step", A_WELCOME, 0, A_HOST, 0, 0x4a, 1, 2, 8, A_PREPARE,
         0x10, 1, 1, A_RUN, A_STAGE, 0x10, A_RUN, A_COMMIT, 0x10, A_LISTEN);
    SEED("agent", "copies-only", A_WELCOME, 0, A_HOST, 0, 0x4a, 0, 15, 0, A_PREPARE, 0x10, 1, 0,
         A_LISTEN, A_STAGE, 0x10, A_LISTEN, A_COMMIT, 0x10);
    SEED("agent", "staged-and-committed-by-host", UP_WITH_COPIES, A_PREPARE, 0x10, 1, 0, A_RUN,
         SUMS(0x10), A_STAGE, 0x10, A_RUN, A_LINK, A_LINK, A_WELCOME, 0, A_HOST, 0, 0x4a, 0x0f,
         0xf0, 1, A_LISTEN, A_STATE, 0, 1, A_LISTEN);
    SEED("agent", "staged-and-dropped-by-host", UP_WITH_COPIES, A_PREPARE, 0x10, 1, 0, A_RUN,
         SUMS(0x10), A_STAGE, 0x10, A_RUN, A_LINK, A_LINK, A_WELCOME, 0, A_HOST, 0, 0x4a, 0x0f,
         0xf0, 5, A_LISTEN, A_STATE, 0, 1, A_LISTEN);
    SEED("agent", "lost-while-it-stages", UP_WITH_COPIES, A_PREPARE, 0x10, 1, 0, A_RUN, SUMS(0x10),
         A_STAGE, 0x10, A_START, A_LINK, A_FINISH, A_LINK, A_WELCOME, 0, A_LISTEN, A_HOST, 0, 0x4a,
         0x0f, 0xf0, 1, A_LISTEN);
    SEED("agent", "committed-while-a-parcel-runs", UP_WITH_COPIES, A_PREPARE, 0x10, 1, 0, A_RUN,
         SUMS(0x10), A_STAGE, 0x10, A_RUN, A_DECISION, 1, 0, 1, A_START, A_COMMIT, 0x10, A_LINK,
         A_LINK, A_WELCOME, 2, A_LISTEN, A_FINISH, A_HOST, 0, 0x4a, 0x0f, 0xf0, 1, A_RUN, A_LISTEN);
    SEED("agent", "sum-of-a-busy-copy", UP, A_DECISION, 1, 7 * 4, 1, A_START, A_HOST, 0, 0x4a, 0x7f,
         0x80, 0, A_PREPARE, 0x10, 1, 0, A_SUM, 0x10, 7 * 4, A_FINISH, A_RUN, A_STAGE, 0x10, A_RUN,
         A_COMMIT, 0x10, A_LISTEN);
    SEED("agent", "wrong-sums", UP_WITH_COPIES, A_SUM, 0x10, 16, A_PREPARE, 0x10, 1, 0, A_SUM, 0x14,
         16, A_SUM, 0x10, 0, A_SUM, 0x10, 128 | 16, A_LISTEN);
    SEED("agent", "one-in-both-lists", A_WELCOME, 0, A_HOST, 0, 0x4a, 3, 2, 128, A_LISTEN);
}

/* 32 parcels of 270 rows of 4 numbers, kept, are more than the memory: the newest give up x. */
static void eviction_seeds(void)
{
#define LARGE      0, KEEP | 16 | 5
#define FOUR_LARGE A_DECISION, 4, LARGE, LARGE, LARGE, LARGE, A_RUN, A_LISTEN
    SEED("agent", "evicted", A_WELCOME, 0, A_HOST, 0, 0x4b, 1, 0, 0, FOUR_LARGE, FOUR_LARGE,
         FOUR_LARGE, FOUR_LARGE, FOUR_LARGE, FOUR_LARGE, FOUR_LARGE, FOUR_LARGE, A_BACKPROP, 15, 2,
         A_RUN, A_LISTEN, A_INPUTS, 15, 2, A_RUN, A_LISTEN, A_BACKPROP, 63, 6, A_RUN, A_INPUTS, 3,
         6, A_RUN, A_LISTEN, A_RESET, 1, A_INPUTS, 4, 6);
    SEED("agent", "inputs-of-parcels-that-do-not-wait", UP, A_DECISION, 1, 0, KEEP, A_RUN, A_INPUTS,
         1, 0, A_LISTEN);
}

/* ---- gateway ---- */

enum {
    G_OPEN,
    G_HANG_UP,
    G_TAPE,
    G_TICK,
    G_4,
    G_5,
    G_6,
    G_7,
    G_8,
    G_9,
    G_10,
    G_11,
    G_ANSWER,
    G_LAZY,
    G_ADMIN,
    G_SETTLE
};
#define LIMITS                   11, 0 /* four workers, three trainers, all limits generous; two copies */
#define W(i, what)               ((i) << 4 | (what))
#define T(i, what)               ((4 + (i)) << 4 | (what))
#define JOIN(i)                  W(i, G_OPEN), (i), W(i, G_5), 0 /* hello and an empty inventory */
#define TRAINER(i)               T(i, G_OPEN), 4 + (i)
#define LAYER                    T(0, G_4), 0, 0, 4 * 8 + 3, 0 /* "a": 4 experts, 5 wide, ReLU, SGD */
#define BACK(i)                  W(i, G_OPEN), (i), W(i, G_5), 5 /* with what it still holds */
#define SETTLE                   G_SETTLE, G_SETTLE
#define LONG                     W(3, G_SETTLE), W(3, G_SETTLE), W(3, G_SETTLE), W(3, G_SETTLE)
#define SUBMIT(batch, tokens, k) T(0, G_5), (batch)-1, (tokens)-1, (k)-1
#define CODES(batch, tokens, k)  T(0, G_5), (batch)-1, (tokens)-1, (k)-1 + 8
#define FREEZE(how)              T(0, G_10), 128 | (how)
#define GRADIENT(place)          T(0, G_6), (place)
#define STEP                     T(0, G_7), 0, 0
#define UP_AND_READY             LIMITS, JOIN(0), JOIN(1), TRAINER(0), LAYER, SETTLE

#define HOLD           G_ADMIN, 7      /* the journal writes nothing, or does so again */
#define WRITE          G_ADMIN, 8 | 7  /* what waits */
#define KILL           G_ADMIN, 16 | 7 /* the daemon; what waited is lost */
#define KILL_WRITTEN   G_ADMIN, 24 | 7 /* the same, but it was written */
#define EVICT(i, job)  W(i, G_7), 1, (job)
#define ANSWERS        W(0, G_ANSWER), W(1, G_ANSWER)
#define TO_THE_STEP(n) SUBMIT(1, n, 2), SETTLE, GRADIENT(0), SETTLE, STEP
#define A_STEP         TO_THE_STEP(20), LONG
#define REPORTS        W(0, G_8), 0, 0, W(1, G_8), 0, 0 /* signs of life */
/* Longer than a daemon waits for workers after it was killed. */
#define WAIT REPORTS, G_TICK, 60, REPORTS, G_TICK, 60, REPORTS, SETTLE

static void copy_seeds_of_the_gateway(void)
{
    SEED("gateway", "host-lost-copy-serves", UP_AND_READY, A_STEP, W(0, G_HANG_UP), SETTLE, A_STEP);
    SEED("gateway", "a-third-is-filled", UP_AND_READY, A_STEP, W(0, G_HANG_UP), SETTLE, JOIN(2),
         LONG, A_STEP, W(1, G_HANG_UP), SETTLE, A_STEP, BACK(0), LONG, A_STEP);
    SEED("gateway", "filled-in-a-step", UP_AND_READY, A_STEP, W(0, G_HANG_UP), SETTLE, JOIN(2),
         W(2, G_ANSWER), TO_THE_STEP(6), W(1, G_ANSWER), W(1, G_ANSWER), W(2, G_ANSWER), LONG);
    SEED("gateway", "lost-while-it-fills", UP_AND_READY, A_STEP, W(0, G_HANG_UP), SETTLE, JOIN(2),
         W(2, G_ANSWER), W(1, G_ANSWER), W(2, G_HANG_UP), SETTLE, A_STEP);
    SEED("gateway", "nobody-has-it", UP_AND_READY, A_STEP, W(0, G_HANG_UP), W(1, G_HANG_UP),
         W(7, G_TICK), 20, JOIN(2), W(7, G_TICK), 20, TRAINER(0), LAYER, SETTLE, T(0, G_9), 3,
         T(0, G_11), 0, T(0, G_11), 8, SETTLE);
    SEED("gateway", "back-in-time", UP_AND_READY, A_STEP, W(0, G_HANG_UP), SETTLE, BACK(0), LONG,
         A_STEP, W(1, G_HANG_UP), SETTLE, A_STEP);
    SEED("gateway", "back-too-late", UP_AND_READY, A_STEP, W(0, G_HANG_UP), SETTLE, A_STEP, BACK(0),
         LONG, A_STEP);
    SEED("gateway", "lost-while-it-commits", UP_AND_READY, TO_THE_STEP(6), HOLD, ANSWERS, ANSWERS,
         W(0, G_HANG_UP), T(0, G_HANG_UP), TRAINER(0), WRITE, HOLD, LAYER, BACK(0), LONG, A_STEP);
    SEED("gateway", "killed", UP_AND_READY, A_STEP, KILL, BACK(0), BACK(1), TRAINER(0), LAYER, LONG,
         A_STEP);
    SEED("gateway", "killed-with-a-worker", UP_AND_READY, A_STEP, KILL, BACK(1), TRAINER(0), LAYER,
         W(1, G_8), 0, 0, G_TICK, 60, W(1, G_8), 0, 0, G_TICK, 60, LONG, A_STEP);
    SEED("gateway", "killed-before-the-commit", UP_AND_READY, A_STEP, TO_THE_STEP(6), HOLD, ANSWERS,
         ANSWERS, KILL, HOLD, BACK(0), BACK(1), TRAINER(0), LAYER, WAIT, A_STEP);
    SEED("gateway", "killed-after-the-commit", UP_AND_READY, A_STEP, TO_THE_STEP(6), HOLD, ANSWERS,
         ANSWERS, KILL_WRITTEN, HOLD, BACK(0), BACK(1), TRAINER(0), LAYER, WAIT, T(0, G_7), 0, 4,
         A_STEP);
    SEED("gateway", "drained-between-steps", UP_AND_READY, A_STEP, JOIN(2), G_ADMIN, 3, LONG, LONG,
         A_STEP, G_ADMIN, 4, LONG);
    SEED("gateway", "no-room-for-copies", LIMITS, JOIN(0), JOIN(1), TRAINER(0), LAYER, W(0, G_4),
         255, SETTLE, A_STEP);
    SEED("gateway", "one-copy-and-no-journal", 11, 3, JOIN(0), JOIN(1), TRAINER(0), LAYER, SETTLE,
         A_STEP, W(1, G_HANG_UP), SETTLE, BACK(1), LONG, A_STEP);
    SEED("gateway", "evicted", UP_AND_READY, SUBMIT(1, 20, 2), SETTLE, EVICT(0, 0), EVICT(0, 1),
         EVICT(1, 0), GRADIENT(0), LONG, STEP, LONG);
    SEED("gateway", "evicted-while-the-gradient-comes", UP_AND_READY, SUBMIT(1, 20, 2), SETTLE,
         GRADIENT(0), EVICT(0, 1), EVICT(0, 255), LONG, STEP, LONG);
    SEED("gateway", "inputs-wrong", UP_AND_READY, SUBMIT(1, 20, 2), T(0, G_9), 128, SETTLE,
         EVICT(0, 0), GRADIENT(0), T(0, G_9), 128 | 64, T(0, G_9), 128 | 32, SETTLE);
    SEED("gateway", "no-memory-for-gradients", 11, 4, JOIN(0), JOIN(1), TRAINER(0), LAYER, SETTLE,
         SUBMIT(1, 60, 2), SUBMIT(2, 60, 2), SUBMIT(3, 60, 4), SETTLE, GRADIENT(0), SETTLE);
    SEED("gateway", "sums-nobody-asked-for", UP_AND_READY, W(0, G_7), 0, 0, TO_THE_STEP(6),
         W(0, G_7), 0, 8, W(0, G_7), 0, 128, W(1, G_7), 0, 192, LONG);
}

/* More states asked for than the daemon has room to refuse one by one, and then their host is lost. */
static void flood_seed(void)
{
    static const uint8_t head[] = {16 | 32,      0, W(0, G_OPEN), 0,   W(0, G_5), 0,
                                   T(0, G_OPEN), 4, LAYER,        LONG};
    uint8_t tape[sizeof head + 2 * 400 + 1];
    memcpy(tape, head, sizeof head);
    for (size_t i = 0; i < 400; i++) {
        tape[sizeof head + 2 * i] = T(0, G_10);
        tape[sizeof head + 2 * i + 1] = 0;
    }
    tape[sizeof tape - 1] = W(0, G_HANG_UP);
    write_seed("gateway", "fetch-flood", tape, sizeof tape);
}

static void gateway_seeds(void)
{
    flood_seed();
    SEED("gateway", "wide-layer-small-slot", 64 | LIMITS, JOIN(0), TRAINER(0), T(0, G_4), 0, 0,
         4 * 8 + 3, 128, LONG, SUBMIT(1, 9, 2), LONG);
    SEED("gateway", "training", UP_AND_READY, SUBMIT(1, 20, 2), SETTLE, GRADIENT(0), SETTLE, STEP,
         SETTLE, SUBMIT(1, 5, 1), SUBMIT(2, 7, 1), SETTLE, GRADIENT(0), GRADIENT(1), SETTLE, STEP,
         SETTLE);
    SEED("gateway", "evaluation", UP_AND_READY, G_ADMIN, 6, G_ADMIN, 14, G_ADMIN, 22, T(0, G_5), 0,
         30, 16 | 1, SETTLE, TRAINER(1), T(1, G_4), 128, 0, 0, 0, SETTLE, T(1, G_5), 0, 30, 16 | 1,
         SETTLE);
    SEED("gateway", "worker-lost-and-back", UP_AND_READY, SUBMIT(1, 20, 2), W(1, G_HANG_UP), SETTLE,
         JOIN(1), SETTLE, SUBMIT(1, 20, 2), SETTLE, GRADIENT(0), SETTLE, STEP, SETTLE);
    SEED("gateway", "trainer-lost-and-back", UP_AND_READY, SUBMIT(1, 20, 2), SETTLE,
         T(0, G_HANG_UP), SETTLE, TRAINER(0), LAYER, SETTLE, T(0, G_5), 0, 20, 32 | 1, SETTLE,
         GRADIENT(0), SETTLE, STEP, SETTLE);
    SEED("gateway", "connected-again-elsewhere", UP_AND_READY, SUBMIT(1, 20, 2), T(1, G_OPEN), 4,
         W(2, G_OPEN), 0, W(2, G_5), 0, T(1, G_4), 0, 0, 4 * 8 + 3, 0, SETTLE, SETTLE);
    SEED("gateway", "discards", UP_AND_READY, SUBMIT(1, 20, 2), T(0, G_8), 0, SUBMIT(2, 20, 2),
         SETTLE, T(0, G_8), 1, SUBMIT(3, 9, 2), SETTLE, GRADIENT(2), T(0, G_8), 2, SETTLE);
    SEED("gateway", "frozen-table", UP_AND_READY, FREEZE(0), SETTLE, CODES(1, 20, 2), SETTLE,
         GRADIENT(0), SETTLE, STEP, SETTLE, FREEZE(16), FREEZE(0), SETTLE, CODES(1, 5, 1), SETTLE);
    SEED("gateway", "frozen-map", UP_AND_READY, FREEZE(8), WRITE, SETTLE, CODES(1, 20, 2), SETTLE,
         KILL_WRITTEN, JOIN(0), JOIN(1), TRAINER(0), LAYER, LONG, CODES(1, 9, 1), LONG);
    SEED("gateway", "frozen-wrongly", UP_AND_READY, CODES(1, 3, 1), FREEZE(64), SETTLE,
         CODES(1, 9, 2), FREEZE(0), SETTLE, CODES(2, 254, 1), SETTLE);
    SEED("gateway", "states", UP_AND_READY, T(0, G_10), 0, T(0, G_10), 8, SETTLE, T(0, G_11), 0,
         T(0, G_11), 16, SETTLE, T(0, G_9), 3, SETTLE, T(0, G_10), 8, W(0, G_HANG_UP), SETTLE);
    SEED("gateway", "many-fetches-and-a-lost-worker", UP_AND_READY, T(0, G_10), 0, T(0, G_10), 8,
         T(0, G_10), 16, T(0, G_10), 24, T(0, G_10), 0, T(0, G_10), 8, W(0, G_HANG_UP),
         T(0, G_HANG_UP), TRAINER(0), LAYER, T(0, G_10), 8, SETTLE);
    SEED("gateway", "layer-declared-in-a-step", UP_AND_READY, SUBMIT(1, 6, 1), SETTLE, GRADIENT(0),
         W(0, G_ANSWER), W(1, G_ANSWER), STEP, G_ADMIN, 3, G_ADMIN, 8 | 3, /* drain both workers */
         T(0, G_4), 1, 0, 4 * 8 + 3, 0, W(0, G_ANSWER), W(1, G_ANSWER), SETTLE, SETTLE);
    SEED("gateway", "small-limits", 64 | LIMITS, JOIN(0), JOIN(1), TRAINER(0), LAYER, LONG,
         SUBMIT(1, 9, 2), SUBMIT(2, 5, 1), LONG, LONG, GRADIENT(0), GRADIENT(1), LONG, STEP, LONG);
    SEED("gateway", "few-parcels-and-batches", 32 | 16 | LIMITS, JOIN(0), JOIN(1), TRAINER(0),
         LAYER, LONG, SUBMIT(1, 20, 2), SUBMIT(2, 9, 1), SUBMIT(3, 4, 1), LONG, GRADIENT(0),
         GRADIENT(1), LONG, T(0, G_7), 4, 0, LONG);
    SEED("gateway", "small-tensors", 128 | LIMITS, JOIN(0), TRAINER(0), T(0, G_4), 0, 0, 7 * 8 + 1,
         16, SETTLE, SUBMIT(1, 20, 1), SETTLE, SUBMIT(2, 9, 2), SETTLE, GRADIENT(0), GRADIENT(1),
         SETTLE, STEP, SETTLE);
    SEED("gateway", "slow-reader", UP_AND_READY, T(0, G_LAZY), 0, SUBMIT(1, 60, 4), SETTLE,
         SUBMIT(2, 60, 4), SETTLE, T(0, G_LAZY), SETTLE);
    SEED("gateway", "inventories", LIMITS, W(0, G_OPEN), 0, W(0, G_5), 1, 0, 2, 4 * 8 + 3, 0,
         TRAINER(0), T(0, G_4), 0, 254, 4 * 8 + 3, 0, SETTLE, SUBMIT(1, 20, 2), SETTLE);
    SEED("gateway", "leases", UP_AND_READY, SUBMIT(1, 20, 2), W(0, G_HANG_UP), W(7, G_TICK), 20,
         W(7, G_TICK), 20, JOIN(2), SETTLE, T(0, G_HANG_UP), W(7, G_TICK), 20, TRAINER(1),
         T(1, G_4), 4, 0, 4 * 8 + 3, 0, SETTLE);
    SEED("gateway", "policies", UP_AND_READY, G_ADMIN, 8, SUBMIT(1, 20, 2), SETTLE, G_ADMIN, 16,
         SUBMIT(2, 20, 2), SETTLE, G_ADMIN, 24, SUBMIT(3, 20, 2), SETTLE, G_ADMIN, 32,
         SUBMIT(4, 20, 2), SETTLE);
    SEED("gateway", "wrong-answers", UP_AND_READY, SUBMIT(1, 20, 2), G_TICK, 1, W(0, G_6), 128,
         W(1, G_6), 192, JOIN(0), SETTLE, T(0, G_6), 128, T(0, G_6), 192, TRAINER(0), SETTLE);
    SEED("gateway", "shutdown", UP_AND_READY, SUBMIT(1, 20, 2), G_ADMIN, 205, SETTLE, JOIN(2),
         SUBMIT(2, 3, 1), SETTLE);
}

/* ---- tls: a handshake, words, and mishaps at every point ---- */

#define TLS_TALK       0x80, 0, 0x00, 0 /* the client, then the server */
#define TLS_BOTH_SAY   0x05, 200, 0, 0x85, 0, 80
#define TLS_SHAKE      TLS_TALK, TLS_TALK
#define TLS_EVERYTHING TLS_TALK, TLS_TALK, TLS_TALK, TLS_TALK

static void tls_seeds(void)
{
    SEED("tls", "talk", TLS_SHAKE, TLS_BOTH_SAY, TLS_EVERYTHING, TLS_BOTH_SAY, TLS_EVERYTHING);
    SEED("tls", "pieces", 0xc5, 0, 250, 100, 0, 0x80, 15, 1, 0x80, 2, 0x00, 2, 0x80, 2, 0x00, 2,
         0x80, 0, 0x80, 9, 0x10, 0x80, 0, 0x80, 0);
    SEED("tls", "changed-hello", 0x84, 0, 60, 0, 1, TLS_EVERYTHING);
    SEED("tls", "changed-answer", 0x80, 0, 0x01, 0, 90, 0, 1, TLS_EVERYTHING);
    SEED("tls", "changed-word", TLS_SHAKE, TLS_BOTH_SAY, 0x85, 0, 1, 0x82, 0, 20, 0, 1, TLS_TALK);
    SEED("tls", "lost", TLS_SHAKE, TLS_BOTH_SAY, 0x86 - 4, 0, 9, TLS_EVERYTHING);
    SEED("tls", "twice", TLS_SHAKE, TLS_BOTH_SAY, 0x83, 0, TLS_EVERYTHING);
    SEED("tls", "garbage", 0x04, 'G', 'E', 'T', ' ', '/', '\r', '\n');
    SEED("tls", "alert", 0x80, 0, 0x04, 21, 3, 3, 0, 2, 2, 40);
    SEED("tls", "again", TLS_SHAKE, TLS_BOTH_SAY, 0x06, TLS_SHAKE, TLS_BOTH_SAY, TLS_EVERYTHING);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_seeds DIRECTORY\n");
        return 2;
    }
    root = argv[1];
    mkdir(root, 0777);
    wire_seeds();
    trace_seeds();
    inbox_seeds();
    channel_seeds();
    agent_seeds();
    copy_seeds();
    eviction_seeds();
    gateway_seeds();
    copy_seeds_of_the_gateway();
    tls_seeds();
    return 0;
}
