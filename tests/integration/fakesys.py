# SPDX-License-Identifier: Apache-2.0
"""/sys/devices/system/cpu of a machine with two cpufreq policies of four cores each, as a FUSE file system.

    fakesys.py MOUNTPOINT CONTROL

It does what kernels and their drivers do with a write to scaling_max_freq, the kind being the word in
CONTROL/mode at that moment:

    honest    takes it
    rounding  takes the next multiple of 400 MHz above it
    refusing  EINVAL
    deaf      says that it took it, and keeps what stood there
    lying     takes it, and the cores run at their highest frequency all the same
    table     takes it, and has scaling_available_frequencies: multiples of 400 MHz, and the highest

CONTROL/offline, if it is there, names the cores that are switched off: they have no cpufreq, and are no affected_cpus.

Every write, and everything else that would change the tree, is a line of CONTROL/log.
"""

import errno
import os
import stat
import sys

import fusepy as fuse

LOWEST, HIGHEST = 400_000, 3_000_000
FOUND_MIN, FOUND_MAX = 800_000, 2_800_000  # an operator has set both
CORES = 8
STATES = [HIGHEST, *range(2_800_000, 0, -400_000)]
ROUNDING = 400_000  # what was found is one
WRITABLE = ("scaling_min_freq", "scaling_max_freq", "scaling_governor")


def cores_of(policy):
    """Interleaved, so that a machine with two real cores has one in each."""
    return " ".join(str(core) for core in range(policy, CORES, 2))


def policy_files(policy):
    return {"cpuinfo_min_freq": LOWEST, "cpuinfo_max_freq": HIGHEST, "scaling_min_freq": FOUND_MIN,
            "scaling_max_freq": FOUND_MAX, "scaling_cur_freq": FOUND_MAX,
            "scaling_governor": "schedutil", "scaling_driver": "fake",
            "affected_cpus": cores_of(policy), "related_cpus": cores_of(policy)}


class Cpus(fuse.Operations):
    def __init__(self, control):
        self.control = control
        self.links = {f"/cpu{i}/cpufreq": f"../cpufreq/policy{i % 2}" for i in range(CORES)}
        self.files = {f"/{name}": f"0-{CORES - 1}" for name in ("online", "possible", "present")}
        for policy in range(2):
            for name, value in policy_files(policy).items():
                self.files[f"/cpufreq/policy{policy}/{name}"] = str(value)
        self.folders = {"/"}
        for path in [*self.files, *self.links]:
            while path != "/":
                path = os.path.dirname(path)
                self.folders.add(path)

    def mode(self):
        with open(os.path.join(self.control, "mode"), encoding="ascii") as f:
            return f.read().strip()

    def offline(self):
        try:
            with open(os.path.join(self.control, "offline"), encoding="ascii") as f:
                return set(f.read().split())
        except FileNotFoundError:
            return set()

    def is_hidden(self, path):
        return path in self.links and path.split("/")[1].removeprefix("cpu") in self.offline()

    def note(self, *words):
        with open(os.path.join(self.control, "log"), "a", encoding="ascii") as f:
            f.write(" ".join(map(str, words)) + "\n")

    def table(self, path):
        """Is it a policy's table of states, and is there one?"""
        return path.endswith("scaling_available_frequencies") and self.mode() == "table"

    def getattr(self, path, fh=None):
        if self.table(path):
            return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": 4096}
        if self.is_hidden(path):
            raise fuse.FuseOSError(errno.ENOENT)
        if path in self.links:
            return {"st_mode": stat.S_IFLNK | 0o777, "st_nlink": 1}
        if path in self.folders:
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path not in self.files:
            raise fuse.FuseOSError(errno.ENOENT)
        bits = 0o644 if path.endswith(WRITABLE) else 0o444
        return {"st_mode": stat.S_IFREG | bits, "st_nlink": 1, "st_size": 4096}

    def readdir(self, path, fh):
        everything = [*self.files, *self.links, *self.folders]
        return [".", "..", *(os.path.basename(p) for p in everything
                             if p != "/" and os.path.dirname(p) == path and not self.is_hidden(p))]

    def readlink(self, path):
        return self.links[path]

    def read(self, path, size, offset, fh):
        if self.table(path):
            return (" ".join(map(str, STATES)) + " \n").encode()[offset:offset + size]
        text = self.files[path]
        if path.endswith("scaling_cur_freq"):
            text = str(HIGHEST) if self.mode() == "lying" else self.sibling(path, "scaling_max_freq")
        if path.endswith("affected_cpus"):
            off = self.offline()
            text = " ".join(core for core in text.split() if core not in off)
        return (text + "\n").encode()[offset:offset + size]

    def sibling(self, path, name):
        return self.files[os.path.join(os.path.dirname(path), name)]

    def write(self, path, data, offset, fh):
        self.note("write", path, data.decode().strip())
        if not path.endswith(("scaling_min_freq", "scaling_max_freq")):
            raise fuse.FuseOSError(errno.EACCES)
        mode, khz = self.mode(), int(data)
        if mode == "refusing":
            raise fuse.FuseOSError(errno.EINVAL)
        if path.endswith("max_freq"):
            if khz < int(self.sibling(path, "scaling_min_freq")):
                raise fuse.FuseOSError(errno.EINVAL)
            if mode == "rounding":
                khz = -(-khz // ROUNDING) * ROUNDING
        elif khz > int(self.sibling(path, "scaling_max_freq")):
            raise fuse.FuseOSError(errno.EINVAL)
        if mode != "deaf":
            self.files[path] = str(max(LOWEST, min(khz, HIGHEST)))
        return len(data)

    def refuse(self, *words):
        self.note(*words)
        raise fuse.FuseOSError(errno.EPERM)

    def truncate(self, path, length, fh=None):
        self.refuse("truncate", path)

    def create(self, path, mode, fi=None):
        self.refuse("create", path)

    def mkdir(self, path, mode):
        self.refuse("mkdir", path)

    def unlink(self, path):
        self.refuse("unlink", path)

    def rename(self, old, new):
        self.refuse("rename", old, new)

    def chmod(self, path, mode):
        self.refuse("chmod", path)

    def chown(self, path, uid, gid):
        self.refuse("chown", path)


if __name__ == "__main__":
    fuse.FUSE(Cpus(sys.argv[2]), sys.argv[1], foreground=True, nothreads=True, direct_io=True,
              entry_timeout=0, attr_timeout=0,
              allow_other=True, default_permissions=True)
