/* SPDX-License-Identifier: Apache-2.0
 *
 * Against a socket whose other end is a child of the test that answers with fixed bytes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/ctl/ask.h"
#include "tests/unit/io/scratch_dir.h"

static int listen_in(const struct scratch_dir *dir)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", scratch_path(dir, "admin.sock"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(fd, 1), 0);
    return fd;
}

/* A child that takes one line, which it checks, and gives `n` bytes of `pattern`, repeated. */
static pid_t serve(int listener, const char *line, const char *pattern, size_t n)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    char got[300] = "";
    int fd = accept(listener, NULL, NULL);
    ssize_t len = read(fd, got, sizeof got - 1);
    bool right = len > 0 && strcmp(got, line) == 0;
    for (size_t sent = 0, period = strlen(pattern); sent < n;) {
        size_t at = sent % period, most = period - at < n - sent ? period - at : n - sent;
        ssize_t written = send(fd, pattern + at, most, MSG_NOSIGNAL);
        if (written <= 0)
            break;
        sent += (size_t)written;
    }
    close(fd);
    _exit(right ? 0 : 1);
}

static void check_served(pid_t pid)
{
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static struct scratch_dir dir;

static void make_dir(void)
{
    scratch_dir_init(&dir);
}

static void remove_dir(void)
{
    scratch_dir_release(&dir);
}

TestSuite(ask, .init = make_dir, .fini = remove_dir);

Test(ask, a_line_goes_out_and_the_answer_comes_back_without_its_newline)
{
    struct smoe_why why = {""};
    char *answer = NULL;
    int listener = listen_in(&dir);
    pid_t pid = serve(listener, "ping\n", "{\"pong\":true}\n", 14);
    cr_assert_eq(smoe_ctl_ask(dir.path, "ping", &answer, &why), 0, "%s", why.text);
    cr_assert_str_eq(answer, "{\"pong\":true}");
    free(answer);
    check_served(pid);
    close(listener);
}

Test(ask, an_answer_of_many_reads_is_whole)
{
    struct smoe_why why = {""};
    char *answer = NULL;
    size_t n = 3000000;
    int listener = listen_in(&dir);
    pid_t pid = serve(listener, "status\n", "0123456789abcde\n", n);
    cr_assert_eq(smoe_ctl_ask(dir.path, "status", &answer, &why), 0, "%s", why.text);
    cr_assert_eq(strlen(answer), n - 1);
    free(answer);
    check_served(pid);
    close(listener);
}

Test(ask, half_an_answer_is_an_error)
{
    struct smoe_why why = {""};
    char *answer = NULL;
    int listener = listen_in(&dir);
    pid_t pid = serve(listener, "ping\n", "{\"pong\"", 7);
    cr_assert_eq(smoe_ctl_ask(dir.path, "ping", &answer, &why), SMOE_EMALFORMED);
    cr_assert(strstr(why.text, "cut off after 7 bytes"), "%s", why.text);
    cr_assert_null(answer);
    check_served(pid);
    close(listener);
}

Test(ask, a_missing_or_deserted_socket_says_what_may_help)
{
    struct smoe_why why = {""};
    char *answer = NULL;
    cr_assert_eq(smoe_ctl_ask(dir.path, "ping", &answer, &why), -ENOENT);
    cr_assert(strstr(why.text, "/admin.sock: ") && strstr(why.text, "is stablemoed running?"), "%s",
              why.text);
    close(listen_in(&dir)); /* the file stays, nobody listens */
    cr_assert_eq(smoe_ctl_ask(dir.path, "ping", &answer, &why), -ECONNREFUSED);
    cr_assert(strstr(why.text, "stablemoed is not running"), "%s", why.text);
}

Test(ask, a_path_that_no_socket_address_holds_is_refused)
{
    struct smoe_why why = {""};
    char *answer = NULL, path[121];
    memset(path, 'x', 120);
    path[0] = '/';
    path[120] = 0;
    cr_assert_eq(smoe_ctl_ask(path, "ping", &answer, &why), -ENAMETOOLONG);
    cr_assert(strstr(why.text, "at most 107 bytes"), "%s", why.text);
}
