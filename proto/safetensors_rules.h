/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules that the writer obeys and the reader enforces. Internal to proto/safetensors*.c.
 */
#ifndef SMOE_PROTO_SAFETENSORS_RULES_H
#define SMOE_PROTO_SAFETENSORS_RULES_H

#include <stdbool.h>

#include "proto/safetensors.h"

#define SMOE_SAFETENSORS_METADATA_KEY "__metadata__"
#define SMOE_SAFETENSORS_PREFIX_BYTES 8
/* JSON numbers are doubles to most readers, ours included: beyond 2^53 they are not exact. */
#define SMOE_SAFETENSORS_INTEGER_MAX (UINT64_C(1) << 53)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor data is little-endian as it is");

bool smoe_tensor_dtype_parse(const char *name, enum smoe_tensor_dtype *ret);
bool smoe_tensor_name_valid(const char *name);

/* Bytes of all elements; false if they exceed SMOE_SAFETENSORS_INTEGER_MAX. Dimensions count even
 * beside a 0, so that no product of them overflows anywhere else. */
bool smoe_tensor_size(const struct smoe_tensor *tensor, uint64_t *ret_bytes);

#endif
