/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-train: a complete trainer on real data.
 */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/run.h"
#include "common/io/reticence.h"
#include "common/json/json.h"

/* null where there is nothing to say. */
static void add_known(cJSON *to, const char *key, double value)
{
    if (isnan(value))
        smoe_json_add_null(to, key);
    else
        smoe_json_add(to, key, cJSON_CreateNumber(value));
}

static void add_routing(cJSON *root, const struct smoe_train_options *o,
                        const struct smoe_watch_result *w)
{
    char text[24];
    cJSON *routing = smoe_json_add_object(root, "routing");
    smoe_json_add_text(routing, "router", smoe_train_routers[o->router]);
    smoe_json_add_u64(routing, "tokens_watched", w->tokens);
    cJSON *fluctuation = smoe_json_add_object(routing, "fluctuation");
    for (size_t i = 0; i < SMOE_WATCH_MARKS; i++) {
        snprintf(text, sizeof text, "%u", smoe_watch_percent[i]);
        add_known(fluctuation, text, w->fluctuation[i]);
    }
    if (!w->digest)
        return;
    snprintf(text, sizeof text, "%016" PRIx64, w->digest);
    smoe_json_add_u64(routing, "frozen_at_step", w->freeze_step);
    add_known(routing, "frozen_agreement", w->agreement);
    smoe_json_add_text(routing, "frozen_digest", text);
}

static int print_json(const struct smoe_train_run *run, struct smoe_why *why)
{
    const struct smoe_train_options *o = run->options;
    const struct smoe_train_result *r = &run->result;
    cJSON *root = cJSON_CreateObject();
    smoe_json_add(root, "test_accuracy", cJSON_CreateNumber(r->test_accuracy));
    smoe_json_add(root, "test_loss", cJSON_CreateNumber(r->test_loss));
    add_known(root, "train_loss", r->train_loss);
    if (run->feed.vocabulary)
        smoe_json_add(root, "test_perplexity", cJSON_CreateNumber(exp(r->test_loss)));
    smoe_json_add(root, "samples_per_second",
                  cJSON_CreateNumber(r->seconds > 0 ? (double)r->samples / r->seconds : 0));
    smoe_json_add(root, "seconds", cJSON_CreateNumber(r->seconds));
    smoe_json_add_u64(root, "epochs", r->epochs);
    smoe_json_add_u64(root, "steps", r->steps);
    smoe_json_add_u64(root, "samples", r->samples);
    smoe_json_add_text(root, "policy", r->policy);
    smoe_json_add_text(root, "dataset", o->dataset);
    smoe_json_add_u64(root, "seed", o->seed);
    smoe_json_add_u64(root, "visits", r->visits);
    cJSON *load = smoe_json_add_array(root, "expert_visits");
    for (uint32_t e = 0; e < o->experts; e++) {
        char text[24];
        snprintf(text, sizeof text, "%" PRIu64, r->visits_of[e]);
        smoe_json_append(load, cJSON_CreateRaw(text));
    }
    add_routing(root, o, &r->routing);
    char *text = smoe_json_print(root);
    if (!text)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

static void print_text(const struct smoe_train_result *r)
{
    printf("test accuracy %.4f after %" PRIu64 " epochs, %.0f samples/s, %.1f s, policy %s\n",
           r->test_accuracy, r->epochs, r->seconds > 0 ? (double)r->samples / r->seconds : 0,
           r->seconds, r->policy);
}

/* A wrong option, file or shape is the caller's to mend; the rest went wrong while running. */
static int exit_code_of(int rc)
{
    switch (rc) {
    case SMOE_ECONFIG:
    case SMOE_EDATA:
    case SMOE_EUNKNOWN:
    case SMOE_EFIELD:
    case SMOE_ESHAPE:
        return SMOE_EXIT_USAGE;
    default:
        return SMOE_EXIT_FAILED;
    }
}

/* The first Ctrl-C ends the run in order: a checkpoint, and the layer is free for the next trainer at once.
 * The second one does not wait. */
static void watch_signals(void)
{
    struct sigaction action = {.sa_flags = (int)SA_RESETHAND, .sa_handler = smoe_train_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int main(int argc, char **argv)
{
    struct smoe_train_options options;
    struct smoe_cli_rest rest;
    struct smoe_why why = {""};
    static struct smoe_train_run run;
    memset(&options, 0, sizeof options);
    int done = smoe_cli_parse(&smoe_train_cli, argc, argv, &options, &rest, stdout, stderr);
    if (done >= 0)
        return done;
    watch_signals();
    if (*options.key)
        smoe_keep_to_itself();
    int rc = smoe_train_options_check(&options, &why);
    if (rc == 0)
        rc = smoe_train_start(&run, &options, &why);
    if (rc == 0)
        rc = smoe_train_all(&run, &why);
    if (rc == 0 && options.json)
        rc = print_json(&run, &why);
    else if (rc == 0)
        print_text(&run.result);
    if (rc == 0 && (fflush(stdout) || ferror(stdout)))
        rc = smoe_fail(&why, SMOE_ECLOSED, "standard output: cannot be written");
    smoe_train_release(&run);
    return rc ? smoe_cli_fail(smoe_train_cli.program, exit_code_of(rc), &why, stderr)
              : SMOE_EXIT_OK;
}
