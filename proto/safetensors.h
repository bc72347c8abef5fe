/* SPDX-License-Identifier: Apache-2.0
 *
 * The safetensors format, pure over memory: a list of tensors to a file's bytes, and a file's bytes to
 * views of its tensors. A file is
 *
 *     u64 little-endian: H, the length of the header
 *     H bytes: JSON {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ...},
 *         perhaps with "__metadata__": {"key": "text", ..}; padded with spaces
 *     the data, to which data_offsets are relative, without gap or overlap; little-endian, row-major
 *
 * Reading trusts nothing: the same file a stranger sent is either understood wholly or refused with a
 * sentence that names the tensor and the limit. Files and directories are the caller's affair
 * (common/io/file.h).
 */
#ifndef SMOE_PROTO_SAFETENSORS_H
#define SMOE_PROTO_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define SMOE_SAFETENSORS_HEADER_MAX   (1u << 20) /* bytes of JSON, padding included */
#define SMOE_SAFETENSORS_NAME_MAX     255        /* bytes of a tensor's name or a metadata key */
#define SMOE_SAFETENSORS_METADATA_MAX 256        /* pairs */
#define SMOE_SAFETENSORS_RANK_MAX     8          /* dimensions */

enum smoe_tensor_dtype {
    SMOE_TENSOR_F32,
    SMOE_TENSOR_F64,
    SMOE_TENSOR_U8,
    SMOE_TENSOR_I64,
    SMOE_TENSOR_U64,
    SMOE_TENSOR_COUNT,
};

const char *smoe_tensor_dtype_name(enum smoe_tensor_dtype dtype); /* "F32" */
size_t smoe_tensor_dtype_size(enum smoe_tensor_dtype dtype);      /* bytes of one element */

/* One tensor, to be written or found in a file. Borrowed: name and data belong to somebody else. */
struct smoe_tensor {
    const char
        *name; /* 1..SMOE_SAFETENSORS_NAME_MAX bytes of printable ASCII, not "__metadata__" */
    enum smoe_tensor_dtype dtype;
    unsigned rank;                             /* 0 (a scalar) .. SMOE_SAFETENSORS_RANK_MAX */
    uint64_t shape[SMOE_SAFETENSORS_RANK_MAX]; /* a 0 makes an empty tensor */
    const void *data; /* bytes of all elements; in a view not necessarily aligned: memcpy */
    uint64_t n_bytes; /* set by the reader; ignored by the writer, which takes it from the shape */
};

struct smoe_metadata {
    const char *key;   /* printable ASCII, 1..SMOE_SAFETENSORS_NAME_MAX bytes */
    const char *value; /* written: printable ASCII, '\n' and '\t'; read: anything but NUL */
};

/* What is to be written, borrowed until smoe_safetensors_build returns. */
struct smoe_safetensors_content {
    const struct smoe_tensor *tensors;
    size_t n_tensors;
    const struct smoe_metadata *metadata;
    size_t n_metadata;
};

/* Makes the file's bytes; `*ret_bytes` is the caller's to free. Wider types stand first, so that every
 * tensor is aligned in the file. The same content gives the same bytes. SMOE_EFIELD for a name, shape
 * or number of tensors that the reader would refuse, SMOE_EEXIST for a name used twice,
 * SMOE_ENOMEMORY. */
int smoe_safetensors_build(const struct smoe_safetensors_content *content, uint8_t **ret_bytes,
                           size_t *ret_len, struct smoe_why *why);

struct cJSON;

/* A file that was understood. Views point into the bytes given to _parse, which must outlive it. */
struct smoe_safetensors {
    struct smoe_tensor *tensors; /* owned; sorted by name */
    size_t n_tensors;
    struct smoe_metadata *metadata; /* owned; in the file's order */
    size_t n_metadata;
    struct cJSON *json; /* owned; holds every name, key and value */
};

/* 0, SMOE_EDATA with a sentence, or SMOE_ENOMEMORY; `*ret` is written only on success. */
int smoe_safetensors_parse(const void *bytes, size_t n_bytes, struct smoe_safetensors *ret,
                           struct smoe_why *why);
void smoe_safetensors_release(struct smoe_safetensors *file);

/* NULL if there is none of that name. */
const struct smoe_tensor *smoe_safetensors_find(const struct smoe_safetensors *file,
                                                const char *name);
const char *smoe_safetensors_metadata(const struct smoe_safetensors *file, const char *key);

#endif
