/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/trace.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/rng.h"

#define LINE_MAX 600

void smoe_sim_trace_init(struct smoe_sim_trace *t, const struct smoe_sim_clock *clock,
                         bool keep_text)
{
    *t = (struct smoe_sim_trace){
        .clock = clock, .start_ns = clock->now_ns, .keeps_text = keep_text, .digest = 1};
    if (keep_text)
        smoe_assert(smoe_wire_new(&t->wire) == 0);
}

void smoe_sim_trace_release(struct smoe_sim_trace *t)
{
    free(t->text);
    smoe_wire_free(t->wire);
    *t = (struct smoe_sim_trace){0};
}

void smoe_sim_tap_release(struct smoe_sim_tap *tap)
{
    free(tap->body);
    *tap = (struct smoe_sim_tap){0};
}

static void digest(struct smoe_sim_trace *t, uint64_t value)
{
    t->digest = smoe_mix64(t->digest + value);
}

/* ---- text ---- */

static void append(struct smoe_sim_trace *t, const char *line, size_t n)
{
    if (t->len + n + 2 > t->cap) {
        size_t cap = 2 * t->cap + n + 4096;
        t->text = smoe_sim_grow(t->text, t->cap, cap, 1);
        t->cap = cap;
    }
    memcpy(t->text + t->len, line, n);
    t->len += n;
    t->text[t->len++] = '\n';
    t->text[t->len] = 0;
}

static void begin_line(const struct smoe_sim_trace *t, struct smoe_text *line, char *buf)
{
    uint64_t us = (t->clock->now_ns - t->start_ns) / 1000;
    smoe_text_init(line, buf, LINE_MAX);
    smoe_text_add(line, "%8" PRIu64 ".%03u ", us / 1000, (unsigned)(us % 1000));
}

void smoe_sim_trace_say(struct smoe_sim_trace *t, const char *format, ...)
{
    char buf[LINE_MAX], said[LINE_MAX - 20];
    struct smoe_text line;
    va_list args;
    va_start(args, format);
    vsnprintf(said, sizeof said, format, args);
    va_end(args);
    digest(t, t->clock->now_ns);
    for (const char *c = said; *c; c++)
        digest(t, (unsigned char)*c);
    if (!t->keeps_text)
        return;
    begin_line(t, &line, buf);
    smoe_text_add(&line, "%s", said);
    append(t, line.buf, line.len);
}

/* One whole frame was heard. */
static void frame_heard(struct smoe_sim_trace *t, struct smoe_sim_tap *tap,
                        const struct smoe_sim_way *way)
{
    const struct smoe_frame_header *h = &tap->frame;
    t->messages++;
    digest(t, t->clock->now_ns);
    digest(t, (uint64_t)way->from << 48 | (uint64_t)way->to << 32 | h->type);
    digest(t, (uint64_t)h->body_bytes << 32 | h->tensor_bytes);
    if (!t->keeps_text)
        return;
    struct smoe_message m;
    struct smoe_why why = {""};
    char buf[LINE_MAX];
    struct smoe_text line;
    begin_line(t, &line, buf);
    smoe_text_add(&line, "%-8s -> %-8s ", way->from_name, way->to_name);
    if (smoe_wire_decode(t->wire, h->type, tap->body, h->body_bytes, &m, &why) == 0)
        smoe_sim_describe(&m, &line);
    else
        smoe_text_add(&line, "unreadable: %s", why.text);
    append(t, line.buf, line.len);
}

/* ---- following a stream ---- */

static size_t take_header(struct smoe_sim_trace *t, struct smoe_sim_tap *tap, const uint8_t *data,
                          size_t n)
{
    struct smoe_why unused;
    size_t take = SMOE_FRAME_HEADER_BYTES - tap->have;
    take = n < take ? n : take;
    memcpy(tap->header + tap->have, data, take);
    tap->have += take;
    if (tap->have < SMOE_FRAME_HEADER_BYTES)
        return take;
    tap->dead = smoe_frame_decode(tap->header, &tap->frame, &unused) != 0;
    tap->to_come = (size_t)tap->frame.body_bytes + tap->frame.tensor_bytes;
    tap->body_have = 0;
    if (t->keeps_text && !tap->dead)
        tap->body = smoe_sim_grow(tap->body, 0, tap->frame.body_bytes + (size_t)1, 1);
    return take;
}

static size_t take_rest(struct smoe_sim_trace *t, struct smoe_sim_tap *tap, const uint8_t *data,
                        size_t n)
{
    size_t take = n < tap->to_come ? n : tap->to_come;
    size_t body = tap->frame.body_bytes - tap->body_have;
    body = body < take ? body : take;
    if (t->keeps_text && body)
        memcpy(tap->body + tap->body_have, data, body);
    tap->body_have += body;
    tap->to_come -= take;
    return take;
}

void smoe_sim_trace_heard(struct smoe_sim_trace *t, struct smoe_sim_tap *tap,
                          const struct smoe_sim_way *way, const uint8_t *data, size_t n)
{
    while (n && !tap->dead) {
        bool in_header = tap->have < SMOE_FRAME_HEADER_BYTES;
        size_t used = in_header ? take_header(t, tap, data, n) : take_rest(t, tap, data, n);
        data += used;
        n -= used;
        if (tap->dead || tap->have < SMOE_FRAME_HEADER_BYTES || tap->to_come)
            continue;
        frame_heard(t, tap, way);
        tap->have = 0;
    }
}

/* ---- reading it ---- */

const char *smoe_sim_trace_text(const struct smoe_sim_trace *t)
{
    return t->text ? t->text : "";
}

static bool has_word(const char *line, size_t n, const char *words)
{
    while (*words) {
        size_t w = strcspn(words, "|");
        for (size_t i = 0; w && i + w <= n; i++)
            if (memcmp(line + i, words, w) == 0)
                return true;
        words += w + (words[w] == '|');
    }
    return false;
}

char *smoe_sim_trace_select(const struct smoe_sim_trace *t, const char *words)
{
    char *selected = smoe_sim_alloc(t->len + 1, 1);
    size_t len = 0;
    const char *line = smoe_sim_trace_text(t);
    while (*line) {
        size_t n = strcspn(line, "\n");
        if (has_word(line, n, words)) {
            memcpy(selected + len, line, n + 1);
            len += n + 1;
        }
        line += n + 1;
    }
    return selected;
}
