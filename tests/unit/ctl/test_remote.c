/* SPDX-License-Identifier: Apache-2.0
 *
 * A gateway over the network whose name has several addresses. The resolver and the network are this file's: these
 * functions stand in the place of the C library's and of libuv's.
 */
#include <criterion/criterion.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "client/ctl/keys.h"
#include "client/ctl/shell/remote.h"
#include "common/io/addr.h"
#include "common/io/conn.h"
#include "tests/unit/io/scratch_dir.h"

static struct scratch_dir dir;
static unsigned n_addresses;
static char tried[2048]; /* addresses that were connected to */

/* 192.0.2.1, 192.0.2.2 and so on: nobody's. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    (void)host, (void)service, (void)hints;
    *ret = NULL;
    for (unsigned i = n_addresses; i > 0; i--) {
        struct addrinfo *it = calloc(1, sizeof *it);
        struct sockaddr_in *address = calloc(1, sizeof *address);
        address->sin_family = AF_INET;
        address->sin_addr.s_addr = htonl(0xc0000200 + i);
        it->ai_family = AF_INET;
        it->ai_addr = (struct sockaddr *)address;
        it->ai_addrlen = sizeof *address;
        it->ai_next = *ret;
        *ret = it;
    }
    return 0;
}

void freeaddrinfo(struct addrinfo *it)
{
    while (it) {
        struct addrinfo *next = it->ai_next;
        free(it->ai_addr);
        free(it);
        it = next;
    }
}

int uv_tcp_connect(uv_connect_t *request, uv_tcp_t *tcp, const struct sockaddr *to,
                   uv_connect_cb connected)
{
    struct smoe_addr address = {0};
    char text[SMOE_ADDR_TEXT_MAX];
    (void)request, (void)tcp, (void)connected;
    memcpy(&address, to, sizeof(struct sockaddr_in));
    smoe_addr_format(&address, text);
    snprintf(tried + strlen(tried), sizeof tried - strlen(tried), "%s ", text);
    return UV_ENETUNREACH;
}

static int ask(unsigned addresses, struct smoe_why *why)
{
    char key[200], *answer = NULL;
    char words[3][8] = {"add", "admin", "boss"};
    char *const operands[] = {words[0], words[1], words[2]};
    scratch_dir_init(&dir);
    snprintf(key, sizeof key, "%s", scratch_path(&dir, "key"));
    FILE *out = fopen(key, "w");
    cr_assert_eq(smoe_ctl_keys(dir.path, operands, 3, out, why), 0, "%s", why->text);
    fclose(out);
    cr_assert_eq(chmod(key, 0600), 0);
    *tried = 0;
    n_addresses = addresses;
    int rc = smoe_ctl_ask_remote("gateway:7700", key, "ping", &answer, why);
    scratch_dir_release(&dir);
    return rc;
}

Test(ctl_remote, every_address_of_a_name_is_tried)
{
    struct smoe_why why;
    cr_assert_eq(ask(3, &why), UV_ENETUNREACH, "%s", why.text);
    cr_assert_str_eq(tried, "192.0.2.1:7700 192.0.2.2:7700 192.0.2.3:7700 ");
    cr_assert_str_eq(why.text, "gateway gateway:7700: network is unreachable");
}

Test(ctl_remote, of_a_name_with_very_many_addresses_the_first_are_tried)
{
    struct smoe_why why;
    cr_assert_eq(ask(SMOE_ADDRS_MAX + 1, &why), UV_ENETUNREACH);
    cr_assert_not_null(strstr(tried, "192.0.2.16:7700 "));
    cr_assert_null(strstr(tried, "192.0.2.17:7700 "));
}
