/* SPDX-License-Identifier: Apache-2.0
 *
 * Three steps, each usable alone: cut the text into host and port, read the host as a number, and
 * only for clients ask the resolver. inet_pton is used rather than getaddrinfo's AI_NUMERICHOST
 * because the latter takes "127.1" and "0x7f000001", which no operator means.
 */
#include "common/io/addr.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/assert.h"
#include "common/base/text.h"

/* Cuts at the last colon; a v6 host must stand in brackets, or `::1:7700` would be ambiguous. */
static int cut(const char *text, char host[SMOE_HOST_MAX + 1], uint16_t *port, struct smoe_why *why)
{
    const char *colon = strrchr(text, ':');
    uint64_t number;
    if (!colon || !smoe_parse_u64(colon + 1, &number) || number > UINT16_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" needs a port, ADDR:0..65535", text);
    const char *start = text;
    const char *end = colon;
    bool bracketed = text[0] == '[';
    if (bracketed) {
        start = text + 1;
        end = colon - 1;
        if (end < start || *end != ']')
            return smoe_fail(why, SMOE_ECONFIG, "\"%s\" lacks a ']' before the port", text);
    }
    size_t n = (size_t)(end - start);
    if (n > SMOE_HOST_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "host of %zu bytes is longer than %d", n,
                         SMOE_HOST_MAX);
    if (!bracketed && memchr(start, ':', n))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\": an IPv6 address goes in brackets, [ADDR]:PORT",
                         text);
    memcpy(host, start, n);
    host[n] = 0;
    if (strlen(host) != n || (bracketed && !strchr(host, ':')))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" is no IPv6 address in brackets", text);
    *port = (uint16_t)number;
    return 0;
}

static bool scope_of(const char *text, uint32_t *ret)
{
    uint64_t number;
    if (smoe_parse_u64(text, &number) && number <= UINT32_MAX)
        *ret = (uint32_t)number;
    else
        *ret = if_nametoindex(text);
    return *ret != 0;
}

static bool numeric_v6(const char *host, struct smoe_addr *a)
{
    char plain[SMOE_HOST_MAX + 1];
    memcpy(plain, host, strlen(host) + 1);
    char *percent = strchr(plain, '%');
    if (percent) {
        *percent = 0;
        if (!scope_of(percent + 1, &a->v6.sin6_scope_id))
            return false;
    }
    a->v6.sin6_family = AF_INET6;
    return inet_pton(AF_INET6, plain, &a->v6.sin6_addr) == 1;
}

static bool numeric(const char *host, uint16_t port, struct smoe_addr *ret)
{
    struct smoe_addr a;
    memset(&a, 0, sizeof a); /* all bytes: addresses are compared as memory */
    if (strchr(host, ':')) {
        if (!numeric_v6(host, &a))
            return false;
    } else {
        a.v4.sin_family = AF_INET;
        if (inet_pton(AF_INET, host[0] ? host : "0.0.0.0", &a.v4.sin_addr) != 1)
            return false;
    }
    smoe_addr_set_port(&a, port);
    memcpy(ret, &a, sizeof a);
    return true;
}

int smoe_addr_parse(const char *text, struct smoe_addr *ret, struct smoe_why *why)
{
    char host[SMOE_HOST_MAX + 1] = "";
    uint16_t port = 0;
    int rc = cut(text, host, &port, why);
    if (rc)
        return rc;
    if (!numeric(host, port, ret))
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" is no address of this machine: write numbers",
                         text);
    return 0;
}

int smoe_addr_split(const char *text, char ret_host[SMOE_HOST_MAX + 1], uint16_t *ret_port,
                    struct smoe_why *why)
{
    char host[SMOE_HOST_MAX + 1] = "";
    uint16_t port = 0;
    int rc = cut(text, host, &port, why);
    if (rc)
        return rc;
    if (!host[0] || port == 0)
        return smoe_fail(why, SMOE_ECONFIG, "\"%s\" cannot be connected to: HOST:PORT", text);
    memcpy(ret_host, host, strlen(host) + 1);
    *ret_port = port;
    return 0;
}

void smoe_addr_choose(const struct addrinfo *found, unsigned turn, uint16_t port,
                      struct smoe_addr *ret)
{
    unsigned n = 0;
    for (const struct addrinfo *it = found; it; it = it->ai_next)
        n++;
    for (turn %= n; turn; turn--)
        found = found->ai_next;
    memset(ret, 0, sizeof *ret);
    smoe_assert(found->ai_addrlen <= sizeof *ret);
    memcpy(ret, found->ai_addr, found->ai_addrlen);
    smoe_addr_set_port(ret, port);
}

int smoe_addr_resolve_all(const char *text, struct smoe_addr ret[SMOE_ADDRS_MAX], unsigned *ret_n,
                          struct smoe_why *why)
{
    char host[SMOE_HOST_MAX + 1] = "";
    uint16_t port = 0;
    int rc = smoe_addr_split(text, host, &port, why);
    if (rc)
        return rc;
    if (numeric(host, port, &ret[0])) {
        *ret_n = 1;
        return 0;
    }
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int gai = getaddrinfo(host, NULL, &hints, &found);
    if (gai != 0)
        return smoe_fail(why, SMOE_EUNKNOWN, "%s: %s", host, gai_strerror(gai));
    unsigned n = 0;
    for (const struct addrinfo *it = found; it && n < SMOE_ADDRS_MAX; it = it->ai_next)
        smoe_addr_choose(it, 0, port, &ret[n++]);
    freeaddrinfo(found);
    *ret_n = n;
    return 0;
}

int smoe_addr_resolve(const char *text, unsigned turn, struct smoe_addr *ret, struct smoe_why *why)
{
    struct smoe_addr all[SMOE_ADDRS_MAX];
    unsigned n;
    int rc = smoe_addr_resolve_all(text, all, &n, why);
    if (rc == 0)
        *ret = all[turn % n];
    return rc;
}

/* The IPv4 address in host order, also from ::ffff:a.b.c.d; false for any other. */
static bool ipv4_of(const struct smoe_addr *a, uint32_t *ret)
{
    if (a->sa.sa_family == AF_INET) {
        *ret = ntohl(a->v4.sin_addr.s_addr);
        return true;
    }
    if (a->sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr))
        return false;
    uint32_t word;
    memcpy(&word, a->v6.sin6_addr.s6_addr + 12, sizeof word);
    *ret = ntohl(word);
    return true;
}

bool smoe_addr_is_loopback(const struct smoe_addr *a)
{
    uint32_t v4;
    if (ipv4_of(a, &v4))
        return v4 >> 24 == 127;
    return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
}

bool smoe_addr_is_any(const struct smoe_addr *a)
{
    uint32_t v4;
    if (ipv4_of(a, &v4))
        return v4 == 0;
    return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr);
}

uint64_t smoe_addr_origin(const struct smoe_addr *a)
{
    const uint8_t *b = a->v6.sin6_addr.s6_addr;
    uint64_t half = 0;
    if (smoe_addr_is_loopback(a))
        return 0;
    if (a->sa.sa_family == AF_INET)
        return UINT64_C(1) << 32 | ntohl(a->v4.sin_addr.s_addr);
    bool mapped = IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr);
    unsigned from = mapped ? 12 : IN6_IS_ADDR_LINKLOCAL(&a->v6.sin6_addr) ? 8 : 0;
    for (unsigned i = from; i < (mapped ? 16 : from + 8); i++)
        half = half << 8 | b[i];
    return mapped ? UINT64_C(1) << 32 | half : half;
}

uint16_t smoe_addr_port(const struct smoe_addr *a)
{
    return ntohs(a->sa.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

void smoe_addr_set_port(struct smoe_addr *a, uint16_t port)
{
    if (a->sa.sa_family == AF_INET6)
        a->v6.sin6_port = htons(port);
    else
        a->v4.sin_port = htons(port);
}

socklen_t smoe_addr_len(const struct smoe_addr *a)
{
    return a->sa.sa_family == AF_INET6 ? sizeof a->v6 : sizeof a->v4;
}

void smoe_addr_format(const struct smoe_addr *a, char ret_text[SMOE_ADDR_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN];
    struct smoe_text t;
    smoe_text_init(&t, ret_text, SMOE_ADDR_TEXT_MAX);
    if (a->sa.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host);
        smoe_text_add(&t, "%s", host);
    } else if (a->sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host);
        smoe_text_add(&t, "[%s", host);
        if (a->v6.sin6_scope_id)
            smoe_text_add(&t, "%%%u", a->v6.sin6_scope_id);
        smoe_text_add(&t, "]");
    } else {
        smoe_text_add(&t, "-");
        return;
    }
    smoe_text_add(&t, ":%u", smoe_addr_port(a));
}
