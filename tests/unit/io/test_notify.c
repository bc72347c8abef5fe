/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/io/notify.h"
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

TestSuite(notify, .init = set_up, .fini = tear_down);

/* A manager's socket at `name`, where a leading '@' is abstract. */
static int manager(const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(at.sun_path, name, n);
    if (name[0] == '@')
        at.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    cr_assert_eq(bind(fd, (const struct sockaddr *)&at, size), 0);
    return fd;
}

static void expect(int fd, const char *text)
{
    char got[400];
    ssize_t n = recv(fd, got, sizeof got - 1, MSG_DONTWAIT);
    cr_assert(n >= 0);
    got[n] = 0;
    cr_assert_str_eq(got, text);
}

static void expect_every_message(const char *name)
{
    struct smoe_notify n;
    struct smoe_why why;
    int fd = manager(name);
    cr_assert_eq(smoe_notify_init(&n, name, &why), 0, "%s", why.text);
    cr_assert_eq(smoe_notify_ready(&n), 0);
    expect(fd, "READY=1\n");
    cr_assert_eq(smoe_notify_status(&n, "4 workers\nREADY=1"), 0);
    expect(fd, "STATUS=4 workers?READY=1\n");
    cr_assert_eq(smoe_notify_alive(&n), 0);
    expect(fd, "WATCHDOG=1\n");
    cr_assert_eq(smoe_notify_reloading(&n, UINT64_C(123456789999)), 0);
    expect(fd, "RELOADING=1\nMONOTONIC_USEC=123456789\n");
    cr_assert_eq(smoe_notify_stopping(&n), 0);
    expect(fd, "STOPPING=1\n");
    smoe_notify_release(&n);
    smoe_notify_release(&n);
    close(fd);
}

Test(notify, every_message_arrives_at_a_path_and_at_an_abstract_name)
{
    char name[64];
    expect_every_message(scratch_path(&dir, "notify"));
    snprintf(name, sizeof name, "@smoe-test-%ld", (long)getpid());
    expect_every_message(name);
}

Test(notify, without_a_manager_every_call_does_nothing)
{
    struct smoe_notify n;
    struct smoe_why why;
    cr_assert_eq(smoe_notify_init(&n, NULL, &why), 0);
    cr_assert_eq(smoe_notify_ready(&n), 0);
    cr_assert_eq(smoe_notify_init(&n, "", &why), 0);
    cr_assert_eq(smoe_notify_status(&n, "x"), 0);
    smoe_notify_release(&n);
}

Test(notify, a_bad_socket_is_reported_and_leaves_a_silent_object)
{
    struct smoe_notify n;
    struct smoe_why why;
    char path[120];
    cr_assert_eq(smoe_notify_init(&n, "relative", &why), -EINVAL);
    cr_assert_eq(smoe_notify_ready(&n), 0);
    cr_assert_eq(smoe_notify_init(&n, scratch_path(&dir, "absent"), &why), -ENOENT);
    /* sun_path has 108 bytes; a path keeps its NUL, so 107 fit */
    for (size_t len = 107; len <= 108; len++) {
        memset(path, 'x', len);
        path[0] = '/';
        path[len] = 0;
        cr_assert_eq(smoe_notify_init(&n, path, &why), len < 108 ? -ENOENT : -EINVAL);
    }
    cr_assert_eq(smoe_notify_alive(&n), 0);
}

Test(notify, a_manager_that_does_not_read_does_not_block)
{
    struct smoe_notify n;
    struct smoe_why why;
    char path[200];
    strcpy(path, scratch_path(&dir, "notify"));
    int fd = manager(path), rc = 0;
    cr_assert_eq(smoe_notify_init(&n, path, &why), 0);
    for (int i = 0; i < 100000 && rc == 0; i++)
        rc = smoe_notify_alive(&n);
    cr_assert_eq(rc, -EAGAIN);
    smoe_notify_release(&n);
    close(fd);
}

Test(notify, a_long_status_is_cut)
{
    struct smoe_notify n;
    struct smoe_why why;
    char text[500], got[500];
    char path[200];
    strcpy(path, scratch_path(&dir, "notify"));
    int fd = manager(path);
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    cr_assert_eq(smoe_notify_init(&n, path, &why), 0);
    cr_assert_eq(smoe_notify_status(&n, text), 0);
    ssize_t len = recv(fd, got, sizeof got, MSG_DONTWAIT);
    cr_assert_eq(len, 255);
    cr_assert_eq(got[254], '\n');
    smoe_notify_release(&n);
    close(fd);
}

Test(notify, the_watchdog_is_for_the_process_it_names)
{
    uint64_t ns = 7;
    char own[24], other[24];
    snprintf(own, sizeof own, "%ld", (long)getpid());
    snprintf(other, sizeof other, "%ld", (long)getpid() + 1);
    cr_assert(smoe_notify_watchdog("30000000", own, &ns));
    cr_assert_eq(ns, UINT64_C(30000000000));
    cr_assert(smoe_notify_watchdog("1", NULL, &ns));
    cr_assert_eq(ns, 1000);
    cr_assert_not(smoe_notify_watchdog("30000000", other, &ns));
    cr_assert_not(smoe_notify_watchdog(NULL, own, &ns));
    cr_assert_not(smoe_notify_watchdog("0", own, &ns));
    cr_assert_not(smoe_notify_watchdog("x", own, &ns));
    cr_assert_not(smoe_notify_watchdog("18446744073709552", own, &ns));
    cr_assert_eq(ns, 1000);
}
