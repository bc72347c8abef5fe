/* SPDX-License-Identifier: Apache-2.0
 *
 * As ssh-agent does it. Keeping keys alone out of core files (MADV_DONTDUMP) would leave what OpenSSL makes of
 * them, which lies among everything else; and a limit on the size of core files does not bind where they are piped
 * to a program.
 */
#include "common/io/reticence.h"

#include <sys/prctl.h>

void smoe_keep_to_itself(void)
{
#ifndef __SANITIZE_ADDRESS__ /* which looks for leaks as a debugger of the same user would */
    (void)prctl(PR_SET_DUMPABLE, 0);
#endif
}
