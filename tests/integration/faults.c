/* SPDX-License-Identifier: Apache-2.0
 *
 * A library to be preloaded into any of the programs, which makes the machine below it fail on demand. The
 * test maps the file named by SMOE_FAULTS and writes what shall fail; this side counts what did. Everything
 * is decided by counting, nothing by chance or by time, so that a failing case can be run again.
 *
 *     accept_errno   accept fails with this; as ENFILE does when the machine's table of files is full
 *     disk_errno     writes and syncs of files fail with this (not those of a log: descriptors 0 to 2)
 *     alloc_nth      the nth allocation from now fails; 0: none
 *     alloc_every    every nth allocation fails; 0: none
 *     wall_shift_s   the wall clock is that much ahead; the monotonic clock is left alone
 *     disk_delay_ms  writes and syncs of files take so much longer
 *     bind_signal    whoever binds a socket gets this signal, and the address is in use
 *
 * tests/integration/faults.py is the other side; the order of the words is theirs alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct faults {
    _Atomic int64_t accept_errno, accept_failed;
    _Atomic int64_t disk_errno, disk_failed;
    _Atomic int64_t alloc_nth, alloc_every, allocations, alloc_failed;
    _Atomic int64_t wall_shift_s;
    _Atomic int64_t disk_delay_ms;
    _Atomic int64_t bind_signal;
};

static struct faults *faults;

/* ---- memory: glibc's own entrances are what the usual names mean otherwise ---- */

#ifndef SMOE_FAULTS_WITHOUT_MEMORY

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size);
void *calloc(size_t n, size_t size);
void *realloc(void *old, size_t size);
int posix_memalign(void **ret, size_t alignment, size_t size);
void *aligned_alloc(size_t alignment, size_t size);

static int no_memory(void)
{
    if (!faults)
        return 0;
    int64_t number = atomic_fetch_add(&faults->allocations, 1) + 1;
    int64_t every = atomic_load(&faults->alloc_every);
    int fails = every && number % every == 0;
    if (atomic_load(&faults->alloc_nth) > 0)
        fails |= atomic_fetch_sub(&faults->alloc_nth, 1) == 1;
    if (!fails)
        return 0;
    atomic_fetch_add(&faults->alloc_failed, 1);
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return no_memory() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return no_memory() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return no_memory() ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return no_memory() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **ret, size_t alignment, size_t size)
{
    void *block = aligned_alloc(alignment, size);
    if (block)
        *ret = block;
    return block ? 0 : ENOMEM;
}

#endif

/* ---- descriptors ---- */

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    int64_t error = faults ? atomic_load(&faults->accept_errno) : 0;
    if (!error)
        return (int)syscall(SYS_accept4, fd, address, length, flags);
    atomic_fetch_add(&faults->accept_failed, 1);
    errno = (int)error;
    return -1;
}

int accept(int fd, struct sockaddr *address, socklen_t *length)
{
    return accept4(fd, address, length, 0);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int64_t number = faults ? atomic_load(&faults->bind_signal) : 0;
    if (!number)
        return (int)syscall(SYS_bind, fd, address, length);
    (void)kill(getpid(), (int)number);
    errno = EADDRINUSE;
    return -1;
}

/* ---- disks ---- */

static int disk_fails(int fd)
{
    struct stat st;
    int64_t error = faults && fd > 2 ? atomic_load(&faults->disk_errno) : 0;
    int64_t delay_ms = faults && fd > 2 ? atomic_load(&faults->disk_delay_ms) : 0;
    if ((!error && !delay_ms) || fstat(fd, &st) || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
        return 0;
    struct timespec delay = {.tv_sec = delay_ms / 1000, .tv_nsec = delay_ms % 1000 * 1000000};
    while (delay_ms && nanosleep(&delay, &delay) && errno == EINTR)
        ;
    if (!error)
        return 0;
    atomic_fetch_add(&faults->disk_failed, 1);
    errno = (int)error;
    return 1;
}

ssize_t write(int fd, const void *data, size_t n)
{
    return disk_fails(fd) ? -1 : (ssize_t)syscall(SYS_write, fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    return disk_fails(fd) ? -1 : (ssize_t)syscall(SYS_pwrite64, fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at);
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    return pwrite(fd, data, n, (off_t)at);
}

int fsync(int fd)
{
    return disk_fails(fd) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return disk_fails(fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

/* ---- the clock on the wall ---- */

int clock_gettime(clockid_t which, struct timespec *ret)
{
    int rc = (int)syscall(SYS_clock_gettime, which, ret);
    if (rc == 0 && faults && which == CLOCK_REALTIME)
        ret->tv_sec += (time_t)atomic_load(&faults->wall_shift_s);
    return rc;
}

time_t time(time_t *ret)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (ret)
        *ret = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *ret = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

/* ---- the beginning ---- */

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SMOE_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED)
        faults = page;
}
