/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/table.h"

static char *print(const char *json, bool gateway)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    cJSON *answer = cJSON_Parse(json);
    cr_assert(answer, "%s", json);
    if (gateway)
        smoe_ctl_print_gateway(answer, to);
    else
        cr_assert_eq(smoe_ctl_print_workers(answer, to), 0);
    fclose(to);
    cJSON_Delete(answer);
    return text;
}

#define WORKER(id, visits, extra)                                                                 \
    "{\"id\":\"" id "\",\"state\":\"ready\",\"visits_per_second\":1234.5,\"visits_done\":" visits \
    ",\"backlog_visits\":7.25,\"joules\":12345,\"energy_debt_j\":2.5,\"freq_khz\":1300000" extra  \
    "}"

Test(table, workers_stand_in_natural_order_with_their_share_of_all_visits)
{
    char *got = print(
        "{\"workers\":[" WORKER("w10", "300", "") "," WORKER(
            "w9", "100",
            ",\"energy_source\":\"model\",\"watts\":3.456,\"energy_budget_w\":4,"
            "\"freq_requested_khz\":1500000,\"freq_achieved_khz\":1290000,\"freq_driver\":\"duty\","
            "\"temperature_c\":61.2,\"links_up\":2,\"links_relayed\":1,\"direct_bytes\":900,"
            "\"relayed_bytes\":100,\"experts\":[\"moe/0\"]") "]}",
        false);
    cr_assert_str_eq(
        got,
        "worker  state  visits/s  share  backlog  meter   energy   power  budget   debt     asked  "
        " "
        "runs at  driver  temp  links  direct  experts\n"
        "w9      ready      1234  25.0%      7.2  model  12.3 kJ  3.46 W  4.00 W  2.5 J  1.50 GHz  "
        "1.29 GHz  duty    61 C    2/3     90%  moe/0\n"
        "w10     ready      1234  75.0%      7.2  -      12.3 kJ       -       -  2.5 J         -  "
        "1.30 GHz  -          -      -       -  -\n",
        "%s", got);
    free(got);
}

Test(table, energy_that_nobody_meters_is_not_shown_as_zero)
{
    char *got = print(
        "{\"workers\":[" WORKER("w", "1", ",\"energy_source\":\"none\",\"watts\":0") "]}", false);
    cr_assert(strstr(got, "7.2  none        -      -       -     -      -  1.30 GHz"), "%s", got);
    free(got);
}

Test(table, missing_fields_are_dashes_and_no_workers_are_said)
{
    char *got = print("{\"workers\":[{}]}", false);
    cr_assert(strstr(got, "\n-       -             -      -        -"), "%s", got);
    free(got);
    got = print("{\"workers\":[]}", false);
    cr_assert(strstr(got, "(no workers)"), "%s", got);
    free(got);
    got = print("{}", false);
    cr_assert(strstr(got, "(no workers)"), "%s", got);
    free(got);
}

Test(table, experts_of_a_layer_are_named_once_and_too_many_are_counted)
{
    char json[8000] = "{\"workers\":[{\"experts\":[\"a/1\",\"a/2\",\"b/0\"]},{\"experts\":[",
         one[32];
    for (int i = 0; i < 100; i++) {
        snprintf(one, sizeof one, "%s\"layer/%d\"", i ? "," : "", 100 + i);
        strcat(json, one);
    }
    strcat(json, "]}]}");
    char *got = print(json, false);
    cr_assert(strstr(got, "a/1,2 b/0\n"), "%s", got);
    cr_assert(strstr(got, "layer/100,101,"), "%s", got);
    char *plus = strstr(got, " +");
    cr_assert(plus, "%s", got);
    int shown = 0;
    for (char *at = strstr(got, "layer/"); at < plus; at++)
        shown += *at == ',' || *at == '/';
    cr_assert_eq(shown + atoi(plus + 2), 100, "%s", got);
    free(got);
}

Test(table, the_gateway_s_lines_tell_what_trainers_wait_for)
{
    char *got = print("{\"version\":\"1\",\"listen\":\"l\",\"policy\":\"topk\",\"v\":20,\"mu\":1,"
                      "\"uptime_s\":5,\"ledger\":{\"submitted\":10},\"trainers\":["
                      "{\"name\":\"t\",\"connected\":true,\"step\":3,\"in_flight\":4,\"failed\":0,"
                      "\"waits_for\":\"room in the workers' queues\"},"
                      "{\"name\":\"u\",\"connected\":false,\"waits_for\":\"\"}]}",
                      true);
    cr_assert(strstr(got, "stablemoed 1 on l, up 5 s: policy topk, V 20, mu 1\n"), "%s", got);
    cr_assert(strstr(got, "10 submitted"), "%s", got);
    cr_assert(strstr(got, "trainer t: connected, step 3, 4 visits in flight, 0 failed, waits for "
                          "room in the workers' queues\n"),
              "%s", got);
    cr_assert(strstr(got, "trainer u: gone"), "%s", got);
    free(got);
}
