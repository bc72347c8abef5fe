/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers in JSON documents. cJSON keeps every number as a double and prints 2^53 - 1 in exponent
 * form, so counters go in as text, and figures with digits that are the same on every machine.
 */
#ifndef SMOE_JSON_JSON_H
#define SMOE_JSON_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

/* A counter or an identifier: all its digits. */
void smoe_json_add_u64(cJSON *object, const char *key, uint64_t value);

/* A figure: nine digits, more than any measurement is good for. What is not a finite number has no
 * JSON and is null. */
void smoe_json_add_number(cJSON *object, const char *key, double value);
/* The same, and null where it is not known. */
void smoe_json_add_known(cJSON *object, const char *key, bool known, double value);
void smoe_json_append_number(cJSON *array, double value);

#endif
