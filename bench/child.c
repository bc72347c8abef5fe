/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/child.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/wipe.h"

#define ARGUMENTS_MAX 32
#define PATIENCE_MS   5000
#define POLL_MS       10

#define CERTIFICATE_FILE "gateway.pem"

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* ---- processes ---- */

static _Noreturn void become(const char *const *argv, const int streams[3])
{
    char *arguments[ARGUMENTS_MAX];
    size_t n = 0;
    for (; argv[n] && n + 1 < ARGUMENTS_MAX; n++)
        arguments[n] = strdup(argv[n]); /* execv wants them writable */
    arguments[n] = NULL;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (int fd = 0; fd < 3; fd++)
        dup2(streams[fd], fd);
    execv(arguments[0], arguments);
    _exit(127);
}

int smoe_child_spawn(const char *const *argv, const int streams[3], pid_t *ret_pid,
                     struct smoe_why *why)
{
    if (access(argv[0], X_OK))
        return smoe_fail(why, -errno, "%s: %s", argv[0], strerror(errno));
    pid_t pid = fork();
    if (pid == 0)
        become(argv, streams);
    if (pid < 0)
        return smoe_fail(why, -errno, "fork: %s", strerror(errno));
    *ret_pid = pid;
    return 0;
}

int smoe_child_start(const char *const *argv, const char *log, pid_t *ret_pid, struct smoe_why *why)
{
    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return smoe_fail(why, -errno, "%s: %s", log, strerror(errno));
    int rc = smoe_child_spawn(argv, (const int[3]){STDIN_FILENO, fd, fd}, ret_pid, why);
    close(fd);
    return rc;
}

static int code_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int smoe_child_wait(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return code_of(status);
}

void smoe_child_stop(pid_t pid)
{
    int status;
    if (pid <= 0)
        return;
    kill(pid, SIGTERM);
    for (int ms = 0; ms < PATIENCE_MS; ms += POLL_MS) {
        if (waitpid(pid, &status, WNOHANG) != 0)
            return;
        sleep_ms(POLL_MS);
    }
    kill(pid, SIGKILL);
    (void)smoe_child_wait(pid);
}

uint64_t smoe_child_cpu_ns(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
        return 0;
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

uint64_t smoe_child_rss(pid_t pid)
{
    char path[64], text[128];
    unsigned long long size = 0, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    if (!smoe_read_text_file(path, text, sizeof text) ||
        sscanf(text, "%llu %llu", &size, &resident) != 2)
        return 0;
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t smoe_child_faults(pid_t pid)
{
    char path[64], text[512];
    unsigned long long faults = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *rest = smoe_read_text_file(path, text, sizeof text) ? strrchr(text, ')') : NULL;
    if (!rest || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %llu", &faults) != 1)
        return 0;
    return faults;
}

/* ---- files ---- */

bool smoe_read_text_file(const char *path, char *ret, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t n = fread(ret, 1, size - 1, file);
    fclose(file);
    ret[n] = 0;
    return true;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

static int make_dir(char *dir, size_t size, struct smoe_why *why)
{
    const char *parent = getenv("TMPDIR");
    snprintf(dir, size, "%s/stablemoe-bench.XXXXXX", parent && *parent ? parent : "/tmp");
    if (mkdtemp(dir))
        return 0;
    int rc = -errno;
    smoe_fail(why, rc, "%s: %s", dir, strerror(-rc));
    *dir = 0;
    return rc;
}

/* ---- the fleet ---- */

/* The address in the gateway's line "listening peers=HOST:PORT", once it is there. */
static int await_address(struct smoe_bench_fleet *fleet, const char *log, struct smoe_why *why)
{
    char text[4096], *at = NULL;
    for (int ms = 0; ms < PATIENCE_MS && !at; ms += POLL_MS) {
        sleep_ms(POLL_MS);
        if (smoe_read_text_file(log, text, sizeof text))
            at = strstr(text, " peers=");
        if (waitpid(fleet->gateway, NULL, WNOHANG) != 0) {
            fleet->gateway = 0;
            return smoe_fail(why, SMOE_ECLOSED, "stablemoed ended: %.150s", text);
        }
    }
    if (!at || sscanf(at, " peers=%63s", fleet->address) != 1)
        return smoe_fail(why, SMOE_ETIMEOUT, "stablemoed does not listen");
    return 0;
}

/* `security`: a setting that says who is let in. */
static int start_gateway(const struct smoe_bench *bench, const char *listen,
                         const char *const *settings, const char *security,
                         struct smoe_bench_fleet *fleet, struct smoe_why *why)
{
    char program[1100], state[160], log[160];
    const char *argv[ARGUMENTS_MAX] = {
        program,    "--state-dir",   state,   "--listen", listen,
        "--status", SMOE_FLEET_HERE, "--set", security,
    };
    size_t n = 9;
    snprintf(program, sizeof program, "%s/stablemoed", bench->bin_dir);
    snprintf(state, sizeof state, "%s/gateway", fleet->dir);
    snprintf(log, sizeof log, "%s/gateway.log", fleet->dir);
    for (; settings && *settings && n + 3 < ARGUMENTS_MAX; settings++) {
        argv[n++] = "--set";
        argv[n++] = *settings;
    }
    int rc = smoe_child_start(argv, log, &fleet->gateway, why);
    return rc ? rc : await_address(fleet, log, why);
}

static int write_text(int dir, const char *name, const char *text)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text) ? 0 : SMOE_EUNKNOWN;
}

/* The state directory, with what the gateway is to know of others in it. */
static int write_secrets(const char *state, const struct smoe_keyring *keys,
                         const char *certificate, struct smoe_why *why)
{
    int dir = mkdir(state, 0700) ? -1 : open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return smoe_fail(why, -errno, "%s: %s", state, strerror(errno));
    int rc = certificate ? write_text(dir, CERTIFICATE_FILE, certificate)
                         : smoe_keyring_write(dir, SMOE_KEYRING_FILE, keys, why);
    close(dir);
    return rc && certificate ? smoe_fail(why, rc, "%s: %s", state, smoe_strerror(rc)) : rc;
}

static int start_secure(const struct smoe_bench *bench, const char *listen,
                        const char *const *settings, const struct smoe_keyring *keys,
                        const char *certificate, struct smoe_bench_fleet *ret, struct smoe_why *why)
{
    char state[160], setting[256] = "security.insecure=no";
    *ret = (struct smoe_bench_fleet){.gateway = 0};
    int rc = make_dir(ret->dir, sizeof ret->dir, why);
    snprintf(state, sizeof state, "%s/gateway", ret->dir);
    if (certificate)
        snprintf(setting, sizeof setting, "security.certificate=%s/" CERTIFICATE_FILE, state);
    if (rc == 0)
        rc = write_secrets(state, keys, certificate, why);
    return rc ? rc : start_gateway(bench, listen, settings, setting, ret, why);
}

int smoe_fleet_start_secure(const struct smoe_bench *bench, const char *const *settings,
                            const struct smoe_keyring *keys, const char *certificate,
                            struct smoe_bench_fleet *ret, struct smoe_why *why)
{
    return start_secure(bench, SMOE_FLEET_HERE, settings, keys, certificate, ret, why);
}

int smoe_fleet_start_at(const struct smoe_bench *bench, const char *listen,
                        const char *const *settings, const struct smoe_keyring *keys,
                        struct smoe_bench_fleet *ret, struct smoe_why *why)
{
    return start_secure(bench, listen, settings, keys, NULL, ret, why);
}

int smoe_fleet_write_key(const struct smoe_bench_fleet *fleet, const struct smoe_key *key,
                         char *ret, size_t size, struct smoe_why *why)
{
    char line[SMOE_KEY_LINE_MAX], name[SMOE_NAME_MAX + 8];
    int dir = open(fleet->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(name, sizeof name, "%s.key", key->name);
    snprintf(ret, size, "%s/%s", fleet->dir, name);
    smoe_key_format(key, line);
    int rc = dir < 0 ? -errno : write_text(dir, name, line);
    smoe_wipe(line, sizeof line);
    if (dir >= 0)
        close(dir);
    return rc ? smoe_fail(why, rc, "%s: %s", ret, smoe_strerror(rc)) : 0;
}

int smoe_fleet_add_worker(const struct smoe_bench *bench, const char *const *options,
                          struct smoe_bench_fleet *fleet, struct smoe_why *why)
{
    char program[1100], state[160], log[160], id[16];
    unsigned i = fleet->n_workers;
    const char *argv[ARGUMENTS_MAX] = {program, "--gateway",   fleet->address, "--id",
                                       id,      "--state-dir", state};
    for (size_t n = 7; *options && n + 1 < ARGUMENTS_MAX; n++)
        argv[n] = *options++;
    snprintf(program, sizeof program, "%s/stablemoe-worker", bench->bin_dir);
    snprintf(id, sizeof id, "w%u", i + 1);
    snprintf(state, sizeof state, "%s/%s", fleet->dir, id);
    snprintf(log, sizeof log, "%s/%s.log", fleet->dir, id);
    int rc = smoe_child_start(argv, log, &fleet->workers[i], why);
    fleet->n_workers += rc == 0;
    return rc;
}

int smoe_fleet_start(const struct smoe_bench *bench, const char *const *settings,
                     unsigned n_workers, struct smoe_bench_fleet *ret, struct smoe_why *why)
{
    *ret = (struct smoe_bench_fleet){.gateway = 0};
    int rc = make_dir(ret->dir, sizeof ret->dir, why);
    if (rc == 0)
        rc = start_gateway(bench, SMOE_FLEET_HERE, settings, "security.insecure=loopback-only", ret,
                           why);
    for (unsigned i = 0; i < n_workers && !rc; i++)
        rc = smoe_fleet_add_worker(bench, (const char *const[]){NULL}, ret, why);
    return rc;
}

void smoe_fleet_stop(struct smoe_bench_fleet *fleet)
{
    for (unsigned i = 0; i < fleet->n_workers; i++)
        smoe_child_stop(fleet->workers[i]);
    smoe_child_stop(fleet->gateway);
    if (*fleet->dir)
        nftw(fleet->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    *fleet = (struct smoe_bench_fleet){.gateway = 0};
}

int smoe_fleet_ask(const struct smoe_bench_fleet *fleet, const char *command, char *ret,
                   size_t size, struct smoe_why *why)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char line[64];
    size_t have = 0, len = (size_t)snprintf(line, sizeof line, "%s\n", command);
    ssize_t n = -1;
    snprintf(to.sun_path, sizeof to.sun_path, "%.80s/gateway/admin.sock", fleet->dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && !connect(fd, (const struct sockaddr *)&to, sizeof to) &&
        send(fd, line, len, MSG_NOSIGNAL) == (ssize_t)len)
        while (have < size - 1 && (n = recv(fd, ret + have, size - 1 - have, 0)) > 0)
            have += (size_t)n;
    ret[have] = 0;
    if (fd >= 0)
        close(fd);
    return n == 0 ? 0 : smoe_fail(why, SMOE_ECLOSED, "%s: no answer", to.sun_path);
}
