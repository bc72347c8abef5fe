/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "common/io/option.h"

enum colour { RED, GREEN, BLUE };
static const char *const colours[] = {"red", "green", "blue", NULL};

struct values {
    bool flag;
    uint64_t count;
    uint64_t size;
    uint64_t length_ns;
    double ratio;
    double free_number;
    char text[8];
    char name[64];
    enum colour colour;
    struct smoe_addr listen;
    char gateway[40];
    struct smoe_option_list list;
};

enum { FLAG, COUNT, SIZE, LENGTH, RATIO, FREE, TEXT, NAME, COLOUR, LISTEN, GATEWAY };

static const struct smoe_option table[] = {
    [FLAG] = {"a", "flag", SMOE_BOOL, "yes", .help = "h", SMOE_OPTION_AT(struct values, flag)},
    [COUNT] = {"a", "count", SMOE_U64, "8", 2, 16, "tokens", .help = "h",
               SMOE_OPTION_AT(struct values, count)},
    [SIZE] = {"a", "size", SMOE_BYTES, "64KiB", 4096, 1 << 20, .help = "h",
              SMOE_OPTION_AT(struct values, size)},
    [LENGTH] = {"a", "length", SMOE_DURATION, "20ms", 1e6, 1e9, .help = "h",
                SMOE_OPTION_AT(struct values, length_ns)},
    [RATIO] = {"a", "ratio", SMOE_DOUBLE, "0.25", 0.01, 1, .help = "h",
               SMOE_OPTION_AT(struct values, ratio)},
    [FREE] = {"a", "free", SMOE_DOUBLE, "-1.5", .help = "h",
              SMOE_OPTION_AT(struct values, free_number)},
    [TEXT] = {"a", "text", SMOE_STRING, "abc", .help = "h", SMOE_OPTION_AT(struct values, text)},
    [NAME] = {"a", "name", SMOE_NAME, .help = "h", SMOE_OPTION_AT(struct values, name)},
    [COLOUR] = {"a", "colour", SMOE_ENUM, "green", .choices = colours, .help = "h",
                SMOE_OPTION_AT(struct values, colour)},
    [LISTEN] = {"a", "listen", SMOE_ADDRESS, "127.0.0.1:7700", 1, .help = "h",
                SMOE_OPTION_AT(struct values, listen)},
    [GATEWAY] = {"a", "gateway", SMOE_ENDPOINT, .help = "h",
                 SMOE_OPTION_AT(struct values, gateway)},
};
enum { ROWS = sizeof table / sizeof *table };

static int set(struct values *v, int row, const char *text, struct smoe_why *why)
{
    return smoe_option_parse(&table[row], text, v, why);
}

Test(option, the_table_is_sound_and_its_defaults_arrive)
{
    struct values v;
    memset(&v, 0xff, sizeof v);
    smoe_options_check(table, ROWS);
    smoe_options_defaults(table, ROWS, &v);
    cr_assert(v.flag);
    cr_assert_eq(v.count, 8);
    cr_assert_eq(v.size, 65536);
    cr_assert_eq(v.length_ns, 20000000);
    cr_assert_float_eq(v.ratio, 0.25, 1e-15);
    cr_assert_str_eq(v.text, "abc");
    cr_assert_str_eq(v.name, "");
    cr_assert_eq(v.colour, GREEN);
    cr_assert_eq(smoe_addr_port(&v.listen), 7700);
}

Test(option, every_value_is_written_as_it_is_read)
{
    static const struct {
        int row;
        const char *in, *out;
    } cases[] = {
        {FLAG, "on", "yes"},
        {FLAG, "0", "no"},
        {COUNT, "16", "16"},
        {SIZE, "4096", "4KiB"},
        {SIZE, "4097", "4097"},
        {SIZE, "0.5MiB", "512KiB"},
        {LENGTH, "1.5 ms", "1500us"},
        {LENGTH, "1s", "1s"},
        {LENGTH, "1000001ns", "1000001ns"},
        {RATIO, "1", "1"},
        {RATIO, "0.1", "0.1"},
        {RATIO, "0.3333333333333333", "0.3333333333333333"},
        {FREE, "-1e300", "-1e+300"},
        {TEXT, "", ""},
        {TEXT, "a b;c", "a b;c"},
        {NAME, "pi-4", "pi-4"},
        {COLOUR, "blue", "blue"},
        {LISTEN, "[::1]:1", "[::1]:1"},
        {GATEWAY, "gw:7700", "gw:7700"},
        {NAME, "", ""},
        {GATEWAY, "", ""},
    };
    struct values v;
    smoe_options_defaults(table, ROWS, &v);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_why why;
        char text[SMOE_OPTION_VALUE_MAX + 1];
        cr_assert_eq(set(&v, cases[i].row, cases[i].in, &why), 0, "%s: %s", cases[i].in, why.text);
        smoe_option_format(&table[cases[i].row], &v, text);
        cr_assert_str_eq(text, cases[i].out);
        struct values again = v;
        cr_assert_eq(set(&again, cases[i].row, text, &why), 0, "%s: %s", text, why.text);
        cr_assert(smoe_option_equal(&table[cases[i].row], &v, &again));
    }
}

Test(option, a_refused_value_leaves_the_old_one_and_names_the_limit)
{
    static const struct {
        int row;
        const char *text, *sentence;
    } cases[] = {
        {FLAG, "maybe", "\"maybe\" is not yes or no"},
        {COUNT, "1", "\"1\" lies outside 2 .. 16 tokens"},
        {COUNT, "17", "\"17\" lies outside 2 .. 16 tokens"},
        {COUNT, "-3", "\"-3\" is not 2 .. 16 tokens"},
        {SIZE, "4095", "\"4095\" lies outside 4KiB .. 1MiB"},
        {SIZE, "1048577", "\"1048577\" lies outside 4KiB .. 1MiB"},
        {SIZE, "1MB", "\"1MB\" is no size: 4096, 64KiB, 1.5MiB, 2GiB"},
        {LENGTH, "999us", "\"999us\" lies outside 1ms .. 1s"},
        {LENGTH, "1001ms", "\"1001ms\" lies outside 1ms .. 1s"},
        {LENGTH, "20", "\"20\" is no duration: 500us, 20ms, 1.5s, 2min, 1h"},
        {LENGTH, "-1s", "\"-1s\" is no duration: 500us, 20ms, 1.5s, 2min, 1h"},
        {LENGTH, "0", "\"0\" lies outside 1ms .. 1s"},
        {LENGTH, "99999999999h", "\"99999999999h\" is no duration: 500us, 20ms, 1.5s, 2min, 1h"},
        {RATIO, "1.0000001", "\"1.0000001\" lies outside 0.01 .. 1"},
        {RATIO, "nan", "\"nan\" is not 0.01 .. 1"},
        {TEXT, "12345678", "8 bytes are more than 7"},
        {TEXT, "a ;b", "\"a ;b\": blanks at an end and ` ;` cannot be kept"},
        {TEXT, " a", "\" a\": blanks at an end and ` ;` cannot be kept"},
        {TEXT, "a\nb", "\"a?b\" holds a control character"},
        {NAME, "a b", "\"a b\" is not at most 63 of A-Z a-z 0-9 . _ -"},
        {COLOUR, "pink", "\"pink\" is not red, green or blue"},
        {LISTEN, "127.0.0.1:0", "\"127.0.0.1:0\": port 0 lies outside 1 .. 65535"},
        {LISTEN, "", "\"\" needs a port, ADDR:0..65535"},
        {GATEWAY, "gw", "\"gw\" needs a port, ADDR:0..65535"},
    };
    struct values v;
    smoe_options_defaults(table, ROWS, &v);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct values before = v;
        struct smoe_why why;
        cr_assert_eq(set(&v, cases[i].row, cases[i].text, &why), SMOE_ECONFIG, "%s", cases[i].text);
        cr_assert_str_eq(why.text, cases[i].sentence);
        cr_assert(smoe_option_equal(&table[cases[i].row], &v, &before));
    }
}

Test(option, limits_are_inclusive)
{
    struct values v;
    struct smoe_why why;
    smoe_options_defaults(table, ROWS, &v);
    cr_assert_eq(set(&v, COUNT, "2", &why), 0);
    cr_assert_eq(set(&v, COUNT, "16", &why), 0);
    cr_assert_eq(set(&v, SIZE, "1MiB", &why), 0);
    cr_assert_eq(set(&v, LENGTH, "1ms", &why), 0);
    cr_assert_eq(set(&v, LENGTH, "1s", &why), 0);
    cr_assert_eq(set(&v, RATIO, "0.01", &why), 0);
    cr_assert_eq(set(&v, TEXT, "1234567", &why), 0);
}

Test(option, a_value_has_at_most_150_bytes)
{
    char store[400];
    const struct smoe_option o = {"s",         "k", SMOE_STRING, .help = "h", .size = sizeof store,
                                  .store = 'c'};
    char text[SMOE_OPTION_VALUE_MAX + 2], back[SMOE_OPTION_VALUE_MAX + 1];
    struct smoe_why why;
    memset(text, 'x', sizeof text);
    text[SMOE_OPTION_VALUE_MAX + 1] = 0;
    cr_assert_eq(smoe_option_parse(&o, text, store, &why), SMOE_ECONFIG);
    text[SMOE_OPTION_VALUE_MAX] = 0;
    cr_assert_eq(smoe_option_parse(&o, text, store, &why), 0);
    smoe_option_format(&o, store, back);
    cr_assert_str_eq(back, text);
}

Test(option, without_limits_any_number_goes)
{
    struct values v;
    struct smoe_why why;
    smoe_options_defaults(table, ROWS, &v);
    cr_assert_eq(set(&v, FREE, "-1e308", &why), 0);
    cr_assert_eq(set(&v, FREE, "1e308", &why), 0);
    const struct smoe_option at_least = {
        "a", "n", SMOE_U64, "1", .min = 1, .help = "h", SMOE_OPTION_AT(struct values, count)};
    cr_assert_eq(smoe_option_parse(&at_least, "18446744073709551615", &v, &why), 0);
    cr_assert_eq(v.count, UINT64_MAX);
    cr_assert_eq(smoe_option_parse(&at_least, "0", &v, &why), SMOE_ECONFIG);
    cr_assert_str_eq(why.text, "\"0\" lies outside 1 or more");
}

Test(option, a_list_keeps_order_and_stops_at_its_limit)
{
    const struct smoe_option o = {
        .key = "set", .type = SMOE_LIST, .help = "h", SMOE_OPTION_AT(struct values, list)};
    struct values v;
    struct smoe_why why;
    smoe_options_check(&o, 1);
    smoe_options_defaults(&o, 1, &v);
    for (int i = 0; i < SMOE_OPTION_LIST_MAX; i++)
        cr_assert_eq(smoe_option_parse(&o, i ? "b" : "a", &v, &why), 0);
    cr_assert_eq(smoe_option_parse(&o, "c", &v, &why), SMOE_ECONFIG);
    cr_assert_eq(v.list.len, SMOE_OPTION_LIST_MAX);
    cr_assert_str_eq(v.list.items[0], "a");
    cr_assert_str_eq(v.list.items[1], "b");
}

Test(option, a_row_bound_to_another_type_of_field_is_found, .signal = SIGABRT)
{
    const struct smoe_option o = {"a", "x", SMOE_DOUBLE, .help = "h",
                                  SMOE_OPTION_AT(struct values, count)};
    smoe_options_check(&o, 1);
}

Test(option, a_default_outside_its_limits_is_found, .signal = SIGABRT)
{
    const struct smoe_option o = {
        "a", "x", SMOE_U64, .min = 1, .max = 2, .help = "h", SMOE_OPTION_AT(struct values, count)};
    smoe_options_check(&o, 1);
}

Test(option, a_key_given_twice_is_found, .signal = SIGABRT)
{
    const struct smoe_option twice[] = {
        {"a", "x", SMOE_U64, .help = "h", SMOE_OPTION_AT(struct values, count)},
        {"a", "x", SMOE_U64, .help = "h", SMOE_OPTION_AT(struct values, size)},
    };
    smoe_options_check(twice, 2);
}

Test(option, distance_counts_edits)
{
    cr_assert_eq(smoe_option_distance("", ""), 0);
    cr_assert_eq(smoe_option_distance("policy", "policy"), 0);
    cr_assert_eq(smoe_option_distance("polcy", "policy"), 1);
    cr_assert_eq(smoe_option_distance("kitten", "sitting"), 3);
    cr_assert_eq(smoe_option_distance("", "abc"), 3);
    char a[66];
    memset(a, 'a', 65);
    a[65] = 0;
    cr_assert_eq(smoe_option_distance(a, "a"), 255);
    cr_assert_eq(smoe_option_distance(a + 1, "a"), 63);
}
