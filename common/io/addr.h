/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses as an operator writes them: `192.0.2.7:7700`, `[2001:db8::7]:7700`, `[fe80::1%eth0]:7700`
 * and `:7700` (every IPv4 address of this machine). A listener takes numbers only: a name that
 * resolves differently tomorrow is no place to listen on. A client also takes `gateway:7700`.
 */
#ifndef SMOE_IO_ADDR_H
#define SMOE_IO_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

#define SMOE_HOST_MAX      253 /* bytes of a host name, without NUL (RFC 1035) */
#define SMOE_ADDRS_MAX     16  /* of one name: more are not tried */
#define SMOE_ADDR_TEXT_MAX 80  /* bytes smoe_addr_format can need, with NUL */

/* One TCP address. `sa` can be handed to bind, connect and libuv as it is. Zeroed: no address. */
struct smoe_addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
};

/* Parses a numeric address with its port, 0..65535 (0: the kernel chooses, for listeners). Never
 * asks a resolver. SMOE_ECONFIG with a sentence that quotes the text. */
int smoe_addr_parse(const char *text, struct smoe_addr *ret, struct smoe_why *why);

/* Splits `HOST:PORT` or `[V6]:PORT` of somebody to connect to: the host is not empty and the port
 * not 0; the brackets are gone. Names are not looked up. */
int smoe_addr_split(const char *text, char ret_host[SMOE_HOST_MAX + 1], uint16_t *ret_port,
                    struct smoe_why *why);

/* All addresses behind `HOST:PORT`, in the resolver's order, which is asked where HOST is a name; of more than
 * SMOE_ADDRS_MAX the first ones. At least one. Blocks: for clients, and off the event loop. */
int smoe_addr_resolve_all(const char *text, struct smoe_addr ret[SMOE_ADDRS_MAX], unsigned *ret_n,
                          struct smoe_why *why);
/* One of them: the one whose `turn` it is, 0 the first and after the last the first again: who counts his attempts
 * reaches them all. */
int smoe_addr_resolve(const char *text, unsigned turn, struct smoe_addr *ret, struct smoe_why *why);
/* The same of what a resolver has answered (not empty), however much that is. */
struct addrinfo;
void smoe_addr_choose(const struct addrinfo *found, unsigned turn, uint16_t port,
                      struct smoe_addr *ret);

/* True for 127.0.0.0/8, ::1 and their IPv4-mapped forms. */
bool smoe_addr_is_loopback(const struct smoe_addr *a);
/* True for 0.0.0.0 and ::, which listen on every interface. */
bool smoe_addr_is_any(const struct smoe_addr *a);

/* Where it comes from, as a number to count by: the address, of an IPv6 one its network of 64 bits (whoever has
 * one address there has them all), or of a link-local one its interface. 0 for loopback: this machine. */
uint64_t smoe_addr_origin(const struct smoe_addr *a);

uint16_t smoe_addr_port(const struct smoe_addr *a);
void smoe_addr_set_port(struct smoe_addr *a, uint16_t port);
socklen_t smoe_addr_len(const struct smoe_addr *a);

/* `127.0.0.1:7700` or `[::1]:7700`; what smoe_addr_parse takes. "-" for a zeroed address. */
void smoe_addr_format(const struct smoe_addr *a, char ret_text[SMOE_ADDR_TEXT_MAX]);

#endif
