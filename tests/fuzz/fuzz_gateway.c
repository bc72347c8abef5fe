/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole daemon without sockets, and four workers and three trainers whom the tape plays: they come
 * and go, answer rightly or wrongly or not at all, read or do not read, and say frames and bytes as
 * they lie on the tape. The journal may be slow, and the daemon may die and be restored from it. Limits
 * are small, so that they are reached. After every operation the gateway's and the core's invariants
 * hold; what it says is checked by the peers.
 *
 * The tape: two bytes choose limits and settings; then operations, one byte {peer, what} and their
 * arguments.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/gateway/gateway.h"
#include "daemon/gateway/report.h"
#include "tests/fuzz/peer.h"

enum { WORKERS = 4, PEERS = 7 };

struct scene {
    struct fuzz_input *in;
    struct smoe_gateway *gw;
    struct smoe_wire *wire;
    struct fuzz_peer peers[PEERS];
    struct smoe_core_settings settings;
    struct fuzz_disk disk;
    bool journal, journal_held; /* there is one; it writes nothing for now */
    uint8_t limits;
    uint64_t now_ns;
};

/* ---- transport ---- */

static void read_output(struct scene *s, struct fuzz_peer *p, size_t most)
{
    struct iovec iovecs[4];
    size_t n;
    while (most && (n = smoe_gateway_peek(s->gw, p->session, iovecs, 4)) > 0) {
        size_t bytes = 0;
        for (size_t i = 0; i < n && bytes < most; i++) {
            size_t take = iovecs[i].iov_len < most - bytes ? iovecs[i].iov_len : most - bytes;
            fuzz_peer_hear(p, iovecs[i].iov_base, take);
            bytes += take;
        }
        smoe_gateway_consume(s->gw, p->session, bytes);
        most -= bytes;
    }
}

static void hang_up(struct scene *s, struct fuzz_peer *p)
{
    if (!p->open)
        return;
    smoe_gateway_closed(s->gw, p->session, s->now_ns);
    fuzz_peer_close(p);
}

static struct fuzz_peer *peer_of(struct scene *s, uint32_t session)
{
    int i = 0;
    while (i < PEERS && !(s->peers[i].open && s->peers[i].session == session))
        i++;
    smoe_assert(i < PEERS);
    return &s->peers[i];
}

/* What a transport does after every event: write, and close what is to be closed. */
static void serve(struct scene *s)
{
    uint32_t session;
    while (smoe_gateway_next_dirty(s->gw, &session)) {
        struct fuzz_peer *p = peer_of(s, session);
        if (!p->lazy)
            read_output(s, p, SIZE_MAX);
        if (smoe_gateway_closing(s->gw, session)) {
            smoe_assert(strlen(smoe_gateway_close_reason(s->gw, session)) < sizeof(smoe_sentence));
            hang_up(s, p);
        }
    }
}

/* Bytes from a peer, in pieces, straight into place where the gateway offers it. */
static void deliver(struct scene *s, struct fuzz_peer *p, const struct fuzz_stream *stream,
                    size_t piece)
{
    uint32_t session = p->session;
    for (size_t at = 0; at < stream->n && p->open && p->session == session;) {
        size_t n = piece < stream->n - at ? piece : stream->n - at, room;
        uint8_t *to = smoe_gateway_direct(s->gw, session, &room);
        const uint8_t *data = stream->bytes + at;
        if (to) {
            n = n < room ? n : room;
            memcpy(to, data, n);
            data = to;
        }
        at += n;
        smoe_gateway_received(s->gw, session, data, n, s->now_ns);
        serve(s);
    }
}

/* ---- the journal, and the end of a daemon ---- */

static void journal(void *context, const struct smoe_record *record, uint64_t epoch)
{
    struct scene *s = context;
    fuzz_disk_append(&s->disk, record, epoch);
}

/* All that waits becomes durable, and what comes of it. */
static void sync_journal(struct scene *s)
{
    uint64_t sequence;
    while ((sequence = fuzz_disk_sync(&s->disk)) != 0) {
        smoe_gateway_journalled(s->gw, sequence, s->now_ns);
        serve(s);
    }
}

static struct smoe_gateway *new_gateway(struct scene *s);

/* The daemon is killed and started again; nobody hears a word of it. What it wrote last may have become
 * durable, without its knowing. */
static void restart(struct scene *s, bool written)
{
    if (!s->journal)
        return;
    if (written)
        fuzz_disk_sync(&s->disk);
    fuzz_disk_crash(&s->disk);
    for (int i = 0; i < PEERS; i++)
        fuzz_peer_close(&s->peers[i]);
    smoe_gateway_free(s->gw);
    s->gw = new_gateway(s);
}

/* ---- operations ---- */

static void open_peer(struct scene *s, struct fuzz_peer *p)
{
    struct fuzz_stream out = {0};
    uint32_t session;
    if (p->open || smoe_gateway_opened(s->gw, s->now_ns, &session))
        return;
    enum smoe_role role = p - s->peers < WORKERS ? SMOE_ROLE_WORKER : SMOE_ROLE_TRAINER;
    fuzz_peer_open(p, session, role, s->wire);
    fuzz_peer_hello(p, s->in, &out);
    deliver(s, p, &out, SIZE_MAX);
    fuzz_stream_release(&out);
}

static void say_something(struct scene *s, struct fuzz_peer *p, uint8_t what)
{
    struct fuzz_stream out = {0};
    if (!p->open)
        return;
    if (what == 2)
        fuzz_stream_from_tape(&out, s->in);
    else if (what == 12)
        fuzz_peer_answer_all(p, &out);
    else
        fuzz_peer_say(p, what, s->in, &out);
    deliver(s, p, &out, what == 2 ? (size_t)fuzz_u8(s->in) + 1 : SIZE_MAX);
    fuzz_stream_release(&out);
}

static void tick(struct scene *s, uint64_t ns)
{
    s->now_ns += ns;
    smoe_gateway_tick(s->gw, s->now_ns);
    serve(s);
}

/* The status of any state is one line of JSON. */
static void report(const struct scene *s, enum smoe_report what)
{
    struct smoe_report_context context = {"0.0.0", s->now_ns, 0,     "nowhere", "",
                                          "",      NULL,      "tls", 1,         2};
    char *json = smoe_report_json(s->gw, what, &context);
    smoe_assert(json && json[0] == '{' && json[strlen(json) - 1] == '}' && !strchr(json, '\n'));
    free(json);
}

static void administer(struct scene *s)
{
    uint8_t how = fuzz_u8(s->in);
    char id[] = "peea";
    id[3] = (char)('a' + how / 8 % 8);
    switch (how % 8) {
    case 0:
        s->settings.policy = how / 8 % SMOE_POLICY_COUNT;
        smoe_gateway_configure(s->gw, &s->settings, s->now_ns);
        break;
    case 1:
        s->settings.workers_min = 1 + how / 8 % 4;
        s->settings.window_bytes = 1u << how / 8;
        s->settings.iteration_bytes_max = 1u << how / 16;
        smoe_gateway_configure(s->gw, &s->settings, s->now_ns);
        break;
    case 2:
        s->settings.slot_ns = UINT64_C(1000000) * (1u + how / 8);
        s->settings.worker_budget_w = how;
        smoe_gateway_configure(s->gw, &s->settings, s->now_ns);
        break;
    case 3:
    case 4:
        smoe_gateway_drain(s->gw, id, how % 8 == 3, s->now_ns);
        break;
    case 6:
        report(s, how / 8 % 3);
        break;
    case 5:
        if (how > 200)
            smoe_gateway_shutdown(s->gw, s->now_ns);
        break;
    default:
        if (how / 8 % 4 == 0)
            s->journal_held = !s->journal_held;
        else if (how / 8 % 4 == 1)
            sync_journal(s);
        else
            restart(s, how / 8 % 4 == 3);
        break;
    }
    serve(s);
}

/* All do what they were told until nobody has anything left to do, or for a while. */
static void settle(struct scene *s, uint32_t rounds)
{
    for (uint32_t i = 0; i < rounds; i++) {
        for (int p = 0; p < PEERS; p++)
            say_something(s, &s->peers[p], 12);
        tick(s, s->settings.slot_ns);
        if (!s->journal_held)
            sync_journal(s);
    }
}

static void one_operation(struct scene *s)
{
    uint8_t op = fuzz_u8(s->in);
    struct fuzz_peer *p = &s->peers[op / 16 % PEERS];
    switch (op % 16) {
    case 0:
        open_peer(s, p);
        break;
    case 1:
        hang_up(s, p);
        serve(s);
        break;
    case 3:
        tick(s, fuzz_u8(s->in) * UINT64_C(1000000) << (op / 16));
        break;
    case 13:
        p->lazy = !p->lazy;
        if (p->open && p->lazy)
            read_output(s, p, fuzz_u8(s->in));
        break;
    case 14:
        administer(s);
        break;
    case 15:
        settle(s, 1 + op / 16 % 4);
        break;
    default: /* 2, 4..12 */
        say_something(s, p, op % 16);
        break;
    }
}

static void choose_settings(struct scene *s, uint8_t limits, uint8_t how)
{
    s->limits = limits;
    s->journal = !(how & 1);
    s->settings = (struct smoe_core_settings){.slot_ns = 1000000,
                                              .policy = SMOE_POLICY_LYAPUNOV,
                                              .v = 50,
                                              .mu = 1,
                                              .workers_min = 1,
                                              .copies = how & 2 ? 1 : 2,
                                              .silence_ns = 100000000,
                                              .worker_lease_ns = 1000000000,
                                              .trainer_lease_ns = 1000000000,
                                              .window_bytes = 1 << 16,
                                              .window_visits = 1000,
                                              .iteration_bytes_max = 1 << 17,
                                              .gradient_bytes_max = how & 4 ? 4096 : 0,
                                              .worker_budget_w = (double)INFINITY,
                                              .worker_cap_w = (double)INFINITY};
}

static struct smoe_gateway *new_gateway(struct scene *s)
{
    struct smoe_gateway_options o = {
        .core = {.limits = {.workers_max = 1 + s->limits % 4,
                            .trainers_max = 1 + s->limits / 4 % 3,
                            .batches_max = s->limits & 16 ? 2 : 8,
                            .parcels_max = s->limits & 32 ? 12 : 200,
                            .slot_tokens_max = s->limits & 64 ? 1 : 64},
                 .settings = s->settings,
                 .epoch = ++s->disk.epoch,
                 .seed = s->limits,
                 .now_ns = s->now_ns,
                 .software = "fuzzed",
                 .tensor_bytes_max = s->limits & 128 ? 2048 : 1 << 17,
                 .restored = &s->disk.image},
        .tensors_bytes_max = 1 << 19,
        .outbox_bytes_max = 1 << 17,
        .hello_timeout_ns = 50000000,
        .journal = s->journal ? journal : NULL,
        .journal_context = s,
    };
    struct smoe_gateway *gw;
    struct smoe_why why = {""};
    if (smoe_gateway_new(&o, &gw, &why)) {
        fprintf(stderr, "no new gateway: %s\n", why.text);
        abort();
    }
    return gw;
}

/* For the author of a seed: FUZZ_TRACE=1 tells what became of it. */
static void trace(const struct scene *s)
{
    struct smoe_core_totals t;
    if (!getenv("FUZZ_TRACE"))
        return;
    smoe_core_totals(smoe_gateway_core(s->gw), &t);
    fprintf(stderr,
            "  %llu visits: %llu settled, %llu failed; %llu steps, %llu refused, %llu stale, "
            "%llu evicted\n",
            (unsigned long long)t.account.submitted, (unsigned long long)t.account.settled,
            (unsigned long long)t.account.failed, (unsigned long long)t.steps,
            (unsigned long long)t.refused, (unsigned long long)t.stale_frames,
            (unsigned long long)t.evictions);
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer_view layer = smoe_core_layer(smoe_gateway_core(s->gw), l);
        if (layer.state == SMOE_LAYER_FREE)
            continue;
        fprintf(stderr, "  layer %s, %s, step %llu:", layer.name,
                smoe_layer_state_name(layer.state), (unsigned long long)layer.step);
        for (uint32_t e = 0; e < layer.shape.experts && e < 8; e++)
            fprintf(stderr, " %d/%d/%d", (int)layer.experts[e].worker,
                    (int)layer.experts[e].follower, (int)layer.experts[e].filling);
        fprintf(stderr, "\n");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct smoe_wire *wire;
    struct fuzz_input in = {data, size};
    struct scene s = {.in = &in, .now_ns = 1};
    if (!wire && smoe_wire_new(&wire))
        abort();
    s.wire = wire;
    uint8_t limits = fuzz_u8(&in);
    choose_settings(&s, limits, fuzz_u8(&in));
    s.gw = new_gateway(&s);
    for (int i = 0; i < PEERS; i++)
        s.peers[i].disk = s.journal ? &s.disk : NULL;
    while (fuzz_more(&in)) {
        one_operation(&s);
        if (!s.journal_held)
            sync_journal(&s);
        smoe_gateway_check(s.gw);
    }
    trace(&s);
    for (int i = 0; i < PEERS; i++) {
        hang_up(&s, &s.peers[i]);
        serve(&s);
        smoe_gateway_check(s.gw);
    }
    sync_journal(&s);
    struct smoe_gateway_stats stats;
    smoe_gateway_stats(s.gw, &stats);
    smoe_assert(stats.tensor_bytes == 0 && stats.sessions == 0);
    smoe_gateway_free(s.gw);
    fuzz_disk_release(&s.disk);
    return 0;
}
