/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io/config.h"
#include "tests/unit/io/alloc_fault.h"
#include "tests/unit/io/scratch_dir.h"

static const char *const policies[] = {"lyapunov", "topk", NULL};

struct settings {
    unsigned policy;
    uint64_t slot_ns;
    double v;
    struct smoe_addr listen;
    bool insecure;
    char banner[200];
    char label[64];
};

enum { POLICY, SLOT, V, LISTEN, INSECURE, BANNER, LABEL };

static const struct smoe_option table[] = {
    [POLICY] = {"routing", "policy", SMOE_ENUM, "lyapunov", .choices = policies, .reloadable = true,
                .help = "how the experts of a token are chosen",
                SMOE_OPTION_AT(struct settings, policy)},
    [SLOT] = {"routing", "slot", SMOE_DURATION, "20ms", 1e6, 1e9, .reloadable = true,
              .help = "length of a slot", SMOE_OPTION_AT(struct settings, slot_ns)},
    [V] = {"routing", "v", SMOE_DOUBLE, "50", 0, 1e6, .help = "weight of gate mass",
           SMOE_OPTION_AT(struct settings, v)},
    [LISTEN] = {"net", "listen", SMOE_ADDRESS, "127.0.0.1:7700",
                .help = "where workers and trainers connect",
                SMOE_OPTION_AT(struct settings, listen)},
    [INSECURE] = {"net", "insecure", SMOE_BOOL, .help = "allow plaintext | beyond loopback",
                  SMOE_OPTION_AT(struct settings, insecure)},
    [BANNER] = {"status", "banner", SMOE_STRING, .reloadable = true, .help = "a text to show",
                SMOE_OPTION_AT(struct settings, banner)},
    [LABEL] = {"status", "label", SMOE_NAME, .help = "name of this gateway",
               SMOE_OPTION_AT(struct settings, label)},
};
enum { ROWS = sizeof table / sizeof *table };

static struct scratch_dir dir;

static void set_up(void)
{
    scratch_dir_init(&dir);
}

static void tear_down(void)
{
    scratch_dir_release(&dir);
}

TestSuite(config, .init = set_up, .fini = tear_down);

static int load(struct smoe_config *c, struct settings *s, const struct smoe_config_sources *from,
                struct smoe_why *why)
{
    memset(s, 0, sizeof *s);
    return smoe_config_load(c, table, ROWS, s, from, why);
}

/* Loads the text as FILE and expects it to be refused with `PATH` + sentence. */
static void expect_refusal_of(const void *text, size_t n, const char *sentence)
{
    struct smoe_config c;
    struct settings s;
    struct smoe_why why;
    char expected[300];
    const char *path = scratch_file(&dir, "c.conf", text, n);
    const struct smoe_config_sources from = {.file = path, .file_required = true};
    cr_assert_eq(load(&c, &s, &from, &why), SMOE_ECONFIG, "%s", sentence);
    snprintf(expected, sizeof expected, "%s%s", path, sentence);
    cr_assert_str_eq(why.text, expected);
    cr_assert_eq(c.origins, NULL, "a failed load is released");
}

static void expect_refusal(const char *text, const char *sentence)
{
    expect_refusal_of(text, strlen(text), sentence);
}

Test(config, the_table_is_sound)
{
    smoe_options_check(table, ROWS);
}

Test(config, later_sources_win_and_origins_tell_which)
{
    struct smoe_config c;
    struct settings s;
    struct smoe_why why;
    char path[200];
    strcpy(path, scratch_text(&dir, "c.conf",
                              "# comment\n[routing]\npolicy = topk ; inline\n  slot=5ms\nv: 1\n"
                              "[net]\nlisten = [::1]:7700\n[status]\nbanner = from file\n"));
    cr_assert_eq(mkdir(scratch_path(&dir, "c.conf.d"), 0755), 0);
    scratch_text(&dir, "c.conf.d/20-b.conf", "[routing]\nslot = 7ms\n");
    scratch_text(&dir, "c.conf.d/10-a.conf", "\n\n[routing]\nslot = 6ms\nv = 2\n");
    scratch_text(&dir, "c.conf.d/30-c.conf.old", "nonsense");
    scratch_text(&dir, "c.conf.d/.hidden.conf", "nonsense");
    const char *environment[] = {"PATH=/bin", "STABLEMOE_ROUTING_V=3",
                                 "STABLEMOE_STATUS_BANNER=env", "STABLEMOE_DATA_DIR=/x", NULL};
    const struct smoe_option_list sets = {{"status.banner=a=b.c"}, 1};
    const struct smoe_config_sources from = {path, true, environment, &sets};
    cr_assert_eq(load(&c, &s, &from, &why), 0, "%s", why.text);
    cr_assert_eq(s.policy, 1);
    cr_assert_eq(s.slot_ns, 7000000);
    cr_assert_float_eq(s.v, 3, 1e-15);
    cr_assert_str_eq(s.banner, "a=b.c");
    cr_assert_not(s.insecure);
    cr_assert_eq(c.files_len, 3);
    cr_assert_eq(c.origins[POLICY].source, SMOE_CONFIG_FILE);
    cr_assert_eq(c.origins[POLICY].line, 3);
    cr_assert_str_eq(c.files[c.origins[POLICY].file], path);
    cr_assert_eq(c.origins[SLOT].line, 2);
    cr_assert(strstr(c.files[c.origins[SLOT].file], "20-b.conf") != NULL);
    cr_assert_eq(c.origins[V].source, SMOE_CONFIG_ENVIRONMENT);
    cr_assert_eq(c.origins[BANNER].source, SMOE_CONFIG_SET);
    cr_assert_eq(c.origins[INSECURE].source, SMOE_CONFIG_DEFAULT);
    smoe_config_release(&c);
    smoe_config_release(&c);
}

Test(config, a_mistake_names_its_line_key_value_and_limit)
{
    expect_refusal("[routing]\n\nslot = 5s\n", ":3: routing.slot: \"5s\" lies outside 1ms .. 1s");
    expect_refusal("[routing]\npolcy = topk\n",
                   ":2: no key \"polcy\" in [routing]; nearest is \"policy\"");
    expect_refusal("[rooting]\npolicy = topk\n", ":2: no section [rooting]; nearest is [routing]");
    expect_refusal("[net]\nslot = 5ms\n", ":2: no key \"slot\" in [net]; it belongs to [routing]");
    expect_refusal("policy = topk\n", ":1: \"policy\" stands before any [section]");
    expect_refusal("[routing]\nv = 1\nv = 1\n", ":3: routing.v: given before, on line 2");
    expect_refusal("[routing]\nnonsense\nv = -1\n",
                   ":2: neither [section] nor key = value nor # comment");
    expect_refusal("[routing\n", ":1: neither [section] nor key = value nor # comment");
    expect_refusal("[routing]\r\nv = x\r\n", ":2: routing.v: \"x\" is not 0 .. 1000000");
    expect_refusal("[routing]\nv = 1\n  2\n",
                   ":3: neither [section] nor key = value nor # comment");
}

Test(config, the_first_mistake_is_the_one_reported)
{
    expect_refusal("[routing]\nv = x\nnonsense\nslot = 1\n",
                   ":2: routing.v: \"x\" is not 0 .. 1000000");
}

Test(config, bytes_that_are_no_text_are_refused)
{
    expect_refusal_of("[status]\nbanner = a\0b\n", 22, ":2: line holds a NUL byte");
    expect_refusal("[status]\nbanner = a\x1b[2J\n",
                   ":2: status.banner: \"a?[2J\" holds a control character");
}

/* inih would split the line and take the rest for another one. */
Test(config, a_line_may_have_199_bytes)
{
    for (size_t n = 198; n <= 200; n++) {
        char text[300] = "[status]\n#";
        size_t head = strlen(text);
        memset(text + head, 'x', n - 1);
        strcpy(text + head + n - 1, "\nbanner = b\n");
        if (n > SMOE_CONFIG_LINE_MAX) {
            expect_refusal(text, ":2: line of 200 bytes is longer than 199");
            continue;
        }
        struct smoe_config c;
        struct settings s;
        struct smoe_why why;
        const struct smoe_config_sources from = {.file = scratch_text(&dir, "c.conf", text)};
        cr_assert_eq(load(&c, &s, &from, &why), 0, "%s", why.text);
        cr_assert_str_eq(s.banner, "b");
        smoe_config_release(&c);
    }
}

Test(config, a_file_may_lack_its_last_newline_and_carry_a_bom)
{
    struct smoe_config c;
    struct settings s;
    struct smoe_why why;
    const char *path = scratch_text(&dir, "c.conf", "\xef\xbb\xbf[routing]\npolicy = topk");
    const struct smoe_config_sources from = {.file = path};
    cr_assert_eq(load(&c, &s, &from, &why), 0, "%s", why.text);
    cr_assert_eq(s.policy, 1);
    smoe_config_release(&c);
}

Test(config, a_missing_file_is_an_error_only_where_it_was_named)
{
    struct smoe_config c;
    struct settings s;
    struct smoe_why why;
    struct smoe_config_sources from = {.file = scratch_path(&dir, "absent.conf")};
    cr_assert_eq(load(&c, &s, &from, &why), 0, "%s", why.text);
    cr_assert_eq(s.slot_ns, 20000000);
    smoe_config_release(&c);
    from.file_required = true;
    cr_assert_eq(load(&c, &s, &from, &why), -ENOENT);
    cr_assert(strstr(why.text, "absent.conf: No such file or directory") != NULL, "%s", why.text);
    from = (struct smoe_config_sources){0};
    cr_assert_eq(load(&c, &s, &from, &why), 0);
    smoe_config_release(&c);
}

Test(config, a_file_larger_than_a_megabyte_is_refused)
{
    struct smoe_config c;
    struct settings s;
    struct smoe_why why;
    char *big = malloc(SMOE_CONFIG_FILE_MAX + 1);
    cr_assert(big != NULL);
    memset(big, '\n', SMOE_CONFIG_FILE_MAX + 1);
    for (size_t extra = 0; extra < 2; extra++) {
        const char *path = scratch_file(&dir, "c.conf", big, SMOE_CONFIG_FILE_MAX + extra);
        const struct smoe_config_sources from = {.file = path};
        cr_assert_eq(load(&c, &s, &from, &why), extra ? SMOE_ETOOBIG : 0);
        smoe_config_release(&c);
    }
    free(big);
}

Test(config, there_are_at_most_64_files)
{
    struct smoe_config c;
    struct settings s;
    struct smoe_why why;
    char path[200], name[64];
    strcpy(path, scratch_text(&dir, "c.conf", ""));
    cr_assert_eq(mkdir(scratch_path(&dir, "c.conf.d"), 0755), 0);
    const struct smoe_config_sources from = {.file = path};
    for (int i = 1; i <= SMOE_CONFIG_FILES_MAX; i++) {
        snprintf(name, sizeof name, "c.conf.d/%02d.conf", i);
        scratch_text(&dir, name, "");
        if (i < SMOE_CONFIG_FILES_MAX - 2)
            continue;
        int rc = load(&c, &s, &from, &why);
        cr_assert_eq(rc, i < SMOE_CONFIG_FILES_MAX ? 0 : SMOE_ECONFIG, "%d: %s", i, why.text);
        smoe_config_release(&c);
    }
    cr_assert(strstr(why.text, "64.conf: more than 64 files") != NULL, "%s", why.text);
}

Test(config, environment_and_set_are_refused_by_name)
{
    static const struct {
        const char *environment, *set, *sentence;
    } cases[] = {
        {"STABLEMOE_ROUTING_SLOT=0s", NULL,
         "environment: STABLEMOE_ROUTING_SLOT: \"0s\" lies outside 1ms .. 1s"},
        {"STABLEMOE_ROUTING_SLOTS=1s", NULL,
         "environment: no option behind STABLEMOE_ROUTING_SLOTS; nearest is "
         "STABLEMOE_ROUTING_SLOT"},
        {NULL, "routing.slot=9s", "--set routing.slot: \"9s\" lies outside 1ms .. 1s"},
        {NULL, "routing.slto=9s", "--set: no key \"slto\" in [routing]; nearest is \"slot\""},
        {NULL, "nonsense", "--set: \"nonsense\" is not section.key=value"},
        {NULL, "a=b.c", "--set: \"a=b.c\" is not section.key=value"},
        {NULL, "=", "--set: \"=\" is not section.key=value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_config c;
        struct settings s;
        struct smoe_why why;
        const char *environment[] = {cases[i].environment, NULL};
        const struct smoe_option_list sets = {{cases[i].set}, cases[i].set != NULL};
        const struct smoe_config_sources from = {.environment = environment, .sets = &sets};
        cr_assert_eq(load(&c, &s, &from, &why), SMOE_ECONFIG);
        cr_assert_str_eq(why.text, cases[i].sentence);
    }
}

/* Writes the dump as a file of its own and returns its path. */
static const char *dumped(const struct smoe_config *c)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    smoe_config_dump(c, "stablemoed: configuration in force", out);
    fclose(out);
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
        cr_assert(end - line <= SMOE_CONFIG_LINE_MAX, "%.*s", (int)(end - line), line);
    const char *path = scratch_file(&dir, "dump.conf", text, n);
    free(text);
    return path;
}

Test(config, a_dump_loads_back_to_the_same_values)
{
    struct smoe_config c, back;
    struct settings s, again;
    struct smoe_why why;
    char longest[] =
        "status.banner=................................................................"
        "..............................................................................."
        "......";
    cr_assert_eq(strlen(strchr(longest, '=') + 1), SMOE_OPTION_VALUE_MAX - 1);
    const struct smoe_option_list sets = {
        {longest, "routing.slot=1500us", "routing.v=0.1", "net.listen=[fe80::1%1]:7700"}, 4};
    const struct smoe_config_sources from = {.sets = &sets};
    cr_assert_eq(load(&c, &s, &from, &why), 0, "%s", why.text);
    const struct smoe_config_sources dump = {.file = dumped(&c), .file_required = true};
    cr_assert_eq(load(&back, &again, &dump, &why), 0, "%s", why.text);
    for (size_t i = 0; i < ROWS; i++)
        cr_assert(smoe_option_equal(&table[i], &s, &again), "%s", table[i].key);
    smoe_config_release(&c);
    smoe_config_release(&back);
}

Test(config, a_dump_says_where_each_value_came_from)
{
    struct smoe_config c;
    struct settings s;
    struct smoe_why why;
    char path[200], expected[600], *text = NULL;
    size_t n = 0;
    strcpy(path, scratch_text(&dir, "c.conf", "[routing]\nslot = 5ms\n"));
    const struct smoe_config_sources from = {.file = path};
    cr_assert_eq(load(&c, &s, &from, &why), 0);
    FILE *out = open_memstream(&text, &n);
    smoe_config_dump(&c, "title", out);
    fclose(out);
    snprintf(expected, sizeof expected,
             "# length of a slot.\n"
             "# Value: 1ms .. 1s. Default: 20ms. Takes effect at reload.\n"
             "# From: %s:2\nslot = 5ms\n\n# weight of gate mass.\n"
             "# Value: 0 .. 1000000. Default: 50. Needs a restart.\n# From: default\nv = 50\n",
             path);
    cr_assert(strstr(text, expected) != NULL, "%s", text);
    free(text);
    smoe_config_release(&c);
}

Test(config, the_manual_has_a_row_for_each_option)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    smoe_config_markdown(table, ROWS, out);
    fclose(out);
    cr_assert(strstr(text, "### [routing]\n\n| key | value |") == text, "%s", text);
    cr_assert(strstr(text, "\n### [net]\n") != NULL);
    cr_assert(strstr(text, "| `slot` | 1ms .. 1s | `20ms` | reload | length of a slot |\n") !=
              NULL);
    cr_assert(strstr(text, "allow plaintext \\| beyond loopback |\n") != NULL);
    free(text);
}

Test(config, a_reload_changes_what_may_change_and_names_the_rest)
{
    struct smoe_config c, fresh;
    struct settings s, t;
    struct smoe_why why;
    struct smoe_config_changes changes;
    const struct smoe_config_sources none = {0};
    const struct smoe_option_list sets = {
        {"routing.slot=5ms", "routing.v=3", "net.insecure=yes", "status.banner=hello"}, 4};
    const struct smoe_config_sources from = {.sets = &sets};
    cr_assert_eq(load(&c, &s, &none, &why), 0);
    cr_assert_eq(load(&fresh, &t, &from, &why), 0);
    smoe_config_apply(&c, &fresh, &changes);
    cr_assert_eq(changes.applied, 2);
    cr_assert_eq(changes.kept, 2);
    cr_assert_str_eq(changes.names, "routing.v, net.insecure");
    cr_assert_eq(s.slot_ns, 5000000);
    cr_assert_str_eq(s.banner, "hello");
    cr_assert_float_eq(s.v, 50, 1e-15);
    cr_assert_not(s.insecure);
    smoe_config_apply(&c, &fresh, &changes);
    cr_assert_eq(changes.applied, 0);
    smoe_config_release(&c);
    smoe_config_release(&fresh);
}

Test(config, a_load_survives_the_failure_of_any_allocation)
{
    char path[200];
    strcpy(path, scratch_text(&dir, "c.conf", "[routing]\nslot = 5ms\n"));
    cr_assert_eq(mkdir(scratch_path(&dir, "c.conf.d"), 0755), 0);
    scratch_text(&dir, "c.conf.d/a.conf", "[routing]\nv = 2\n");
    const struct smoe_config_sources from = {.file = path, .file_required = true};
    unsigned n = 1;
    for (;; n++) {
        struct smoe_config c;
        struct settings s;
        struct smoe_why why;
        smoe_alloc_fail_at(n);
        int rc = load(&c, &s, &from, &why);
        if (!smoe_alloc_failed()) {
            cr_assert_eq(rc, 0);
            smoe_config_release(&c);
            break;
        }
        cr_assert_eq(rc, SMOE_ENOMEMORY, "allocation %u: %s", n, why.text);
        cr_assert_eq(c.origins, NULL);
    }
    cr_assert_eq(n, 7, "six allocations: two tables, two files with their names");
}
