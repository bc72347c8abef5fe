/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io/keyring.h"
#include "tests/unit/io/scratch_dir.h"

#define HEX64 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define HEX65 "10112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define HEX66 "20112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static struct scratch_dir dir;

static void set_up(void)
{
    scratch_dir_init(&dir);
}

static void tear_down(void)
{
    scratch_dir_release(&dir);
}

TestSuite(keys, .init = set_up, .fini = tear_down);

static int parse(const char *line, struct smoe_key *ret, struct smoe_why *why)
{
    return smoe_key_parse(line, strlen(line), ret, why);
}

static const char *private_file(const char *text)
{
    const char *path = scratch_text(&dir, "keys", text);
    cr_assert_eq(chmod(path, 0600), 0);
    return path;
}

static int read_ring(const char *text, struct smoe_keyring *ret, struct smoe_why *why)
{
    return smoe_keyring_read(AT_FDCWD, private_file(text), ret, why);
}

Test(keys, a_line_says_the_same_when_read_and_written)
{
    struct smoe_key key, again;
    struct smoe_why why;
    char line[SMOE_KEY_LINE_MAX], identity[SMOE_KEY_IDENTITY_MAX];
    cr_assert_eq(parse("smoe1:trainer:gpu.box_1:" HEX64, &key, &why), 0, "%s", why.text);
    cr_assert_eq(key.role, SMOE_ROLE_TRAINER);
    cr_assert_str_eq(key.name, "gpu.box_1");
    cr_assert_eq(key.secret[1], 0x11);
    smoe_key_format(&key, line);
    cr_assert_str_eq(line, "smoe1:trainer:gpu.box_1:" HEX64);
    smoe_key_identity(&key, identity);
    cr_assert_eq(strncmp(identity, "trainer:gpu.box_1:", 18), 0);
    cr_assert_eq(strlen(identity), 18 + SMOE_KEY_PRINT_DIGITS);
    cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, "w", &key, &why), 0);
    smoe_key_format(&key, line);
    cr_assert_eq(parse(line, &again, &why), 0);
    cr_assert_eq(memcmp(again.secret, key.secret, sizeof key.secret), 0);
}

Test(keys, the_longest_name_fits_and_one_more_does_not)
{
    char line[SMOE_KEY_LINE_MAX + 8], name[SMOE_NAME_MAX + 2], identity[SMOE_KEY_IDENTITY_MAX];
    struct smoe_key key;
    struct smoe_why why;
    memset(name, 'n', sizeof name);
    for (size_t n = SMOE_NAME_MAX; n <= SMOE_NAME_MAX + 1; n++) {
        name[n] = 0;
        snprintf(line, sizeof line, "smoe1:trainer:%.*s:" HEX64, (int)n, name);
        cr_assert_eq(parse(line, &key, &why), n > SMOE_NAME_MAX ? SMOE_EDATA : 0);
        name[n] = 'n';
    }
    smoe_key_format(&key, line);
    smoe_key_identity(&key, identity);
    cr_assert_eq(strlen(line), SMOE_KEY_LINE_MAX - 1);
    cr_assert_eq(strlen(identity), SMOE_KEY_IDENTITY_MAX - 1);
}

Test(keys, what_is_no_key_is_refused_and_not_repeated)
{
    static const char *const wrong[] = {
        "",
        "smoe1:",
        "smoe1::pi:" HEX64,
        "smoe2:worker:pi:" HEX64,
        "smoe1:worker:pi",
        "smoe1:worker:pi:",
        "smoe1:worker::" HEX64,
        "smoe1:admins:pi:" HEX64,
        "smoe1:worker:p i:" HEX64,
        "smoe1:worker:-pi:" HEX64,
        "smoe1:worker:pi:" HEX64 "0",
        "smoe1:worker:pi:0" HEX64,
        " smoe1:worker:pi:" HEX64,
        "smoe1:worker:pi:" HEX64 " ",
        "smoe1:worker:pi:" HEX64 "\r",
        "smoe1:worker:pi:"
        "0011223344556677889Gaabbccddeeff00112233445566778899aabbccddeeff",
        "smoe1:worker:pi:"
        "00112233445566778899AABBccddeeff00112233445566778899aabbccddeeff",
        "SMOE1:worker:pi:" HEX64};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct smoe_key key = {.name = "before"};
        struct smoe_why why;
        cr_assert_eq(parse(wrong[i], &key, &why), SMOE_EDATA, "%s", wrong[i]);
        cr_assert_str_eq(key.name, "before");
        cr_assert_eq(strstr(why.text, "00112233"), NULL, "the secret is in the error");
    }
}

Test(keys, a_nodes_file_has_one_line_and_one_reader)
{
    struct smoe_key key;
    struct smoe_why why;
    const char *path = private_file("smoe1:worker:pi:" HEX64 "\n");
    cr_assert_eq(smoe_key_read(path, &key, &why), 0, "%s", why.text);
    cr_assert_eq(chmod(path, 0400), 0);
    cr_assert_eq(smoe_key_read(path, &key, &why), 0, "%s", why.text);
    static const mode_t open_to_others[] = {0601, 0602, 0604, 0610, 0620, 0640};
    for (size_t i = 0; i < sizeof open_to_others / sizeof *open_to_others; i++) {
        cr_assert_eq(chmod(path, open_to_others[i]), 0);
        cr_assert_eq(smoe_key_read(path, &key, &why), -EPERM);
        cr_assert(strstr(why.text, "chmod 600"), "%s", why.text);
    }
    cr_assert_eq(smoe_key_read(private_file(""), &key, &why), SMOE_EDATA);
    cr_assert_eq(smoe_key_read(private_file("smoe1:worker:pi:" HEX64 "\n\n"), &key, &why),
                 SMOE_EDATA);
    cr_assert_eq(
        smoe_key_read(private_file("smoe1:worker:pi:" HEX64 "\nsmoe1:worker:pi:" HEX65 "\n"), &key,
                      &why),
        SMOE_ETOOBIG);
    cr_assert_eq(smoe_key_read(scratch_path(&dir, "none"), &key, &why), -ENOENT);
    cr_assert_eq(smoe_key_read(dir.path, &key, &why), -EINVAL);
}

Test(keys, a_credential_of_systemd_may_show_the_mask_of_its_access_list)
{
    struct smoe_key key;
    struct smoe_why why;
    char file[200], elsewhere[200], directory[200];
    strcpy(directory, scratch_path(&dir, "credentials"));
    cr_assert_eq(mkdir(directory, 0700), 0);
    strcpy(file, scratch_text(&dir, "credentials/key", "smoe1:worker:pi:" HEX64 "\n"));
    strcpy(elsewhere, private_file("smoe1:worker:pi:" HEX64 "\n"));
    cr_assert_eq(chmod(file, 0440) | chmod(elsewhere, 0440), 0);
    cr_assert_eq(smoe_key_read(file, &key, &why), -EPERM, "it is no credential yet");
    cr_assert_eq(setenv("CREDENTIALS_DIRECTORY", directory, 1), 0);
    cr_assert_eq(smoe_key_read(file, &key, &why), 0, "%s", why.text);
    cr_assert_eq(smoe_key_read(elsewhere, &key, &why), -EPERM);
    cr_assert_eq(chmod(directory, 0750), 0);
    cr_assert_eq(smoe_key_read(file, &key, &why), 0, "%s", why.text);
    static const mode_t too_open[] = {0441, 0442, 0444, 0450, 0460};
    for (size_t i = 0; i < sizeof too_open / sizeof *too_open; i++) {
        cr_assert_eq(chmod(file, too_open[i]), 0);
        cr_assert_eq(smoe_key_read(file, &key, &why), -EPERM, "%o", too_open[i]);
    }
    cr_assert_eq(chmod(file, 0440) | chmod(directory, 0751), 0);
    cr_assert_eq(smoe_key_read(file, &key, &why), -EPERM, "others get there");
}

Test(keys, a_ring_is_taken_whole_or_not_at_all)
{
    static const struct {
        const char *text;
        int code;
        const char *says;
    } wrong[] = {
        {"", SMOE_EDATA, "empty"},
        {"\n", SMOE_EDATA, "line 1"},
        {"smoe1:worker:a:" HEX64, SMOE_EDATA, "line 1: cut off"},
        {"smoe1:worker:a:" HEX64 "\nsmoe1:worker:b:" HEX65, SMOE_EDATA, "line 2: cut off"},
        {"smoe1:worker:a:" HEX64 "\n\n", SMOE_EDATA, "line 2"},
        {"smoe1:worker:a:" HEX64 "\nnonsense\n", SMOE_EDATA, "line 2"},
        {"smoe1:worker:a:" HEX64 "\nsmoe1:worker:a:" HEX64 "\n", SMOE_EEXIST, "same key twice"},
        {"smoe1:worker:a:" HEX64 "\nsmoe1:trainer:a:" HEX65 "\n", SMOE_EEXIST, "two roles"},
        {"smoe1:worker:a:" HEX64 "\nsmoe1:worker:a:" HEX65 "\nsmoe1:worker:a:" HEX66 "\n",
         SMOE_EEXIST, "two keys already"},
    };
    struct smoe_keyring ring = {0};
    struct smoe_why why;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_assert_eq(read_ring(wrong[i].text, &ring, &why), wrong[i].code, "%zu: %s", i, why.text);
        cr_assert(strstr(why.text, wrong[i].says), "%zu: %s", i, why.text);
        cr_assert_eq(ring.len, 0);
        cr_assert_eq(ring.keys, NULL);
    }
}

Test(keys, two_keys_of_a_name_are_told_apart)
{
    struct smoe_keyring ring;
    struct smoe_why why;
    char identity[2][SMOE_KEY_IDENTITY_MAX];
    cr_assert_eq(read_ring("smoe1:worker:b:" HEX64 "\nsmoe1:worker:a:" HEX66
                           "\nsmoe1:worker:b:" HEX65 "\n",
                           &ring, &why),
                 0, "%s", why.text);
    cr_assert_eq(ring.len, 3);
    cr_assert_str_eq(ring.keys[0].name, "a");
    for (int i = 0; i < 2; i++) {
        smoe_key_identity(&ring.keys[1 + i], identity[i]);
        cr_assert_eq(smoe_keyring_find(&ring, identity[i], strlen(identity[i])), &ring.keys[1 + i]);
    }
    cr_assert_str_neq(identity[0], identity[1]);
    smoe_keyring_release(&ring);
}

Test(keys, only_the_whole_identity_finds_a_key)
{
    struct smoe_keyring ring, none = {0};
    struct smoe_why why;
    char identity[SMOE_KEY_IDENTITY_MAX + 1];
    cr_assert_eq(read_ring("smoe1:worker:pi:" HEX64 "\n", &ring, &why), 0);
    smoe_key_identity(&ring.keys[0], identity);
    size_t n = strlen(identity);
    for (size_t len = 0; len < n; len++)
        cr_assert_eq(smoe_keyring_find(&ring, identity, len), NULL, "%zu", len);
    cr_assert_neq(smoe_keyring_find(&ring, identity, n), NULL);
    cr_assert_eq(smoe_keyring_find(&ring, identity, n + 1), NULL, "with a NUL");
    cr_assert_eq(smoe_keyring_find(&none, identity, n), NULL);
    static const char *const others[] = {"::",
                                         ":",
                                         "worker:pi:",
                                         ":pi:00000000",
                                         "worker::00000000",
                                         "worker:pi:000000000",
                                         "x:y:z:pi:00000000"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        cr_assert_eq(smoe_keyring_find(&ring, others[i], strlen(others[i])), NULL, "%s", others[i]);
    smoe_keyring_release(&ring);
}

Test(keys, a_ring_that_is_written_is_read_again_by_nobody_else)
{
    struct smoe_keyring ring = {0}, again;
    struct smoe_key key;
    struct smoe_why why;
    struct stat st;
    const char *path = scratch_path(&dir, "ring");
    for (int i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof name, "w%d", i * 37 % 100);
        cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, name, &key, &why), 0);
        cr_assert_eq(smoe_keyring_add(&ring, &key, &why), 0, "%s", why.text);
    }
    umask(0);
    cr_assert_eq(smoe_keyring_write(AT_FDCWD, path, &ring, &why), 0, "%s", why.text);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);
    cr_assert_eq(smoe_keyring_read(AT_FDCWD, path, &again, &why), 0, "%s", why.text);
    cr_assert_eq(again.len, 100);
    cr_assert_eq(memcmp(again.keys, ring.keys, 100 * sizeof *ring.keys), 0);
    smoe_keyring_release(&ring);
    smoe_keyring_release(&again);
}

Test(keys, a_third_key_or_another_role_changes_nothing)
{
    struct smoe_keyring ring = {0};
    struct smoe_key key;
    struct smoe_why why;
    for (int i = 0; i < SMOE_KEYS_OF_NAME; i++) {
        cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, "pi", &key, &why), 0);
        cr_assert_eq(smoe_keyring_add(&ring, &key, &why), 0);
    }
    cr_assert_eq(smoe_key_make(SMOE_ROLE_WORKER, "pi", &key, &why), 0);
    cr_assert_eq(smoe_keyring_add(&ring, &key, &why), SMOE_EEXIST);
    char old[SMOE_KEY_PRINT_DIGITS + 1];
    memcpy(old, ring.keys[0].print, sizeof old);
    cr_assert_eq(smoe_keyring_revoke(&ring, "pi", "xxxxxxxx", &why), SMOE_EUNKNOWN);
    cr_assert_eq(smoe_keyring_revoke(&ring, "pi", old, &why), 0);
    cr_assert_eq(ring.len, 1);
    cr_assert_eq(smoe_key_make(SMOE_ROLE_TRAINER, "pi", &key, &why), 0);
    cr_assert_eq(smoe_keyring_add(&ring, &key, &why), SMOE_EEXIST);
    cr_assert_eq(ring.len, 1);
    cr_assert_eq(smoe_keyring_revoke(&ring, "pi", NULL, &why), 0);
    cr_assert_eq(ring.len, 0);
    cr_assert_eq(smoe_keyring_revoke(&ring, "pi", NULL, &why), SMOE_EUNKNOWN);
    smoe_keyring_release(&ring);
}
