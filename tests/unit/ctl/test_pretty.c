/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/pretty.h"

static char *pretty(const char *json)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    smoe_ctl_pretty(json, to);
    fclose(to);
    return text;
}

#define CHECK(json, expected)                         \
    do {                                              \
        char *got_ = pretty(json);                    \
        cr_assert_str_eq(got_, expected, "%s", got_); \
        free(got_);                                   \
    } while (0)

Test(pretty, short_containers_stay_on_a_line_and_others_are_indented)
{
    CHECK("{\"a\":1}", "{\"a\": 1}\n");
    CHECK("{\"a\":[1,2],\"b\":{}}", "{\n  \"a\": [1, 2],\n  \"b\": {}\n}\n");
    CHECK("[[[]]]", "[\n  [\n    []\n  ]\n]\n");
}

Test(pretty, a_counter_beyond_2_to_the_53_keeps_every_digit)
{
    CHECK("{\"visits\":18446744073709551615}", "{\"visits\": 18446744073709551615}\n");
}

Test(pretty, brackets_commas_and_quotes_inside_strings_are_text)
{
    CHECK("{\"a\":\"},[\\\":\",\"b\":[{\"c\":\"\\\\\"}]}",
          "{\n  \"a\": \"},[\\\":\",\n  \"b\": [\n    {\"c\": \"\\\\\"}\n  ]\n}\n");
}

Test(pretty, what_was_laid_out_before_is_laid_out_anew)
{
    CHECK("{ \"a\" : [ 1 ,\n 2 ] }", "{\n  \"a\": [1, 2]\n}\n");
}

Test(pretty, a_long_list_of_numbers_gets_a_line_each)
{
    char json[400] = "[", *got;
    for (int i = 0; i < 40; i++)
        strcat(json, i ? ",10" : "10");
    strcat(json, "]");
    got = pretty(json);
    cr_assert(strstr(got, "[\n  10,\n  10,\n"), "%s", got);
    free(got);
}

/* Total: whatever comes, it ends, reads nothing past the end, and loses no character but blanks. */
Test(pretty, text_that_is_no_json_comes_out_too)
{
    CHECK("", "\n");
    CHECK("}]", "}]\n");
    CHECK("\"open", "\"open\n");
    CHECK("\"open\\", "\"open\\\n");
    CHECK("[\"", "[\n  \"\n");
    CHECK("{{{", "{\n  {\n    {\n      \n");
}
