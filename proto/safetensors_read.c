/* SPDX-License-Identifier: Apache-2.0
 *
 * From the bytes of a file to views of its tensors, total over all inputs. cJSON parses the header, but
 * it is laxer than JSON: it takes 00012, 1e3 and 1.5 where an integer is meant, control characters,
 * NUL in strings, duplicate keys and whatever follows the closing brace. So the header is looked at
 * twice:
 *
 *     1. scan_header: byte by byte, before cJSON: every number is an unsigned integer in its only
 *        spelling and at most 2^53 (so that cJSON's double is exact), no control characters, no NUL,
 *        neither raw nor as \u0000
 *     2. cJSON: syntax; behind the object only spaces
 *     3. the tree: a known type, 3 keys, each once; shape and offsets agree
 *     4. all tensors together: names distinct, ranges tile the data
 *
 * Memory is bounded by the header's limit: cJSON takes at most about 64 bytes for 2 of text. Names stay
 * in cJSON's tree, which lives as long as the views. One release frees everything, however far it got.
 */
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/safetensors_rules.h"

/* Where a tensor lies in the data. */
struct range {
    const char *name;
    uint64_t begin, end;
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Length of the unsigned integer at text[0..n), or 0 if there is none in its only spelling. */
static size_t scan_integer(const char *text, size_t n)
{
    uint64_t value = 0;
    size_t len = 0;
    for (; len < n && is_digit(text[len]); len++) {
        value = value * 10 + (uint64_t)(text[len] - '0');
        if (value > SMOE_SAFETENSORS_INTEGER_MAX || (len > 0 && text[0] == '0'))
            return 0;
    }
    bool goes_on = len < n && strchr(".eE+-", text[len]) && text[len];
    return goes_on ? 0 : len;
}

/* Length of the string that opens at text[0], quotes included, or 0 if it is not to be accepted. */
static size_t scan_string(const char *text, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if ((unsigned char)text[i] < 0x20)
            return 0;
        if (text[i] == '"')
            return i + 1;
        if (text[i] != '\\')
            continue;
        i++;
        if (n - i >= 5 && memcmp(text + i, "u0000", 5) == 0)
            return 0;
    }
    return 0;
}

static int scan_header(const char *text, size_t n, struct smoe_why *why)
{
    for (size_t i = 0, len; i < n; i += len) {
        char c = text[i];
        len = 1;
        if (c == '"')
            len = scan_string(text + i, n - i);
        else if (is_digit(c) || c == '-')
            len = scan_integer(text + i, n - i);
        else if ((unsigned char)c < 0x20 && c != '\t' && c != '\n' && c != '\r')
            len = 0;
        if (len == 0)
            return smoe_fail(
                why, SMOE_EDATA, "header byte %zu: %s", i,
                c == '"' ? "a string that does not end or holds a control character"
                : is_digit(c) || c == '-'
                    ? "a number that is not an integer in 0..2^53 without leading zeros"
                    : "a control character");
    }
    return 0;
}

/* The header's text. */
static int find_header(const uint8_t *bytes, size_t n_bytes, const char **ret_text, size_t *ret_len,
                       struct smoe_why *why)
{
    uint64_t len;
    if (n_bytes < SMOE_SAFETENSORS_PREFIX_BYTES)
        return smoe_fail(why, SMOE_EDATA, "%zu bytes, too short for a header length", n_bytes);
    memcpy(&len, bytes, sizeof len);
    if (len > SMOE_SAFETENSORS_HEADER_MAX)
        return smoe_fail(why, SMOE_EDATA, "a header of %" PRIu64 " bytes, the limit is %u", len,
                         SMOE_SAFETENSORS_HEADER_MAX);
    if (len > n_bytes - SMOE_SAFETENSORS_PREFIX_BYTES)
        return smoe_fail(why, SMOE_EDATA, "cut off: a header of %" PRIu64 " bytes in a file of %zu",
                         len, n_bytes);
    *ret_text = (const char *)bytes + SMOE_SAFETENSORS_PREFIX_BYTES;
    *ret_len = (size_t)len;
    if (len == 0 || (*ret_text)[0] != '{')
        return smoe_fail(why, SMOE_EDATA, "the header does not begin with '{'");
    return 0;
}

static int parse_json(const char *text, size_t len, cJSON **ret, struct smoe_why *why)
{
    int rc = scan_header(text, len, why);
    if (rc)
        return rc;
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, len, &end, false);
    if (!root)
        return smoe_fail(why, SMOE_EDATA, "the header is not JSON (or memory ran out) at byte %td",
                         end ? end - text : 0);
    while (end < text + len && *end == ' ')
        end++;
    if (end != text + len) {
        cJSON_Delete(root);
        return smoe_fail(why, SMOE_EDATA, "header byte %td: something follows the object",
                         end - text);
    }
    *ret = root;
    return 0;
}

/* All numbers passed scan_integer, so the double is an exact integer in 0..2^53. */
static bool read_integers(const cJSON *array, size_t max, uint64_t *ret, size_t *ret_n)
{
    const cJSON *item;
    *ret_n = 0;
    if (!cJSON_IsArray(array))
        return false;
    cJSON_ArrayForEach(item, array)
    {
        if (*ret_n == max || !cJSON_IsNumber(item))
            return false;
        ret[(*ret_n)++] = (uint64_t)item->valuedouble;
    }
    return true;
}

/* dtype and shape */
static int read_type(const cJSON *object, struct smoe_tensor *t, struct smoe_why *why)
{
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(object, "dtype");
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(object, "shape");
    size_t rank;
    if (!cJSON_IsString(dtype) || !smoe_tensor_dtype_parse(dtype->valuestring, &t->dtype))
        return smoe_fail(why, SMOE_EDATA,
                         "tensor %.99s: dtype %.16s is not F32, F64, U8, I64 or U64", t->name,
                         cJSON_IsString(dtype) ? dtype->valuestring : "(not a string)");
    if (!read_integers(shape, SMOE_SAFETENSORS_RANK_MAX, t->shape, &rank))
        return smoe_fail(why, SMOE_EDATA, "tensor %.99s: shape is not at most %d integers", t->name,
                         SMOE_SAFETENSORS_RANK_MAX);
    t->rank = (unsigned)rank;
    if (!smoe_tensor_size(t, &t->n_bytes))
        return smoe_fail(why, SMOE_EDATA, "tensor %.99s: a shape of more than 2^53 bytes", t->name);
    return 0;
}

static int read_range(const cJSON *object, const struct smoe_tensor *t, uint64_t n_data,
                      struct range *ret, struct smoe_why *why)
{
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(object, "data_offsets");
    uint64_t at[2];
    size_t n;
    if (!read_integers(offsets, 2, at, &n) || n != 2)
        return smoe_fail(why, SMOE_EDATA, "tensor %.99s: data_offsets are not two integers",
                         t->name);
    if (at[0] > at[1] || at[1] > n_data)
        return smoe_fail(why, SMOE_EDATA,
                         "tensor %.99s: data_offsets %" PRIu64 "..%" PRIu64 " in %" PRIu64
                         " bytes of data",
                         t->name, at[0], at[1], n_data);
    if (at[1] - at[0] != t->n_bytes)
        return smoe_fail(why, SMOE_EDATA,
                         "tensor %.99s: its shape takes %" PRIu64
                         " bytes, its data_offsets hold %" PRIu64,
                         t->name, t->n_bytes, at[1] - at[0]);
    *ret = (struct range){.name = t->name, .begin = at[0], .end = at[1]};
    return 0;
}

static int read_tensor(const cJSON *object, const uint8_t *data, uint64_t n_data,
                       struct smoe_tensor *ret, struct range *ret_range, struct smoe_why *why)
{
    struct smoe_tensor t = {.name = object->string};
    if (!smoe_tensor_name_valid(t.name))
        return smoe_fail(why, SMOE_EDATA, "tensor name \"%.64s\" is not 1..%d printable characters",
                         t.name, SMOE_SAFETENSORS_NAME_MAX);
    /* With the three found below, three members mean that none is there twice. */
    if (!cJSON_IsObject(object) || cJSON_GetArraySize(object) != 3)
        return smoe_fail(why, SMOE_EDATA,
                         "tensor %.99s: not an object of dtype, shape and data_offsets", t.name);
    int rc = read_type(object, &t, why);
    if (rc == 0)
        rc = read_range(object, &t, n_data, ret_range, why);
    if (rc)
        return rc;
    t.data = data + ret_range->begin;
    *ret = t;
    return 0;
}

static int read_metadata(const cJSON *object, struct smoe_safetensors *file, struct smoe_why *why)
{
    const cJSON *item;
    if (!cJSON_IsObject(object) || file->metadata)
        return smoe_fail(why, SMOE_EDATA, "__metadata__ is not an object, or is there twice");
    if (cJSON_GetArraySize(object) > SMOE_SAFETENSORS_METADATA_MAX)
        return smoe_fail(why, SMOE_EDATA, "__metadata__ has more than %d pairs",
                         SMOE_SAFETENSORS_METADATA_MAX);
    file->metadata = calloc(SMOE_SAFETENSORS_METADATA_MAX, sizeof *file->metadata);
    if (!file->metadata)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory for metadata");
    cJSON_ArrayForEach(item, object)
    {
        if (!cJSON_IsString(item) || !smoe_tensor_name_valid(item->string))
            return smoe_fail(why, SMOE_EDATA, "metadata \"%.64s\": not a name with a string",
                             item->string);
        if (smoe_safetensors_metadata(file, item->string))
            return smoe_fail(why, SMOE_EDATA, "metadata %.99s is there twice", item->string);
        file->metadata[file->n_metadata++] =
            (struct smoe_metadata){.key = item->string, .value = item->valuestring};
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct smoe_tensor *)a)->name, ((const struct smoe_tensor *)b)->name);
}

static int by_begin(const void *a, const void *b)
{
    const struct range *p = a, *q = b;
    if (p->begin != q->begin)
        return p->begin < q->begin ? -1 : 1;
    return (p->end > q->end) - (p->end < q->end); /* an empty one before the one it touches */
}

static int check_names(const struct smoe_safetensors *file, struct smoe_why *why)
{
    for (size_t i = 1; i < file->n_tensors; i++)
        if (by_name(&file->tensors[i - 1], &file->tensors[i]) == 0)
            return smoe_fail(why, SMOE_EDATA, "tensor %.99s is there twice", file->tensors[i].name);
    return 0;
}

static int check_tiling(struct range *ranges, size_t n, uint64_t n_data, struct smoe_why *why)
{
    uint64_t at = 0;
    qsort(ranges, n, sizeof *ranges, by_begin);
    for (size_t i = 0; i < n; i++) {
        if (ranges[i].begin != at)
            return smoe_fail(why, SMOE_EDATA,
                             "tensor %.99s begins at %" PRIu64
                             ", the data before it ends at %" PRIu64,
                             ranges[i].name, ranges[i].begin, at);
        at = ranges[i].end;
    }
    if (at != n_data)
        return smoe_fail(why, SMOE_EDATA,
                         "the tensors end at %" PRIu64 " of %" PRIu64 " bytes of data", at, n_data);
    return 0;
}

/* Fills file->tensors and metadata from file->json; `ranges` has room for as many. */
static int read_tree(struct smoe_safetensors *file, struct range *ranges, const uint8_t *data,
                     uint64_t n_data, struct smoe_why *why)
{
    const cJSON *item;
    int rc = 0;
    cJSON_ArrayForEach(item, file->json)
    {
        size_t i = file->n_tensors;
        if (strcmp(item->string, SMOE_SAFETENSORS_METADATA_KEY) == 0)
            rc = read_metadata(item, file, why);
        else if ((rc = read_tensor(item, data, n_data, &file->tensors[i], &ranges[i], why)) == 0)
            file->n_tensors++;
        if (rc)
            return rc;
    }
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_name);
    rc = check_names(file, why);
    return rc ? rc : check_tiling(ranges, file->n_tensors, n_data, why);
}

/* Fills a zeroed `file`; on failure the caller releases what is there. */
static int parse(const uint8_t *bytes, size_t n_bytes, struct smoe_safetensors *file,
                 struct smoe_why *why)
{
    const char *text = NULL;
    size_t len = 0;
    int rc = find_header(bytes, n_bytes, &text, &len, why);
    if (rc == 0)
        rc = parse_json(text, len, &file->json, why);
    if (rc)
        return rc;
    size_t members = (size_t)cJSON_GetArraySize(file->json);
    struct range *ranges = calloc(members + 1, sizeof *ranges);
    file->tensors = calloc(members + 1, sizeof *file->tensors);
    size_t before_data = SMOE_SAFETENSORS_PREFIX_BYTES + len;
    if (ranges && file->tensors)
        rc = read_tree(file, ranges, bytes + before_data, n_bytes - before_data, why);
    else
        rc = smoe_fail(why, SMOE_ENOMEMORY, "out of memory for %zu tensors", members);
    free(ranges);
    return rc;
}

int smoe_safetensors_parse(const void *bytes, size_t n_bytes, struct smoe_safetensors *ret,
                           struct smoe_why *why)
{
    struct smoe_safetensors file = {0};
    int rc = parse(bytes, n_bytes, &file, why);
    if (rc)
        smoe_safetensors_release(&file);
    else
        *ret = file;
    return rc;
}

void smoe_safetensors_release(struct smoe_safetensors *file)
{
    free(file->tensors);
    free(file->metadata);
    cJSON_Delete(file->json);
    *file = (struct smoe_safetensors){0};
}

const struct smoe_tensor *smoe_safetensors_find(const struct smoe_safetensors *file,
                                                const char *name)
{
    struct smoe_tensor key = {.name = name};
    if (!file->n_tensors)
        return NULL;
    return bsearch(&key, file->tensors, file->n_tensors, sizeof key, by_name);
}

const char *smoe_safetensors_metadata(const struct smoe_safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->n_metadata; i++)
        if (strcmp(file->metadata[i].key, key) == 0)
            return file->metadata[i].value;
    return NULL;
}
