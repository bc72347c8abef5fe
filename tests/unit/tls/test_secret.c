/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading and writing keys takes no branch and no address from their secrets. Run by valgrind the secret is
 * declared undefined, and valgrind complains of every jump and every access that depends on such bytes. What
 * may be known, whether the digits were good and the digits of the hash, is declared defined again. Without
 * valgrind the same runs as a test of the values.
 */
#include <stdio.h>
#include <string.h>
#include <valgrind/memcheck.h>

#include "common/io/key.h"
#include "tests/unit/threads/must.h"

static const char good[] = "00f1e2d3c4b5a697887766554433221100ffeeddccbbaa998877665544332211";

static void digits_become_bytes(void)
{
    char digits[2 * SMOE_KEY_BYTES];
    uint8_t bytes[SMOE_KEY_BYTES];
    memcpy(digits, good, sizeof digits);
    VALGRIND_MAKE_MEM_UNDEFINED(digits, sizeof digits);
    unsigned bad = smoe_hex_decode(digits, SMOE_KEY_BYTES, bytes);
    VALGRIND_MAKE_MEM_DEFINED(&bad, sizeof bad);
    VALGRIND_MAKE_MEM_DEFINED(bytes, sizeof bytes);
    must(bad == 0 && bytes[0] == 0 && bytes[1] == 0xf1 && bytes[31] == 0x11);
}

static void bytes_become_digits(void)
{
    char digits[2 * 256 + 1] = "", pair[3];
    uint8_t bytes[256];
    for (unsigned i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    VALGRIND_MAKE_MEM_UNDEFINED(bytes, sizeof bytes);
    smoe_hex_encode(bytes, sizeof bytes, digits);
    VALGRIND_MAKE_MEM_DEFINED(digits, sizeof digits);
    for (unsigned i = 0; i < 256; i++) {
        snprintf(pair, sizeof pair, "%02x", i);
        must(memcmp(digits + 2 * i, pair, 2) == 0);
    }
}

static void every_other_byte_is_no_digit(void)
{
    for (unsigned c = 0; c < 256; c++) {
        char digits[2] = {'0', (char)c};
        uint8_t byte;
        bool is_digit = c && strchr("0123456789abcdef", (int)c);
        VALGRIND_MAKE_MEM_UNDEFINED(digits, sizeof digits);
        unsigned bad = smoe_hex_decode(digits, 1, &byte);
        VALGRIND_MAKE_MEM_DEFINED(&bad, sizeof bad);
        must(is_digit == (bad == 0));
    }
}

static void a_key_line_is_written_without_looking_at_it(void)
{
    struct smoe_key key = {.role = SMOE_ROLE_WORKER, .name = "pi-1"};
    char line[SMOE_KEY_LINE_MAX];
    must(smoe_hex_decode(good, SMOE_KEY_BYTES, key.secret) == 0);
    VALGRIND_MAKE_MEM_UNDEFINED(key.secret, sizeof key.secret);
    smoe_key_format(&key, line);
    VALGRIND_MAKE_MEM_DEFINED(line, sizeof line);
    must(strncmp(line, "smoe1:worker:pi-1:", 18) == 0 && strcmp(line + 18, good) == 0);
}

int main(void)
{
    digits_become_bytes();
    bytes_become_digits();
    every_other_byte_is_no_digit();
    a_key_line_is_written_without_looking_at_it();
    return 0;
}
