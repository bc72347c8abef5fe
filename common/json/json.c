/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json/json.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

void smoe_json_add_u64(cJSON *object, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    cJSON_AddRawToObject(object, key, text);
}

/* Nine digits of a finite number. */
static const char *digits(char text[static 32], double value)
{
    snprintf(text, 32, "%.9g", value);
    return text;
}

static bool has_json(double value)
{
    return value - value == 0;
}

void smoe_json_add_number(cJSON *object, const char *key, double value)
{
    char text[32];
    if (has_json(value))
        cJSON_AddRawToObject(object, key, digits(text, value));
    else
        cJSON_AddNullToObject(object, key);
}

void smoe_json_add_known(cJSON *object, const char *key, bool known, double value)
{
    if (known)
        smoe_json_add_number(object, key, value);
    else
        cJSON_AddNullToObject(object, key);
}

void smoe_json_append_number(cJSON *array, double value)
{
    char text[32];
    cJSON *item = has_json(value) ? cJSON_CreateRaw(digits(text, value)) : cJSON_CreateNull();
    if (!cJSON_AddItemToArray(array, item))
        cJSON_Delete(item);
}
