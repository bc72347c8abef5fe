/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages between daemon and worker.
 */
#include "proto/wire_fields.h"

int smoe_fill_inventory(struct smoe_arena *arena, const struct smoe_msg_inventory *m,
                        Stablemoe__V1__Inventory *p)
{
    void **layers = smoe_new_objects(arena, m->n_layers, sizeof(Stablemoe__V1__InventoryLayer));
    void **shapes = smoe_new_objects(arena, m->n_layers, sizeof(Stablemoe__V1__LayerShape));
    if (!layers || !shapes)
        return SMOE_ETOOBIG;
    for (size_t i = 0; i < m->n_layers; i++) {
        const struct smoe_inventory_layer *from = &m->layers[i];
        Stablemoe__V1__InventoryLayer *to = layers[i];
        stablemoe__v1__inventory_layer__init(to);
        stablemoe__v1__layer_shape__init(shapes[i]);
        smoe_fill_shape(&from->shape, shapes[i]);
        to->name = smoe_unconst(from->name);
        to->run = from->run;
        to->step = from->step;
        to->shape = shapes[i];
        to->experts = smoe_unconst(from->experts);
        to->n_experts = from->n_experts;
        to->staged_step = from->staged_step;
        to->staged_attempt = from->staged_attempt;
        to->attempt = from->attempt;
        to->piece_offsets = smoe_unconst(from->pieces.offsets);
        to->piece_lengths = smoe_unconst(from->pieces.lengths);
        to->n_piece_offsets = to->n_piece_lengths = from->pieces.n;
    }
    p->layers = (Stablemoe__V1__InventoryLayer **)layers;
    p->n_layers = m->n_layers;
    return 0;
}

static int read_inventory_layer(struct smoe_reader *r, const Stablemoe__V1__InventoryLayer *p,
                                struct smoe_inventory_layer *m)
{
    int rc;
    if ((rc = smoe_read_name(r, "layers.name", p->name, m->name)) ||
        (rc = smoe_check_range(r, "layers.run", p->run, 1, UINT64_MAX)) ||
        (rc = smoe_read_shape(r, p->shape, &m->shape)) ||
        (rc = smoe_check_rising(r, "layers.experts", p->n_experts, p->experts, m->shape.experts)))
        return rc;
    m->run = p->run;
    m->step = p->step;
    m->experts = p->experts;
    m->n_experts = p->n_experts;
    m->staged_step = p->staged_step;
    m->staged_attempt = p->staged_attempt;
    m->attempt = p->attempt;
    m->pieces = (struct smoe_pieces){p->piece_offsets, p->piece_lengths, p->n_piece_offsets};
    return 0;
}

int smoe_read_inventory(struct smoe_reader *r, const Stablemoe__V1__Inventory *p,
                        struct smoe_msg_inventory *m)
{
    int rc = smoe_check_range(r, "layers", p->n_layers, 0, SMOE_LAYERS_MAX);
    if (rc)
        return rc;
    struct smoe_inventory_layer *layers = smoe_arena_alloc(r->arena, p->n_layers * sizeof *layers);
    if (!layers)
        return smoe_fail(r->why, SMOE_ETOOBIG, "INVENTORY.layers: too many to unpack");
    uint64_t experts = 0, pieces = 0;
    for (size_t i = 0; i < p->n_layers && !rc; i++) {
        const Stablemoe__V1__InventoryLayer *from = p->layers[i];
        experts += from->n_experts;
        pieces += from->n_piece_offsets;
        rc = read_inventory_layer(r, from, &layers[i]);
        rc = rc ? rc : smoe_check_experts(r, experts);
        rc = rc ? rc
                : smoe_check_pieces(r, from->n_piece_offsets, from->piece_offsets,
                                    from->n_piece_lengths, from->piece_lengths, pieces);
    }
    m->layers = layers;
    m->n_layers = p->n_layers;
    return rc;
}

int smoe_fill_host(struct smoe_arena *arena, const struct smoe_msg_host *m, Stablemoe__V1__Host *p)
{
    Stablemoe__V1__LayerShape *shape = smoe_arena_alloc(arena, sizeof *shape);
    if (!shape)
        return SMOE_ETOOBIG;
    stablemoe__v1__layer_shape__init(shape);
    smoe_fill_shape(&m->shape, shape);
    p->layer = m->layer;
    p->name = smoe_unconst(m->name);
    p->run = m->run;
    p->shape = shape;
    p->experts = smoe_unconst(m->experts);
    p->n_experts = m->n_experts;
    p->copies = smoe_unconst(m->copies);
    p->n_copies = m->n_copies;
    p->step = m->step;
    p->attempt = m->attempt;
    p->fresh = m->fresh;
    p->number = m->number;
    p->sharded = m->sharded;
    p->piece_offsets = smoe_unconst(m->pieces.offsets);
    p->piece_lengths = smoe_unconst(m->pieces.lengths);
    p->n_piece_offsets = p->n_piece_lengths = m->pieces.n;
    p->pieces_owned = m->pieces_owned;
    p->pieces_followed = m->pieces_followed;
    p->replicas = m->replicas;
    return 0;
}

/* What belongs to sharded layers only; without, there must be nothing of it. */
static int read_sharded(struct smoe_reader *r, const Stablemoe__V1__Host *p,
                        struct smoe_msg_host *m)
{
    size_t n = p->n_piece_offsets;
    bool copies = !p->sharded || m->shape.staleness;
    int rc;
    if ((rc =
             smoe_check_range(r, "copies: count", p->n_copies, 0, copies ? m->shape.experts : 0)) ||
        (rc = smoe_check_range(r, "piece_offsets: count", n, 0,
                               p->sharded ? SMOE_WORKER_PIECES_MAX : 0)) ||
        (rc = smoe_check_pieces(r, n, p->piece_offsets, p->n_piece_lengths, p->piece_lengths, n)) ||
        (rc = smoe_check_range(r, "pieces_owned", p->pieces_owned, 0, n)) ||
        (rc = smoe_check_range(r, "pieces_followed", p->pieces_followed, 0, n - p->pieces_owned)) ||
        (rc = smoe_check_range(r, "replicas", p->replicas, 0,
                               p->sharded ? SMOE_LAYER_REPLICAS_MAX : 0)))
        return rc;
    m->sharded = p->sharded;
    m->pieces = (struct smoe_pieces){p->piece_offsets, p->piece_lengths, n};
    m->pieces_owned = p->pieces_owned;
    m->pieces_followed = p->pieces_followed;
    m->replicas = p->replicas;
    return 0;
}

/* Two rising lists without a common number. */
static int check_apart(struct smoe_reader *r, const Stablemoe__V1__Host *p)
{
    for (size_t i = 0, j = 0; i < p->n_experts && j < p->n_copies;)
        if (p->experts[i] == p->copies[j])
            return smoe_fail(r->why, SMOE_EFIELD, "%s.copies[%zu] = %u: is in experts too",
                             r->message, j, p->copies[j]);
        else if (p->experts[i] < p->copies[j])
            i++;
        else
            j++;
    return 0;
}

int smoe_read_host(struct smoe_reader *r, const Stablemoe__V1__Host *p, struct smoe_msg_host *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_read_name(r, "name", p->name, m->name)) ||
        (rc = smoe_check_range(r, "run", p->run, 1, UINT64_MAX)) ||
        (rc = smoe_read_shape(r, p->shape, &m->shape)) ||
        (rc = smoe_check_rising(r, "experts", p->n_experts, p->experts, m->shape.experts)) ||
        (rc = smoe_check_rising(r, "copies", p->n_copies, p->copies, m->shape.experts)) ||
        (rc = check_apart(r, p)))
        return rc;
    m->layer = p->layer;
    m->run = p->run;
    m->experts = p->experts;
    m->n_experts = p->n_experts;
    m->copies = p->copies;
    m->n_copies = p->n_copies;
    m->step = p->step;
    m->attempt = p->attempt;
    m->fresh = p->fresh;
    m->number = p->number;
    return read_sharded(r, p, m);
}

int smoe_fill_hosted(struct smoe_arena *arena, const struct smoe_msg_hosted *m,
                     Stablemoe__V1__Hosted *p)
{
    (void)arena;
    p->layer = m->layer;
    p->code = m->code;
    p->number = m->number;
    p->staleness = m->staleness;
    p->message = smoe_unconst(m->message);
    return 0;
}

int smoe_read_hosted(struct smoe_reader *r, const Stablemoe__V1__Hosted *p,
                     struct smoe_msg_hosted *m)
{
    m->layer = p->layer;
    m->code = p->code;
    m->number = p->number;
    m->staleness = p->staleness;
    smoe_read_text(p->message, m->message, sizeof m->message);
    if (p->code > 0)
        return smoe_fail(r->why, SMOE_EFIELD, "HOSTED.code %d: must not be positive", p->code);
    int rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1);
    return rc ? rc : smoe_check_range(r, "staleness", p->staleness, 0, SMOE_STALENESS_MAX);
}

int smoe_fill_decision(struct smoe_arena *arena, const struct smoe_msg_decision *m,
                       Stablemoe__V1__Decision *p)
{
    void **parcels = smoe_new_objects(arena, m->n_parcels, sizeof(Stablemoe__V1__Parcel));
    if (!parcels)
        return SMOE_ETOOBIG;
    for (size_t i = 0; i < m->n_parcels; i++) {
        const struct smoe_parcel_head *from = &m->parcels[i];
        Stablemoe__V1__Parcel *to = parcels[i];
        stablemoe__v1__parcel__init(to);
        to->id = from->id;
        to->layer = from->layer;
        to->expert = from->expert;
        to->rows = from->rows;
        to->keep = from->keep;
        to->older = from->older;
        to->step = from->step;
    }
    p->sequence = m->sequence;
    p->epoch = m->epoch;
    p->freq_khz = m->freq_khz;
    p->parcels = (Stablemoe__V1__Parcel **)parcels;
    p->n_parcels = m->n_parcels;
    return 0;
}

static int read_parcel(struct smoe_reader *r, const Stablemoe__V1__Parcel *p,
                       struct smoe_parcel_head *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "parcels.id", p->id, 1, UINT64_MAX)) ||
        (rc = smoe_check_range(r, "parcels.layer", p->layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "parcels.expert", p->expert, 0, SMOE_EXPERTS_MAX - 1)) ||
        (rc = smoe_check_range(r, "parcels.rows", p->rows, 1, SMOE_PARCEL_ROWS_MAX)))
        return rc;
    *m = (struct smoe_parcel_head){.id = p->id,
                                   .layer = p->layer,
                                   .expert = p->expert,
                                   .rows = p->rows,
                                   .keep = p->keep,
                                   .older = p->older,
                                   .step = p->step};
    return 0;
}

int smoe_read_decision(struct smoe_reader *r, const Stablemoe__V1__Decision *p,
                       struct smoe_msg_decision *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "sequence", p->sequence, 1, UINT64_MAX)) ||
        (rc = smoe_check_range(r, "freq_khz", p->freq_khz, 0, 1000000000)) ||
        (rc = smoe_check_range(r, "parcels", p->n_parcels, 0, SMOE_DECISION_PARCELS_MAX)))
        return rc;
    struct smoe_parcel_head *parcels = smoe_arena_alloc(r->arena, p->n_parcels * sizeof *parcels);
    if (!parcels)
        return smoe_fail(r->why, SMOE_ETOOBIG, "DECISION.parcels: too many to unpack");
    for (size_t i = 0; i < p->n_parcels && !rc; i++)
        rc = read_parcel(r, p->parcels[i], &parcels[i]);
    m->sequence = p->sequence;
    m->epoch = p->epoch;
    m->freq_khz = p->freq_khz;
    m->parcels = parcels;
    m->n_parcels = p->n_parcels;
    return rc;
}

int smoe_fill_output(struct smoe_arena *arena, const struct smoe_msg_output *m,
                     Stablemoe__V1__Output *p)
{
    (void)arena;
    p->parcel = m->parcel;
    return 0;
}

int smoe_read_output(struct smoe_reader *r, const Stablemoe__V1__Output *p,
                     struct smoe_msg_output *m)
{
    m->parcel = p->parcel;
    return smoe_check_range(r, "parcel", p->parcel, 1, UINT64_MAX);
}

int smoe_fill_backprop(struct smoe_arena *arena, const struct smoe_msg_backprop *m,
                       Stablemoe__V1__Backprop *p)
{
    (void)arena;
    p->parcels = smoe_unconst(m->parcels);
    p->n_parcels = m->n_parcels;
    p->sequence = m->sequence;
    return 0;
}

int smoe_read_backprop(struct smoe_reader *r, const Stablemoe__V1__Backprop *p,
                       struct smoe_msg_backprop *m)
{
    m->sequence = p->sequence;
    m->parcels = p->parcels;
    m->n_parcels = p->n_parcels;
    return smoe_check_range(r, "parcels", p->n_parcels, 1, SMOE_DECISION_PARCELS_MAX);
}

int smoe_fill_parcel_gradient(struct smoe_arena *arena, const struct smoe_msg_parcel_gradient *m,
                              Stablemoe__V1__ParcelGradient *p)
{
    (void)arena;
    p->parcel = m->parcel;
    return 0;
}

int smoe_read_parcel_gradient(struct smoe_reader *r, const Stablemoe__V1__ParcelGradient *p,
                              struct smoe_msg_parcel_gradient *m)
{
    m->parcel = p->parcel;
    return smoe_check_range(r, "parcel", p->parcel, 1, UINT64_MAX);
}

int smoe_fill_reset(struct smoe_arena *arena, const struct smoe_msg_reset *m,
                    Stablemoe__V1__Reset *p)
{
    (void)arena;
    p->layers = smoe_unconst(m->layers);
    p->n_layers = m->n_layers;
    p->attempt = m->attempt;
    return 0;
}

int smoe_read_reset(struct smoe_reader *r, const Stablemoe__V1__Reset *p, struct smoe_msg_reset *m)
{
    *m = (struct smoe_msg_reset){p->layers, p->n_layers, p->attempt};
    int rc = smoe_check_range(r, "layers", p->n_layers, 1, SMOE_LAYERS_MAX);
    return rc ? rc : smoe_check_rising(r, "layers", p->n_layers, p->layers, SMOE_LAYERS_MAX);
}

int smoe_fill_forget(struct smoe_arena *arena, const struct smoe_msg_forget *m,
                     Stablemoe__V1__Forget *p)
{
    (void)arena;
    p->parcels = smoe_unconst(m->parcels);
    p->n_parcels = m->n_parcels;
    return 0;
}

int smoe_read_forget(struct smoe_reader *r, const Stablemoe__V1__Forget *p,
                     struct smoe_msg_forget *m)
{
    m->parcels = p->parcels;
    m->n_parcels = p->n_parcels;
    return smoe_check_range(r, "parcels", p->n_parcels, 1, SMOE_DECISION_PARCELS_MAX);
}

int smoe_fill_report(struct smoe_arena *arena, const struct smoe_msg_report *m,
                     Stablemoe__V1__Report *p)
{
    (void)arena;
    p->sequence = m->sequence;
    p->queue_forward_flops = m->queue_forward_flops;
    p->queue_backward_flops = m->queue_backward_flops;
    p->forward_visits = m->forward_visits;
    p->backward_visits = m->backward_visits;
    p->forward_flops = m->forward_flops;
    p->backward_flops = m->backward_flops;
    p->forward_cycles = m->forward_cycles;
    p->backward_cycles = m->backward_cycles;
    p->busy_ns = m->busy_ns;
    p->active_ns = m->active_ns;
    p->joules = m->joules;
    p->energy_source = smoe_unconst(m->energy_source);
    p->freq_khz = m->freq_khz;
    p->freq_max_hz = m->freq_max_hz;
    p->temperature_c = m->temperature_c;
    p->kept_bytes = m->kept_bytes;
    p->cycles = m->cycles;
    p->freq_requested_khz = m->freq_requested_khz;
    p->freq_achieved_khz = m->freq_achieved_khz;
    p->driver_note = smoe_unconst(m->driver_note);
    p->forward_row_flops = m->forward_row_flops;
    p->backward_row_flops = m->backward_row_flops;
    return 0;
}

int smoe_read_report(struct smoe_reader *r, const Stablemoe__V1__Report *p,
                     struct smoe_msg_report *m)
{
    int rc;
    if ((rc = smoe_check_double(r, "joules", p->joules, 0, 1e15)) ||
        (rc = smoe_check_double(r, "freq_max_hz", p->freq_max_hz, 1, 1e12)) ||
        (rc = smoe_check_double(r, "temperature_c", p->temperature_c, -273.15, 1000)) ||
        (rc = smoe_check_range(r, "freq_khz", p->freq_khz, 0, 1000000000)) ||
        (rc = smoe_check_range(r, "freq_requested_khz", p->freq_requested_khz, 0, 1000000000)) ||
        (rc = smoe_check_range(r, "freq_achieved_khz", p->freq_achieved_khz, 0, 1000000000)))
        return rc;
    m->sequence = p->sequence;
    m->queue_forward_flops = p->queue_forward_flops;
    m->queue_backward_flops = p->queue_backward_flops;
    m->forward_visits = p->forward_visits;
    m->backward_visits = p->backward_visits;
    m->forward_flops = p->forward_flops;
    m->backward_flops = p->backward_flops;
    m->forward_cycles = p->forward_cycles;
    m->backward_cycles = p->backward_cycles;
    m->busy_ns = p->busy_ns;
    m->active_ns = p->active_ns;
    m->joules = p->joules;
    smoe_read_text(p->energy_source, m->energy_source, sizeof m->energy_source);
    m->freq_khz = p->freq_khz;
    m->freq_max_hz = p->freq_max_hz;
    m->temperature_c = p->temperature_c;
    m->kept_bytes = p->kept_bytes;
    m->cycles = p->cycles;
    m->freq_requested_khz = p->freq_requested_khz;
    m->freq_achieved_khz = p->freq_achieved_khz;
    smoe_read_text(p->driver_note, m->driver_note, sizeof m->driver_note);
    m->forward_row_flops = p->forward_row_flops;
    m->backward_row_flops = p->backward_row_flops;
    return 0;
}

int smoe_fill_evicted(struct smoe_arena *arena, const struct smoe_msg_evicted *m,
                      Stablemoe__V1__Evicted *p)
{
    (void)arena;
    p->parcels = smoe_unconst(m->parcels);
    p->n_parcels = m->n_parcels;
    return 0;
}

int smoe_read_evicted(struct smoe_reader *r, const Stablemoe__V1__Evicted *p,
                      struct smoe_msg_evicted *m)
{
    m->parcels = p->parcels;
    m->n_parcels = p->n_parcels;
    return smoe_check_range(r, "parcels", p->n_parcels, 1, SMOE_DECISION_PARCELS_MAX);
}

int smoe_fill_parcel_inputs(struct smoe_arena *arena, const struct smoe_msg_parcel_inputs *m,
                            Stablemoe__V1__ParcelInputs *p)
{
    (void)arena;
    p->parcels = smoe_unconst(m->parcels);
    p->n_parcels = m->n_parcels;
    return 0;
}

int smoe_read_parcel_inputs(struct smoe_reader *r, const Stablemoe__V1__ParcelInputs *p,
                            struct smoe_msg_parcel_inputs *m)
{
    m->parcels = p->parcels;
    m->n_parcels = p->n_parcels;
    return smoe_check_range(r, "parcels", p->n_parcels, 1, SMOE_DECISION_PARCELS_MAX);
}
