/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of wire: what the files that translate messages share. A reader checks field after field and
 * stops at the first that is wrong; `struct smoe_reader` remembers the message's name for the sentence
 * and the arena for arrays.
 */
#ifndef SMOE_PROTO_WIRE_FIELDS_H
#define SMOE_PROTO_WIRE_FIELDS_H

#include "proto/arena.h"
#include "proto/stablemoe.pb-c.h"
#include "proto/wire.h"

struct smoe_reader {
    const char *message; /* "SUBMIT" */
    struct smoe_arena *arena;
    struct smoe_why *why;
};

/* Each returns 0, or a code after writing `MESSAGE.field ...` into why. */
int smoe_check_range(struct smoe_reader *r, const char *field, uint64_t value, uint64_t min,
                     uint64_t max);
int smoe_check_double(struct smoe_reader *r, const char *field, double value, double min,
                      double max);
int smoe_check_fraction(struct smoe_reader *r, const char *field, double value); /* [0, 1) */
int smoe_check_rising(struct smoe_reader *r, const char *field, size_t n, const uint32_t *values,
                      uint32_t bound);
int smoe_read_name(struct smoe_reader *r, const char *field, const char *text, smoe_name ret);

/* Text for people: never refused; what is not printable ASCII becomes '?', what is too long is cut. */
void smoe_read_text(const char *text, char *ret, size_t cap);

/* The experts of one worker over all its layers, as far as they were counted. */
int smoe_check_experts(struct smoe_reader *r, uint64_t experts);

/* Pieces of a worker over all its layers, as far as they were counted. */
int smoe_check_pieces(struct smoe_reader *r, size_t n_offsets, const uint64_t *offsets,
                      size_t n_lengths, const uint64_t *lengths, uint64_t pieces);

/* An array of n pointers to n objects, as protobuf-c wants repeated messages. NULL when full. */
void **smoe_new_objects(struct smoe_arena *arena, size_t n, size_t object_bytes);

/* protobuf-c's fields are not const although packing only reads them. */
void *smoe_unconst(const void *p);

/* One pair a message: fill makes protobuf from ours (may take arrays from the arena), read validates
 * protobuf into ours. fill returns SMOE_ETOOBIG when the arena is full. */
#define X(symbol, number, field, pb, senders, raw)                                    \
    int smoe_fill_##field(struct smoe_arena *arena, const struct smoe_msg_##field *m, \
                          Stablemoe__V1__##pb *p);                                    \
    int smoe_read_##field(struct smoe_reader *r, const Stablemoe__V1__##pb *p,        \
                          struct smoe_msg_##field *m);
SMOE_MESSAGE_MAP(X)
#undef X

/* Parts that several messages share. */
void smoe_fill_peers(const struct smoe_peer_list *m, size_t *ret_n, uint32_t **ret);
int smoe_read_peers(struct smoe_reader *r, const char *field, size_t n, const uint32_t *peers,
                    struct smoe_peer_list *m);
void smoe_fill_shape(const struct smoe_layer_shape *m, Stablemoe__V1__LayerShape *p);
int smoe_read_shape(struct smoe_reader *r, const Stablemoe__V1__LayerShape *p,
                    struct smoe_layer_shape *m);
/* NULL for version 0. SMOE_ETOOBIG when the arena is full. */
int smoe_fill_head(struct smoe_arena *arena, const struct smoe_frozen_head *m,
                   Stablemoe__V1__RouterHead **ret);
int smoe_read_head(struct smoe_reader *r, const Stablemoe__V1__RouterHead *p,
                   struct smoe_frozen_head *m);
void smoe_fill_step_optimizer(const struct smoe_step_optimizer *m, Stablemoe__V1__Optimizer *p);
int smoe_read_step_optimizer(struct smoe_reader *r, const Stablemoe__V1__Optimizer *p,
                             struct smoe_step_optimizer *m);

#endif
