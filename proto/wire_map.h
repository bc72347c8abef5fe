/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of messages: who may send what, and with a raw part or without (wire.h includes it). It stands here
 * once, for codecs, gateway, workers, trainers and the simulator alike.
 */
#ifndef SMOE_PROTO_WIRE_MAP_H
#define SMOE_PROTO_WIRE_MAP_H

/* Who may send a message, as bits. */
#define SMOE_BY_WORKER  1u /* worker to daemon */
#define SMOE_BY_TRAINER 2u /* trainer to daemon */
#define SMOE_TO_WORKER  4u /* daemon to worker */
#define SMOE_TO_TRAINER 8u /* daemon to trainer */
#define SMOE_ANY_SIDE   15u
#define SMOE_BY_LINK    16u /* worker to worker */
#define SMOE_BY_DAEMON  (SMOE_TO_WORKER | SMOE_TO_TRAINER)
#define SMOE_BY_PEER    (SMOE_BY_WORKER | SMOE_BY_TRAINER)

/* symbol, type number, struct/field, protobuf message, senders, raw part: none, optional or must */
#define SMOE_MESSAGE_MAP(X)                                                                   \
    X(HELLO, 1, hello, Hello, SMOE_BY_PEER, NONE)                                             \
    X(WELCOME, 2, welcome, Welcome, SMOE_BY_DAEMON, NONE)                                     \
    X(ERROR, 3, error, Error, SMOE_ANY_SIDE, NONE)                                            \
    X(PING, 4, ping, Ping, SMOE_ANY_SIDE, NONE)                                               \
    X(PONG, 5, pong, Pong, SMOE_ANY_SIDE, NONE)                                               \
    X(BYE, 6, bye, Bye, SMOE_ANY_SIDE, NONE)                                                  \
    X(LAYER_DECLARE, 16, layer_declare, LayerDeclare, SMOE_BY_TRAINER, NONE)                  \
    X(LAYER_READY, 17, layer_ready, LayerReady, SMOE_TO_TRAINER, NONE)                        \
    X(SUBMIT, 18, submit, Submit, SMOE_BY_TRAINER, MUST)                                      \
    X(RESULT, 19, result, Result, SMOE_TO_TRAINER, MUST)                                      \
    X(GRADIENT, 20, gradient, Gradient, SMOE_BY_TRAINER, MUST)                                \
    X(INPUT_GRADIENT, 21, input_gradient, InputGradient, SMOE_TO_TRAINER, MUST)               \
    X(STEP, 22, step, Step, SMOE_BY_TRAINER, NONE)                                            \
    X(STEP_DONE, 23, step_done, StepDone, SMOE_TO_TRAINER, NONE)                              \
    X(DISCARD, 24, discard, Discard, SMOE_BY_TRAINER, NONE)                                   \
    X(CREDIT, 25, credit, Credit, SMOE_TO_TRAINER, NONE)                                      \
    X(NEED, 26, need, Need, SMOE_TO_TRAINER, NONE)                                            \
    X(RESTORE, 27, restore, Restore, SMOE_BY_TRAINER, NONE)                                   \
    X(NEED_INPUTS, 28, need_inputs, NeedInputs, SMOE_TO_TRAINER, NONE)                        \
    X(INPUTS, 29, inputs, Inputs, SMOE_BY_TRAINER, MUST)                                      \
    X(EXPERT_FETCH, 32, expert_fetch, ExpertFetch, SMOE_BY_TRAINER | SMOE_TO_WORKER, NONE)    \
    X(EXPERT_STATE, 33, expert_state, ExpertState, SMOE_BY_WORKER | SMOE_TO_TRAINER, MUST)    \
    X(EXPERT_STORE, 34, expert_store, ExpertStore, SMOE_BY_TRAINER | SMOE_TO_WORKER, MUST)    \
    X(EXPERT_STORED, 35, expert_stored, ExpertStored, SMOE_BY_WORKER | SMOE_TO_TRAINER, NONE) \
    X(INVENTORY, 48, inventory, Inventory, SMOE_BY_WORKER, NONE)                              \
    X(HOST, 49, host, Host, SMOE_TO_WORKER, NONE)                                             \
    X(HOSTED, 50, hosted, Hosted, SMOE_BY_WORKER, NONE)                                       \
    X(DECISION, 51, decision, Decision, SMOE_TO_WORKER, OPTIONAL)                             \
    X(OUTPUT, 52, output, Output, SMOE_BY_WORKER, MUST)                                       \
    X(BACKPROP, 53, backprop, Backprop, SMOE_TO_WORKER, MUST)                                 \
    X(PARCEL_GRADIENT, 54, parcel_gradient, ParcelGradient, SMOE_BY_WORKER, MUST)             \
    X(RESET, 55, reset, Reset, SMOE_TO_WORKER, NONE)                                          \
    X(REPORT, 56, report, Report, SMOE_BY_WORKER, NONE)                                       \
    X(STEP_PREPARE, 57, step_prepare, StepPrepare, SMOE_TO_WORKER, NONE)                      \
    X(STEP_NORM, 58, step_norm, StepNorm, SMOE_BY_WORKER, NONE)                               \
    X(STEP_STAGE, 59, step_stage, StepStage, SMOE_TO_WORKER, NONE)                            \
    X(STEP_STAGED, 60, step_staged, StepStaged, SMOE_BY_WORKER, NONE)                         \
    X(STEP_COMMIT, 61, step_commit, StepCommit, SMOE_TO_WORKER, NONE)                         \
    X(FORGET, 62, forget, Forget, SMOE_TO_WORKER, NONE)                                       \
    X(STEP_GRADIENT, 63, step_gradient, StepGradient, SMOE_BY_WORKER | SMOE_TO_WORKER, MUST)  \
    X(EVICTED, 64, evicted, Evicted, SMOE_BY_WORKER, NONE)                                    \
    X(PARCEL_INPUTS, 65, parcel_inputs, ParcelInputs, SMOE_TO_WORKER, MUST)                   \
    X(SHARD_ASK, 66, shard_ask, ShardAsk, SMOE_TO_WORKER, NONE)                               \
    X(SHARD_PART, 67, shard_part, ShardPart, SMOE_BY_WORKER | SMOE_TO_WORKER, MUST)           \
    X(SHARD_TAKEN, 68, shard_taken, ShardTaken, SMOE_BY_WORKER, NONE)                         \
    X(FREEZE, 80, freeze, Freeze, SMOE_BY_TRAINER, MUST)                                      \
    X(ROUTER_QUERY, 81, router_query, RouterQuery, SMOE_BY_PEER, NONE)                        \
    X(ROUTER_STATE, 82, router_state, RouterState, SMOE_BY_DAEMON, NONE)                      \
    X(ROUTING_REPORT, 83, routing_report, RoutingReport, SMOE_BY_TRAINER, NONE)               \
    X(PEER, 110, peer, Peer, SMOE_TO_WORKER, NONE)                                            \
    X(LINK_STATE, 111, link_state, LinkState, SMOE_BY_WORKER, NONE)                           \
    X(SHARD_DUE, 112, shard_due, ShardDue, SMOE_TO_WORKER, NONE)                              \
    X(SHARD_SENT, 113, shard_sent, ShardSent, SMOE_BY_WORKER, NONE)                           \
    X(LINK_HELLO, 114, link_hello, LinkHello, SMOE_BY_LINK, NONE)                             \
    X(LINK_PART, 115, link_part, LinkPart, SMOE_BY_LINK, MUST)                                \
    X(LINK_TAKEN, 116, link_taken, LinkTaken, SMOE_BY_LINK, NONE)                             \
    X(PLACEMENT_FETCH, 125, placement_fetch, PlacementFetch, SMOE_BY_TRAINER, NONE)           \
    X(PLACEMENT, 126, placement, Placement, SMOE_BY_TRAINER | SMOE_TO_TRAINER, NONE)

#endif
