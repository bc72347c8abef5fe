/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON text laid out for people. It works on the text and not on a parsed tree, because a parser that
 * keeps numbers as doubles would change counters beyond 2^53.
 */
#ifndef SMOE_CTL_PRETTY_H
#define SMOE_CTL_PRETTY_H

#include <stdio.h>

/* Prints `json` with two blanks a level and a final newline; arrays and objects without others inside
 * them stay on one line if it is short. Every character outside of strings that is not a blank comes
 * out as it went in, in order, whatever the text. */
void smoe_ctl_pretty(const char *json, FILE *to);

#endif
