/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of the session itself: hello, welcome, errors, life signs.
 */

#include "proto/wire_fields.h"

#define TEXT_OF(p) smoe_unconst(p) /* protobuf-c wants char *, and only reads it */

int smoe_fill_hello(struct smoe_arena *arena, const struct smoe_msg_hello *m,
                    Stablemoe__V1__Hello *p)
{
    p->protocol_min = m->protocol_min;
    p->protocol_max = m->protocol_max;
    p->role = (Stablemoe__V1__Role)m->role;
    p->name = TEXT_OF(m->name);
    p->incarnation = m->incarnation;
    p->software = TEXT_OF(m->software);
    if (m->role != SMOE_ROLE_WORKER)
        return 0;
    Stablemoe__V1__WorkerCaps *caps = smoe_arena_alloc(arena, sizeof *caps);
    if (!caps)
        return SMOE_ETOOBIG;
    stablemoe__v1__worker_caps__init(caps);
    caps->freq_max_hz = m->freq_max_hz;
    caps->inbox_bytes_max = m->inbox_bytes_max;
    caps->lanes = m->lanes;
    caps->busy_watts = m->busy_watts;
    caps->budget_watts = m->budget_watts;
    caps->cap_watts = m->cap_watts;
    caps->freq_driver = TEXT_OF(m->freq_driver);
    caps->freq_states_khz = smoe_unconst(m->freq_states_khz);
    caps->n_freq_states_khz = m->n_freq_states;
    caps->memory_bytes = m->memory_bytes;
    caps->expert_slots = m->expert_slots;
    caps->peer_address = TEXT_OF(m->peer_address);
    p->worker = caps;
    return 0;
}

static int check_states(struct smoe_reader *r, const uint64_t *khz, size_t n)
{
    int rc = smoe_check_range(r, "worker.freq_states_khz: count", n, 0, SMOE_FREQ_STATES_MAX);
    for (size_t k = 0; k < n && !rc; k++)
        rc = smoe_check_range(r, "worker.freq_states_khz", khz[k], k ? khz[k - 1] + 1 : 1,
                              1000000000);
    return rc;
}

static int read_caps(struct smoe_reader *r, const Stablemoe__V1__WorkerCaps *p,
                     struct smoe_msg_hello *m)
{
    int rc;
    if (!p)
        return smoe_fail(r->why, SMOE_EFIELD, "HELLO.worker: missing for role worker");
    if ((rc = smoe_check_double(r, "worker.freq_max_hz", p->freq_max_hz, 1, 1e12)) ||
        (rc = smoe_check_range(r, "worker.inbox_bytes_max", p->inbox_bytes_max, 1u << 20,
                               UINT64_C(1) << 50)) ||
        (rc = smoe_check_range(r, "worker.lanes", p->lanes, 1, 256)) ||
        (rc = smoe_check_double(r, "worker.busy_watts", p->busy_watts, 0, 1e6)) ||
        (rc = smoe_check_double(r, "worker.budget_watts", p->budget_watts, 0, 1e6)) ||
        (rc = smoe_check_double(r, "worker.cap_watts", p->cap_watts, 0, 1e6)) ||
        (rc = smoe_read_name(r, "worker.freq_driver", p->freq_driver, m->freq_driver)) ||
        (rc = smoe_check_range(r, "worker.memory_bytes", p->memory_bytes, 0, UINT64_C(1) << 50)) ||
        (rc = smoe_check_range(r, "worker.expert_slots", p->expert_slots, 0, SMOE_EXPERTS_MAX)) ||
        (rc = check_states(r, p->freq_states_khz, p->n_freq_states_khz)))
        return rc;
    smoe_read_text(p->peer_address, m->peer_address, sizeof m->peer_address);
    m->memory_bytes = p->memory_bytes;
    m->expert_slots = p->expert_slots;
    m->freq_states_khz = p->freq_states_khz;
    m->n_freq_states = p->n_freq_states_khz;
    m->freq_max_hz = p->freq_max_hz;
    m->inbox_bytes_max = p->inbox_bytes_max;
    m->lanes = p->lanes;
    m->busy_watts = p->busy_watts;
    m->budget_watts = p->budget_watts;
    m->cap_watts = p->cap_watts;
    return 0;
}

int smoe_read_hello(struct smoe_reader *r, const Stablemoe__V1__Hello *p, struct smoe_msg_hello *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "protocol_min", p->protocol_min, 1, UINT32_MAX)) ||
        (rc = smoe_check_range(r, "protocol_max", p->protocol_max, p->protocol_min, UINT32_MAX)) ||
        (rc =
             smoe_check_range(r, "role", (uint64_t)p->role, SMOE_ROLE_WORKER, SMOE_ROLE_TRAINER)) ||
        (rc = smoe_read_name(r, "name", p->name, m->name)) ||
        (rc = smoe_check_range(r, "incarnation", p->incarnation, 1, UINT64_MAX)))
        return rc;
    m->protocol_min = p->protocol_min;
    m->protocol_max = p->protocol_max;
    m->role = (enum smoe_role)p->role;
    m->incarnation = p->incarnation;
    smoe_read_text(p->software, m->software, sizeof m->software);
    return m->role == SMOE_ROLE_WORKER ? read_caps(r, p->worker, m) : 0;
}

int smoe_fill_credit(struct smoe_arena *arena, const struct smoe_msg_credit *m,
                     Stablemoe__V1__Credit *p)
{
    (void)arena;
    p->bytes_total = m->bytes_total;
    p->visits_total = m->visits_total;
    return 0;
}

int smoe_read_credit(struct smoe_reader *r, const Stablemoe__V1__Credit *p,
                     struct smoe_msg_credit *m)
{
    (void)r;
    m->bytes_total = p->bytes_total;
    m->visits_total = p->visits_total;
    return 0;
}

int smoe_fill_welcome(struct smoe_arena *arena, const struct smoe_msg_welcome *m,
                      Stablemoe__V1__Welcome *p)
{
    Stablemoe__V1__Credit *credit = smoe_arena_alloc(arena, sizeof *credit);
    if (!credit)
        return SMOE_ETOOBIG;
    stablemoe__v1__credit__init(credit);
    smoe_fill_credit(arena, &m->credit, credit);
    p->protocol = m->protocol;
    p->epoch = m->epoch;
    p->slot_us = m->slot_us;
    p->tensor_bytes_max = m->tensor_bytes_max;
    p->silence_ms_max = m->silence_ms_max;
    p->attempt = m->attempt;
    p->credit = credit;
    p->iteration_bytes_max = m->iteration_bytes_max;
    p->software = TEXT_OF(m->software);
    p->policy = TEXT_OF(m->policy);
    return 0;
}

int smoe_read_welcome(struct smoe_reader *r, const Stablemoe__V1__Welcome *p,
                      struct smoe_msg_welcome *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "protocol", p->protocol, SMOE_PROTOCOL_MIN, SMOE_PROTOCOL_MAX)) ||
        (rc = smoe_check_range(r, "slot_us", p->slot_us, 1, 60000000)) ||
        (rc = smoe_check_range(r, "tensor_bytes_max", p->tensor_bytes_max, 1,
                               SMOE_TENSOR_BYTES_MAX)) ||
        (rc = smoe_check_range(r, "silence_ms_max", p->silence_ms_max, 4, 3600000)))
        return rc;
    m->protocol = p->protocol;
    m->epoch = p->epoch;
    m->slot_us = p->slot_us;
    m->tensor_bytes_max = p->tensor_bytes_max;
    m->silence_ms_max = p->silence_ms_max;
    m->attempt = p->attempt;
    m->iteration_bytes_max = p->iteration_bytes_max;
    smoe_read_text(p->software, m->software, sizeof m->software);
    smoe_read_text(p->policy, m->policy, sizeof m->policy);
    return p->credit ? smoe_read_credit(r, p->credit, &m->credit) : 0;
}

int smoe_fill_error(struct smoe_arena *arena, const struct smoe_msg_error *m,
                    Stablemoe__V1__Error *p)
{
    (void)arena;
    p->code = m->code;
    p->message = TEXT_OF(m->message);
    p->fatal = m->fatal;
    p->batch = m->batch;
    p->request = m->request;
    return 0;
}

int smoe_read_error(struct smoe_reader *r, const Stablemoe__V1__Error *p, struct smoe_msg_error *m)
{
    if (p->code >= 0)
        return smoe_fail(r->why, SMOE_EFIELD, "ERROR.code %d: must be negative", p->code);
    m->code = p->code;
    smoe_read_text(p->message, m->message, sizeof m->message);
    m->fatal = p->fatal;
    m->batch = p->batch;
    m->request = p->request;
    return 0;
}

int smoe_fill_ping(struct smoe_arena *arena, const struct smoe_msg_ping *m, Stablemoe__V1__Ping *p)
{
    (void)arena;
    p->nonce = m->nonce;
    return 0;
}

int smoe_read_ping(struct smoe_reader *r, const Stablemoe__V1__Ping *p, struct smoe_msg_ping *m)
{
    (void)r;
    m->nonce = p->nonce;
    return 0;
}

int smoe_fill_pong(struct smoe_arena *arena, const struct smoe_msg_pong *m, Stablemoe__V1__Pong *p)
{
    (void)arena;
    p->nonce = m->nonce;
    return 0;
}

int smoe_read_pong(struct smoe_reader *r, const Stablemoe__V1__Pong *p, struct smoe_msg_pong *m)
{
    (void)r;
    m->nonce = p->nonce;
    return 0;
}

int smoe_fill_bye(struct smoe_arena *arena, const struct smoe_msg_bye *m, Stablemoe__V1__Bye *p)
{
    (void)arena;
    p->reason = TEXT_OF(m->reason);
    return 0;
}

int smoe_read_bye(struct smoe_reader *r, const Stablemoe__V1__Bye *p, struct smoe_msg_bye *m)
{
    (void)r;
    smoe_read_text(p->reason, m->reason, sizeof m->reason);
    return 0;
}
