/* SPDX-License-Identifier: Apache-2.0
 *
 * From a list of tensors to the bytes of a file. Three steps: check everything and give each tensor its
 * place (widest type first, else in the order of the list); print the header, padded with spaces to a
 * multiple of 8; copy the data behind it.
 *
 * cJSON builds and escapes the header, but offsets and dimensions go in as text: cJSON prints numbers
 * near 2^53 with 15 digits.
 */
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/safetensors_rules.h"

/* One tensor's place in the data. */
struct place {
    const struct smoe_tensor *tensor;
    size_t index; /* in the caller's list: keeps the sort stable */
    uint64_t begin, end;
};

static int by_width(const void *a, const void *b)
{
    const struct place *p = a, *q = b;
    size_t width_p = smoe_tensor_dtype_size(p->tensor->dtype),
           width_q = smoe_tensor_dtype_size(q->tensor->dtype);
    if (width_p != width_q)
        return width_p > width_q ? -1 : 1;
    return (p->index > q->index) - (p->index < q->index);
}

static int by_name(const void *a, const void *b)
{
    const struct place *p = a, *q = b;
    return strcmp(p->tensor->name, q->tensor->name);
}

static int check_tensor(const struct smoe_tensor *tensor, struct smoe_why *why)
{
    uint64_t n_bytes;
    if (!smoe_tensor_name_valid(tensor->name) ||
        strcmp(tensor->name, SMOE_SAFETENSORS_METADATA_KEY) == 0)
        return smoe_fail(why, SMOE_EFIELD,
                         "tensor name \"%.64s\" is not 1..%d printable characters", tensor->name,
                         SMOE_SAFETENSORS_NAME_MAX);
    if (tensor->rank > SMOE_SAFETENSORS_RANK_MAX || !smoe_tensor_size(tensor, &n_bytes))
        return smoe_fail(why, SMOE_EFIELD, "tensor %s: more than %d dimensions or 2^53 bytes",
                         tensor->name, SMOE_SAFETENSORS_RANK_MAX);
    return 0;
}

static int check_metadata(const struct smoe_safetensors_content *content, struct smoe_why *why)
{
    if (content->n_metadata > SMOE_SAFETENSORS_METADATA_MAX)
        return smoe_fail(why, SMOE_EFIELD, "%zu metadata pairs, the limit is %d",
                         content->n_metadata, SMOE_SAFETENSORS_METADATA_MAX);
    for (size_t i = 0; i < content->n_metadata; i++) {
        const struct smoe_metadata *pair = &content->metadata[i];
        bool valid = smoe_tensor_name_valid(pair->key);
        for (const char *c = pair->value; *c; c++)
            valid = valid && ((*c >= ' ' && *c <= '~') || *c == '\n' || *c == '\t');
        if (!valid)
            return smoe_fail(why, SMOE_EFIELD, "metadata \"%.64s\" is not printable text",
                             pair->key);
        for (size_t j = 0; j < i; j++)
            if (strcmp(pair->key, content->metadata[j].key) == 0)
                return smoe_fail(why, SMOE_EEXIST, "metadata %s is given twice", pair->key);
    }
    return 0;
}

/* Checks all tensors and lays them out; places[n_tensors] end in the order of the file. */
static int lay_out(const struct smoe_safetensors_content *content, struct place *places,
                   uint64_t *ret_n_bytes, struct smoe_why *why)
{
    for (size_t i = 0; i < content->n_tensors; i++) {
        int rc = check_tensor(&content->tensors[i], why);
        if (rc)
            return rc;
        places[i] = (struct place){.tensor = &content->tensors[i], .index = i};
    }
    qsort(places, content->n_tensors, sizeof *places, by_name);
    for (size_t i = 1; i < content->n_tensors; i++)
        if (by_name(&places[i - 1], &places[i]) == 0)
            return smoe_fail(why, SMOE_EEXIST, "tensor %s is given twice", places[i].tensor->name);
    qsort(places, content->n_tensors, sizeof *places, by_width);
    uint64_t at = 0;
    for (size_t i = 0; i < content->n_tensors; i++) {
        uint64_t n_bytes;
        smoe_tensor_size(places[i].tensor, &n_bytes); /* at and n_bytes are at most 2^53 */
        places[i].begin = at;
        places[i].end = at += n_bytes;
        if (at > SMOE_SAFETENSORS_INTEGER_MAX)
            return smoe_fail(why, SMOE_EFIELD, "tensors of more than 2^53 bytes together");
    }
    *ret_n_bytes = at;
    return 0;
}

static bool add_integer(cJSON *array, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    return cJSON_AddItemToArray(array, cJSON_CreateRaw(text));
}

static bool add_tensor(cJSON *root, const struct place *place)
{
    const struct smoe_tensor *tensor = place->tensor;
    cJSON *object = cJSON_AddObjectToObject(root, tensor->name);
    if (!object || !cJSON_AddStringToObject(object, "dtype", smoe_tensor_dtype_name(tensor->dtype)))
        return false;
    cJSON *shape = cJSON_AddArrayToObject(object, "shape");
    for (unsigned i = 0; shape && i < tensor->rank; i++)
        if (!add_integer(shape, tensor->shape[i]))
            return false;
    cJSON *offsets = cJSON_AddArrayToObject(object, "data_offsets");
    return shape && offsets && add_integer(offsets, place->begin) &&
           add_integer(offsets, place->end);
}

static bool add_metadata(cJSON *root, const struct smoe_safetensors_content *content)
{
    if (!content->n_metadata)
        return true;
    cJSON *object = cJSON_AddObjectToObject(root, SMOE_SAFETENSORS_METADATA_KEY);
    for (size_t i = 0; object && i < content->n_metadata; i++)
        if (!cJSON_AddStringToObject(object, content->metadata[i].key, content->metadata[i].value))
            return false;
    return object;
}

/* The header's JSON, to be freed with cJSON_free; NULL when out of memory. */
static char *print_header(const struct smoe_safetensors_content *content,
                          const struct place *places)
{
    cJSON *root = cJSON_CreateObject();
    bool complete = root && add_metadata(root, content);
    for (size_t i = 0; complete && i < content->n_tensors; i++)
        complete = add_tensor(root, &places[i]);
    char *text = complete ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return text;
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t n)
{
    if (n)
        memcpy(at, bytes, n);
    return at + n;
}

/* prefix, header, padding, data */
static int assemble(const char *header, const struct place *places, size_t n_places,
                    uint64_t n_data, uint8_t **ret_bytes, size_t *ret_len)
{
    size_t text_len = strlen(header);
    uint64_t header_len = (text_len + 7) / 8 * 8;
    uint64_t len = SMOE_SAFETENSORS_PREFIX_BYTES + header_len + n_data;
    uint8_t *bytes = len <= PTRDIFF_MAX ? malloc((size_t)len) : NULL;
    if (!bytes)
        return SMOE_ENOMEMORY;
    uint8_t *at = put(bytes, &header_len, sizeof header_len);
    at = put(at, header, text_len);
    memset(at, ' ', header_len - text_len);
    at += header_len - text_len;
    for (size_t i = 0; i < n_places; i++)
        at = put(at, places[i].tensor->data, (size_t)(places[i].end - places[i].begin));
    *ret_bytes = bytes;
    *ret_len = (size_t)len;
    return 0;
}

static int build(const struct smoe_safetensors_content *content, struct place *places,
                 uint8_t **ret_bytes, size_t *ret_len, struct smoe_why *why)
{
    uint64_t n_data = 0;
    int rc = check_metadata(content, why);
    if (rc == 0)
        rc = lay_out(content, places, &n_data, why);
    if (rc)
        return rc;
    char *header = print_header(content, places);
    if (!header)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory for the header");
    if (strlen(header) > SMOE_SAFETENSORS_HEADER_MAX)
        rc = smoe_fail(why, SMOE_EFIELD, "%zu tensors make a header over %u bytes",
                       content->n_tensors, SMOE_SAFETENSORS_HEADER_MAX);
    else if (assemble(header, places, content->n_tensors, n_data, ret_bytes, ret_len))
        rc = smoe_fail(why, SMOE_ENOMEMORY, "out of memory for %" PRIu64 " bytes", n_data);
    cJSON_free(header);
    return rc;
}

int smoe_safetensors_build(const struct smoe_safetensors_content *content, uint8_t **ret_bytes,
                           size_t *ret_len, struct smoe_why *why)
{
    struct place *places = calloc(content->n_tensors + 1, sizeof *places);
    if (!places)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory for %zu tensors", content->n_tensors);
    int rc = build(content, places, ret_bytes, ret_len, why);
    free(places);
    return rc;
}
