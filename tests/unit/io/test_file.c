/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io/file.h"
#include "tests/unit/io/alloc_fault.h"
#include "tests/unit/io/scratch_dir.h"

static struct scratch_dir dir;

static void set_up(void)
{
    scratch_dir_init(&dir);
}

static void tear_down(void)
{
    scratch_dir_release(&dir);
}

TestSuite(file, .init = set_up, .fini = tear_down);

static void expect_content(const char *name, const char *text)
{
    char *data = NULL;
    size_t len = 0;
    struct smoe_why why;
    int rc = smoe_file_read(AT_FDCWD, scratch_path(&dir, name), 1000, &data, &len, &why);
    cr_assert_eq(rc, 0, "%s", why.text);
    cr_assert_eq(len, strlen(text));
    cr_assert_str_eq(data, text);
    free(data);
}

Test(file, a_read_takes_up_to_its_limit)
{
    char *data = NULL;
    size_t len = 0;
    struct smoe_why why;
    const char *path = scratch_text(&dir, "ten", "0123456789");
    for (size_t max = 10; max <= 11; max++) {
        cr_assert_eq(smoe_file_read(AT_FDCWD, path, max, &data, &len, &why), 0);
        cr_assert_eq(len, 10);
        cr_assert_str_eq(data, "0123456789");
        free(data);
        data = NULL;
    }
    cr_assert_eq(smoe_file_read(AT_FDCWD, path, 9, &data, &len, &why), SMOE_ETOOBIG);
    cr_assert(strstr(why.text, "10 bytes, the limit is 9") != NULL, "%s", why.text);
    cr_assert_eq(data, NULL);
}

Test(file, what_is_no_file_is_refused)
{
    char *data = NULL;
    size_t len = 0;
    struct smoe_why why;
    cr_assert_eq(smoe_file_read(AT_FDCWD, dir.path, 99, &data, &len, &why), -EINVAL);
    const char *path = scratch_path(&dir, "fifo");
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(smoe_file_read(AT_FDCWD, path, 99, &data, &len, &why), -EINVAL);
    path = scratch_path(&dir, "absent");
    cr_assert_eq(smoe_file_read(AT_FDCWD, path, 99, &data, &len, &why), -ENOENT);
    cr_assert_eq(data, NULL);
}

Test(file, a_read_without_memory_fails_and_leaves_nothing)
{
    char *data = NULL;
    size_t len = 0;
    struct smoe_why why;
    const char *path = scratch_text(&dir, "x", "x");
    smoe_alloc_fail_at(1);
    cr_assert_eq(smoe_file_read(AT_FDCWD, path, 99, &data, &len, &why), SMOE_ENOMEMORY);
    cr_assert(smoe_alloc_failed());
    cr_assert_eq(data, NULL);
}

Test(file, a_write_replaces_the_whole_file_and_leaves_no_temporary)
{
    struct smoe_why why;
    const char *path = scratch_text(&dir, "f", "a long old content");
    cr_assert_eq(smoe_file_write(AT_FDCWD, path, "new", 3, &why), 0, "%s", why.text);
    expect_content("f", "new");
    cr_assert_eq(access(scratch_path(&dir, "f.tmp"), F_OK), -1);
    int fd = open(dir.path, O_RDONLY | O_DIRECTORY);
    cr_assert_eq(smoe_file_write(fd, "g", "", 0, &why), 0, "%s", why.text);
    close(fd);
    expect_content("g", "");
}

Test(file, a_leftover_temporary_of_a_crash_is_no_obstacle)
{
    struct smoe_why why;
    scratch_text(&dir, "f.tmp", "half of a much longer old content");
    cr_assert_eq(smoe_file_write(AT_FDCWD, scratch_path(&dir, "f"), "new", 3, &why), 0);
    expect_content("f", "new");
}

/* Whatever somebody had prepared: a file that he can read, one that he keeps open, a way elsewhere. */
Test(file, a_secret_is_written_to_no_file_that_was_there_before)
{
    struct smoe_why why;
    struct stat st;
    char path[200], elsewhere[200], bytes[8];
    strcpy(path, scratch_path(&dir, "f"));
    strcpy(elsewhere, scratch_text(&dir, "elsewhere", "mine"));
    int open_before = open(scratch_text(&dir, "f.tmp", "old"), O_RDONLY);
    cr_assert_eq(smoe_file_write_private(AT_FDCWD, path, "secret", 6, &why), 0, "%s", why.text);
    cr_assert_eq(read(open_before, bytes, sizeof bytes), 3);
    cr_assert_eq(memcmp(bytes, "old", 3), 0);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);
    for (int hard = 0; hard <= 1; hard++) {
        char temporary[200];
        strcpy(temporary, scratch_path(&dir, "f.tmp"));
        cr_assert_eq(hard ? link(elsewhere, temporary) : symlink(elsewhere, temporary), 0);
        cr_assert_eq(smoe_file_write_private(AT_FDCWD, path, "secret", 6, &why), 0);
        expect_content("elsewhere", "mine");
        expect_content("f", "secret");
    }
    close(open_before);
}

/* A full disk, as a file size limit: the write stops in the middle. */
Test(file, a_write_that_does_not_fit_leaves_the_old_file)
{
    struct smoe_why why;
    const struct rlimit small = {.rlim_cur = 10, .rlim_max = RLIM_INFINITY};
    char path[200];
    strcpy(path, scratch_text(&dir, "f", "old"));
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = smoe_file_write(AT_FDCWD, path, "0123456789abcdef", 16, &why);
    const struct rlimit large = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &large);
    cr_assert_eq(rc, -EFBIG, "%s", why.text);
    expect_content("f", "old");
    cr_assert_eq(access(scratch_path(&dir, "f.tmp"), F_OK), -1);
}

Test(file, a_write_into_no_directory_says_so)
{
    struct smoe_why why;
    const char *path = scratch_path(&dir, "absent/f");
    cr_assert_eq(smoe_file_write(AT_FDCWD, path, "x", 1, &why), -ENOENT);
    cr_assert(strstr(why.text, "absent/f: ") != NULL, "%s", why.text);
}
