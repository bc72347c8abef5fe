/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes that a bench starts: a gateway with its state in a temporary directory, workers, a trainer,
 * a peer in Python. Each is ended by its pid, whatever way the bench ends: children get SIGTERM when
 * this process dies.
 */
#ifndef SMOE_BENCH_CHILD_H
#define SMOE_BENCH_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bench/bench.h"
#include "common/io/keyring.h"

/* Starts argv[0] (a path), NULL-terminated arguments, with these as standard input, output and error.
 * 0, or a code. */
int smoe_child_spawn(const char *const *argv, const int streams[3], pid_t *ret_pid,
                     struct smoe_why *why);

/* The same; stdout and stderr go to `log`. */
int smoe_child_start(const char *const *argv, const char *log, pid_t *ret_pid,
                     struct smoe_why *why);

/* Waits for its end; its exit status, or 128 + signal. */
int smoe_child_wait(pid_t pid);

/* SIGTERM, and SIGKILL after five seconds; 0 is no process. */
void smoe_child_stop(pid_t pid);

/* CPU time so far of all threads of a process, waited for or not. [ns] */
uint64_t smoe_child_cpu_ns(pid_t pid);

/* Pages so far that it touched and that no file had to be read for; 0 if it is gone. */
uint64_t smoe_child_faults(pid_t pid);

/* Resident memory; 0 if it is gone. [bytes] */
uint64_t smoe_child_rss(pid_t pid);

#define SMOE_FLEET_WORKERS_MAX 4

/* A gateway, and perhaps workers, on loopback ports that the kernel chose. */
struct smoe_bench_fleet {
    char dir[128]; /* temporary: state directories and logs; "" once removed */
    pid_t gateway;
    pid_t workers[SMOE_FLEET_WORKERS_MAX];
    unsigned n_workers;
    char address[64]; /* HOST:PORT of the gateway */
};

#define SMOE_FLEET_HERE "127.0.0.1:0" /* where a gateway listens if it is not said */

/* `settings`: NULL-terminated "section.key=value", or NULL. Stop it in any case. Workers are of full speed;
 * or started one by one with `options` of their own, NULL-terminated words. */
int smoe_fleet_start(const struct smoe_bench *bench, const char *const *settings,
                     unsigned n_workers, struct smoe_bench_fleet *ret, struct smoe_why *why);
/* The same without workers, and not open to everybody: a gateway that has `keys`, or, if `certificate` is not NULL,
 * that file's text in PEM. Both are borrowed. */
int smoe_fleet_start_secure(const struct smoe_bench *bench, const char *const *settings,
                            const struct smoe_keyring *keys, const char *certificate,
                            struct smoe_bench_fleet *ret, struct smoe_why *why);
/* The same, of whom it has keys, and it listens at `listen`. */
int smoe_fleet_start_at(const struct smoe_bench *bench, const char *listen,
                        const char *const *settings, const struct smoe_keyring *keys,
                        struct smoe_bench_fleet *ret, struct smoe_why *why);
/* Writes a node's key to a file of the fleet's directory, whose path is ret [size]. */
int smoe_fleet_write_key(const struct smoe_bench_fleet *fleet, const struct smoe_key *key,
                         char *ret, size_t size, struct smoe_why *why);
int smoe_fleet_add_worker(const struct smoe_bench *bench, const char *const *options,
                          struct smoe_bench_fleet *fleet, struct smoe_why *why);
void smoe_fleet_stop(struct smoe_bench_fleet *fleet);

/* What the gateway answers an administrator's command to (`workers`, `experts`), as text [size]. */
int smoe_fleet_ask(const struct smoe_bench_fleet *fleet, const char *command, char *ret,
                   size_t size, struct smoe_why *why);

/* A file's first `size - 1` bytes as text; false if it cannot be read. */
bool smoe_read_text_file(const char *path, char *ret, size_t size);

#endif
