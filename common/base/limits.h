/* SPDX-License-Identifier: Apache-2.0
 *
 * Hard limits of the system: what no configuration can raise. Each is checked where the value
 * enters (proto/wire, common/io/config) and named in the error that refuses it.
 */
#ifndef SMOE_BASE_LIMITS_H
#define SMOE_BASE_LIMITS_H

#include <stdint.h>

#define SMOE_FREQ_STATES_MAX 31   /* P-states of a worker that are told apart */
#define SMOE_NAME_MAX        63   /* bytes of a worker, trainer or layer name, without NUL */
#define SMOE_TOP_K_MAX       8    /* experts a token visits */
#define SMOE_ROUTE_GAP_MAX   0.01 /* what a slot may be worth less than the best, of K N V mu */
#define SMOE_STALENESS_MAX   1    /* steps that a batch may be ahead of */
#define SMOE_EXPERTS_MAX     1024 /* experts of one layer */
#define SMOE_LAYERS_MAX      64   /* layers the daemon holds */
#define SMOE_WORKER_EXPERTS_MAX \
    4096 /* experts of one worker: Inventory and StepNorm list them all */
#define SMOE_WORKER_PIECES_MAX  2048 /* of optimizer state on one worker: Inventory lists them all */
#define SMOE_LAYER_REPLICAS_MAX 4096  /* hosts of all experts of a sharded layer together */
#define SMOE_DIM_MAX            65536 /* d_model and d_ff */
#define SMOE_PARAMETERS_MAX \
    (UINT64_C(1) << 34)                  /* of one expert: three matrices of DIM_MAX^2 are fewer */
#define SMOE_BATCH_TOKENS_MAX     262144 /* tokens of one Submit */
#define SMOE_BATCH_ID_MAX         ((UINT64_C(1) << 48) - 1)
#define SMOE_STEP_BATCHES_MAX     1024  /* batches one Step may name */
#define SMOE_PARCEL_ROWS_MAX      4096  /* visits of one parcel */
#define SMOE_DECISION_PARCELS_MAX 1024  /* parcels of one Decision frame */
#define SMOE_WORKERS_MAX          16384 /* workers of one daemon */
#define SMOE_TRAINERS_MAX         256   /* trainers of one daemon */
#define SMOE_TRANSFERS_MAX \
    256 /* ranges of sharded layers under way; two numbers equal modulo it: one is over */
#define SMOE_TRANSFER_PEERS_MAX 32  /* workers that one gives a range to by itself */
#define SMOE_WORKER_LINKS_MAX   255 /* direct links of one worker */
#define SMOE_ADDRESS_MAX        63  /* bytes of a worker's ADDR:PORT, without NUL */

#define SMOE_PREHELLO_BYTES_MAX (1u << 10)  /* protobuf part before hello */
#define SMOE_CONTROL_BYTES_MAX  (64u << 10) /* protobuf part afterwards */
#define SMOE_TENSOR_BYTES_MAX   (1u << 30)  /* raw part, an upper bound of what hello negotiates */

#endif
