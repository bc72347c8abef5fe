/* SPDX-License-Identifier: Apache-2.0
 *
 * What lies on disks and was written by people or strangers: keys, configuration, addresses, checkpoints,
 * data sets. The first byte says which it is, the rest is the file. Each is either understood or refused
 * with a sentence; what was understood and can be written is written, and must read the same.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/train/checkpoint_placement.h"
#include "client/train/data/gzip.h"
#include "client/train/data/images.h"
#include "client/train/data/prose.h"
#include "common/base/assert.h"
#include "common/io/config.h"
#include "common/io/keyring.h"
#include "daemon/shell/settings.h"
#include "proto/safetensors.h"
#include "proto/wire.h"
#include "tests/fuzz/input.h"

enum { UNPACKED_MAX = 1 << 18 };

/* ---- a directory for what can only be read from one; gone with the process ---- */

static char directory[] = "/tmp/smoe-fuzz-XXXXXX";
static int dir = -1;

static const char *path_of(const char *name)
{
    static char path[sizeof directory + 16];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void remove_directory(void)
{
    static const char *const names[] = {"f", "keys"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        (void)unlink(path_of(names[i]));
    (void)rmdir(directory);
}

static void put_file(const char *name, const uint8_t *data, size_t n)
{
    if (dir < 0) {
        smoe_assert(mkdtemp(directory) && atexit(remove_directory) == 0);
        dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    int f = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    smoe_assert(dir >= 0 && f >= 0 && write(f, data, n) == (ssize_t)n);
    close(f);
}

/* ---- keys ---- */

static void check_key(const struct smoe_key *key)
{
    char line[SMOE_KEY_LINE_MAX], identity[SMOE_KEY_IDENTITY_MAX];
    struct smoe_key again;
    struct smoe_why why;
    smoe_key_format(key, line);
    smoe_key_identity(key, identity);
    smoe_assert(smoe_key_parse(line, strlen(line), &again, &why) == 0);
    smoe_assert(again.role == key->role && strcmp(again.name, key->name) == 0 &&
                memcmp(again.secret, key->secret, sizeof again.secret) == 0 &&
                strcmp(again.print, key->print) == 0);
}

static void key_line(const uint8_t *data, size_t n)
{
    struct smoe_why why = {""};
    struct smoe_key key;
    int rc = smoe_key_parse((const char *)data, n, &key, &why);
    smoe_assert(rc ? rc == SMOE_EDATA && *why.text : true);
    if (rc == 0)
        check_key(&key);
}

static void key_file(const uint8_t *data, size_t n)
{
    struct smoe_why why = {""};
    struct smoe_key key;
    put_file("f", data, n);
    int rc = smoe_key_read(path_of("f"), &key, &why);
    smoe_assert(rc == 0 || *why.text);
    if (rc == 0)
        check_key(&key);
}

static void keyring_file(const uint8_t *data, size_t n)
{
    struct smoe_why why = {""};
    struct smoe_keyring ring = {0}, again = {0};
    put_file("f", data, n);
    int rc = smoe_keyring_read(dir, "f", &ring, &why);
    smoe_assert(rc == 0 || *why.text);
    for (size_t i = 0; rc == 0 && i < ring.len; i++) {
        char identity[SMOE_KEY_IDENTITY_MAX];
        smoe_key_identity(&ring.keys[i], identity);
        smoe_assert(smoe_keyring_find(&ring, identity, strlen(identity)) == &ring.keys[i]);
    }
    if (rc == 0) {
        smoe_assert(smoe_keyring_write(dir, "keys", &ring, &why) == 0);
        smoe_assert(smoe_keyring_read(dir, "keys", &again, &why) == 0 && again.len == ring.len);
        for (size_t i = 0; i < ring.len; i++)
            smoe_assert(memcmp(again.keys[i].secret, ring.keys[i].secret, SMOE_KEY_BYTES) == 0);
    }
    smoe_keyring_release(&ring);
    smoe_keyring_release(&again);
}

/* ---- configuration ---- */

/* What the file in the directory says; the dump's text, to be freed; NULL: it was refused. */
static char *dump(size_t *ret_len)
{
    struct smoe_daemon_settings settings = {0};
    struct smoe_config_sources from = {.file = path_of("f"), .file_required = true};
    struct smoe_config config = {0};
    struct smoe_why why = {""};
    char *text = NULL;
    int rc = smoe_config_load(&config, smoe_daemon_options, smoe_daemon_options_len, &settings,
                              &from, &why);
    smoe_assert(rc == 0 || *why.text);
    if (rc == 0) {
        FILE *out = open_memstream(&text, ret_len);
        smoe_assert(out);
        smoe_config_dump(&config, "fuzz", out);
        fclose(out);
    }
    smoe_config_release(&config);
    return text;
}

/* A dump names the source of each value in comments, which differ. */
static void drop_comments(char *text)
{
    char *to = text;
    for (char *line = text, *end; *line; line = end) {
        end = strchr(line, '\n');
        end = end ? end + 1 : line + strlen(line);
        if (*line != '#' && *line != ';') {
            memmove(to, line, (size_t)(end - line));
            to += end - line;
        }
    }
    *to = '\0';
}

static void config_file(const uint8_t *data, size_t n)
{
    size_t len = 0;
    put_file("f", data, n);
    char *first = dump(&len);
    if (!first)
        return;
    put_file("f", (const uint8_t *)first, len);
    char *second = dump(&len);
    smoe_assert(second);
    drop_comments(first);
    drop_comments(second);
    smoe_assert(strcmp(first, second) == 0);
    free(first);
    free(second);
}

static void address(const uint8_t *data, size_t n)
{
    char text[300], host[SMOE_HOST_MAX + 1], written[SMOE_ADDR_TEXT_MAX];
    struct smoe_addr a, again;
    struct smoe_why why = {""};
    uint16_t port;
    snprintf(text, sizeof text, "%.*s", (int)(n < sizeof text ? n : sizeof text - 1),
             (const char *)data);
    (void)smoe_addr_split(text, host, &port, &why);
    if (smoe_addr_parse(text, &a, &why))
        return;
    smoe_addr_format(&a, written);
    smoe_assert(smoe_addr_parse(written, &again, &why) == 0);
    smoe_assert(smoe_addr_len(&a) == smoe_addr_len(&again) &&
                smoe_addr_port(&a) == smoe_addr_port(&again) &&
                smoe_addr_origin(&a) == smoe_addr_origin(&again));
}

/* ---- checkpoints and data sets ---- */

/* What is read and could be some fleet's is written and read again as it was. */
static void placement(const struct smoe_safetensors *file)
{
    struct smoe_placed placed = {0}, written = {0}, again = {0};
    struct smoe_safetensors copy = {0};
    struct smoe_why why = {""};
    uint8_t *bytes = NULL;
    size_t len;
    int rc = smoe_placed_read(file, &placed, &why);
    smoe_assert(rc == 0 || *why.text);
    if (rc == 0 && placed.value.n_experts && smoe_placement_check(&placed.value, &why) == 0) {
        smoe_assert(smoe_placed_fill(&written, &placed.value) == 0);
        struct smoe_safetensors_content content = {written.tensors, SMOE_PLACED_TENSORS,
                                                   written.metadata, SMOE_PLACED_METADATA};
        smoe_assert(smoe_safetensors_build(&content, &bytes, &len, &why) == 0);
        smoe_assert(smoe_safetensors_parse(bytes, len, &copy, &why) == 0);
        smoe_assert(smoe_placed_read(&copy, &again, &why) == 0);
        smoe_assert(smoe_placement_check(&again.value, &why) == 0);
        smoe_assert(again.value.n_slots == placed.value.n_slots &&
                    again.value.seen == placed.value.seen &&
                    strcmp(again.value.rule, placed.value.rule) == 0);
        smoe_safetensors_release(&copy);
        free(bytes);
    }
    smoe_placed_release(&placed);
    smoe_placed_release(&written);
    smoe_placed_release(&again);
}

static void safetensors(const uint8_t *data, size_t n)
{
    struct smoe_safetensors file = {0};
    struct smoe_why why = {""};
    int rc = smoe_safetensors_parse(data, n, &file, &why);
    smoe_assert(rc == 0 || *why.text);
    if (rc)
        return;
    for (size_t i = 0; i < file.n_tensors; i++) {
        const struct smoe_tensor *t = &file.tensors[i];
        smoe_assert(smoe_safetensors_find(&file, t->name));
        smoe_assert(!t->n_bytes || ((const uint8_t *)t->data >= data && t->n_bytes <= n &&
                                    (const uint8_t *)t->data + t->n_bytes <= data + n));
    }
    placement(&file);
    struct smoe_safetensors_content content = {file.tensors, file.n_tensors, file.metadata,
                                               file.n_metadata};
    uint8_t *bytes = NULL;
    size_t len;
    if (smoe_safetensors_build(&content, &bytes, &len, &why) == 0) {
        struct smoe_safetensors again = {0};
        smoe_assert(smoe_safetensors_parse(bytes, len, &again, &why) == 0);
        smoe_assert(again.n_tensors == file.n_tensors && again.n_metadata == file.n_metadata);
        smoe_safetensors_release(&again);
        free(bytes);
    }
    smoe_safetensors_release(&file);
}

static void images(const uint8_t *data, size_t n)
{
    static const struct smoe_cifar_format formats[] = {{1, 10}, {2, 100}};
    struct smoe_idx_images pictures;
    struct smoe_idx_labels labels;
    struct smoe_why why = {""};
    size_t records;
    if (smoe_idx_images(data, n, &pictures, &why) == 0)
        smoe_assert(pictures.pixels + (size_t)pictures.n * pictures.height * pictures.width ==
                    data + n);
    if (smoe_idx_labels(data, n, 10, &labels, &why) == 0)
        smoe_assert(labels.labels + labels.n == data + n);
    for (size_t i = 0; i < 2; i++)
        if (smoe_cifar_check(data, n, &formats[i], &records, &why) == 0)
            smoe_assert(records * (formats[i].label_bytes + SMOE_CIFAR_IMAGE_BYTES) == n);
}

static void packed_prose(const uint8_t *data, size_t n)
{
    struct smoe_prose text = {0};
    struct smoe_why why = {""};
    uint8_t *bytes = NULL;
    size_t len = 0;
    put_file("f", data, n);
    int rc = smoe_gzip_read(path_of("f"), UNPACKED_MAX, &bytes, &len, &why);
    smoe_assert(rc == 0 ? len <= UNPACKED_MAX : *why.text);
    if (rc == 0 && smoe_prose_init(bytes, len, 2 + (uint32_t)(n % 100), &text, &why) == 0)
        for (size_t i = 0; i < text.n; i++)
            smoe_assert(text.ids[i] < text.vocabulary);
    smoe_prose_release(&text);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const kinds[])(const uint8_t *, size_t) = {
        key_line, keyring_file, key_file, config_file, address, safetensors, images, packed_prose};
    struct fuzz_input in = {data, size};
    uint8_t kind = fuzz_u8(&in);
    uint8_t *file = malloc(in.left ? in.left : 1); /* exactly that size: a read past it is seen */
    smoe_assert(file);
    if (in.left)
        memcpy(file, in.data, in.left);
    kinds[kind % (sizeof kinds / sizeof *kinds)](file, in.left);
    free(file);
    return 0;
}
