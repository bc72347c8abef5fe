/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf-c's unpack and ours, side by side on the same bytes, and what both pack of the message again.
 */
#ifndef SMOE_TEST_FLAT_TWIN_H
#define SMOE_TEST_FLAT_TWIN_H

#include <protobuf-c/protobuf-c.h>

/* Flat messages of the protocol: together they have fields of all types that there are. */
extern const ProtobufCMessageDescriptor *const flat_twin_messages[];
extern const size_t flat_twin_n_messages;

/* NULL when both refuse the bytes or both give the same message, else what they disagree on. On return
 * `*ret_taken`: they were not refused. Bodies of up to 64 KiB. */
const char *flat_twin_difference(const ProtobufCMessageDescriptor *descriptor, const uint8_t *body,
                                 size_t bytes, int *ret_taken);

#endif
