/* SPDX-License-Identifier: Apache-2.0
 *
 * cJSON says that there is no memory by returning NULL or false, and a document that lacks a member is printed like any
 * other. So whatever could not be added leaves a mark on the object or array that it is missing from: `valueint`, of
 * which cJSON makes no use in these.
 */
#include "common/json/json.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { WHOLE = 0, LACKS_SOMETHING = 1 };

static cJSON *added(cJSON *to, cJSON *item, bool done)
{
    if (done)
        return item;
    cJSON_Delete(item);
    if (to)
        to->valueint = LACKS_SOMETHING;
    return NULL;
}

cJSON *smoe_json_add(cJSON *object, const char *key, cJSON *item)
{
    return added(object, item, cJSON_AddItemToObject(object, key, item));
}

cJSON *smoe_json_append(cJSON *array, cJSON *item)
{
    return added(array, item, cJSON_AddItemToArray(array, item));
}

cJSON *smoe_json_add_object(cJSON *object, const char *key)
{
    return smoe_json_add(object, key, cJSON_CreateObject());
}

cJSON *smoe_json_add_array(cJSON *object, const char *key)
{
    return smoe_json_add(object, key, cJSON_CreateArray());
}

void smoe_json_add_text(cJSON *object, const char *key, const char *value)
{
    smoe_json_add(object, key, value ? cJSON_CreateString(value) : cJSON_CreateNull());
}

void smoe_json_add_bool(cJSON *object, const char *key, bool value)
{
    smoe_json_add(object, key, cJSON_CreateBool(value));
}

void smoe_json_add_null(cJSON *object, const char *key)
{
    smoe_json_add(object, key, cJSON_CreateNull());
}

void smoe_json_add_u64(cJSON *object, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    smoe_json_add(object, key, cJSON_CreateRaw(text));
}

/* Nine digits of a finite number, or null. */
static cJSON *number(double value)
{
    char text[32];
    if (value - value != 0)
        return cJSON_CreateNull();
    snprintf(text, sizeof text, "%.9g", value);
    return cJSON_CreateRaw(text);
}

void smoe_json_add_number(cJSON *object, const char *key, double value)
{
    smoe_json_add(object, key, number(value));
}

void smoe_json_add_known(cJSON *object, const char *key, bool known, double value)
{
    smoe_json_add(object, key, known ? number(value) : cJSON_CreateNull());
}

void smoe_json_append_number(cJSON *array, double value)
{
    smoe_json_append(array, number(value));
}

/* As deep as the document, which its author knows. */
static bool is_whole(const cJSON *item)
{
    bool whole = !(cJSON_IsObject(item) || cJSON_IsArray(item)) || item->valueint == WHOLE;
    for (const cJSON *it = item->child; it && whole; it = it->next)
        whole = is_whole(it);
    return whole;
}

char *smoe_json_print(cJSON *document)
{
    char *text = NULL;
    if (document && is_whole(document))
        text = cJSON_PrintUnformatted(document);
    cJSON_Delete(document);
    return text;
}
