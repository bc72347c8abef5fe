/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shell/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct command {
    const char *name;
    const char *argument; /* its name, or the names of two; NULL if it takes none */
    bool admin;
    char *(*run)(struct smoe_commands *c, const char *argument, const struct command *self);
    const char *help;
};

/* ---- answers ---- */

static char *with_newline(char *json)
{
    size_t n = json ? strlen(json) : 0;
    char *line = json ? realloc(json, n + 2) : NULL;
    if (!line) {
        free(json);
        return NULL;
    }
    memcpy(line + n, "\n", 2);
    return line;
}

/* JSON text of a sentence: printable ASCII comes from smoe_fail, quotes and backslashes are escaped. */
static void escape(const char *text, char *to, size_t cap)
{
    size_t n = 0;
    for (; *text && n + 3 < cap; text++) {
        unsigned char ch = (unsigned char)*text;
        if (ch == '"' || ch == '\\')
            to[n++] = '\\';
        to[n++] = ch < 0x20 || ch > 0x7e ? '?' : (char)ch;
    }
    to[n] = 0;
}

static char *error_json(int code, const char *sentence)
{
    char escaped[600], line[700];
    escape(sentence, escaped, sizeof escaped);
    snprintf(line, sizeof line, "{\"error\":\"%s\",\"code\":%d}", escaped, code);
    return with_newline(strdup(line));
}

static char *done_json(int rc, const struct smoe_why *why)
{
    return rc ? error_json(rc, why->text) : with_newline(strdup("{\"ok\":true}"));
}

/* ---- commands ---- */

static char *report(struct smoe_commands *c, enum smoe_report what)
{
    struct smoe_report_trace trace;
    struct smoe_report_context context = {.version = c->version,
                                          .now_ns = c->now_ns(),
                                          .started_ns = c->started_ns,
                                          .listen = c->listen};
    c->tell(c->context, &context, &trace);
    char *json = smoe_report_json(c->gateway, what, &context);
    return json ? with_newline(json) : error_json(SMOE_ENOMEMORY, "out of memory for the answer");
}

static char *run_status(struct smoe_commands *c, const char *argument, const struct command *self)
{
    (void)argument;
    (void)self;
    return report(c, SMOE_REPORT_STATUS);
}

static char *run_workers(struct smoe_commands *c, const char *argument, const struct command *self)
{
    (void)argument;
    (void)self;
    return report(c, SMOE_REPORT_WORKERS);
}

static char *run_experts(struct smoe_commands *c, const char *argument, const struct command *self)
{
    (void)argument;
    (void)self;
    return report(c, SMOE_REPORT_EXPERTS);
}

static char *run_ping(struct smoe_commands *c, const char *argument, const struct command *self)
{
    char line[120];
    (void)argument;
    (void)self;
    snprintf(line, sizeof line, "{\"pong\":true,\"version\":\"%s\"}", c->version);
    return with_newline(strdup(line));
}

static char *run_policy(struct smoe_commands *c, const char *argument, const struct command *self)
{
    struct smoe_why why = {""};
    (void)self;
    return done_json(c->set_policy(c->context, argument, &why), &why);
}

static char *run_drain(struct smoe_commands *c, const char *argument, const struct command *self)
{
    struct smoe_why why = {""};
    bool drain = strcmp(self->name, "drain") == 0;
    return done_json(c->drain(c->context, argument, drain, &why), &why);
}

/* `argument` is WORKER WATTS, one blank between them. */
static char *run_set_budget(struct smoe_commands *c, const char *argument,
                            const struct command *self)
{
    struct smoe_why why = {""};
    char worker[SMOE_NAME_MAX + 1];
    const char *blank = strchr(argument, ' ');
    (void)self;
    if ((size_t)(blank - argument) >= sizeof worker)
        return error_json(SMOE_EUNKNOWN, "no worker has so long a name");
    snprintf(worker, sizeof worker, "%.*s", (int)(blank - argument), argument);
    return done_json(c->set_budget(c->context, worker, blank + 1, &why), &why);
}

static char *run_reload(struct smoe_commands *c, const char *argument, const struct command *self)
{
    struct smoe_why why = {""};
    (void)argument;
    (void)self;
    return done_json(c->reload(c->context, &why), &why);
}

static char *run_reload_keys(struct smoe_commands *c, const char *argument,
                             const struct command *self)
{
    struct smoe_why why = {""};
    (void)argument;
    (void)self;
    return done_json(c->reload_keys(c->context, &why), &why);
}

static char *run_help(struct smoe_commands *c, const char *argument, const struct command *self);

static const struct command commands[] = {
    {"status", NULL, false, run_status, "everything: the daemon, workers, experts, trainers"},
    {"workers", NULL, false, run_workers, "the workers: state, queue, energy, speed, experts"},
    {"experts", NULL, false, run_experts, "the layers and their experts: host, visits, share"},
    {"ping", NULL, false, run_ping, "is it alive"},
    {"help", NULL, false, run_help, "these commands"},
    {"policy", "NAME", true, run_policy, "route by this policy from now on"},
    {"set-budget", "WORKER WATTS", true, run_set_budget,
     "mean power of this worker; off: that of all"},
    {"drain", "WORKER", true, run_drain, "give this worker nothing new"},
    {"undrain", "WORKER", true, run_drain, "let it work again, out of quarantine too"},
    {"reload", NULL, true, run_reload, "read configuration and keys again (as SIGHUP)"},
    {"reload-keys", NULL, true, run_reload_keys, "read the keys again, and end revoked sessions"},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static char *run_help(struct smoe_commands *c, const char *argument, const struct command *self)
{
    char text[2048];
    size_t n = 0;
    bool admin = argument != NULL; /* the admin socket asks with an argument, see answer() */
    (void)c;
    (void)self;
    n += (size_t)snprintf(text, sizeof text, "{\"commands\":{");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (commands[i].admin && !admin)
            continue;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s%s%s\":\"%s\"", i ? "," : "",
                              commands[i].name, commands[i].argument ? " " : "",
                              commands[i].argument ? commands[i].argument : "", commands[i].help);
    }
    snprintf(text + n, sizeof text - n, "}}");
    return with_newline(strdup(text));
}

/* ---- the line ---- */

static char *unknown(const char *line)
{
    char sentence[SMOE_NAME_MAX + 200];
    snprintf(sentence, sizeof sentence, "unknown command \"%.60s\": try help", line);
    return error_json(SMOE_EUNKNOWN, sentence);
}

/* Blanks in a row become one, in place; returns how many there are then. */
static int squeeze(char *text)
{
    int blanks = 0;
    char *to = text;
    for (const char *from = text; *from; from++) {
        bool blank = *from == ' ' || *from == '\t';
        if (blank && to[-1] == ' ') /* `text` is an argument: it does not begin with one */
            continue;
        blanks += blank;
        *to++ = blank ? ' ' : *from;
    }
    *to = 0;
    return blanks;
}

static const char *how_many(const char *wanted)
{
    return !wanted               ? "no argument is taken"
           : strchr(wanted, ' ') ? "two arguments are needed"
                                 : "one argument is needed";
}

/* Splits `name argument`, in place; extra blanks are skipped. */
static char *split(char *line)
{
    char *end = line + strlen(line);
    while (end > line && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = 0;
    char *blank = strpbrk(line, " \t");
    if (!blank)
        return NULL;
    *blank++ = 0;
    return blank + strspn(blank, " \t");
}

static char *answer(struct smoe_commands *c, const char *text, const char *problem, bool admin)
{
    char line[512];
    if (problem)
        return error_json(SMOE_EMALFORMED, problem);
    snprintf(line, sizeof line, "%s", text + strspn(text, " \t"));
    char *argument = split(line);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        const struct command *command = &commands[i];
        if (strcmp(command->name, line) != 0)
            continue;
        if (command->admin && !admin)
            return error_json(SMOE_EROLE, "the status port is read-only: use stablemoectl");
        int blanks = argument ? squeeze(argument) : 0;
        bool two = command->argument && strchr(command->argument, ' ');
        if (!command->argument != !argument || blanks != two)
            return error_json(SMOE_EMALFORMED, how_many(command->argument));
        return command->run(c, command->run == run_help && admin ? "" : argument, command);
    }
    return unknown(line);
}

char *smoe_commands_status(void *context, const char *line, const char *problem)
{
    return answer(context, line, problem, false);
}

char *smoe_commands_admin(void *context, const char *line, const char *problem)
{
    return answer(context, line, problem, true);
}
