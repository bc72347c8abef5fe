/* SPDX-License-Identifier: Apache-2.0
 *
 * Files that lie. Each is copied to memory of exactly its size, so that a sanitizer sees one byte read
 * too many, and what is refused must be refused with a sentence that names the place.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "proto/safetensors.h"

static struct smoe_why why;

/* What an accepted file promises: views inside the bytes, sizes that agree, together all the data. */
static void check_views(const struct smoe_safetensors *file, const uint8_t *bytes, size_t len)
{
    uint64_t total = 0, header;
    memcpy(&header, bytes, sizeof header);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct smoe_tensor *t = &file->tensors[i];
        const uint8_t *data = t->data;
        cr_assert(data >= bytes + 8 + header && data + t->n_bytes <= bytes + len);
        uint64_t size = smoe_tensor_dtype_size(t->dtype);
        for (unsigned r = 0; r < t->rank; r++)
            size *= t->shape[r];
        cr_assert_eq(size, t->n_bytes);
        cr_assert(i == 0 || strcmp(file->tensors[i - 1].name, t->name) < 0);
        total += t->n_bytes;
    }
    cr_assert_eq(total, len - 8 - header);
}

/* Parses a copy; 0 or the error, having checked what must hold in either case. */
static int parse(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    struct smoe_safetensors file = {0};
    why.text[0] = 0;
    memcpy(copy, bytes, len);
    int rc = smoe_safetensors_parse(copy, len, &file, &why);
    if (rc == 0)
        check_views(&file, copy, len);
    else
        cr_assert(rc == SMOE_EDATA && why.text[0] && !file.tensors && !file.json);
    smoe_safetensors_release(&file);
    free(copy);
    return rc;
}

/* A file of the given header text and n_data bytes of data. */
static int parse_text(const char *header, size_t n_data)
{
    uint8_t bytes[2048] = {0};
    uint64_t len = strlen(header);
    memcpy(bytes, &len, sizeof len);
    memcpy(bytes + 8, header, len);
    return parse(bytes, 8 + len + n_data);
}

static void refused(const char *header, size_t n_data, const char *sentence)
{
    cr_assert_eq(parse_text(header, n_data), SMOE_EDATA, "accepted: %s", header);
    cr_assert_not_null(strstr(why.text, sentence), "%s\n  says: %s\n  not: %s", header, why.text,
                       sentence);
}

#define TENSOR(name, type, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const char GOOD[] = "{" TENSOR("a", "F32", "[2,1]", "[0,8]") "," TENSOR(
    "b", "U8", "[3]", "[8,11]") ",\"__metadata__\":{\"k\":\"v\\n\",\"l\":\"\"}}  ";

Test(safetensors_hostile, the_good_file_is_accepted)
{
    cr_assert_eq(parse_text(GOOD, 11), 0, "%s", why.text);
}

static size_t good_file(uint8_t *ret)
{
    uint64_t len = sizeof GOOD - 1;
    memcpy(ret, &len, sizeof len);
    memcpy(ret + 8, GOOD, len);
    memset(ret + 8 + len, 7, 11);
    return 8 + len + 11;
}

Test(safetensors_hostile, a_file_cut_anywhere_is_refused)
{
    uint8_t bytes[512];
    size_t len = good_file(bytes);
    for (size_t n = 0; n < len; n++)
        cr_assert_eq(parse(bytes, n), SMOE_EDATA, "cut at %zu", n);
    bytes[len] = 0;
    cr_assert_eq(parse(bytes, len + 1), SMOE_EDATA, "one byte too many");
}

Test(safetensors_hostile, any_other_byte_anywhere_is_refused_or_harmless)
{
    uint8_t bytes[512];
    size_t len = good_file(bytes), accepted = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t good = bytes[i];
        for (unsigned v = 0; v < 256; v++) {
            bytes[i] = (uint8_t)v;
            accepted += parse(bytes, len) == 0;
        }
        bytes[i] = good;
    }
    cr_assert_gt(accepted, len); /* itself and, say, other letters in names */
}

Test(safetensors_hostile, random_damage_is_refused_or_harmless)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, 0);
    for (int round = 0; round < 100000; round++) {
        uint8_t bytes[512];
        size_t len = good_file(bytes);
        for (uint64_t n = 1 + smoe_rng_below(&rng, 4); n > 0; n--) {
            size_t from = smoe_rng_below(&rng, len), to = smoe_rng_below(&rng, len);
            if (smoe_rng_below(&rng, 2))
                bytes[to] = bytes[from];
            else
                memmove(bytes + to, bytes + from, len - (from > to ? from : to));
        }
        parse(bytes, len - smoe_rng_below(&rng, 3));
    }
}

Test(safetensors_hostile, the_header_length_is_bounded)
{
    uint8_t bytes[16] = {0};
    uint64_t len = SMOE_SAFETENSORS_HEADER_MAX + 1;
    memcpy(bytes, &len, sizeof len);
    cr_assert_eq(parse(bytes, sizeof bytes), SMOE_EDATA);
    cr_assert_str_eq(why.text, "a header of 1048577 bytes, the limit is 1048576");
    len = UINT64_MAX;
    memcpy(bytes, &len, sizeof len);
    cr_assert_eq(parse(bytes, sizeof bytes), SMOE_EDATA);
    len = 9;
    memcpy(bytes, &len, sizeof len);
    cr_assert_eq(parse(bytes, sizeof bytes), SMOE_EDATA);
    cr_assert_str_eq(why.text, "cut off: a header of 9 bytes in a file of 16");
}

Test(safetensors_hostile, ranges_must_tile_the_data)
{
    refused("{" TENSOR("a", "U8", "[2]", "[0,3]") "}", 3,
            "tensor a: its shape takes 2 bytes, its "
            "data_offsets hold 3");
    refused("{" TENSOR("a", "U8", "[2]", "[2,4]") "}", 3, "tensor a: data_offsets 2..4 in 3 bytes");
    refused("{" TENSOR("a", "U8", "[2]", "[2,0]") "}", 3, "tensor a: data_offsets 2..0");
    refused("{" TENSOR("a", "U8", "[2]", "[0,2]") "}", 3, "the tensors end at 2 of 3 bytes");
    refused("{" TENSOR("a", "U8", "[2]", "[1,3]") "}", 3,
            "tensor a begins at 1, the data before it "
            "ends at 0");
    refused("{" TENSOR("a", "U8", "[2]", "[0,2]") "," TENSOR("b", "U8", "[2]", "[1,3]") "}", 3,
            "tensor b begins at 1, the data before it ends at 2");
    refused("{" TENSOR("a", "U8", "[2]", "[0,2]") "," TENSOR("b", "U8", "[0]", "[1,1]") "}", 2,
            "tensor b begins at 1, the data before it ends at 2");
    refused("{}", 1, "the tensors end at 0 of 1 bytes");
    cr_assert_eq(
        parse_text("{" TENSOR("a", "U8", "[2]", "[0,2]") "," TENSOR(
                       "b", "U8", "[0]", "[0,0]") "," TENSOR("c", "U8", "[0]", "[2,2]") "}",
                   2),
        0, "%s", why.text);
}

Test(safetensors_hostile, nothing_is_there_twice)
{
    refused("{" TENSOR("a", "U8", "[1]", "[0,1]") "," TENSOR("b", "U8", "[1]", "[1,2]") "," TENSOR(
                "a", "U8", "[1]", "[2,3]") "}",
            3, "tensor a is there twice");
    refused("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
            "tensor a: not an object of");
    refused("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[1]}}", 1,
            "tensor a: data_offsets");
    refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ is not an object, or is");
    refused("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "metadata k is there twice");
}

Test(safetensors_hostile, numbers_are_integers_in_their_only_spelling)
{
    static const char *bad[] = {"00",
                                "01",
                                "-1",
                                "-0",
                                "1.0",
                                "1e0",
                                "1E0",
                                "9007199254740993",
                                "18446744073709551617",
                                "99999999999999999999999"};
    char header[256];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(header, sizeof header, "{" TENSOR("a", "U8", "[%s]", "[0,1]") "}", bad[i]);
        refused(header, 1, "not an integer in 0..2^53");
    }
    refused("{" TENSOR("a", "U8", "[9007199254740992]", "[0,1]") "}", 1,
            "its shape takes 9007199254");
    refused("{" TENSOR("a", "U8", "[+1]", "[0,1]") "}", 1, "not JSON");
    refused("{" TENSOR("a", "U8", "[\"1\"]", "[0,1]") "}", 1, "tensor a: shape is not");
    refused("{" TENSOR("a", "U8", "[true]", "[0,1]") "}", 1, "tensor a: shape is not");
    refused("{" TENSOR("a", "U8", "1", "[0,1]") "}", 1, "tensor a: shape is not");
    refused("{" TENSOR("a", "U8", "[1]", "[0,1,1]") "}", 1, "tensor a: data_offsets are not two");
    refused("{" TENSOR("a", "U8", "[1]", "[1]") "}", 1, "tensor a: data_offsets are not two");
}

Test(safetensors_hostile, shapes_do_not_overflow)
{
    refused("{" TENSOR("a", "F64", "[4294967296,4294967296]", "[0,0]") "}", 0,
            "more than 2^53 bytes");
    refused("{" TENSOR("a", "U8", "[4294967296,4294967296,0]", "[0,0]") "}", 0, "more than 2^53");
    refused("{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "shape is not at most 8");
    cr_assert_eq(parse_text("{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1]", "[0,1]") "}", 1), 0);
    cr_assert_eq(parse_text("{" TENSOR("a", "U8", "[]", "[0,1]") "}", 1), 0);
}

Test(safetensors_hostile, names_types_and_members_are_checked)
{
    refused("{" TENSOR("a", "BF16", "[1]", "[0,2]") "}", 2, "tensor a: dtype BF16 is not F32,");
    refused("{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
            "dtype (not a string)");
    refused("{\"a\":{\"Dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
            "tensor a: dtype");
    refused("{\"a\":7}", 0, "tensor a: not an object of");
    refused("{\"a\":[1,2,3]}", 0, "tensor a: not an object of");
    refused("{" TENSOR("", "U8", "[1]", "[0,1]") "}", 1, "tensor name \"\" is not 1..255");
    refused("{" TENSOR("a\\u0007", "U8", "[1]", "[0,1]") "}", 1, "tensor name \"a?\" is not");
    refused("{\"__metadata__\":{\"k\":1}}", 0, "metadata \"k\": not a name with a string");
    refused("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
}

Test(safetensors_hostile, what_cjson_would_let_pass_is_caught)
{
    refused("{} x", 0, "header byte 3: something follows the object");
    refused("{}{}", 0, "header byte 2: something follows the object");
    refused(" {}", 0, "does not begin with '{'");
    refused("[]", 0, "does not begin with '{'");
    refused("", 0, "does not begin with '{'");
    refused("{", 0, "not JSON");
    refused("{\"a", 0, "header byte 1: a string that does not end");
    refused("{\"a\\", 0, "header byte 1: a string that does not end");
    refused("{\"a\nb\":0}", 0, "header byte 1: a string that does not end or holds a control");
    refused("{\"a\\u0000b\":0}", 0, "header byte 1: a string that");
    refused("{\v}", 0, "header byte 1: a control character");
    refused("{\"\\u12\":0}", 0, "not JSON");
}

Test(safetensors_hostile, deep_nesting_is_refused)
{
    char header[1500];
    memset(header, '[', sizeof header);
    memcpy(header, "{\"a\":", 5);
    header[sizeof header - 1] = 0;
    refused(header, 0, "not JSON");
}
