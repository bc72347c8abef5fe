/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"
#include "sim/print.h"
#include "sim/program/program.h"

int smoe_sim_read_seeds(const char *text, uint64_t *ret_first, uint64_t *ret_last,
                        struct smoe_why *why)
{
    char first[sizeof((struct smoe_sim_arguments *)0)->seeds];
    const char *dots = strstr(text, "..");
    snprintf(first, sizeof first, "%.*s", (int)(dots ? dots - text : (long)strlen(text)), text);
    bool good =
        smoe_parse_u64(first, ret_first) && smoe_parse_u64(dots ? dots + 2 : text, ret_last);
    if (!good || *ret_first > *ret_last || *ret_last == UINT64_MAX)
        return smoe_fail(why, SMOE_ECONFIG,
                         "--seeds: \"%s\" is neither a number nor A..B with "
                         "A at most B",
                         text);
    return 0;
}

static int list_stories(void)
{
    for (size_t i = 0; i < smoe_stories_len; i++)
        printf("%-24s %s\n", smoe_stories[i].name, smoe_stories[i].about);
    return SMOE_EXIT_OK;
}

/* Tells one story for one seed; false if it did not come out as it must. */
static bool tell(const struct smoe_story *story, uint64_t seed, const struct smoe_sim_arguments *a)
{
    struct smoe_story_end end;
    smoe_story_tell(story, seed, a->messages, &end);
    if (a->json)
        smoe_print_story_json(story, seed, &end, stdout);
    else
        smoe_print_story(story, seed, &end, stdout);
    free(end.trace);
    return end.code == 0;
}

int smoe_sim_tell_stories(const char *name, const struct smoe_sim_arguments *a)
{
    struct smoe_why why;
    uint64_t first, last, failed = 0, told = 0;
    bool all = strcmp(name, "all") == 0;
    if (strcmp(name, "list") == 0)
        return list_stories();
    if (!all && !smoe_story_find(name)) {
        smoe_why_set(&why, "story %s: no such story: see `" SMOE_SIM_PROGRAM " story list`", name);
        return smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    }
    if (smoe_sim_read_seeds(a->seeds, &first, &last, &why))
        return smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_USAGE, &why, stderr);
    for (size_t i = 0; i < smoe_stories_len; i++)
        for (uint64_t seed = first; seed <= last; seed++)
            if (all || strcmp(name, smoe_stories[i].name) == 0) {
                failed += !tell(&smoe_stories[i], seed, a);
                told++;
            }
    if (!failed)
        return SMOE_EXIT_OK;
    smoe_why_set(&why, "story %s: %llu of %llu failed", name, (unsigned long long)failed,
                 (unsigned long long)told);
    return smoe_cli_fail(SMOE_SIM_PROGRAM, SMOE_EXIT_FAILED, &why, stderr);
}
