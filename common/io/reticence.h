/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process with secrets in its memory keeps to itself.
 */
#ifndef SMOE_IO_RETICENCE_H
#define SMOE_IO_RETICENCE_H

/* From now on this process leaves no core file, and other processes of the same user cannot read its memory; root, and
 * so root's debugger, can. For programs only, before they read a key: it is the whole process's. */
void smoe_keep_to_itself(void);

#endif
