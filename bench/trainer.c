/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/trainer.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

bool smoe_read_json_number(const char *log, const char *key, double *ret)
{
    char text[16384];
    if (!smoe_read_text_file(log, text, sizeof text))
        return false;
    const char *at = *text == '{' ? text : NULL; /* the last line that begins with an object */
    for (const char *c = text; (c = strstr(c, "\n{")); c++)
        at = c + 1;
    cJSON *o = at ? cJSON_Parse(at) : NULL;
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(o, key);
    bool ok = cJSON_IsNumber(number);
    if (ok)
        *ret = number->valuedouble;
    cJSON_Delete(o);
    return ok;
}

static bool read_result(const char *log, struct smoe_trainer_result *ret)
{
    return smoe_read_json_number(log, "samples_per_second", &ret->samples_per_second) &&
           smoe_read_json_number(log, "seconds", &ret->seconds) &&
           smoe_read_json_number(log, "steps", &ret->steps) &&
           smoe_read_json_number(log, "test_accuracy", &ret->test_accuracy);
}

int smoe_trainer_run(const struct smoe_bench *bench, const struct smoe_bench_fleet *fleet,
                     const struct smoe_trainer_job *job, unsigned run,
                     struct smoe_trainer_result *ret, struct smoe_why *why)
{
    char program[1100], log[160], layer[32];
    const char *argv[] = {program,
                          "--gateway",
                          fleet->address,
                          "--dataset",
                          "fashion-mnist",
                          "--epochs",
                          "1",
                          "--batch",
                          job->batch,
                          "--limit",
                          job->images,
                          "--d-model",
                          job->d_model,
                          "--d-ff",
                          job->d_ff,
                          "--balance",
                          job->balance,
                          "--layer",
                          layer,
                          "--quiet",
                          "--json",
                          "--staleness",
                          job->staleness ? job->staleness : "0",
                          job->key_file ? "--key" : NULL,
                          job->key_file,
                          NULL};
    pid_t pid;
    snprintf(program, sizeof program, "%s/stablemoe-train", bench->bin_dir);
    snprintf(log, sizeof log, "%s/train.log", fleet->dir);
    snprintf(layer, sizeof layer, "run-%u", run);
    int rc = smoe_child_start(argv, log, &pid, why);
    if (rc)
        return rc;
    if (smoe_child_wait(pid) || !read_result(log, ret)) {
        char text[160] = "";
        (void)smoe_read_text_file(log, text, sizeof text);
        text[strcspn(text, "\n")] = 0;
        return smoe_fail(why, SMOE_EDATA, "%s", text);
    }
    return 0;
}
