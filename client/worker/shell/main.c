/* SPDX-License-Identifier: Apache-2.0
 *
 * stablemoe-worker: hosts experts on an edge node.
 */
#include <malloc.h>
#include <string.h>

#include "client/worker/shell/loop.h"

/* What is exchanged, and what visits bring, comes and goes in blocks of half a MiB and more. glibc would give their
 * pages back each time, and faulting them in again took a fifth of an exchange's CPU time; so blocks of up to 32 MiB
 * (its most) come from the heap, and the heap keeps up to 32 MiB of what is free: what may be on its way to and from a
 * worker. */
static void keep_freed_pages(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 32 << 20);
}

int main(int argc, char **argv)
{
    struct smoe_worker_settings settings;
    struct smoe_cli_rest rest;
    struct smoe_why why = {""};
    memset(&settings, 0, sizeof settings);
    keep_freed_pages();
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
