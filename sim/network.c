/* SPDX-License-Identifier: Apache-2.0
 *
 * A wire is a connection: two ends, and a pipe in each direction (pipes[i] is written by ends[i]).
 *
 *     SYN --(latency)--> accepted: ends[1] UP --(latency)--> ends[0] UP, `connected`
 *         '--(latency)--> nobody listens --(latency)--> ends[0] closed, ECONNREFUSED
 *
 *     end: WAITING -> UP -> CLOSING -> GONE      `closed` is told on the way to GONE, by an event
 *             |                  |               of its own, so that no owner is called back from
 *             +---- a crash -----+--> GONE       inside its own call
 *
 * A wire is freed when both ends are GONE. What arrives at an end that is closing is thrown away; its
 * writer learns from the FIN or RST that comes the other way.
 */
#include "sim/network.h"

#include <stdlib.h>
#include <string.h>

#include "sim/network_state.h"

#define IOVECS     16
#define READ_BYTES 65536 /* one read, as SMOE_CONN_SCRATCH_BYTES */

/* ---- beginning and end ---- */

struct smoe_simnet *smoe_simnet_new(struct smoe_sim_clock *clock, uint64_t seed)
{
    struct smoe_simnet *net = smoe_sim_alloc(1, sizeof *net);
    net->clock = clock;
    smoe_rng_init(&net->rng, seed, 0);
    smoe_list_init(&net->wires);
    return net;
}

static void free_wire(struct smoe_sim_wire *w)
{
    struct smoe_sim_clock *clock = w->net->clock;
    for (unsigned i = 0; i < 2; i++) {
        smoe_sim_cancel(clock, &w->ends[i].over);
        smoe_sim_cancel(clock, &w->ends[i].room);
        smoe_sim_cancel(clock, &w->ends[i].patience);
        w->net->lost += w->pipes[i].lost;
        smoe_sim_pipe_release(&w->pipes[i]);
    }
    smoe_sim_cancel(clock, &w->handshake);
    smoe_sim_cancel(clock, &w->give_up);
    smoe_list_remove(&w->link);
    free(w);
}

void smoe_simnet_free(struct smoe_simnet *net)
{
    if (!net)
        return;
    smoe_list_for_each_safe (it, &net->wires)
        free_wire(smoe_container_of(it, struct smoe_sim_wire, link));
    free(net->processes);
    free(net->cuts);
    free(net);
}

uint32_t smoe_simnet_add(struct smoe_simnet *net, const struct smoe_sim_profile *profile)
{
    uint32_t n = net->n_processes;
    net->processes = smoe_sim_grow(net->processes, n, n + 1, sizeof *net->processes);
    net->processes[n] = (struct smoe_sim_host){.profile = *profile, .reads = true};
    return net->n_processes++;
}

void smoe_simnet_listen(struct smoe_simnet *net, uint32_t process,
                        bool (*accept)(void *, uint32_t, struct smoe_sim_conn *,
                                       struct smoe_sim_owner *),
                        void *context)
{
    net->processes[process].listener = (struct smoe_sim_listener){accept, context};
}

void smoe_simnet_stop_listening(struct smoe_simnet *net, uint32_t process)
{
    net->processes[process].listener = (struct smoe_sim_listener){NULL, NULL};
}

/* ---- the end of an end ---- */

void smoe_sim_end_gone(struct smoe_sim_conn *end)
{
    struct smoe_simnet *net = end->wire->net;
    if (smoe_sim_end_side(end) == 0 && !end->wire->syn_arrived)
        smoe_sim_end_peer(end)->state = SMOE_SIM_END_GONE; /* it never was */
    end->state = SMOE_SIM_END_GONE;
    smoe_sim_cancel(net->clock, &end->over);
    smoe_sim_cancel(net->clock, &end->room);
    smoe_sim_cancel(net->clock, &end->patience);
    smoe_sim_pipe_drop(smoe_sim_end_into(end));
    if (smoe_sim_end_peer(end)->state == SMOE_SIM_END_GONE)
        free_wire(end->wire);
}

static void on_over(struct smoe_sim_event *event)
{
    struct smoe_sim_conn *end = smoe_container_of(event, struct smoe_sim_conn, over);
    struct smoe_sim_owner owner = end->owner;
    int status = end->status;
    if (smoe_sim_end_frozen(end))
        return; /* set again by smoe_simnet_freeze, as all that a frozen process misses */
    smoe_sim_end_gone(end);
    owner.closed(owner.context, status);
}

void smoe_sim_end_close(struct smoe_sim_conn *end, int status, enum smoe_sim_pipe_end say)
{
    if (end->state >= SMOE_SIM_END_CLOSING)
        return;
    bool known = end->wire->syn_arrived && !end->answered;
    say = end->state == SMOE_SIM_END_UP ? say : SMOE_SIM_PIPE_RST;
    end->state = SMOE_SIM_END_CLOSING;
    end->status = status;
    smoe_sim_cancel(end->wire->net->clock, &end->patience);
    if (known)
        smoe_sim_pipe_end(smoe_sim_end_out(end), say);
    smoe_simnet_set(end->wire->net, &end->over, 0);
}

void smoe_sim_conn_close(struct smoe_sim_conn *end, int status)
{
    smoe_sim_end_close(end, status, SMOE_SIM_PIPE_FIN);
}

static void on_patience(struct smoe_sim_event *event)
{
    struct smoe_sim_conn *end = smoe_container_of(event, struct smoe_sim_conn, patience);
    if (!smoe_sim_end_frozen(end))
        smoe_sim_end_close(end, SMOE_SIM_ETIMEDOUT, SMOE_SIM_PIPE_RST);
}

void smoe_sim_conn_close_flushed(struct smoe_sim_conn *end, uint64_t patience_ns)
{
    if (end->state >= SMOE_SIM_END_CLOSING)
        return;
    end->close_flushed = true;
    if (!end->patience.place)
        smoe_simnet_set(end->wire->net, &end->patience, patience_ns);
    smoe_sim_conn_flush(end);
}

/* ---- bytes ---- */

static size_t length_of(const struct iovec *iovecs, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += iovecs[i].iov_len;
    return bytes;
}

void smoe_sim_conn_flush(struct smoe_sim_conn *end)
{
    struct iovec iovecs[IOVECS];
    if (end->state != SMOE_SIM_END_UP || smoe_sim_end_frozen(end))
        return;
    end->wants_room = false;
    for (;;) {
        size_t n = end->owner.peek(end->owner.context, iovecs, IOVECS);
        if (!n)
            break;
        size_t written = smoe_sim_pipe_write(smoe_sim_end_out(end), iovecs, n);
        end->wants_room = written < length_of(iovecs, n);
        if (written)
            end->owner.consume(end->owner.context, written);
        if (end->wants_room)
            return;
    }
    if (end->close_flushed)
        smoe_sim_end_close(end, 0, SMOE_SIM_PIPE_FIN);
}

static void on_room(struct smoe_sim_event *event)
{
    smoe_sim_conn_flush(smoe_container_of(event, struct smoe_sim_conn, room));
}

/* One read, as a shell makes it: straight into the owner's memory where it offers some, or from a
 * scratch buffer; which of the two must make no difference, so it is drawn. */
static size_t read_once(struct smoe_sim_conn *end)
{
    struct smoe_sim_pipe *pipe = smoe_sim_end_into(end);
    const uint8_t *bytes;
    size_t room = 0, n = smoe_sim_pipe_peek(pipe, &bytes);
    if (!n)
        return 0;
    uint8_t *direct = end->owner.direct ? end->owner.direct(end->owner.context, &room) : NULL;
    if (direct && smoe_rng_u64(&end->wire->net->rng) & 1) {
        n = n < room ? n : room;
        memcpy(direct, bytes, n);
        bytes = direct;
    }
    n = n < READ_BYTES ? n : READ_BYTES;
    end->owner.received(end->owner.context, bytes, n);
    smoe_sim_pipe_read(pipe, n);
    return n;
}

static bool may_read(const struct smoe_sim_conn *end)
{
    return end->wire->net->processes[end->process].reads && !smoe_sim_end_frozen(end);
}

/* Reads what has come. The bytes are read where they lie, so they leave the pipe after the owner has
 * seen them; the owner may meanwhile close, but its end is only gone with a later event. */
static void read_all(struct smoe_sim_conn *end)
{
    struct smoe_sim_conn *writer = smoe_sim_end_peer(end);
    size_t bytes = 0;
    while (end->state == SMOE_SIM_END_UP && may_read(end)) {
        size_t n = read_once(end);
        if (!n)
            break;
        bytes += n;
    }
    if (bytes && writer->wants_room && writer->state == SMOE_SIM_END_UP && !writer->room.place)
        smoe_simnet_set(end->wire->net, &writer->room, smoe_sim_end_into(end)->profile.latency_ns);
}

static void on_arrival(struct smoe_sim_pipe *pipe, struct smoe_sim_conn *reader)
{
    enum smoe_sim_pipe_end end = smoe_sim_pipe_arrive(pipe);
    if (reader->state == SMOE_SIM_END_WAITING && end != SMOE_SIM_PIPE_RST)
        return; /* looked at when it is up */
    if (reader->state >= SMOE_SIM_END_CLOSING) {
        smoe_sim_pipe_read(pipe, pipe->arrived);
        return;
    }
    read_all(reader);
    if (reader->state >= SMOE_SIM_END_CLOSING || end == SMOE_SIM_PIPE_OPEN)
        return;
    if (end == SMOE_SIM_PIPE_FIN && pipe->arrived) /* it does not read: it does not see the end */
        return;
    reader->answered = end == SMOE_SIM_PIPE_RST;
    smoe_sim_end_close(reader, end == SMOE_SIM_PIPE_RST ? SMOE_SIM_ECONNRESET : 0,
                       SMOE_SIM_PIPE_FIN);
}

static void on_pipe_0(struct smoe_sim_event *event)
{
    struct smoe_sim_pipe *pipe = smoe_container_of(event, struct smoe_sim_pipe, due);
    on_arrival(pipe, &smoe_container_of(pipe, struct smoe_sim_wire, pipes[0])->ends[1]);
}

static void on_pipe_1(struct smoe_sim_event *event)
{
    struct smoe_sim_pipe *pipe = smoe_container_of(event, struct smoe_sim_pipe, due);
    on_arrival(pipe, &smoe_container_of(pipe, struct smoe_sim_wire, pipes[1])->ends[0]);
}

/* ---- connecting ---- */

static uint64_t smaller_but_0(uint64_t a, uint64_t b)
{
    return !a ? b : !b ? a : a < b ? a : b;
}

static struct smoe_sim_profile join(const struct smoe_sim_profile *a,
                                    const struct smoe_sim_profile *b)
{
    return (struct smoe_sim_profile){
        .latency_ns = a->latency_ns + b->latency_ns,
        .jitter_ns = a->jitter_ns + b->jitter_ns,
        .bytes_per_s = smaller_but_0(a->bytes_per_s, b->bytes_per_s),
        .chunk_bytes_max = (uint32_t)smaller_but_0(a->chunk_bytes_max, b->chunk_bytes_max),
        .buffer_bytes = (uint32_t)smaller_but_0(a->buffer_bytes, b->buffer_bytes),
    };
}

/* The SYN is there: somebody takes the connection, or it is refused. */
static void accept_or_refuse(struct smoe_sim_wire *w)
{
    struct smoe_sim_conn *server = &w->ends[1];
    const struct smoe_sim_listener *l = &w->net->processes[server->process].listener;
    w->syn_arrived = true;
    server->state = SMOE_SIM_END_UP;
    w->refused = !l->accept || !l->accept(l->context, w->ends[0].process, server, &server->owner);
    if (w->refused)
        server->state = SMOE_SIM_END_GONE;
}

static void on_handshake(struct smoe_sim_event *event)
{
    struct smoe_sim_wire *w = smoe_container_of(event, struct smoe_sim_wire, handshake);
    struct smoe_sim_conn *client = &w->ends[0];
    bool frozen = smoe_sim_end_frozen(w->syn_arrived ? client : &w->ends[1]);
    if (smoe_sim_wire_is_cut(w) || frozen || client->state != SMOE_SIM_END_WAITING)
        return; /* set again when the path heals or the process goes on */
    if (!w->syn_arrived) {
        smoe_simnet_set(w->net, &w->handshake, w->pipes[1].profile.latency_ns);
        accept_or_refuse(w);
        return;
    }
    if (w->refused) {
        client->answered = true;
        smoe_sim_end_close(client, SMOE_SIM_ECONNREFUSED, SMOE_SIM_PIPE_RST);
        return;
    }
    client->state = SMOE_SIM_END_UP;
    client->connected(client->owner.context);
    if (smoe_sim_end_into(client)->arrived || smoe_sim_end_into(client)->end)
        smoe_simnet_set(w->net, &smoe_sim_end_into(client)->due, 0);
}

static void on_give_up(struct smoe_sim_event *event)
{
    struct smoe_sim_wire *w = smoe_container_of(event, struct smoe_sim_wire, give_up);
    for (unsigned i = 0; i < 2; i++) {
        w->ends[i].answered = true; /* nothing gets through */
        if (w->ends[i].owner.closed)
            smoe_sim_end_close(&w->ends[i], SMOE_SIM_ETIMEDOUT, SMOE_SIM_PIPE_RST);
    }
}

void smoe_sim_conn_give_up_after(struct smoe_sim_conn *end, uint64_t ns)
{
    end->wire->give_up_ns = ns;
    if (end->wire->give_up.place)
        smoe_simnet_set(end->wire->net, &end->wire->give_up, ns);
}

struct smoe_sim_conn *smoe_simnet_connect(struct smoe_simnet *net, uint32_t from, uint32_t to,
                                          const struct smoe_sim_owner *owner,
                                          void (*connected)(void *context))
{
    struct smoe_sim_wire *w = smoe_sim_alloc(1, sizeof *w);
    struct smoe_sim_profile profile =
        join(&net->processes[from].profile, &net->processes[to].profile);
    uint64_t opens_ns = net->clock->now_ns + 2 * profile.latency_ns;
    w->net = net;
    for (unsigned i = 0; i < 2; i++) {
        w->ends[i] = (struct smoe_sim_conn){.wire = w,
                                            .process = i ? to : from,
                                            .over = {.fire = on_over},
                                            .room = {.fire = on_room},
                                            .patience = {.fire = on_patience}};
        smoe_sim_pipe_init(&w->pipes[i], net->clock, &net->rng, &profile, opens_ns,
                           i ? on_pipe_1 : on_pipe_0);
    }
    w->ends[0].owner = *owner;
    w->ends[0].connected = connected;
    w->handshake.fire = on_handshake;
    w->give_up.fire = on_give_up;
    w->give_up_ns = SMOE_SIM_GIVE_UP_NS;
    w->pipes[0].held = smoe_simnet_is_cut(net, from, to);
    w->pipes[1].held = smoe_simnet_is_cut(net, to, from);
    smoe_sim_wire_lose(w);
    smoe_list_push_back(&net->wires, &w->link);
    smoe_simnet_set(net, &w->handshake, profile.latency_ns);
    if (smoe_sim_wire_is_cut(w))
        smoe_simnet_set(net, &w->give_up, w->give_up_ns);
    return &w->ends[0];
}
