/* SPDX-License-Identifier: Apache-2.0
 *
 * Assertions that stay on in release builds: a broken invariant must end the process before it ends
 * up in somebody's model. They guard our own logic only; bytes from a socket or a file are never
 * asserted about, they are answered with an error.
 */
#ifndef SMOE_BASE_ASSERT_H
#define SMOE_BASE_ASSERT_H

#define smoe_assert(cond) ((cond) ? (void)0 : smoe_assert_fail(__FILE__, __LINE__, #cond))

/* Prints `file:line: assertion failed: cond` on stderr and aborts. Cold: calls of it lie away from what runs. */
__attribute__((cold)) _Noreturn void smoe_assert_fail(const char *file, int line, const char *cond);

#endif
