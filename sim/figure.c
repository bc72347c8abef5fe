/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/figure.h"

#define COLOURS 8 /* of gnuplot; then they come again, dashed */

/* gnuplot's single quotes: the only sign with a meaning is the quote itself, written twice. */
static void quote(const char *text, FILE *to)
{
    fputc('\'', to);
    for (; *text; text++)
        fprintf(to, *text == '\'' ? "''" : "%c", *text);
    fputc('\'', to);
}

static void set_quoted(const char *what, const char *text, FILE *to)
{
    fprintf(to, "set %s ", what);
    quote(text, to);
    fputc('\n', to);
}

static void write_axes(const char *dir, const struct smoe_figure *f, FILE *to)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, f->file);
    fputs("reset\nset terminal svg size 760,460 font 'sans,13' background 'white'\n"
          "set key outside right top\nset grid lc rgb '#dddddd'\nset border lc rgb '#555555'\n",
          to);
    set_quoted("output", path, to);
    set_quoted("title", f->title, to);
    set_quoted("xlabel", f->x, to);
    set_quoted("ylabel", f->y, to);
    if (f->log_x)
        fputs("set logscale x\n", to);
    if (f->log_y)
        fputs("set logscale y\n", to);
    if (!f->right)
        return;
    set_quoted("y2label", f->right, to);
    fputs("set y2tics\nset ytics nomirror\n", to);
    if (f->log_right)
        fputs("set logscale y2\n", to);
}

static void write_points(const struct smoe_figure *f, const struct smoe_figure_line *l, FILE *to)
{
    size_t each = (l->n + SMOE_FIGURE_POINTS - 1) / SMOE_FIGURE_POINTS;
    for (size_t i = 0; i < l->n; i += each) {
        size_t n = l->n - i < each ? l->n - i : each;
        double x = 0, y = 0;
        for (size_t k = i; k < i + n; k++) {
            x += (l->x ? l->x[k] : (double)(k + 1)) / (double)n;
            y += l->y[k] / (double)n;
        }
        if (y > 0 || !(l->right ? f->log_right : f->log_y))
            fprintf(to, "%.7g %.7g\n", x, y);
    }
}

void smoe_figure_write(const char *dir, const struct smoe_figure *figure,
                       const struct smoe_figure_line *lines, size_t n, FILE *to)
{
    for (size_t i = 0; i < n; i++) {
        fprintf(to, "$line%zu << END\n", i);
        write_points(figure, &lines[i], to);
        fputs("END\n", to);
    }
    write_axes(dir, figure, to);
    fputs("plot ", to);
    for (size_t i = 0; i < n; i++) {
        fprintf(to, "$line%zu using 1:2 axes x1y%d with %s lw 1.6 dt %zu title ", i,
                lines[i].right ? 2 : 1, lines[i].n <= 40 ? "linespoints" : "lines",
                i / COLOURS + 1);
        quote(lines[i].name, to);
        fputs(i + 1 < n ? ", " : "\n", to);
    }
    fputs("unset output\n", to);
}
