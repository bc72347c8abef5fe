/* SPDX-License-Identifier: Apache-2.0
 *
 * A scene whose workers hold a sharded layer together and give each other parts of it, over direct links or through the
 * core, when the test lets them. Worker i is called w0, w1, ..; the trainer owns the layer.
 */
#ifndef SMOE_TEST_LINKED_H
#define SMOE_TEST_LINKED_H

#include "tests/unit/core/scene.h"

enum { LINKED_MAX = 17 };

struct linked {
    struct scene scene;
    uint32_t n, sessions[LINKED_MAX]; /* worker i is the core's number i, too */
    uint32_t trainer, layer;
    size_t heard, met; /* letters that the test, and linked_up, have gone through */
};

/* Of options whose layers are sharded, with links; the test changes what it wants to. */
struct smoe_core_options linked_options(uint32_t workers);
/* Workers join, with two slots each; nobody's address is known where `places` is NULL or has NULL. */
void linked_begin(struct linked *l, const struct smoe_core_options *options, uint32_t workers,
                  const char *const *places);
void linked_end(struct linked *l);
uint32_t linked_worker(struct linked *l, const char *name, const char *place);
/* Declares the layer and waits for it: experts of so many parameters, all of them made from the seed. */
void linked_layer(struct linked *l, uint32_t experts, uint32_t d_model, uint32_t d_ff);
/* Both ends of every link that workers were told of since the last time say that it is up. */
void linked_up(struct linked *l);
/* One end says that its link is up, or that it is not. */
void linked_state(struct linked *l, uint32_t worker, const struct smoe_msg_peer *peer, bool up);
/* A batch is submitted, its gradients are given, and the step is asked for: the exchange of gradients begins. */
void linked_step(struct linked *l, uint64_t step);

/* One worker's number by its session; it must be one. */
uint32_t linked_number(const struct linked *l, uint32_t session);
/* The core's transfer that `ask` began is sent by its worker: to the peers over links, to the others through
 * the core. */
void linked_send(struct linked *l, uint32_t from, const struct smoe_msg_shard_ask *ask);
void linked_taken(struct linked *l, uint32_t worker, uint64_t number);

#endif
