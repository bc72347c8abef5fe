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

#include "common/base/assert.h"

#define IOVECS     16
#define READ_BYTES 65536 /* one read, as SMOE_CONN_SCRATCH_BYTES */

enum end_state { END_WAITING, END_UP, END_CLOSING, END_GONE };

struct smoe_sim_conn {
    struct wire *wire;
    uint32_t process;
    enum end_state state;
    struct smoe_sim_owner owner;
    void (*connected)(void *context);
    int status;                 /* told to `closed` */
    bool close_flushed;         /* to be closed when all is written */
    bool wants_room;            /* its outbox holds more than the pipe took */
    bool answered;              /* the peer's FIN or RST has arrived */
    struct smoe_sim_event over; /* tells `closed` */
    struct smoe_sim_event room; /* the pipe has room again */
    struct smoe_sim_event patience;
};

struct wire {
    struct smoe_list link;
    struct smoe_simnet *net;
    struct smoe_sim_conn ends[2];
    struct smoe_sim_pipe pipes[2];
    struct smoe_sim_event handshake;
    bool syn_arrived, refused;
    struct smoe_sim_event give_up; /* set while its path is cut */
};

struct listener {
    bool (*accept)(void *context, uint32_t from, struct smoe_sim_conn *conn,
                   struct smoe_sim_owner *ret_owner);
    void *context;
};

struct process {
    struct smoe_sim_profile profile;
    struct listener listener;
    bool reads, frozen;
};

struct cut {
    uint32_t from, to;
};

struct smoe_simnet {
    struct smoe_sim_clock *clock;
    struct smoe_rng rng;
    struct process *processes;
    uint32_t n_processes;
    struct cut *cuts; /* [n_cuts], owned */
    uint32_t n_cuts;
    struct smoe_list wires;
};

/* ---- small helpers ---- */

static unsigned side_of(const struct smoe_sim_conn *end)
{
    return end == &end->wire->ends[1];
}

static struct smoe_sim_conn *peer_of(struct smoe_sim_conn *end)
{
    return &end->wire->ends[!side_of(end)];
}

static struct smoe_sim_pipe *out_of(struct smoe_sim_conn *end)
{
    return &end->wire->pipes[side_of(end)];
}

static struct smoe_sim_pipe *into(struct smoe_sim_conn *end)
{
    return &end->wire->pipes[!side_of(end)];
}

static bool is_cut(const struct smoe_simnet *net, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < net->n_cuts; i++)
        if (net->cuts[i].from == from && net->cuts[i].to == to)
            return true;
    return false;
}

static bool wire_is_cut(const struct wire *w)
{
    return is_cut(w->net, w->ends[0].process, w->ends[1].process) ||
           is_cut(w->net, w->ends[1].process, w->ends[0].process);
}

static bool is_frozen(const struct smoe_sim_conn *end)
{
    return end->wire->net->processes[end->process].frozen;
}

static void set_in(struct smoe_simnet *net, struct smoe_sim_event *event, uint64_t delay_ns)
{
    smoe_sim_set(net->clock, event, net->clock->now_ns + delay_ns);
}

/* ---- beginning and end ---- */

struct smoe_simnet *smoe_simnet_new(struct smoe_sim_clock *clock, uint64_t seed)
{
    struct smoe_simnet *net = smoe_sim_alloc(1, sizeof *net);
    net->clock = clock;
    smoe_rng_init(&net->rng, seed, 0);
    smoe_list_init(&net->wires);
    return net;
}

static void free_wire(struct wire *w)
{
    struct smoe_sim_clock *clock = w->net->clock;
    for (unsigned i = 0; i < 2; i++) {
        smoe_sim_cancel(clock, &w->ends[i].over);
        smoe_sim_cancel(clock, &w->ends[i].room);
        smoe_sim_cancel(clock, &w->ends[i].patience);
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
        free_wire(smoe_container_of(it, struct wire, link));
    free(net->processes);
    free(net->cuts);
    free(net);
}

uint32_t smoe_simnet_add(struct smoe_simnet *net, const struct smoe_sim_profile *profile)
{
    uint32_t n = net->n_processes;
    net->processes = smoe_sim_grow(net->processes, n, n + 1, sizeof *net->processes);
    net->processes[n] = (struct process){.profile = *profile, .reads = true};
    return net->n_processes++;
}

void smoe_simnet_listen(struct smoe_simnet *net, uint32_t process,
                        bool (*accept)(void *, uint32_t, struct smoe_sim_conn *,
                                       struct smoe_sim_owner *),
                        void *context)
{
    net->processes[process].listener = (struct listener){accept, context};
}

void smoe_simnet_stop_listening(struct smoe_simnet *net, uint32_t process)
{
    net->processes[process].listener = (struct listener){NULL, NULL};
}

/* ---- the end of an end ---- */

static void gone(struct smoe_sim_conn *end)
{
    struct smoe_simnet *net = end->wire->net;
    if (side_of(end) == 0 && !end->wire->syn_arrived)
        peer_of(end)->state = END_GONE; /* it never was */
    end->state = END_GONE;
    smoe_sim_cancel(net->clock, &end->over);
    smoe_sim_cancel(net->clock, &end->room);
    smoe_sim_cancel(net->clock, &end->patience);
    smoe_sim_pipe_drop(into(end));
    if (peer_of(end)->state == END_GONE)
        free_wire(end->wire);
}

static void on_over(struct smoe_sim_event *event)
{
    struct smoe_sim_conn *end = smoe_container_of(event, struct smoe_sim_conn, over);
    struct smoe_sim_owner owner = end->owner;
    int status = end->status;
    if (is_frozen(end))
        return; /* set again by smoe_simnet_freeze, as all that a frozen process misses */
    gone(end);
    owner.closed(owner.context, status);
}

/* Towards GONE; says so to the peer unless the peer ended it. */
static void begin_close(struct smoe_sim_conn *end, int status, enum smoe_sim_pipe_end say)
{
    if (end->state >= END_CLOSING)
        return;
    bool known = end->wire->syn_arrived && !end->answered;
    say = end->state == END_UP ? say : SMOE_SIM_PIPE_RST;
    end->state = END_CLOSING;
    end->status = status;
    smoe_sim_cancel(end->wire->net->clock, &end->patience);
    if (known)
        smoe_sim_pipe_end(out_of(end), say);
    set_in(end->wire->net, &end->over, 0);
}

void smoe_sim_conn_close(struct smoe_sim_conn *end, int status)
{
    begin_close(end, status, SMOE_SIM_PIPE_FIN);
}

static void on_patience(struct smoe_sim_event *event)
{
    struct smoe_sim_conn *end = smoe_container_of(event, struct smoe_sim_conn, patience);
    if (!is_frozen(end))
        begin_close(end, SMOE_SIM_ETIMEDOUT, SMOE_SIM_PIPE_RST);
}

void smoe_sim_conn_close_flushed(struct smoe_sim_conn *end, uint64_t patience_ns)
{
    if (end->state >= END_CLOSING)
        return;
    end->close_flushed = true;
    if (!end->patience.place)
        set_in(end->wire->net, &end->patience, patience_ns);
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
    if (end->state != END_UP || is_frozen(end))
        return;
    end->wants_room = false;
    for (;;) {
        size_t n = end->owner.peek(end->owner.context, iovecs, IOVECS);
        if (!n)
            break;
        size_t written = smoe_sim_pipe_write(out_of(end), iovecs, n);
        end->wants_room = written < length_of(iovecs, n);
        if (written)
            end->owner.consume(end->owner.context, written);
        if (end->wants_room)
            return;
    }
    if (end->close_flushed)
        begin_close(end, 0, SMOE_SIM_PIPE_FIN);
}

static void on_room(struct smoe_sim_event *event)
{
    smoe_sim_conn_flush(smoe_container_of(event, struct smoe_sim_conn, room));
}

/* One read, as a shell makes it: straight into the owner's memory where it offers some, or from a
 * scratch buffer; which of the two must make no difference, so it is drawn. */
static size_t read_once(struct smoe_sim_conn *end)
{
    struct smoe_sim_pipe *pipe = into(end);
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
    return end->wire->net->processes[end->process].reads && !is_frozen(end);
}

/* Reads what has come. The bytes are read where they lie, so they leave the pipe after the owner has
 * seen them; the owner may meanwhile close, but its end is only gone with a later event. */
static void read_all(struct smoe_sim_conn *end)
{
    struct smoe_sim_conn *writer = peer_of(end);
    size_t bytes = 0;
    while (end->state == END_UP && may_read(end)) {
        size_t n = read_once(end);
        if (!n)
            break;
        bytes += n;
    }
    if (bytes && writer->wants_room && writer->state == END_UP && !writer->room.place)
        set_in(end->wire->net, &writer->room, into(end)->profile.latency_ns);
}

static void on_arrival(struct smoe_sim_pipe *pipe, struct smoe_sim_conn *reader)
{
    enum smoe_sim_pipe_end end = smoe_sim_pipe_arrive(pipe);
    if (reader->state == END_WAITING && end != SMOE_SIM_PIPE_RST)
        return; /* looked at when it is up */
    if (reader->state >= END_CLOSING) {
        smoe_sim_pipe_read(pipe, pipe->arrived);
        return;
    }
    read_all(reader);
    if (reader->state >= END_CLOSING || end == SMOE_SIM_PIPE_OPEN)
        return;
    if (end == SMOE_SIM_PIPE_FIN && pipe->arrived) /* it does not read: it does not see the end */
        return;
    reader->answered = end == SMOE_SIM_PIPE_RST;
    begin_close(reader, end == SMOE_SIM_PIPE_RST ? SMOE_SIM_ECONNRESET : 0, SMOE_SIM_PIPE_FIN);
}

static void on_pipe_0(struct smoe_sim_event *event)
{
    struct smoe_sim_pipe *pipe = smoe_container_of(event, struct smoe_sim_pipe, due);
    on_arrival(pipe, &smoe_container_of(pipe, struct wire, pipes[0])->ends[1]);
}

static void on_pipe_1(struct smoe_sim_event *event)
{
    struct smoe_sim_pipe *pipe = smoe_container_of(event, struct smoe_sim_pipe, due);
    on_arrival(pipe, &smoe_container_of(pipe, struct wire, pipes[1])->ends[0]);
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
static void accept_or_refuse(struct wire *w)
{
    struct smoe_sim_conn *server = &w->ends[1];
    const struct listener *l = &w->net->processes[server->process].listener;
    w->syn_arrived = true;
    server->state = END_UP;
    w->refused = !l->accept || !l->accept(l->context, w->ends[0].process, server, &server->owner);
    if (w->refused)
        server->state = END_GONE;
}

static void on_handshake(struct smoe_sim_event *event)
{
    struct wire *w = smoe_container_of(event, struct wire, handshake);
    struct smoe_sim_conn *client = &w->ends[0];
    bool frozen = is_frozen(w->syn_arrived ? client : &w->ends[1]);
    if (wire_is_cut(w) || frozen || client->state != END_WAITING)
        return; /* set again when the path heals or the process goes on */
    if (!w->syn_arrived) {
        set_in(w->net, &w->handshake, w->pipes[1].profile.latency_ns);
        accept_or_refuse(w);
        return;
    }
    if (w->refused) {
        client->answered = true;
        begin_close(client, SMOE_SIM_ECONNREFUSED, SMOE_SIM_PIPE_RST);
        return;
    }
    client->state = END_UP;
    client->connected(client->owner.context);
    if (into(client)->arrived || into(client)->end)
        set_in(w->net, &into(client)->due, 0);
}

static void on_give_up(struct smoe_sim_event *event)
{
    struct wire *w = smoe_container_of(event, struct wire, give_up);
    for (unsigned i = 0; i < 2; i++) {
        w->ends[i].answered = true; /* nothing gets through */
        if (w->ends[i].owner.closed)
            begin_close(&w->ends[i], SMOE_SIM_ETIMEDOUT, SMOE_SIM_PIPE_RST);
    }
}

struct smoe_sim_conn *smoe_simnet_connect(struct smoe_simnet *net, uint32_t from, uint32_t to,
                                          const struct smoe_sim_owner *owner,
                                          void (*connected)(void *context))
{
    struct wire *w = smoe_sim_alloc(1, sizeof *w);
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
    w->pipes[0].held = is_cut(net, from, to);
    w->pipes[1].held = is_cut(net, to, from);
    smoe_list_push_back(&net->wires, &w->link);
    set_in(net, &w->handshake, profile.latency_ns);
    if (wire_is_cut(w))
        set_in(net, &w->give_up, SMOE_SIM_GIVE_UP_NS);
    return &w->ends[0];
}

/* ---- faults ---- */

static void add_cut(struct smoe_simnet *net, uint32_t from, uint32_t to)
{
    if (is_cut(net, from, to))
        return;
    net->cuts = smoe_sim_grow(net->cuts, net->n_cuts, net->n_cuts + 1, sizeof *net->cuts);
    net->cuts[net->n_cuts++] = (struct cut){from, to};
}

static void remove_cut(struct smoe_simnet *net, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < net->n_cuts; i++)
        if (net->cuts[i].from == from && net->cuts[i].to == to)
            net->cuts[i--] = net->cuts[--net->n_cuts];
}

static void apply_cuts(struct wire *w)
{
    struct smoe_simnet *net = w->net;
    for (unsigned i = 0; i < 2; i++) {
        bool held = is_cut(net, w->ends[i].process, w->ends[!i].process);
        if (held != w->pipes[i].held)
            smoe_sim_pipe_hold(&w->pipes[i], held);
    }
    if (!wire_is_cut(w)) {
        smoe_sim_cancel(net->clock, &w->give_up);
        if (!w->handshake.place && w->ends[0].state == END_WAITING)
            set_in(net, &w->handshake, w->pipes[0].profile.latency_ns);
    } else if (!w->give_up.place) {
        set_in(net, &w->give_up, SMOE_SIM_GIVE_UP_NS);
    }
}

void smoe_simnet_cut(struct smoe_simnet *net, uint32_t from, uint32_t to, bool cut)
{
    if (cut)
        add_cut(net, from, to);
    else
        remove_cut(net, from, to);
    smoe_list_for_each (it, &net->wires)
        apply_cuts(smoe_container_of(it, struct wire, link));
}

void smoe_simnet_reset(struct smoe_simnet *net, uint32_t a, uint32_t b)
{
    smoe_list_for_each (it, &net->wires) {
        struct wire *w = smoe_container_of(it, struct wire, link);
        uint32_t from = w->ends[0].process, to = w->ends[1].process;
        if (!(from == a && to == b) && !(from == b && to == a))
            continue;
        for (unsigned i = 0; i < 2; i++) {
            smoe_sim_pipe_drop(&w->pipes[i]);
            w->ends[i].answered = true;
            if (w->ends[i].owner.closed)
                begin_close(&w->ends[i], SMOE_SIM_ECONNRESET, SMOE_SIM_PIPE_RST);
        }
    }
}

void smoe_simnet_read(struct smoe_simnet *net, uint32_t process, bool reads)
{
    net->processes[process].reads = reads;
    smoe_list_for_each (it, &net->wires) {
        struct wire *w = smoe_container_of(it, struct wire, link);
        for (unsigned i = 0; i < 2 && reads; i++)
            if (w->ends[i].process == process && w->ends[i].state == END_UP)
                smoe_sim_set(net->clock, &w->pipes[!i].due, net->clock->now_ns);
    }
}

static void thaw(struct smoe_sim_conn *end)
{
    struct smoe_simnet *net = end->wire->net;
    if (end->state == END_CLOSING)
        set_in(net, &end->over, 0);
    if (end->state != END_UP)
        return;
    if (end->wants_room)
        set_in(net, &end->room, 0);
    if (end->close_flushed)
        set_in(net, &end->patience, 0);
    set_in(net, &into(end)->due, 0);
}

void smoe_simnet_freeze(struct smoe_simnet *net, uint32_t process, bool frozen)
{
    net->processes[process].frozen = frozen;
    smoe_list_for_each (it, &net->wires) {
        struct wire *w = smoe_container_of(it, struct wire, link);
        for (unsigned i = 0; i < 2 && !frozen; i++)
            if (w->ends[i].process == process)
                thaw(&w->ends[i]);
        if (!frozen && !w->handshake.place && w->ends[0].state == END_WAITING)
            set_in(net, &w->handshake, 0);
    }
}

/* Nobody is there any more for this end. */
static void abandon(struct smoe_sim_conn *end, bool silently)
{
    struct wire *w = end->wire;
    bool told = end->state >= END_CLOSING || end->answered || !w->syn_arrived;
    if (!told && !silently)
        smoe_sim_pipe_end(out_of(end), SMOE_SIM_PIPE_RST);
    if (silently) {
        smoe_sim_pipe_drop(out_of(end));
        if (!w->give_up.place)
            set_in(w->net, &w->give_up, SMOE_SIM_GIVE_UP_NS);
    }
    end->owner = (struct smoe_sim_owner){0};
    gone(end);
}

void smoe_simnet_crash(struct smoe_simnet *net, uint32_t process, bool silently)
{
    smoe_simnet_stop_listening(net, process);
    smoe_list_for_each_safe (it, &net->wires) {
        struct wire *w = smoe_container_of(it, struct wire, link);
        unsigned side = w->ends[1].process == process;
        if (w->ends[side].process == process && w->ends[side].state != END_GONE)
            abandon(&w->ends[side], silently);
    }
}

/* ---- views ---- */

uint32_t smoe_simnet_connections(const struct smoe_simnet *net)
{
    return smoe_list_count(&net->wires, UINT32_MAX);
}

uint64_t smoe_simnet_bytes(const struct smoe_simnet *net)
{
    uint64_t bytes = 0;
    smoe_list_for_each (it, &net->wires) {
        const struct wire *w = smoe_container_of(it, struct wire, link);
        bytes += w->pipes[0].used + w->pipes[1].used;
    }
    return bytes;
}
