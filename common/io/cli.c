/* SPDX-License-Identifier: Apache-2.0
 *
 * getopt_long does the splitting; its own messages are turned off because they take two lines and
 * another form. Its codes: FIRST + i for row i of the table, whichever spelling was used, and the
 * letters h and V.
 */
#include "common/io/cli.h"

#include <getopt.h>
#include <limits.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/text.h"

#define FIRST      1000
#define HELP_LEFT  28 /* column where the explanations start */
#define HELP_RIGHT 92

/* The table as getopt wants it. */
struct grammar {
    struct option longs[SMOE_CLI_OPTIONS_MAX + 3];
    char letters[2 * SMOE_CLI_OPTIONS_MAX + 8];
};

int smoe_cli_fail(const char *program, int exit_code, const struct smoe_why *why, FILE *err)
{
    fprintf(err, "%s: %s\n", program, why->text);
    return exit_code;
}

static bool takes_value(const struct smoe_cli_option *row)
{
    return row->option.type != SMOE_BOOL;
}

static void make_grammar(const struct smoe_cli *cli, struct grammar *g)
{
    struct smoe_text letters;
    smoe_assert(cli->options_len <= SMOE_CLI_OPTIONS_MAX);
    memset(g, 0, sizeof *g);
    smoe_text_init(&letters, g->letters, sizeof g->letters);
    smoe_text_add(&letters, ":hV"); /* the colon: tell a missing value from an unknown option */
    for (size_t i = 0; i < cli->options_len; i++) {
        const struct smoe_cli_option *row = &cli->options[i];
        g->longs[i] = (struct option){
            .name = row->option.key, .has_arg = takes_value(row), .val = FIRST + (int)i};
        if (row->letter)
            smoe_text_add(&letters, "%c%s", row->letter, takes_value(row) ? ":" : "");
    }
    g->longs[cli->options_len] = (struct option){.name = "help", .val = 'h'};
    g->longs[cli->options_len + 1] = (struct option){.name = "version", .val = 'V'};
}

/* The row behind one of getopt's codes, or NULL. */
static const struct smoe_cli_option *row_of(const struct smoe_cli *cli, int code)
{
    for (size_t i = 0; i < cli->options_len; i++)
        if (code == FIRST + (int)i || (code > 0 && code == cli->options[i].letter))
            return &cli->options[i];
    return NULL;
}

/* ---- help ---- */

static void explain(FILE *out, size_t column, const char *text)
{
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column + 1 + word > HELP_RIGHT) {
            fprintf(out, "\n%*s", HELP_LEFT, "");
            column = HELP_LEFT;
        }
        fprintf(out, "%s%.*s", column > HELP_LEFT ? " " : "", (int)word, text);
        column += word + (column > HELP_LEFT);
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void help_line(FILE *out, const char *left, const char *text)
{
    int n = fprintf(out, "%s", left);
    if (n >= HELP_LEFT)
        fprintf(out, "\n%*s", HELP_LEFT, "");
    else
        fprintf(out, "%*s", HELP_LEFT - n, "");
    explain(out, HELP_LEFT, text);
}

static void help_option(FILE *out, const struct smoe_cli_option *row)
{
    const struct smoe_option *o = &row->option;
    char left[80], range[200] = "", text[600], letter[] = "    ";
    if (row->letter)
        snprintf(letter, sizeof letter, "-%c, ", row->letter);
    const char *value = !takes_value(row) ? "" : row->placeholder ? row->placeholder : "VALUE";
    snprintf(left, sizeof left, "  %s--%s%s%s", row->letter ? letter : "    ", o->key,
             value[0] ? " " : "", value);
    if (o->type == SMOE_ENUM || ((o->min != 0 || o->max != 0) && o->type != SMOE_ADDRESS))
        smoe_option_range(o, range, sizeof range);
    struct smoe_text t;
    smoe_text_init(&t, text, sizeof text);
    smoe_text_add(&t, "%s", o->help);
    if (range[0])
        smoe_text_add(&t, "; %s", range);
    if (o->type == SMOE_LIST)
        smoe_text_add(&t, "; may be repeated");
    if (row->required)
        smoe_text_add(&t, " (required)");
    else if (o->standard && o->standard[0])
        smoe_text_add(&t, " (default: %s)", o->standard);
    help_line(out, left, text);
}

static void help(const struct smoe_cli *cli, FILE *out)
{
    fprintf(out, "Usage: %s", cli->program);
    for (size_t i = 0; i < cli->options_len; i++) {
        const struct smoe_cli_option *row = &cli->options[i];
        if (row->required)
            fprintf(out, " --%s %s", row->option.key,
                    row->placeholder ? row->placeholder : "VALUE");
    }
    fprintf(out, " [OPTION]...%s%s\n%s.\n\nOptions:\n", cli->operands ? " " : "",
            cli->operands ? cli->operands : "", cli->summary);
    for (size_t i = 0; i < cli->options_len; i++)
        help_option(out, &cli->options[i]);
    help_line(out, "  -h, --help", "show this and exit");
    help_line(out, "  -V, --version", "show the version and exit");
    if (cli->more)
        fprintf(out, "\n%s", cli->more);
}

/* ---- mistakes ---- */

static int usage(const struct smoe_cli *cli, FILE *err, const char *what, const char *problem)
{
    struct smoe_why why;
    return smoe_cli_fail(cli->program, SMOE_EXIT_USAGE,
                         (smoe_fail(&why, 0, "%s: %s", what, problem), &why), err);
}

static int unknown_option(const struct smoe_cli *cli, const char *given, FILE *err)
{
    char name[80], problem[160];
    const char *like = "help";
    size_t n = strcspn(given, "=");
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), given);
    unsigned least = smoe_option_distance(name + 2, like);
    for (size_t i = 0; i < cli->options_len; i++) {
        unsigned d = smoe_option_distance(name + 2, cli->options[i].option.key);
        if (d < least) {
            least = d;
            like = cli->options[i].option.key;
        }
    }
    snprintf(problem, sizeof problem, "unknown option; nearest is --%s", like);
    return usage(cli, err, name, problem);
}

/* getopt said '?' or ':'. `given` is the argument it stumbled over. */
static int complain(const struct smoe_cli *cli, int code, int about, const char *given, FILE *err)
{
    char name[80];
    const struct smoe_cli_option *row = row_of(cli, about);
    if (about == 'h' || about == 'V')
        return usage(cli, err, given, "takes no value");
    if (!row && about > 0 && about < 128) {
        snprintf(name, sizeof name, "-%c", about);
        return usage(cli, err, name, "unknown option");
    }
    if (!row && about == 0)
        return unknown_option(cli, given, err);
    snprintf(name, sizeof name, "--%s", row ? row->option.key : given);
    return usage(cli, err, name, code == ':' ? "needs a value" : "takes no value");
}

/* ---- parsing ---- */

static int check_operands(const struct smoe_cli *cli, const struct smoe_cli_rest *rest, FILE *err)
{
    char what[80];
    if (rest->len > cli->operands_max) {
        snprintf(what, sizeof what, "%.70s", rest->operands[cli->operands_max]);
        return usage(cli, err, what, "one operand too many");
    }
    if (rest->len < cli->operands_min)
        return usage(cli, err, cli->operands, "missing; see --help");
    return -1;
}

static int check_required(const struct smoe_cli *cli, const bool *seen, FILE *err)
{
    for (size_t i = 0; i < cli->options_len; i++) {
        if (cli->options[i].required && !seen[i]) {
            char name[80];
            snprintf(name, sizeof name, "--%s", cli->options[i].option.key);
            return usage(cli, err, name, "is required");
        }
    }
    return -1;
}

static int take(const struct smoe_cli *cli, const struct smoe_cli_option *row, const char *text,
                void *values, FILE *err)
{
    struct smoe_why why;
    int rc = smoe_option_parse(&row->option, takes_value(row) ? text : "yes", values, &why);
    if (rc == 0)
        return -1;
    smoe_fail_at(&why, rc, "--%s", row->option.key);
    return smoe_cli_fail(cli->program, SMOE_EXIT_USAGE, &why, err);
}

/* What was printed must have arrived: `--help >/dev/full` fails. */
static int finish(FILE *out)
{
    return fflush(out) == 0 && !ferror(out) ? SMOE_EXIT_OK : SMOE_EXIT_FAILED;
}

int smoe_cli_parse(const struct smoe_cli *cli, int argc, char **argv, void *values,
                   struct smoe_cli_rest *ret_rest, FILE *out, FILE *err)
{
    struct grammar g;
    bool seen[SMOE_CLI_OPTIONS_MAX] = {false};
    make_grammar(cli, &g);
    for (size_t i = 0; i < cli->options_len; i++)
        smoe_options_defaults(&cli->options[i].option, 1, values);
    optind = 0; /* glibc: start afresh */
    opterr = 0;
    int code;
    while ((code = getopt_long(argc, argv, g.letters, g.longs, NULL)) != -1) {
        if (code == 'h') {
            help(cli, out);
            return finish(out);
        }
        if (code == 'V') {
            fprintf(out, "%s %s\n", cli->program, cli->version);
            return finish(out);
        }
        if (code == '?' || code == ':')
            return complain(cli, code, optopt, argv[optind - 1], err);
        const struct smoe_cli_option *row = row_of(cli, code);
        smoe_assert(row != NULL);
        seen[row - cli->options] = true;
        int done = take(cli, row, optarg, values, err);
        if (done >= 0)
            return done;
    }
    *ret_rest = (struct smoe_cli_rest){.operands = argv + optind, .len = (unsigned)(argc - optind)};
    int done = check_required(cli, seen, err);
    return done >= 0 ? done : check_operands(cli, ret_rest, err);
}
