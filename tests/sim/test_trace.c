/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole of a first step, message by message, at virtual milliseconds: a millisecond each way, two
 * workers of which one has a quarter of the other's speed. Every line is a promise of docs/protocol.md,
 * the times are the same on every machine, and the numbers of rows are the exact solve's.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "sim/story.h"

#ifdef STABLEMOE_FLOAT64
#define CREDIT "67109248"
#else
#define CREDIT "67109120"
#endif

static const char *const FIRST_STEP =
    "       0.000 gateway starts\n"
    "       0.000 fast starts\n"
    "       0.000 slow starts\n"
    "       3.000 fast     -> gateway  HELLO worker fast\n"
    "       3.000 slow     -> gateway  HELLO worker slow\n"
    "       4.000 gateway  -> fast     WELCOME epoch 1\n"
    "       4.000 gateway  -> slow     WELCOME epoch 1\n"
    "       5.000 fast     -> gateway  INVENTORY nothing\n"
    "       5.000 slow     -> gateway  INVENTORY nothing\n"
    "      20.000 trainer starts\n"
    "      23.000 trainer  -> gateway  HELLO trainer trainer\n"
    "      24.000 gateway  -> trainer  WELCOME epoch 1, attempt 1.1, credit 67108864 bytes, "
    "1000000 visits\n"
    "      25.000 trainer  -> gateway  LAYER_DECLARE moe-0, step 0\n"
    "      26.000 gateway  -> fast     HOST moe-0 as layer 0: experts 0,2, copies 1,3\n"
    "      26.000 gateway  -> slow     HOST moe-0 as layer 0: experts 1,3, copies 0,2\n"
    "      27.000 fast     -> gateway  HOSTED layer 0\n"
    "      27.000 slow     -> gateway  HOSTED layer 0\n"
    "      28.000 gateway  -> trainer  LAYER_READY layer 0, step 0\n"
    "      29.000 trainer  -> gateway  SUBMIT batch 1: 8 tokens, top 2\n"
    "      30.000 gateway  -> fast     DECISION 1: 2 parcels, 12 rows\n"
    "      30.000 gateway  -> slow     DECISION 1: 2 parcels, 4 rows\n"
    "      31.000 fast     -> gateway  OUTPUT parcel 1.1\n"
    "      31.001 slow     -> gateway  OUTPUT parcel 2.1\n"
    "      31.001 fast     -> gateway  OUTPUT parcel 3.1\n"
    "      31.002 slow     -> gateway  OUTPUT parcel 4.1\n"
    "      32.000 gateway  -> trainer  RESULT batch 1 expert 0: 6 rows\n"
    "      32.001 gateway  -> trainer  RESULT batch 1 expert 1: 3 rows\n"
    "      32.001 gateway  -> trainer  RESULT batch 1 expert 2: 6 rows\n"
    "      32.002 gateway  -> trainer  RESULT batch 1 expert 3: 1 row\n"
    "      32.002 gateway  -> trainer  CREDIT " CREDIT " bytes, 1000016 visits\n"
    "      33.002 trainer  -> gateway  GRADIENT batch 1\n"
    "      34.002 gateway  -> fast     BACKPROP 2: 2 parcels\n"
    "      34.002 gateway  -> slow     BACKPROP 2: 2 parcels\n"
    "      35.003 fast     -> gateway  PARCEL_GRADIENT parcel 1.1\n"
    "      35.005 slow     -> gateway  PARCEL_GRADIENT parcel 2.1\n"
    "      35.005 fast     -> gateway  PARCEL_GRADIENT parcel 3.1\n"
    "      35.006 slow     -> gateway  PARCEL_GRADIENT parcel 4.1\n"
    "      36.003 gateway  -> trainer  INPUT_GRADIENT batch 1 expert 0: 6 rows\n"
    "      36.005 gateway  -> trainer  INPUT_GRADIENT batch 1 expert 1: 3 rows\n"
    "      36.005 gateway  -> trainer  INPUT_GRADIENT batch 1 expert 2: 6 rows\n"
    "      36.006 gateway  -> trainer  INPUT_GRADIENT batch 1 expert 3: 1 row\n"
    "      37.006 trainer  -> gateway  STEP 1: 1 batch\n"
    "      38.006 gateway  -> fast     STEP_PREPARE 1\n"
    "      38.006 gateway  -> slow     STEP_PREPARE 1\n"
    "      39.006 fast     -> gateway  STEP_GRADIENT 1, layer 0 expert 0\n"
    "      39.006 fast     -> gateway  STEP_GRADIENT 1, layer 0 expert 2\n"
    "      39.006 slow     -> gateway  STEP_GRADIENT 1, layer 0 expert 1\n"
    "      39.006 slow     -> gateway  STEP_GRADIENT 1, layer 0 expert 3\n"
    "      39.006 fast     -> gateway  STEP_NORM 1\n"
    "      39.008 slow     -> gateway  STEP_NORM 1\n"
    "      40.006 gateway  -> slow     STEP_GRADIENT 1, layer 0 expert 0\n"
    "      40.006 gateway  -> slow     STEP_GRADIENT 1, layer 0 expert 2\n"
    "      40.006 gateway  -> fast     STEP_GRADIENT 1, layer 0 expert 1\n"
    "      40.006 gateway  -> fast     STEP_GRADIENT 1, layer 0 expert 3\n"
    "      40.008 gateway  -> slow     STEP_STAGE 1\n"
    "      40.008 gateway  -> fast     STEP_STAGE 1\n"
    "      41.013 fast     -> gateway  STEP_STAGED 1\n"
    "      41.028 slow     -> gateway  STEP_STAGED 1\n"
    "      42.862 gateway  -> fast     STEP_COMMIT 1, epoch 2\n"
    "      42.862 gateway  -> slow     STEP_COMMIT 1, epoch 2\n"
    "      42.862 gateway  -> trainer  STEP_DONE 1, epoch 2\n";

/* Without reports, which come when they please. */
static char *without_reports(const char *trace)
{
    char *kept = calloc(strlen(trace) + 1, 1);
    for (const char *line = trace; *line;) {
        size_t n = strcspn(line, "\n") + 1;
        if (!memmem(line, n, " REPORT ", 8))
            strncat(kept, line, n);
        line += n;
    }
    return kept;
}

Test(trace, a_step_from_hello_to_commit)
{
    struct smoe_story_end end;
    smoe_story_tell(smoe_story_find("join"), 1, true, &end);
    char *trace = without_reports(end.trace);
    cr_assert_gt(strlen(trace), strlen(FIRST_STEP));
    trace[strlen(FIRST_STEP)] = 0;
    cr_assert_str_eq(trace, FIRST_STEP);
    free(trace);
    free(end.trace);
}

Test(trace, lines_can_be_selected_by_words)
{
    struct smoe_world *w =
        smoe_world_new(&(struct smoe_world_options){.seed = 1, .keep_trace = true});
    smoe_story_find("join")->play(w);
    char *steps = smoe_sim_trace_select(smoe_world_trace(w), "STEP_DONE 2,|is done");
    cr_assert_not_null(strstr(steps, "STEP_DONE 2, epoch 3\n"));
    cr_assert_not_null(strstr(steps, "trainer is done\n"));
    cr_assert_null(strstr(steps, "STEP_DONE 1"));
    free(steps);
    smoe_world_free(w);
}
