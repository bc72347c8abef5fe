/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/io/alloc_fault.h"

#include <stddef.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *text);

static uint64_t made, fails_at;
static unsigned sheltered; /* depth */

void smoe_alloc_fail_at(uint64_t n)
{
    made = 0;
    fails_at = n;
}

bool smoe_alloc_failed(void)
{
    bool failed = fails_at && made >= fails_at;
    fails_at = 0;
    return failed;
}

uint64_t smoe_alloc_count(void)
{
    return made;
}

void smoe_alloc_shelter(void)
{
    sheltered++;
}

void smoe_alloc_expose(void)
{
    sheltered--;
}

static bool fails_now(void)
{
    return !sheltered && ++made == fails_at;
}

void *__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails_now() ? NULL : __real_realloc(old, size);
}

char *__wrap_strdup(const char *text)
{
    return fails_now() ? NULL : __real_strdup(text);
}
