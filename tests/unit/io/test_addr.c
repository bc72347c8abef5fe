/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "common/io/addr.h"

static struct smoe_addr parsed(const char *text)
{
    struct smoe_addr a;
    struct smoe_why why;
    int rc = smoe_addr_parse(text, &a, &why);
    cr_assert_eq(rc, 0, "%s: %s", text, why.text);
    return a;
}

Test(addr, what_is_written_reads_back_as_itself)
{
    const char *forms[] = {"127.0.0.1:7700", "0.0.0.0:1", "[::1]:65535", "[2001:db8::7]:80",
                           "[fe80::1%1]:7700"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char text[SMOE_ADDR_TEXT_MAX];
        struct smoe_addr a = parsed(forms[i]);
        smoe_addr_format(&a, text);
        cr_assert_str_eq(text, forms[i]);
    }
    struct smoe_addr none = {0};
    char text[SMOE_ADDR_TEXT_MAX];
    smoe_addr_format(&none, text);
    cr_assert_str_eq(text, "-");
}

Test(addr, the_longest_address_fits_its_text)
{
    char text[SMOE_ADDR_TEXT_MAX];
    struct smoe_addr a = parsed("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%4294967295]:65535");
    smoe_addr_format(&a, text);
    cr_assert_str_eq(text, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535");
}

Test(addr, a_port_alone_means_every_ipv4_address)
{
    struct smoe_addr a = parsed(":7700");
    cr_assert(smoe_addr_is_any(&a));
    cr_assert_eq(smoe_addr_port(&a), 7700);
    cr_assert_eq(smoe_addr_len(&a), sizeof(struct sockaddr_in));
}

Test(addr, ports_are_taken_from_0_to_65535)
{
    struct smoe_addr a = parsed("127.0.0.1:0");
    struct smoe_why why;
    cr_assert_eq(smoe_addr_port(&a), 0);
    a = parsed("127.0.0.1:65535");
    cr_assert_eq(smoe_addr_port(&a), 65535);
    cr_assert_eq(smoe_addr_parse("127.0.0.1:65536", &a, &why), SMOE_ECONFIG);
    cr_assert_eq(smoe_addr_port(&a), 65535, "unchanged on failure");
    smoe_addr_set_port(&a, 9);
    cr_assert_eq(smoe_addr_port(&a), 9);
}

Test(addr, whatever_is_no_address_is_refused_with_the_text_in_the_sentence)
{
    const char *bad[] = {"",
                         "7700",
                         "127.0.0.1",
                         "127.0.0.1:",
                         "127.0.0.1:x",
                         "127.1:80",
                         "0x7f.1:80",
                         "::1:80",
                         "[::1]",
                         "[::1:80",
                         "[]:80",
                         "[1.2.3.4]:80",
                         "host:80",
                         "1.2.3.4:+1",
                         "1.2.3.4: 1",
                         "[::1%]:80",
                         "[::1%nosuchcard]:80",
                         "[::1]x:80",
                         "1.2.3.4:-1",
                         "]:80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct smoe_addr a;
        struct smoe_why why;
        cr_assert_eq(smoe_addr_parse(bad[i], &a, &why), SMOE_ECONFIG, "%s was taken", bad[i]);
        cr_assert(strstr(why.text, bad[i]) != NULL, "%s", why.text);
    }
}

Test(addr, loopback_is_told_from_the_rest)
{
    const char *yes[] = {"127.0.0.1:1", "127.255.255.255:1", "[::1]:1", "[::ffff:127.0.0.1]:1"};
    const char *no[] = {"128.0.0.1:1",   "126.255.255.255:1",  "[::2]:1", "0.0.0.0:1", "[::]:1",
                        "192.168.1.1:1", "[::ffff:10.0.0.1]:1"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        struct smoe_addr a = parsed(yes[i]);
        cr_assert(smoe_addr_is_loopback(&a), "%s", yes[i]);
        cr_assert_not(smoe_addr_is_any(&a));
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        struct smoe_addr a = parsed(no[i]);
        cr_assert_not(smoe_addr_is_loopback(&a), "%s", no[i]);
    }
    struct smoe_addr any = parsed("[::]:1");
    cr_assert(smoe_addr_is_any(&any));
}

Test(addr, a_client_needs_a_host_and_a_port)
{
    char host[SMOE_HOST_MAX + 1] = "old";
    uint16_t port = 1;
    struct smoe_why why;
    cr_assert_eq(smoe_addr_split("gateway.attic:7700", host, &port, &why), 0);
    cr_assert_str_eq(host, "gateway.attic");
    cr_assert_eq(port, 7700);
    cr_assert_eq(smoe_addr_split("[::1]:80", host, &port, &why), 0);
    cr_assert_str_eq(host, "::1");
    const char *bad[] = {":7700", "gateway", "gateway:0", "gateway:65536", "gateway:", "a:b:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(smoe_addr_split(bad[i], host, &port, &why), SMOE_ECONFIG, "%s", bad[i]);
    cr_assert_str_eq(host, "::1");
    cr_assert_eq(port, 80);
}

Test(addr, a_host_name_may_have_253_bytes)
{
    char text[300], host[SMOE_HOST_MAX + 1];
    uint16_t port;
    struct smoe_why why;
    for (size_t n = 252; n <= 254; n++) {
        memset(text, 'a', n);
        memcpy(text + n, ":1", 3);
        int rc = smoe_addr_split(text, host, &port, &why);
        cr_assert_eq(rc, n <= SMOE_HOST_MAX ? 0 : SMOE_ECONFIG);
    }
}

Test(addr, names_are_resolved_for_clients)
{
    struct smoe_addr a;
    struct smoe_why why;
    cr_assert_eq(smoe_addr_resolve("localhost:7700", 0, &a, &why), 0, "%s", why.text);
    cr_assert(smoe_addr_is_loopback(&a));
    cr_assert_eq(smoe_addr_port(&a), 7700);
    cr_assert_eq(smoe_addr_resolve("[::1]:1", 1, &a, &why), 0);
    cr_assert_eq(smoe_addr_resolve("no such host:7700", 0, &a, &why), SMOE_EUNKNOWN);
    cr_assert(strstr(why.text, "no such host: ") == why.text, "%s", why.text);
}
