/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io/statedir.h"
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

TestSuite(statedir, .init = set_up, .fini = tear_down);

Test(statedir, is_made_closed_to_strangers)
{
    struct smoe_statedir s;
    struct smoe_why why;
    struct stat st;
    const char *path = scratch_path(&dir, "state");
    umask(0);
    cr_assert_eq(smoe_statedir_open(&s, path, &why), 0, "%s", why.text);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0750);
    smoe_statedir_release(&s);
    smoe_statedir_release(&s);
    cr_assert_eq(smoe_statedir_open(&s, path, &why), 0, "opens again: %s", why.text);
    smoe_statedir_release(&s);
}

Test(statedir, the_second_is_told_who_holds_it)
{
    struct smoe_statedir first, second;
    struct smoe_why why;
    char expected[300];
    const char *path = scratch_path(&dir, "state");
    cr_assert_eq(smoe_statedir_open(&first, path, &why), 0);
    cr_assert_eq(smoe_statedir_open(&second, path, &why), -EBUSY);
    snprintf(expected, sizeof expected, "state directory %s: in use by pid %ld", path,
             (long)getpid());
    cr_assert_str_eq(why.text, expected);
    smoe_statedir_release(&second);
    cr_assert_eq(smoe_statedir_open(&second, path, &why), -EBUSY, "still held");
    smoe_statedir_release(&first);
    cr_assert_eq(smoe_statedir_open(&second, path, &why), 0);
    smoe_statedir_release(&second);
}

Test(statedir, a_lock_file_with_nonsense_names_another_process)
{
    struct smoe_statedir first, second;
    struct smoe_why why;
    char path[200];
    strcpy(path, scratch_path(&dir, "state"));
    cr_assert_eq(smoe_statedir_open(&first, path, &why), 0);
    scratch_text(&dir, "state/lock", "no pid at all, and far too long for one");
    cr_assert_eq(smoe_statedir_open(&second, path, &why), -EBUSY);
    cr_assert(strstr(why.text, ": in use by another process") != NULL, "%s", why.text);
    smoe_statedir_release(&first);
}

Test(statedir, the_lock_ends_with_its_process_however_that_ends)
{
    struct smoe_statedir s;
    struct smoe_why why;
    int ready[2];
    char path[200], byte;
    strcpy(path, scratch_path(&dir, "state"));
    cr_assert_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        bool ok = smoe_statedir_open(&s, path, &why) == 0 && write(ready[1], "x", 1) == 1;
        if (ok)
            pause();
        _exit(1);
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    cr_assert_eq(smoe_statedir_open(&s, path, &why), -EBUSY);
    kill(child, SIGKILL);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    cr_assert_eq(smoe_statedir_open(&s, path, &why), 0, "%s", why.text);
    smoe_statedir_release(&s);
}

Test(statedir, what_cannot_be_one_is_refused)
{
    struct smoe_statedir s;
    struct smoe_why why;
    cr_assert_eq(smoe_statedir_open(&s, scratch_text(&dir, "file", ""), &why), -ENOTDIR);
    cr_assert_eq(smoe_statedir_open(&s, scratch_path(&dir, "a/b"), &why), -ENOENT);
    const char *path = scratch_path(&dir, "open");
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_eq(chmod(path, 01777), 0);
    cr_assert_eq(smoe_statedir_open(&s, path, &why), -EPERM);
    cr_assert(strstr(why.text, "everyone may write to it") != NULL, "%s", why.text);
    smoe_statedir_release(&s);
}
