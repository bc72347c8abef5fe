/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/io/cli.h"

struct args {
    char gateway[64];
    char id[64];
    double speed;
    uint64_t epochs;
    bool json;
    struct smoe_option_list sets;
};

static const struct smoe_cli_option rows[] = {
    {.option = {.key = "gateway",
                .type = SMOE_ENDPOINT,
                .help = "the daemon",
                SMOE_OPTION_AT(struct args, gateway)},
     .letter = 'g',
     .placeholder = "ADDR:PORT",
     .required = true},
    {.option = {.key = "id",
                .type = SMOE_NAME,
                .help = "name of this worker",
                SMOE_OPTION_AT(struct args, id)},
     .placeholder = "NAME"},
    {.option = {.key = "speed",
                .type = SMOE_DOUBLE,
                .standard = "1",
                .min = 0.01,
                .max = 1,
                .help = "share of the processor to use",
                SMOE_OPTION_AT(struct args, speed)},
     .placeholder = "X"},
    {.option = {.key = "epochs",
                .type = SMOE_U64,
                .standard = "10",
                .min = 1,
                .max = 1000,
                .help = "passes over the data",
                SMOE_OPTION_AT(struct args, epochs)},
     .letter = 'e',
     .placeholder = "N"},
    {.option = {.key = "json",
                .type = SMOE_BOOL,
                .help = "machine readable",
                SMOE_OPTION_AT(struct args, json)},
     .letter = 'j'},
    {.option = {.key = "set",
                .type = SMOE_LIST,
                .help = "override an option",
                SMOE_OPTION_AT(struct args, sets)},
     .placeholder = "S.K=V"},
};

static const struct smoe_cli plain = {.program = "stablemoe-x",
                                      .version = "1.2.3",
                                      .summary = "Does x",
                                      .options = rows,
                                      .options_len = sizeof rows / sizeof *rows};

struct run {
    int done;
    char *out, *err;
    size_t out_len, err_len;
    struct args args;
    struct smoe_cli_rest rest;
};

/* `line` is cut at blanks; runs the parser with its output in memory. */
static struct run run(const struct smoe_cli *cli, const char *line)
{
    static char words[400];
    static char *argv[40];
    struct run r = {.done = 99};
    int argc = 0;
    strcpy(words, line);
    for (char *save, *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    argv[argc] = NULL;
    FILE *out = open_memstream(&r.out, &r.out_len), *err = open_memstream(&r.err, &r.err_len);
    r.done = smoe_cli_parse(cli, argc, argv, &r.args, &r.rest, out, err);
    fclose(out);
    fclose(err);
    return r;
}

static void end(struct run *r)
{
    free(r->out);
    free(r->err);
}

Test(cli, options_arrive_in_every_spelling)
{
    struct run r = run(&plain, "x --gateway=gw:7700 -e 3 --speed .25 -j --set a.b=c --set d.e=f");
    cr_assert_eq(r.done, -1, "%s", r.err);
    cr_assert_str_eq(r.args.gateway, "gw:7700");
    cr_assert_eq(r.args.epochs, 3);
    cr_assert_float_eq(r.args.speed, 0.25, 1e-15);
    cr_assert(r.args.json);
    cr_assert_eq(r.args.sets.len, 2);
    cr_assert_str_eq(r.args.sets.items[1], "d.e=f");
    cr_assert_eq(r.rest.len, 0);
    end(&r);
    r = run(&plain, "x -ggw:1 -je5");
    cr_assert_eq(r.done, -1, "%s", r.err);
    cr_assert_eq(r.args.epochs, 5);
    cr_assert(r.args.json);
    cr_assert_eq(r.args.sets.len, 0, "a second parse starts afresh");
    end(&r);
}

Test(cli, what_is_not_given_has_its_default)
{
    struct run r = run(&plain, "x -g gw:7700");
    cr_assert_eq(r.done, -1);
    cr_assert_eq(r.args.epochs, 10);
    cr_assert_float_eq(r.args.speed, 1, 1e-15);
    cr_assert_not(r.args.json);
    cr_assert_str_eq(r.args.id, "");
    end(&r);
}

Test(cli, a_mistake_is_exit_2_and_one_line)
{
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"x", "stablemoe-x: --gateway: is required\n"},
        {"x -g gw:1 --epoch5", "stablemoe-x: --epoch5: unknown option; nearest is --epochs\n"},
        {"x -g gw:1 --sped=3", "stablemoe-x: --sped: unknown option; nearest is --speed\n"},
        {"x -g gw:1 -q", "stablemoe-x: -q: unknown option\n"},
        {"x -g", "stablemoe-x: --gateway: needs a value\n"},
        {"x --epochs", "stablemoe-x: --epochs: needs a value\n"},
        {"x -g gw:1 --json=1", "stablemoe-x: --json: takes no value\n"},
        {"x --help=1", "stablemoe-x: --help=1: takes no value\n"},
        {"x -g gw:1 -e 0", "stablemoe-x: --epochs: \"0\" lies outside 1 .. 1000\n"},
        {"x -g gw", "stablemoe-x: --gateway: \"gw\" needs a port, ADDR:0..65535\n"},
        {"x -g gw:1 more", "stablemoe-x: more: one operand too many\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r = run(&plain, cases[i].line);
        cr_assert_eq(r.done, SMOE_EXIT_USAGE, "%s", cases[i].line);
        cr_assert_str_eq(r.err, cases[i].says);
        cr_assert_str_eq(r.out, "");
        end(&r);
    }
}

Test(cli, control_characters_of_an_argument_do_not_reach_the_terminal)
{
    struct run r = run(&plain, "x -g gw:1 --\x1b[2J");
    cr_assert_eq(r.done, SMOE_EXIT_USAGE);
    cr_assert_eq(strchr(r.err, '\x1b'), NULL);
    end(&r);
}

Test(cli, help_names_every_option_on_stdout)
{
    struct run r = run(&plain, "x --help");
    cr_assert_eq(r.done, SMOE_EXIT_OK);
    cr_assert_str_eq(r.err, "");
    cr_assert(strstr(r.out, "Usage: stablemoe-x --gateway ADDR:PORT [OPTION]...\n") == r.out);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cr_assert(strstr(r.out, rows[i].option.key) != NULL);
        cr_assert(strstr(r.out, rows[i].option.help) != NULL);
    }
    cr_assert(strstr(r.out, "-e, --epochs N") != NULL);
    cr_assert(strstr(r.out, "1 .. 1000 (default: 10)") != NULL, "%s", r.out);
    for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n"))
        cr_assert(strlen(line) <= 100, "%s", line);
    end(&r);
}

Test(cli, the_version_is_name_and_number)
{
    struct run r = run(&plain, "x --version");
    cr_assert_eq(r.done, SMOE_EXIT_OK);
    cr_assert_str_eq(r.out, "stablemoe-x 1.2.3\n");
    end(&r);
}

Test(cli, help_that_cannot_be_written_fails)
{
    struct args args;
    struct smoe_cli_rest rest;
    char *argv[] = {(char[]){"x"}, (char[]){"--help"}, NULL};
    FILE *full = fopen("/dev/full", "w");
    cr_assert(full != NULL);
    cr_assert_eq(smoe_cli_parse(&plain, 2, argv, &args, &rest, full, stderr), SMOE_EXIT_FAILED);
    fclose(full);
}

Test(cli, operands_are_counted)
{
    struct smoe_cli ctl = plain;
    ctl.options_len = 0;
    ctl.operands = "COMMAND [ARGUMENT]";
    ctl.operands_min = 1;
    ctl.operands_max = 2;
    struct run r = run(&ctl, "ctl");
    cr_assert_eq(r.done, SMOE_EXIT_USAGE);
    cr_assert_str_eq(r.err, "stablemoe-x: COMMAND [ARGUMENT]: missing; see --help\n");
    end(&r);
    r = run(&ctl, "ctl drain pi-4");
    cr_assert_eq(r.done, -1);
    cr_assert_eq(r.rest.len, 2);
    cr_assert_str_eq(r.rest.operands[1], "pi-4");
    end(&r);
    r = run(&ctl, "ctl drain pi-4 pi-5");
    cr_assert_eq(r.done, SMOE_EXIT_USAGE);
    cr_assert_str_eq(r.err, "stablemoe-x: pi-5: one operand too many\n");
    end(&r);
}
