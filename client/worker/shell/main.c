/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-worker: hosts experts on an edge node.
 */
#include <string.h>

#include "client/worker/shell/loop.h"

int main(int argc, char **argv)
{
    struct smoe_worker_settings settings;
    struct smoe_cli_rest rest;
    struct smoe_why why = {""};
    memset(&settings, 0, sizeof settings);
    int done = smoe_cli_parse(&smoe_worker_cli, argc, argv, &settings, &rest, stdout, stderr);
    if (done >= 0)
        return done;
    int rc = smoe_worker_settings_complete(&settings, &why);
    if (rc)
        return smoe_cli_fail(smoe_worker_cli.program, SMOE_EXIT_USAGE, &why, stderr);
    rc = smoe_worker_run(&settings, &why);
    if (rc)
        return smoe_cli_fail(smoe_worker_cli.program,
                             rc == SMOE_ECONFIG ? SMOE_EXIT_USAGE : SMOE_EXIT_FAILED, &why, stderr);
    return SMOE_EXIT_OK;
}
