/* SPDX-License-Identifier: Apache-2.0
 *
 * What writer and reader of safetensors share: the table of types, the rules for names, and sizes.
 */
#include "proto/safetensors.h"

#include <string.h>

#include "proto/safetensors_rules.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[SMOE_TENSOR_COUNT] = {
    [SMOE_TENSOR_F32] = {"F32", 4}, [SMOE_TENSOR_F64] = {"F64", 8}, [SMOE_TENSOR_U8] = {"U8", 1},
    [SMOE_TENSOR_I64] = {"I64", 8}, [SMOE_TENSOR_U64] = {"U64", 8},
};

const char *smoe_tensor_dtype_name(enum smoe_tensor_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t smoe_tensor_dtype_size(enum smoe_tensor_dtype dtype)
{
    return dtypes[dtype].size;
}

bool smoe_tensor_dtype_parse(const char *name, enum smoe_tensor_dtype *ret)
{
    for (enum smoe_tensor_dtype i = 0; i < SMOE_TENSOR_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *ret = i;
            return true;
        }
    }
    return false;
}

bool smoe_tensor_name_valid(const char *name)
{
    size_t n = 0;
    for (; name[n]; n++)
        if (n == SMOE_SAFETENSORS_NAME_MAX || name[n] < ' ' || name[n] > '~')
            return false;
    return n > 0;
}

bool smoe_tensor_size(const struct smoe_tensor *tensor, uint64_t *ret_bytes)
{
    uint64_t bytes = smoe_tensor_dtype_size(tensor->dtype);
    bool empty = false;
    for (unsigned i = 0; i < tensor->rank; i++) {
        empty = empty || tensor->shape[i] == 0;
        if (tensor->shape[i] && __builtin_mul_overflow(bytes, tensor->shape[i], &bytes))
            return false;
    }
    *ret_bytes = empty ? 0 : bytes;
    return bytes <= SMOE_SAFETENSORS_INTEGER_MAX;
}
