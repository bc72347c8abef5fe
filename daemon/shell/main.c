/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoed: the gateway of a stablemoe fleet.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/io/cli.h"
#include "common/io/config.h"
#include "daemon/shell/loop.h"
#include "stablemoe/version.h"

extern char **environ;

#define PROGRAM "stablemoed"

struct arguments {
    char config[256], listen[SMOE_OPTION_VALUE_MAX + 1], status[SMOE_OPTION_VALUE_MAX + 1];
    char state_dir[SMOE_OPTION_VALUE_MAX + 1];
    struct smoe_option_list set;
    bool check_config, dump_config, options_table;
};

#define AT(member) SMOE_OPTION_AT(struct arguments, member)

static const struct smoe_cli_option options[] = {
    {{.key = "config",
      .type = SMOE_STRING,
      AT(config),
      .help = "configuration file, with drop-ins in FILE.d/*.conf"},
     'c',
     "FILE",
     false},
    {{.key = "set", .type = SMOE_LIST, AT(set), .help = "override one key of the configuration"},
     's',
     "SECTION.KEY=VALUE",
     false},
    {{.key = "listen",
      .type = SMOE_STRING,
      AT(listen),
      .help = "where workers and trainers connect (net.listen)"},
     'l',
     "ADDR:PORT",
     false},
    {{.key = "status",
      .type = SMOE_STRING,
      AT(status),
      .help = "where status is read (net.status)"},
     0,
     "ADDR:PORT",
     false},
    {{.key = "state-dir",
      .type = SMOE_STRING,
      AT(state_dir),
      .help = "directory of the lock and the admin socket (state.dir)"},
     0,
     "DIR",
     false},
    {{.key = "check-config",
      .type = SMOE_BOOL,
      AT(check_config),
      .help = "check the configuration and exit"},
     0,
     NULL,
     false},
    {{.key = "dump-config",
      .type = SMOE_BOOL,
      AT(dump_config),
      .help = "print the configuration in force, with comments, and exit"},
     0,
     NULL,
     false},
    {{.key = "options-table",
      .type = SMOE_BOOL,
      AT(options_table),
      .help = "print all keys as a markdown table and exit"},
     0,
     NULL,
     false},
};

static const struct smoe_cli cli = {
    .program = PROGRAM,
    .version = STABLEMOE_VERSION,
    .summary = "Routes tokens to the experts of a fleet of unlike workers, slot by slot",
    .more = "Read its status:  echo status | nc 127.0.0.1 7701\n",
    .options = options,
    .options_len = sizeof options / sizeof *options,
};

/* The three options that stand for a configuration key become a --set each. */
static int add_sets(struct arguments *a, char storage[3][SMOE_OPTION_VALUE_MAX + 32],
                    struct smoe_why *why)
{
    const struct {
        const char *key, *value;
    } short_hands[] = {
        {"net.listen", a->listen}, {"net.status", a->status}, {"state.dir", a->state_dir}};
    for (int i = 0; i < 3; i++) {
        if (!*short_hands[i].value)
            continue;
        if (a->set.len == SMOE_OPTION_LIST_MAX)
            return smoe_fail(why, SMOE_ECONFIG, "--set: at most %d times", SMOE_OPTION_LIST_MAX);
        snprintf(storage[i], sizeof storage[i], "%s=%s", short_hands[i].key, short_hands[i].value);
        a->set.items[a->set.len++] = storage[i];
    }
    return 0;
}

/* Tensors come and go with every batch. glibc would map each large block afresh and unmap it again, and
 * faulting its pages in costs the relay as much as copying into them; so blocks of up to 32 MiB (its
 * most) come from the heap, and the heap keeps up to 64 MiB of what is free. */
static void keep_freed_pages(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

/* As many descriptors as it may have without asking: a soft limit of 1024 is for select(2). */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    struct arguments a;
    struct smoe_cli_rest rest;
    struct smoe_why why = {""};
    char storage[3][SMOE_OPTION_VALUE_MAX + 32];
    static struct smoe_daemon_start start = {.version = STABLEMOE_VERSION};
    memset(&a, 0, sizeof a);
    keep_freed_pages();
    int done = smoe_cli_parse(&cli, argc, argv, &a, &rest, stdout, stderr);
    if (done >= 0)
        return done;
    if (a.options_table) {
        smoe_config_markdown(smoe_daemon_options, smoe_daemon_options_len, stdout);
        return SMOE_EXIT_OK;
    }
    int rc = add_sets(&a, storage, &why);
    start.sources = (struct smoe_config_sources){.file = *a.config ? a.config : NULL,
                                                 .file_required = true,
                                                 .environment = (const char *const *)environ,
                                                 .sets = &a.set};
    if (rc == 0)
        rc = smoe_config_load(&start.config, smoe_daemon_options, smoe_daemon_options_len,
                              &start.settings, &start.sources, &why);
    if (rc)
        return smoe_cli_fail(PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    rc = smoe_daemon_settings_check(&start.settings, &why);
    int exit_code = rc ? SMOE_EXIT_USAGE : SMOE_EXIT_OK;
    if (rc == 0 && a.dump_config) {
        smoe_config_dump(&start.config, "stablemoed configuration", stdout);
    } else if (rc == 0 && !a.check_config) {
        raise_descriptors();
        rc = smoe_daemon_run(&start, &why);
        /* an address to be configured, or keys */
        bool usage = rc == -EADDRINUSE || rc == -EADDRNOTAVAIL || rc == SMOE_ECONFIG;
        exit_code = !rc ? SMOE_EXIT_OK : usage ? SMOE_EXIT_USAGE : SMOE_EXIT_FAILED;
    }
    smoe_config_release(&start.config);
    return rc ? smoe_cli_fail(PROGRAM, exit_code, &why, stderr) : exit_code;
}
