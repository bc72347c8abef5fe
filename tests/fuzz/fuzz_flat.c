/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses a flat message, the rest is its protobuf part: protobuf-c's unpack and ours must
 * agree on whether it is one, and on its fields.
 */
#include "common/base/assert.h"
#include "common/base/limits.h"
#include "tests/fuzz/input.h"
#include "tests/unit/proto/flat_twin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint32_t message = fuzz_below(&in, (uint32_t)flat_twin_n_messages);
    int taken;
    if (in.left > SMOE_CONTROL_BYTES_MAX)
        return -1;
    smoe_assert(!flat_twin_difference(flat_twin_messages[message], in.data, in.left, &taken));
    return 0;
}
