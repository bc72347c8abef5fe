/* SPDX-License-Identifier: Apache-2.0
 *
 * Making JSON documents that are whole or not at all: where memory is out a member cannot be added, and smoe_json_print
 * then prints nothing. Everything is added by the functions here; objects and arrays that could not be made are NULL,
 * which all of them take.
 *
 * cJSON keeps every number as a double and prints 2^53 - 1 in exponent form, so counters go in as text, and figures
 * with digits that are the same on every machine.
 */
#ifndef SMOE_JSON_JSON_H
#define SMOE_JSON_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

/* Puts `item` (NULL: memory was out) into an object or to the end of an array, which owns it then. Returns it, or NULL
 * if it is not there: it is freed then. */
cJSON *smoe_json_add(cJSON *object, const char *key, cJSON *item);
cJSON *smoe_json_append(cJSON *array, cJSON *item);
/* New ones, owned by `object`. */
cJSON *smoe_json_add_object(cJSON *object, const char *key);
cJSON *smoe_json_add_array(cJSON *object, const char *key);

/* NULL is null. */
void smoe_json_add_text(cJSON *object, const char *key, const char *value);
void smoe_json_add_bool(cJSON *object, const char *key, bool value);
void smoe_json_add_null(cJSON *object, const char *key);

/* A counter or an identifier: all its digits. */
void smoe_json_add_u64(cJSON *object, const char *key, uint64_t value);

/* A figure: nine digits, more than any measurement is good for. What is not a finite number has no
 * JSON and is null. */
void smoe_json_add_number(cJSON *object, const char *key, double value);
/* The same, and null where it is not known. */
void smoe_json_add_known(cJSON *object, const char *key, bool known, double value);
void smoe_json_append_number(cJSON *array, double value);

/* The document's text, one line, the caller's to free; the document is freed. NULL if anything of it could not be
 * added, or the text not be made: memory was out. */
char *smoe_json_print(cJSON *document);

#endif
