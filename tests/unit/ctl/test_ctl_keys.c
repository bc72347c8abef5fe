/* SPDX-License-Identifier: Apache-2.0
 *
 * A key is revoked while a daemon, played by this process and a child of it, has the state directory and does not
 * yet listen: it may have read the keys already, so it must be told.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/ctl/keys.h"
#include "common/io/statedir.h"
#include "tests/unit/io/scratch_dir.h"

static struct scratch_dir dir;
static struct smoe_statedir held;

static int keys(const char *verb, const char *first, const char *second, struct smoe_why *why)
{
    char words[3][16];
    char *const operands[] = {words[0], words[1], words[2]};
    FILE *out = fopen("/dev/null", "w");
    snprintf(words[0], sizeof words[0], "%s", verb);
    snprintf(words[1], sizeof words[1], "%s", first);
    snprintf(words[2], sizeof words[2], "%s", second ? second : "");
    int rc = smoe_ctl_keys(dir.path, operands, second ? 3 : 2, out, why);
    fclose(out);
    return rc;
}

static void set_up(void)
{
    struct smoe_why why;
    scratch_dir_init(&dir);
    cr_assert_eq(keys("add", "worker", "w1", &why), 0, "%s", why.text);
    cr_assert_eq(keys("add", "worker", "w2", &why), 0, "%s", why.text);
    cr_assert_eq(smoe_statedir_open(&held, dir.path, &why), 0);
}

static void tear_down(void)
{
    smoe_statedir_release(&held);
    scratch_dir_release(&dir);
}

TestSuite(ctl_keys, .init = set_up, .fini = tear_down);

/* A child that listens after a while, and ends with 0 if it was told to read the keys again. */
static pid_t listen_late(void)
{
    static const char done[] = "{\"ok\":true}\n";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char got[64] = "";
    pid_t pid = fork();
    if (pid)
        return pid;
    usleep(200000);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", scratch_path(&dir, "admin.sock"));
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
        _exit(2);
    int fd = accept(listener, NULL, NULL);
    ssize_t n = read(fd, got, sizeof got - 1);
    bool told = n > 0 && strcmp(got, "reload-keys\n") == 0;
    _exit(told && write(fd, done, sizeof done - 1) == sizeof done - 1 ? 0 : 1);
}

Test(ctl_keys, a_daemon_that_is_starting_is_told_once_it_listens)
{
    struct smoe_why why;
    int status;
    pid_t pid = listen_late();
    cr_assert_eq(keys("revoke", "w1", NULL, &why), 0, "%s", why.text);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(ctl_keys, a_daemon_that_cannot_be_told_is_no_success)
{
    struct smoe_why why;
    cr_assert_eq(keys("revoke", "w1", NULL, &why), SMOE_ETIMEOUT);
    cr_assert(strstr(why.text, "reload-keys"), "%s", why.text);
}

Test(ctl_keys, without_a_daemon_nobody_waits)
{
    struct smoe_why why;
    smoe_statedir_release(&held);
    cr_assert_not(smoe_statedir_held(held.fd));
    cr_assert_eq(keys("revoke", "w1", NULL, &why), 0, "%s", why.text);
}
