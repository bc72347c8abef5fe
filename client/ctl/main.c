/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoectl: ask and administer a running stablemoed.
 */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ask.h"
#include "client/ctl/keys.h"
#include "client/ctl/pretty.h"
#include "client/ctl/table.h"
#include "client/ctl/watch.h"
#include "common/io/addr.h"
#include "common/io/cli.h"
#include "stablemoe/version.h"

#define PROGRAM            "stablemoectl"
#define ARGUMENT_MAX       100 /* bytes; the daemon takes a line of 256 */
#define LINE_MAX_BYTES     256
#define STATE_DIR          "/var/lib/stablemoe"
#define STATE_DIR_VARIABLE "STABLEMOE_STATE_DIR" /* as stablemoed itself reads it */

struct arguments {
    char state_dir[256];
    char gateway[SMOE_HOST_MAX + 8]; /* "": that of this machine */
    char key[256];
    bool json;
    uint64_t interval_ns;
};

enum view { VIEW_JSON, VIEW_WORKERS, VIEW_DONE, VIEW_WATCH };

/* name, the names of its operands or NULL, all that together for --help, what to show, help */
#define COMMANDS(X)                                                                               \
    X("status", NULL, "status                 ", VIEW_JSON,                                       \
      "everything the gateway tells, as JSON")                                                    \
    X("workers", NULL, "workers                ", VIEW_WORKERS, "the workers, as a table")        \
    X("experts", NULL, "experts                ", VIEW_JSON, "the experts: host, visits, share")  \
    X("ping", NULL, "ping                   ", VIEW_JSON, "is the daemon alive")                  \
    X("help", NULL, "help                   ", VIEW_JSON, "the commands the daemon knows")        \
    X("watch", NULL, "watch                  ", VIEW_WATCH,                                       \
      "gateway and workers, drawn every interval")                                                \
    X("policy", "NAME", "policy NAME            ", VIEW_DONE, "route by this policy from now on") \
    X("set-budget", "WORKER WATTS", "set-budget WORKER WATTS", VIEW_DONE,                         \
      "mean power of this worker; off: that set for all")                                         \
    X("drain", "WORKER", "drain WORKER           ", VIEW_DONE, "give this worker nothing new")    \
    X("undrain", "WORKER", "undrain WORKER         ", VIEW_DONE,                                  \
      "let it work again, out of quarantine too")                                                 \
    X("reload", NULL, "reload                 ", VIEW_DONE,                                       \
      "read configuration and keys again, as SIGHUP")                                             \
    X("reload-keys", NULL, "reload-keys            ", VIEW_DONE,                                  \
      "read the keys again, and end sessions whose key is gone")

static const struct command {
    const char *name, *argument;
    enum view view;
} commands[] = {
#define X(name, argument, usage, view, help) {name, argument, view},
    COMMANDS(X)
#undef X
};

#define AT(member) SMOE_OPTION_AT(struct arguments, member)

static const struct smoe_cli_option options[] = {
    {{.key = "state-dir",
      .type = SMOE_STRING,
      AT(state_dir),
      .help = "the daemon's state directory; without it $" STATE_DIR_VARIABLE ", else " STATE_DIR},
     's',
     "DIR",
     false},
    {{.key = "gateway",
      .type = SMOE_ENDPOINT,
      AT(gateway),
      .help = "ask the gateway at this address, over the network; needs --key"},
     'g',
     "HOST:PORT",
     false},
    {{.key = "key",
      .type = SMOE_STRING,
      AT(key),
      .help = "file with an administrator's key (stablemoectl key add admin NAME on the gateway)"},
     'k',
     "FILE",
     false},
    {{.key = "json",
      .type = SMOE_BOOL,
      AT(json),
      .help = "print the answer as it came: JSON on one line"},
     'j',
     NULL,
     false},
    {{.key = "interval",
      .type = SMOE_DURATION,
      .standard = "1s",
      .min = 1e8,
      .max = 3.6e12,
      AT(interval_ns),
      .help = "between two drawings of watch"},
     'i',
     "TIME",
     false},
};

static const struct smoe_cli cli = {
    .program = PROGRAM,
    .version = STABLEMOE_VERSION,
    .summary = "Asks and administers the stablemoed of this machine, or with a key of another",
    .operands = "COMMAND [ARGUMENT..]",
    .operands_min = 1,
    .operands_max = 4,
    .more = "Commands:\n"
#define X(name, argument, usage, view, help) "  " usage "   " help "\n"
    COMMANDS(X)
#undef X
        SMOE_CTL_KEY_USAGE "\nwatch ends with Ctrl-C, or when its input ends.\n",
    .options = options,
    .options_len = sizeof options / sizeof *options,
};

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* How many operands the command of that name takes. */
static size_t operands_of(const struct command *command)
{
    if (!command->argument)
        return 0;
    return strchr(command->argument, ' ') ? 2 : 1;
}

static int check_operand(const struct command *command, const char *operand, struct smoe_why *why)
{
    for (const char *c = operand; *c; c++)
        if (*c <= ' ' || *c > '~')
            return smoe_fail(why, SMOE_ECONFIG, "%s: a %s has no blanks or control characters",
                             command->name, command->argument);
    if (!*operand || strlen(operand) > ARGUMENT_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "%s: a %s has 1..%d bytes", command->name,
                         command->argument, ARGUMENT_MAX);
    return 0;
}

/* The line to send, or what is wrong with the operands. */
static int make_line(const struct smoe_cli_rest *rest, const struct command **ret_command,
                     char line[LINE_MAX_BYTES], struct smoe_why *why)
{
    const char *name = rest->operands[0];
    const struct command *command = find(name);
    if (!command)
        return smoe_fail(why, SMOE_ECONFIG, "%.60s: unknown command; see --help", name);
    size_t wanted = operands_of(command), given = (size_t)rest->len - 1;
    if (given < wanted)
        return smoe_fail(why, SMOE_ECONFIG, "%s: needs a %s", name, command->argument);
    if (given > wanted)
        return smoe_fail(why, SMOE_ECONFIG, "%s: takes %s", name,
                         wanted ? command->argument : "no argument");
    int n = snprintf(line, LINE_MAX_BYTES, "%s", name);
    for (size_t i = 1; i <= given; i++) {
        int rc = check_operand(command, rest->operands[i], why);
        if (rc)
            return rc;
        n += snprintf(line + n, LINE_MAX_BYTES - (size_t)n, " %s", rest->operands[i]);
    }
    *ret_command = command;
    return 0;
}

/* 0, or the daemon's refusal. */
static int check_answer(const char *line, const cJSON *answer, struct smoe_why *why)
{
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(answer, "error");
    const cJSON *code = cJSON_GetObjectItemCaseSensitive(answer, "code");
    if (!cJSON_IsObject(answer))
        return smoe_fail(why, SMOE_EMALFORMED, "%s: the answer is not a JSON object", line);
    if (!cJSON_IsString(error))
        return 0;
    return smoe_fail(why, cJSON_IsNumber(code) ? code->valueint : SMOE_EMALFORMED, "%s: %s", line,
                     error->valuestring);
}

static int show(const struct arguments *a, enum view view, const char *text, const cJSON *answer,
                struct smoe_why *why)
{
    if (a->json)
        puts(text);
    else if (view == VIEW_WORKERS)
        return smoe_ctl_print_workers(answer, stdout)
                   ? smoe_fail(why, SMOE_ENOMEMORY, "out of memory")
                   : 0;
    else if (view == VIEW_JSON && isatty(1))
        smoe_ctl_pretty(text, stdout);
    else if (view == VIEW_JSON)
        puts(text);
    return 0; /* VIEW_DONE: silence is consent */
}

static struct smoe_ctl_target target_of(const struct arguments *a)
{
    return (struct smoe_ctl_target){a->state_dir, *a->gateway ? a->gateway : NULL, a->key};
}

/* Keys are made and revoked where they are kept; an administrator who is elsewhere has only his own. */
static int check_target(const struct arguments *a, const char *command, struct smoe_why *why)
{
    if (!*a->gateway != !*a->key)
        return smoe_fail(why, SMOE_ECONFIG, "--gateway and --key go together");
    bool keys = strcmp(command, "key") == 0;
    if (a->json && (keys || strcmp(command, "watch") == 0))
        return smoe_fail(why, SMOE_ECONFIG, "--json: %s does not answer in JSON", command);
    if (*a->gateway && keys)
        return smoe_fail(why, SMOE_ECONFIG, "key: on the gateway's own machine only");
    return 0;
}

static int ask_and_show(const struct arguments *a, const struct command *command, const char *line,
                        struct smoe_why *why)
{
    char *text = NULL;
    struct smoe_ctl_target target = target_of(a);
    int rc = smoe_ctl_ask_target(&target, line, &text, why);
    if (rc)
        return rc;
    cJSON *answer = cJSON_Parse(text);
    rc = check_answer(line, answer, why);
    if (rc == 0)
        rc = show(a, command->view, text, answer, why);
    cJSON_Delete(answer);
    free(text);
    if (rc == 0 && (fflush(stdout) || ferror(stdout)))
        rc = smoe_fail(why, SMOE_ECLOSED, "standard output: cannot be written");
    return rc;
}

static int manage_keys(const struct arguments *a, const struct smoe_cli_rest *rest)
{
    struct smoe_why why = {""};
    int rc = smoe_ctl_keys(a->state_dir, rest->operands + 1, rest->len - 1, stdout, &why);
    int exit_code = rc == SMOE_ECONFIG ? SMOE_EXIT_USAGE : SMOE_EXIT_FAILED;
    return rc ? smoe_cli_fail(PROGRAM, exit_code, &why, stderr) : SMOE_EXIT_OK;
}

int main(int argc, char **argv)
{
    struct arguments a;
    struct smoe_cli_rest rest;
    struct smoe_why why = {""};
    const struct command *command;
    char line[LINE_MAX_BYTES];
    memset(&a, 0, sizeof a);
    int done = smoe_cli_parse(&cli, argc, argv, &a, &rest, stdout, stderr);
    if (done >= 0)
        return done;
    const char *from_environment = getenv(STATE_DIR_VARIABLE);
    if (!*a.state_dir)
        snprintf(a.state_dir, sizeof a.state_dir, "%s",
                 from_environment && *from_environment ? from_environment : STATE_DIR);
    int rc = check_target(&a, rest.operands[0], &why);
    if (rc == 0 && strcmp(rest.operands[0], "key") == 0)
        return manage_keys(&a, &rest);
    rc = rc ? rc : make_line(&rest, &command, line, &why);
    if (rc)
        return smoe_cli_fail(PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    struct smoe_ctl_watch watch = {target_of(&a), a.interval_ns, stdout, 0};
    rc = command->view == VIEW_WATCH ? smoe_ctl_watch(&watch, &why)
                                     : ask_and_show(&a, command, line, &why);
    return rc ? smoe_cli_fail(PROGRAM, SMOE_EXIT_FAILED, &why, stderr) : SMOE_EXIT_OK;
}
