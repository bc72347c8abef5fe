/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mail/mail.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

/* A copy that lives as long as the mail. */
static const void *keep(struct mail *mail, const void *array, size_t bytes)
{
    if (!array || !bytes)
        return NULL;
    if (mail->n_owned == mail->owned_capacity) {
        mail->owned_capacity = mail->owned_capacity * 2 + 16;
        mail->owned = must(realloc(mail->owned, mail->owned_capacity * sizeof *mail->owned));
    }
    void *copy = must(malloc(bytes));
    memcpy(copy, array, bytes);
    mail->owned[mail->n_owned++] = copy;
    return copy;
}

static void keep_inventory(struct mail *mail, struct smoe_msg_inventory *m)
{
    struct smoe_inventory_layer layers[SMOE_LAYERS_MAX];
    for (size_t i = 0; i < m->n_layers; i++) {
        layers[i] = m->layers[i];
        layers[i].experts =
            keep(mail, layers[i].experts, layers[i].n_experts * sizeof *layers[i].experts);
    }
    m->layers = keep(mail, layers, m->n_layers * sizeof *layers);
}

static void keep_norms(struct mail *mail, struct smoe_msg_step_norm *m)
{
    struct smoe_layer_norms layers[SMOE_LAYERS_MAX];
    for (size_t i = 0; i < m->n_layers; i++) {
        layers[i] = m->layers[i];
        layers[i].experts = keep(mail, layers[i].experts, layers[i].n * sizeof *layers[i].experts);
        layers[i].square_norms =
            keep(mail, layers[i].square_norms, layers[i].n * sizeof *layers[i].square_norms);
    }
    m->layers = keep(mail, layers, m->n_layers * sizeof *layers);
}

static void keep_gradients(struct mail *mail, struct smoe_msg_step_prepare *m)
{
    struct smoe_layer_experts layers[SMOE_LAYERS_MAX];
    for (size_t i = 0; i < m->n_gradients; i++) {
        layers[i] = m->gradients[i];
        layers[i].experts = keep(mail, layers[i].experts, layers[i].n * sizeof *layers[i].experts);
    }
    m->gradients = keep(mail, layers, m->n_gradients * sizeof *layers);
}

static void keep_arrays(struct mail *mail, struct smoe_message *m)
{
#define KEEP(array, n) array = keep(mail, array, (n) * sizeof *(array))
    switch ((unsigned)m->type) {
    case SMOE_MSG_STEP:
        KEEP(m->step.batches, m->step.n_batches);
        break;
    case SMOE_MSG_HOST:
        KEEP(m->host.experts, m->host.n_experts);
        KEEP(m->host.copies, m->host.n_copies);
        break;
    case SMOE_MSG_DECISION:
        KEEP(m->decision.parcels, m->decision.n_parcels);
        break;
    case SMOE_MSG_BACKPROP:
        KEEP(m->backprop.parcels, m->backprop.n_parcels);
        break;
    case SMOE_MSG_RESET:
        KEEP(m->reset.layers, m->reset.n_layers);
        break;
    case SMOE_MSG_FORGET:
        KEEP(m->forget.parcels, m->forget.n_parcels);
        break;
    case SMOE_MSG_EVICTED:
        KEEP(m->evicted.parcels, m->evicted.n_parcels);
        break;
    case SMOE_MSG_PARCEL_INPUTS:
        KEEP(m->parcel_inputs.parcels, m->parcel_inputs.n_parcels);
        break;
    case SMOE_MSG_STEP_PREPARE:
        KEEP(m->step_prepare.layers, m->step_prepare.n_layers);
        keep_gradients(mail, &m->step_prepare);
        break;
    case SMOE_MSG_INVENTORY:
        keep_inventory(mail, &m->inventory);
        break;
    case SMOE_MSG_STEP_NORM:
        keep_norms(mail, &m->step_norm);
        break;
    case SMOE_MSG_PLACEMENT: /* names stay those of their machine */
        KEEP(m->placement.placement.workers, m->placement.placement.n_workers);
        KEEP(m->placement.placement.slots, m->placement.placement.n_workers);
        KEEP(m->placement.placement.experts, m->placement.placement.n_slots);
        KEEP(m->placement.placement.popularity, m->placement.placement.n_experts);
        break;
    default:
        break;
    }
#undef KEEP
}

void mail_add(struct mail *mail, uint32_t session, const struct smoe_message *m, const void *raw,
              size_t raw_bytes)
{
    if (mail->n == mail->capacity) {
        mail->capacity = mail->capacity * 2 + 64;
        mail->letters = must(realloc(mail->letters, mail->capacity * sizeof *mail->letters));
    }
    struct letter *l = &mail->letters[mail->n++];
    *l = (struct letter){.session = session, .m = *m, .raw_bytes = raw_bytes};
    keep_arrays(mail, &l->m);
    if (raw_bytes) {
        l->raw = must(malloc(raw_bytes));
        memcpy(l->raw, raw, raw_bytes);
    }
}

void mail_clear(struct mail *mail)
{
    for (size_t i = 0; i < mail->n; i++)
        free(mail->letters[i].raw);
    for (size_t i = 0; i < mail->n_owned; i++)
        free(mail->owned[i]);
    free(mail->letters);
    free(mail->owned);
    *mail = (struct mail){0};
}

static bool matches(const struct letter *l, uint32_t session, enum smoe_message_type type)
{
    return l->m.type == type && (session == ANYONE || l->session == session);
}

size_t mail_count(const struct mail *mail, uint32_t session, enum smoe_message_type type)
{
    size_t n = 0;
    for (size_t i = 0; i < mail->n; i++)
        n += matches(&mail->letters[i], session, type);
    return n;
}

const struct letter *mail_last(const struct mail *mail, uint32_t session,
                               enum smoe_message_type type)
{
    for (size_t i = mail->n; i > 0; i--)
        if (matches(&mail->letters[i - 1], session, type))
            return &mail->letters[i - 1];
    return NULL;
}

/* ---- the far end ---- */

void far_end_open(struct far_end *far, unsigned hears)
{
    *far = (struct far_end){.budget = {.max_bytes = SIZE_MAX}};
    if (smoe_wire_new(&far->wire))
        abort();
    smoe_channel_init(&far->ear, far->wire, &far->budget, hears, SIZE_MAX);
    far->ear.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    far->ear.tensor_bytes_max = SMOE_TENSOR_BYTES_MAX;
}

void far_end_close(struct far_end *far)
{
    smoe_channel_release(&far->ear);
    smoe_wire_free(far->wire);
    mail_clear(&far->mail);
    free(far->out);
    *far = (struct far_end){0};
}

void far_end_say(struct far_end *far, const struct smoe_message *m, const void *raw,
                 size_t raw_bytes)
{
    struct smoe_blob *blob = must(smoe_blob_new(&far->budget, raw_bytes));
    if (raw_bytes)
        memcpy(blob->data, raw, raw_bytes);
    struct smoe_segment segment = {blob, blob->data, raw_bytes};
    struct iovec iovec;
    if (smoe_channel_send(&far->ear, m, &segment, raw_bytes > 0))
        abort();
    smoe_blob_unref(blob);
    far->n_out = 0;
    while (smoe_outbox_peek(&far->ear.out, &iovec, 1)) {
        far->out = must(realloc(far->out, far->n_out + iovec.iov_len));
        memcpy(far->out + far->n_out, iovec.iov_base, iovec.iov_len);
        far->n_out += iovec.iov_len;
        smoe_outbox_consume(&far->ear.out, iovec.iov_len);
    }
}

static int take(void *context, const struct smoe_message *m, size_t bytes, struct smoe_why *why)
{
    (void)context, (void)m, (void)bytes, (void)why;
    return 0;
}

static int post(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                struct smoe_why *why)
{
    struct far_end *far = context;
    (void)why;
    mail_add(&far->mail, 0, m, blob ? blob->data : NULL, blob ? blob->bytes : 0);
    return 0;
}

void far_end_hear(struct far_end *far, const uint8_t *data, size_t n)
{
    struct smoe_channel_owner owner = {far, take, post};
    struct smoe_why why = {""};
    if (smoe_channel_receive(&far->ear, data, n, &owner, &why)) {
        fprintf(stderr, "said what may not be said: %s\n", why.text);
        abort();
    }
}
