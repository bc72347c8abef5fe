/* SPDX-License-Identifier: Apache-2.0
 *
 * What is written is read back, byte for byte what the format says, and every limit holds at its edge.
 * Files that lie are in test_safetensors_hostile.c.
 */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/safetensors.h"

static struct smoe_why why;

/* One tensor of each type, the narrow one first so that the writer must move it. */
static const uint8_t bytes_u8[3] = {1, 2, 255};
static const float bytes_f32[6] = {0, 1.5f, -2, 3e30f, 1e-30f, -0.0f};
static const double bytes_f64[2] = {0.1, -1e300};
static const int64_t bytes_i64[1] = {INT64_MIN};
static const uint64_t bytes_u64[1] = {UINT64_MAX};
static const struct smoe_tensor tensors[] = {
    {"labels", SMOE_TENSOR_U8, 1, {3}, bytes_u8, 0},
    {"experts.0.w_in", SMOE_TENSOR_F32, 2, {2, 3}, bytes_f32, 0},
    {"odd \"name\\", SMOE_TENSOR_F64, 3, {1, 2, 1}, bytes_f64, 0},
    {"scalar", SMOE_TENSOR_I64, 0, {0}, bytes_i64, 0},
    {"count", SMOE_TENSOR_U64, 1, {1}, bytes_u64, 0},
    {"empty", SMOE_TENSOR_F32, 2, {0, 7}, NULL, 0},
};
enum { N_TENSORS = sizeof tensors / sizeof *tensors };
static const struct smoe_metadata metadata[] = {{"step", "12"}, {"note", "a\n\t\"b\""}};
static const struct smoe_safetensors_content content = {tensors, N_TENSORS, metadata, 2};

struct built {
    uint8_t *bytes;
    size_t len;
};

static struct built build(const struct smoe_safetensors_content *of)
{
    struct built b = {0};
    cr_assert_eq(smoe_safetensors_build(of, &b.bytes, &b.len, &why), 0, "%s", why.text);
    return b;
}

static void assert_holds_the_content(const struct smoe_safetensors *file)
{
    cr_assert_eq(file->n_tensors, N_TENSORS);
    for (size_t i = 0; i < N_TENSORS; i++) {
        const struct smoe_tensor *want = &tensors[i];
        const struct smoe_tensor *got = smoe_safetensors_find(file, want->name);
        cr_assert_not_null(got, "%s", want->name);
        cr_assert_eq(got->dtype, want->dtype);
        cr_assert_eq(got->rank, want->rank);
        uint64_t n_bytes = smoe_tensor_dtype_size(want->dtype);
        for (unsigned r = 0; r < want->rank; r++) {
            cr_assert_eq(got->shape[r], want->shape[r]);
            n_bytes *= want->shape[r];
        }
        cr_assert_eq(got->n_bytes, n_bytes);
        cr_assert(n_bytes == 0 || memcmp(got->data, want->data, n_bytes) == 0);
    }
    cr_assert_str_eq(smoe_safetensors_metadata(file, "step"), "12");
    cr_assert_str_eq(smoe_safetensors_metadata(file, "note"), "a\n\t\"b\"");
    cr_assert_null(smoe_safetensors_metadata(file, "none"));
    cr_assert_null(smoe_safetensors_find(file, "none"));
}

Test(safetensors, what_is_written_is_read_back)
{
    struct built b = build(&content);
    struct smoe_safetensors file;
    cr_assert_eq(smoe_safetensors_parse(b.bytes, b.len, &file, &why), 0, "%s", why.text);
    assert_holds_the_content(&file);
    smoe_safetensors_release(&file);
    smoe_safetensors_release(&file);
    free(b.bytes);
}

Test(safetensors, every_tensor_is_aligned_in_the_file)
{
    struct built b = build(&content);
    struct smoe_safetensors file;
    cr_assert_eq(smoe_safetensors_parse(b.bytes, b.len, &file, &why), 0);
    for (size_t i = 0; i < file.n_tensors; i++) {
        size_t at = (size_t)((const uint8_t *)file.tensors[i].data - b.bytes);
        cr_assert_eq(at % smoe_tensor_dtype_size(file.tensors[i].dtype), 0, "%s",
                     file.tensors[i].name);
    }
    smoe_safetensors_release(&file);
    free(b.bytes);
}

Test(safetensors, the_bytes_are_what_the_format_says)
{
    static const float two[2] = {1, 2};
    static const uint8_t one[1] = {9};
    const struct smoe_tensor pair[] = {{"b", SMOE_TENSOR_U8, 1, {1}, one, 0},
                                       {"a", SMOE_TENSOR_F32, 1, {2}, two, 0}};
    const struct smoe_safetensors_content small = {pair, 2, NULL, 0};
    static const char want[] =
        "\x70\0\0\0\0\0\0\0"
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}      "
        "\0\0\x80\x3f\0\0\0\x40\x09";
    struct built b = build(&small);
    cr_assert_eq(b.len, sizeof want - 1, "%zu", b.len);
    cr_assert_eq(memcmp(b.bytes, want, b.len), 0);
    free(b.bytes);
}

Test(safetensors, a_file_may_be_empty)
{
    struct built b = build(&(struct smoe_safetensors_content){0});
    struct smoe_safetensors file;
    cr_assert_eq(b.len, 16);
    cr_assert_eq(smoe_safetensors_parse(b.bytes, b.len, &file, &why), 0);
    cr_assert_eq(file.n_tensors, 0);
    cr_assert_null(smoe_safetensors_find(&file, "a"));
    smoe_safetensors_release(&file);
    free(b.bytes);
}

Test(safetensors, the_writer_refuses_what_the_reader_would)
{
    char name[258];
    memset(name, 'x', sizeof name);
    name[256] = 0;
    uint8_t *bytes;
    size_t len;
    struct smoe_tensor t = {name, SMOE_TENSOR_U8, 1, {0}, NULL, 0};
    struct smoe_safetensors_content c = {&t, 1, NULL, 0};
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EFIELD);
    name[255] = 0;
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), 0);
    free(bytes);
    const char *bad_names[] = {"", "a\nb", "a\x80", "__metadata__"};
    for (size_t i = 0; i < 4; i++) {
        t.name = bad_names[i];
        cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EFIELD);
    }
    t = (struct smoe_tensor){.name = "t", .dtype = SMOE_TENSOR_F64, .rank = 9};
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EFIELD);
    t.rank = 8;
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), 0);
    free(bytes);
    t = (struct smoe_tensor){"t", SMOE_TENSOR_F64, 2, {UINT64_C(1) << 62, 8}, NULL, 0};
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EFIELD);
    const struct smoe_tensor twice[] = {{"a", SMOE_TENSOR_U8, 1, {0}, NULL, 0},
                                        {"b", SMOE_TENSOR_U8, 1, {0}, NULL, 0},
                                        {"a", SMOE_TENSOR_U8, 1, {0}, NULL, 0}};
    c = (struct smoe_safetensors_content){twice, 3, NULL, 0};
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EEXIST);
    cr_assert_str_eq(why.text, "tensor a is given twice");
}

Test(safetensors, metadata_is_text_each_key_once_and_at_most_256_pairs)
{
    enum { MAX = SMOE_SAFETENSORS_METADATA_MAX };
    struct smoe_metadata pairs[MAX + 1];
    char keys[MAX + 1][16];
    for (int i = 0; i <= MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        pairs[i] = (struct smoe_metadata){keys[i], "v"};
    }
    uint8_t *bytes;
    size_t len;
    struct smoe_safetensors_content c = {NULL, 0, pairs, MAX + 1};
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EFIELD);
    c.n_metadata = MAX;
    struct built b = build(&c);
    struct smoe_safetensors file;
    cr_assert_eq(smoe_safetensors_parse(b.bytes, b.len, &file, &why), 0);
    cr_assert_eq(file.n_metadata, MAX);
    smoe_safetensors_release(&file);
    free(b.bytes);
    pairs[7].value = "bell \a";
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EFIELD);
    pairs[7] = (struct smoe_metadata){"k3", "again"};
    cr_assert_eq(smoe_safetensors_build(&c, &bytes, &len, &why), SMOE_EEXIST);
}

/* A header of just 1 MiB is written and read; one byte of name more is refused with the limit. */
Test(safetensors, the_header_may_be_a_mebibyte_and_not_more)
{
    enum { MAX_TENSORS = 5000 };
    static char names[MAX_TENSORS][SMOE_SAFETENSORS_NAME_MAX + 1];
    static struct smoe_tensor list[MAX_TENSORS];
    const char *rest = "\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},";
    size_t n = 0, left = SMOE_SAFETENSORS_HEADER_MAX - 1; /* '{', '}', one comma too many */
    for (; left; n++) {
        size_t name_len = left - strlen(rest);
        if (name_len > 250)
            name_len = name_len > 400 ? 200 : name_len / 2; /* leaves room for one more */
        memset(names[n], 'x', name_len);
        names[n][snprintf(names[n], 8, "%05zu", n)] = 'x';
        names[n][name_len] = 0;
        list[n] = (struct smoe_tensor){.name = names[n], .dtype = SMOE_TENSOR_U8, .rank = 1};
        left -= name_len + strlen(rest);
    }
    struct smoe_safetensors_content c = {list, n, NULL, 0};
    struct built b = build(&c);
    cr_assert_eq(b.len, 8 + SMOE_SAFETENSORS_HEADER_MAX);
    struct smoe_safetensors file;
    cr_assert_eq(smoe_safetensors_parse(b.bytes, b.len, &file, &why), 0, "%s", why.text);
    cr_assert_eq(file.n_tensors, n);
    smoe_safetensors_release(&file);
    free(b.bytes);
    strcat(names[0], "x");
    cr_assert_eq(smoe_safetensors_build(&c, &b.bytes, &b.len, &why), SMOE_EFIELD);
    cr_assert_not_null(strstr(why.text, "1048576"), "%s", why.text);
}

/* cJSON's allocator, failing from the n-th call on. */
static int allocations_left;

static void *failing_malloc(size_t n)
{
    return allocations_left-- > 0 ? malloc(n) : NULL;
}

Test(safetensors, running_out_of_memory_anywhere_is_an_error_and_no_leak)
{
    struct built b = build(&content);
    cJSON_Hooks hooks = {failing_malloc, free};
    cJSON_InitHooks(&hooks);
    bool built = false, parsed = false;
    for (int n = 0; !built || !parsed; n++) {
        uint8_t *bytes = NULL;
        size_t len;
        struct smoe_safetensors file = {0};
        allocations_left = n;
        int rc = smoe_safetensors_build(&content, &bytes, &len, &why);
        cr_assert(rc == 0 || rc == SMOE_ENOMEMORY);
        built = rc == 0;
        free(bytes);
        allocations_left = n;
        rc = smoe_safetensors_parse(b.bytes, b.len, &file, &why);
        cr_assert(rc == 0 || rc == SMOE_EDATA);
        parsed = rc == 0;
        smoe_safetensors_release(&file);
        cr_assert_lt(n, 1000);
    }
    cJSON_InitHooks(NULL);
    free(b.bytes);
}

/* Another implementation, in Python's standard library, reads our file, checks it and writes it anew
 * in its own way (other order, other spacing); we read that. */
Test(safetensors, another_implementation_agrees_in_both_directions)
{
    if (system("python3 -c '' 2>/dev/null") != 0)
        cr_skip_test("no python3");
    char ours[] = "/tmp/safetensors.XXXXXX", command[512];
    struct built b = build(&content);
    int fd = mkstemp(ours);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, b.bytes, b.len), (ssize_t)b.len);
    snprintf(command, sizeof command, "python3 '%s' '%s'", SAFETENSORS_PY, ours);
    cr_assert_eq(system(command), 0);
    uint8_t theirs[4096];
    ssize_t len = pread(fd, theirs, sizeof theirs, 0);
    close(fd);
    unlink(ours);
    struct smoe_safetensors file;
    cr_assert_gt(len, 0);
    cr_assert(memcmp(theirs, b.bytes, b.len < (size_t)len ? b.len : (size_t)len) != 0);
    cr_assert_eq(smoe_safetensors_parse(theirs, (size_t)len, &file, &why), 0, "%s", why.text);
    assert_holds_the_content(&file);
    smoe_safetensors_release(&file);
    free(b.bytes);
}
