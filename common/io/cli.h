/* SPDX-License-Identifier: Apache-2.0
 *
 * Command lines, from one table per program, so that all of them keep the same contract: `--help` on
 * stdout with every option, `--version` as `NAME VERSION`, and on wrong usage exit 2 with one line
 * `program: what: why` on stderr.
 *
 *     int done = smoe_cli_parse(&cli, argc, argv, &args, &rest, stdout, stderr);
 *     if (done >= 0)
 *         return done;
 */
#ifndef SMOE_IO_CLI_H
#define SMOE_IO_CLI_H

#include <stdio.h>

#include "common/io/option.h"

#define SMOE_EXIT_OK     0
#define SMOE_EXIT_FAILED 1
#define SMOE_EXIT_USAGE  2 /* wrong usage or configuration */

#define SMOE_CLI_OPTIONS_MAX 48 /* rows of one program's table */

struct smoe_cli_option {
    struct smoe_option option; /* key: the long name; a SMOE_BOOL takes no argument */
    char letter;               /* short form, 0: none */
    const char *placeholder;   /* what --help calls the argument; NULL: "VALUE" */
    bool required;
};

struct smoe_cli {
    const char *program;
    const char *version;
    const char *summary;  /* one sentence */
    const char *operands; /* for the usage line, e.g. "COMMAND [ARGUMENT]..."; NULL: none taken */
    unsigned operands_min;
    unsigned operands_max;
    const char *more; /* printed after the options; ends in a newline; NULL: nothing */
    const struct smoe_cli_option
        *options; /* without --help and --version, which are always there */
    size_t options_len;
};

/* What is left after the options; borrowed from argv. */
struct smoe_cli_rest {
    char **operands;
    unsigned len;
};

/* Reads the command line into `values` (zeroed by the caller; defaults are written first). Returns
 * -1 to go on, or the exit code: 0 after --help or --version, 2 after a mistake. */
int smoe_cli_parse(const struct smoe_cli *cli, int argc, char **argv, void *values,
                   struct smoe_cli_rest *ret_rest, FILE *out, FILE *err);

/* Prints `program: sentence` and returns `exit_code`, for main() to return. */
int smoe_cli_fail(const char *program, int exit_code, const struct smoe_why *why, FILE *err);

#endif
