/* SPDX-License-Identifier: Apache-2.0
 *
 * A loop that runs within the call: connect, handshake, the line, the answer until the gateway closes. The line is
 * offered from the beginning, and TLS asks for it when the other side has shown that it has the key. `closed` is
 * where all ways end; the loop then runs empty, and everything is freed behind it. Of a name with several addresses
 * one after the other is tried, until the line has been taken somewhere: nothing is asked twice.
 */
#include "client/ctl/shell/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/io/addr.h"
#include "common/io/conn.h"
#include "common/io/tls.h"

#define ANSWER_BYTES_MAX ((size_t)64 << 20)
#define TIMEOUT_MS       5000

struct asking {
    uv_loop_t loop;
    uv_timer_t timer;
    struct smoe_conn conn;
    struct smoe_tls_context *secure; /* owned */
    struct smoe_tls tls;
    const char *question; /* borrowed; with its newline, */
    size_t question_left; /* and how much of its end is still to be sent */
    bool asked;           /* some of it was */
    char *answer;         /* owned, [cap] */
    size_t len, cap;
    int code; /* what went wrong here; 0: nothing, or the connection knows */
    int status;
    uint8_t scratch[SMOE_CONN_SCRATCH_BYTES];
};

/* ---- the connection's owner ---- */

static uint8_t *no_place(void *context, size_t *ret_room)
{
    (void)context, (void)ret_room;
    return NULL;
}

static void fail(struct asking *a, int code)
{
    a->code = a->code ? a->code : code;
    smoe_conn_close(&a->conn, 0);
}

static void on_timeout(uv_timer_t *timer)
{
    fail(timer->data, SMOE_ETIMEOUT);
}

static void on_received(void *context, const uint8_t *data, size_t n)
{
    struct asking *a = context;
    uv_timer_start(&a->timer, on_timeout, TIMEOUT_MS, 0);
    if (a->len + n >= ANSWER_BYTES_MAX) {
        fail(a, SMOE_ETOOBIG);
        return;
    }
    if (a->len + n + 1 > a->cap) {
        size_t cap = 2 * (a->len + n + 1);
        char *grown = realloc(a->answer, cap);
        if (!grown) {
            fail(a, SMOE_ENOMEMORY);
            return;
        }
        a->answer = grown;
        a->cap = cap;
    }
    memcpy(a->answer + a->len, data, n);
    a->len += n;
}

static size_t on_peek(void *context, struct iovec *iovecs, size_t max)
{
    const struct asking *a = context;
    (void)max;
    if (!a->question_left)
        return 0;
    char *end = (char *)(uintptr_t)a->question + strlen(a->question);
    *iovecs = (struct iovec){end - a->question_left, a->question_left};
    return 1;
}

static void on_consume(void *context, size_t bytes)
{
    struct asking *a = context;
    a->question_left -= bytes;
    a->asked = true;
    uv_timer_start(&a->timer, on_timeout, TIMEOUT_MS, 0);
}

static void on_closed(void *context, int status)
{
    struct asking *a = context;
    a->status = status;
    uv_close((uv_handle_t *)&a->timer, NULL);
}

static void on_connected(void *context, int status)
{
    (void)context, (void)status; /* `closed` follows an error */
}

/* ---- asking ---- */

static int converse(struct asking *a, const struct smoe_addr *address)
{
    struct smoe_conn_owner owner = {.context = a,
                                    .direct = no_place,
                                    .received = on_received,
                                    .peek = on_peek,
                                    .consume = on_consume,
                                    .closed = on_closed};
    int rc = smoe_tls_wrap(&a->tls, a->secure, &a->conn, &owner, &owner);
    if (rc)
        return rc;
    a->tls.connected = on_connected;
    uv_loop_init(&a->loop);
    uv_timer_init(&a->loop, &a->timer);
    a->timer.data = a;
    uv_timer_start(&a->timer, on_timeout, TIMEOUT_MS, 0);
    rc =
        smoe_conn_connect(&a->conn, &a->loop, &address->sa, &owner, a->scratch, smoe_tls_connected);
    if (rc) {
        smoe_tls_release(&a->tls);
        uv_close((uv_handle_t *)&a->timer, NULL);
    }
    uv_run(&a->loop, UV_RUN_DEFAULT);
    uv_loop_close(&a->loop);
    return rc;
}

/* What came of it, where nothing went wrong on the way. An answer is whole when it ends in its newline. */
static int judge(struct asking *a, struct smoe_why *why)
{
    if (a->code == SMOE_ETIMEOUT)
        return smoe_fail(why, a->code, "no answer within %d s", TIMEOUT_MS / 1000);
    if (a->code)
        return smoe_fail(why, a->code, "%s", smoe_strerror(a->code));
    if (*a->tls.why.text)
        return smoe_fail(why, SMOE_ECLOSED, "%s", a->tls.why.text);
    if (a->status && !a->len)
        return smoe_fail(why, a->status, "%s", uv_strerror(a->status));
    if (!a->len || a->answer[a->len - 1] != '\n')
        return smoe_fail(why, SMOE_EMALFORMED, "the answer is cut off after %zu bytes", a->len);
    a->answer[a->len - 1] = 0;
    return 0;
}

static int ask_one(struct asking *a, const struct smoe_addr *address, struct smoe_why *why)
{
    a->code = a->status = 0;
    int rc = converse(a, address);
    return rc ? smoe_fail(why, rc, "%s", smoe_strerror(rc)) : judge(a, why);
}

static int ask(struct asking *a, const char *gateway, const char *key, struct smoe_why *why)
{
    struct smoe_tls_node node = {"key", key, SMOE_ROLE_ADMIN, NULL};
    struct smoe_addr addresses[SMOE_ADDRS_MAX];
    unsigned n = 0;
    smoe_name unused;
    int rc = smoe_tls_context_of(&node, &a->secure, unused, why);
    if (rc)
        return rc;
    rc = smoe_addr_resolve_all(gateway, addresses, &n, why);
    for (unsigned i = 0; i < n && (i == 0 || (rc && !a->asked)); i++)
        rc = ask_one(a, &addresses[i], why);
    return rc ? smoe_fail_at(why, rc, "gateway %s", gateway) : 0;
}

int smoe_ctl_ask_remote(const char *gateway, const char *key, const char *line, char **ret_answer,
                        struct smoe_why *why)
{
    char question[300];
    struct asking *a = calloc(1, sizeof *a);
    if (!a)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    snprintf(question, sizeof question, "%s\n", line);
    a->question = question;
    a->question_left = strlen(question);
    int rc = ask(a, gateway, key, why);
    if (rc == 0)
        *ret_answer = a->answer;
    else
        free(a->answer);
    smoe_tls_context_free(a->secure);
    free(a);
    return rc;
}
