/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/figure.h"

static char *write_figure(const struct smoe_figure *figure, const struct smoe_figure_line *lines,
                          size_t n)
{
    char *text = NULL;
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);
    smoe_figure_write("it's", figure, lines, n, to);
    fclose(to);
    return text;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (; (text = strstr(text, what)); text++)
        n++;
    return n;
}

Test(figure, says_its_points_and_where_they_belong)
{
    static const double x[] = {1, 10}, y[] = {0.5, -1};
    const struct smoe_figure figure = {.file = "f.svg",
                                       .title = "t",
                                       .x = "x",
                                       .y = "y",
                                       .right = "r",
                                       .log_x = true,
                                       .log_y = true};
    const struct smoe_figure_line lines[] = {{"left", 2, x, y, false}, {"right", 2, x, y, true}};
    char *text = write_figure(&figure, lines, 2);
    cr_assert_not_null(strstr(text, "$line0 << END\n1 0.5\nEND\n")); /* no -1 on a log axis */
    cr_assert_not_null(strstr(text, "$line1 << END\n1 0.5\n10 -1\nEND\n"));
    cr_assert_not_null(strstr(text, "set output 'it''s/f.svg'\n"));
    cr_assert_not_null(strstr(text, "set logscale x\nset logscale y\nset y2label 'r'\n"));
    cr_assert_not_null(
        strstr(text, "$line1 using 1:2 axes x1y2 with linespoints lw 1.6 dt 1 title 'right'"));
    cr_assert_null(strstr(text, "logscale y2"));
    free(text);
}

Test(figure, a_long_line_is_thinned_to_means)
{
    static double y[1001];
    const struct smoe_figure figure = {.file = "f.svg", .title = "t", .x = "x", .y = "y"};
    for (int i = 0; i < 1001; i++)
        y[i] = i % 2 ? 3 : 1;
    const struct smoe_figure_line line = {"long", 1001, NULL, y, false};
    char *text = write_figure(&figure, &line, 1);
    cr_assert_not_null(strstr(text, "END\n3.5 2\n9.5 2\n")); /* 6 neighbours each */
    cr_assert_eq(count(text, " 2\n"), 166);                  /* and 5 at the end */
    free(text);
}
