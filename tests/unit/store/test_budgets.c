/* SPDX-License-Identifier: Apache-2.0
 *
 * Budgets on a disk whose fsync fails: what is in force is what a restarted gateway reads. This fsync stands in the
 * place of the C library's.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/shell/budgets.h"
#include "tests/unit/io/scratch_dir.h"

static struct scratch_dir scratch;
static struct smoe_gateway *gw;
static int dir;

/* Which descriptors' fsync fails. */
static enum { NOTHING, FILES, DIRECTORIES } failing;

int fsync(int fd)
{
    struct stat st;
    if (failing != NOTHING && fstat(fd, &st) == 0 &&
        S_ISDIR(st.st_mode) == (failing == DIRECTORIES)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static void start(void)
{
    struct smoe_why why;
    struct smoe_gateway_options o = {.core = {.limits = {.workers_max = 2,
                                                         .trainers_max = 1,
                                                         .batches_max = 4,
                                                         .parcels_max = 8,
                                                         .slot_tokens_max = 16},
                                              .settings = {.slot_ns = 20000000,
                                                           .v = 50,
                                                           .mu = 1,
                                                           .workers_min = 1,
                                                           .worker_budget_w = (double)INFINITY,
                                                           .worker_cap_w = (double)INFINITY},
                                              .epoch = 1,
                                              .now_ns = 1,
                                              .tensor_bytes_max = 1 << 16},
                                     .tensors_bytes_max = 1 << 18,
                                     .outbox_bytes_max = 1 << 16};
    cr_assert_eq(smoe_gateway_new(&o, &gw, &why), 0, "%s", why.text);
    cr_assert_eq(smoe_budgets_load(gw, dir, &why), 0, "%s", why.text);
}

static double in_force(void)
{
    return smoe_fleet_budget(smoe_core_fleet(smoe_gateway_core(gw)), "w");
}

static double after_a_restart(void)
{
    smoe_gateway_free(gw);
    start();
    return in_force();
}

static void begin(void)
{
    failing = NOTHING;
    scratch_dir_init(&scratch);
    scratch_text(&scratch, "budgets", "w 5\n");
    dir = open(scratch.path, O_RDONLY | O_DIRECTORY);
    start();
}

static void end(void)
{
    smoe_gateway_free(gw);
    close(dir);
    scratch_dir_release(&scratch);
}

TestSuite(budgets, .init = begin, .fini = end);

Test(budgets, are_what_they_were_when_the_file_could_not_be_written)
{
    struct smoe_why why = {""};
    failing = FILES;
    cr_assert_eq(smoe_budgets_set(gw, dir, "w", "7", &why), -EIO);
    cr_assert_str_eq(why.text, "budgets: Input/output error");
    cr_assert_eq(in_force(), 5);
    cr_assert_eq(after_a_restart(), 5);
}

Test(budgets, are_set_when_the_file_was_replaced_even_if_that_may_not_outlive_a_power_cut)
{
    struct smoe_why why = {""};
    failing = DIRECTORIES;
    cr_assert_eq(smoe_budgets_set(gw, dir, "w", "7", &why), -EIO);
    cr_assert_str_eq(why.text,
                     "set, but a power cut may undo it: budgets: written, but its directory: "
                     "Input/output error");
    cr_assert_eq(in_force(), 7);
    cr_assert_eq(after_a_restart(), 7);
}

Test(budgets, that_the_disk_has_are_set_without_a_word)
{
    struct smoe_why why = {""};
    cr_assert_eq(smoe_budgets_set(gw, dir, "w", "7", &why), 0);
    cr_assert_str_eq(why.text, "");
    cr_assert_eq(after_a_restart(), 7);
}
