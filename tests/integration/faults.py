# SPDX-License-Identifier: Apache-2.0
"""Makes the machine below one program fail: see faults.c, which is preloaded into it.

    faults = Faults(fleet, "gateway")
    daemon = fleet.start_daemon(beneath=faults.beneath)
    faults.disk_errno = errno.EIO
"""

import mmap
import os
import struct

import harness

WORDS = ("accept_errno", "accept_failed", "disk_errno", "disk_failed", "alloc_nth", "alloc_every",
         "allocations", "alloc_failed", "wall_shift_s", "disk_delay_ms", "bind_signal")
LIBRARY = os.path.join(harness.HELPERS, "libintegration_faults.so")


class Faults:
    """The words of faults.c as attributes: what is written takes effect at once."""

    def __init__(self, fleet, name):
        path = fleet.path(f"{name}.faults")
        with open(path, "wb") as f:
            f.write(bytes(8 * len(WORDS)))
        with open(path, "r+b") as f:
            page = mmap.mmap(f.fileno(), 0)
        # a sanitizer's runtime comes after the library; it insists on being first otherwise
        beneath = ["env", f"LD_PRELOAD={LIBRARY}", f"SMOE_FAULTS={path}",
                   f"ASAN_OPTIONS={os.environ.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0"]
        self.__dict__.update(page=page, beneath=beneath)

    def __getattr__(self, name):
        return struct.unpack_from("<q", self.page, 8 * WORDS.index(name))[0]

    def __setattr__(self, name, value):
        struct.pack_into("<q", self.page, 8 * WORDS.index(name), value)
