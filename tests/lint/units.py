#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The systemd units are correct and stay closed: systemd-analyze verify, and its exposure level."""

import os
import re
import shutil
import subprocess
import tempfile

import tree

# Unit and the most it may expose (0 best, 10 worst).
# freqd is root, which alone is 0.9 of it.
UNITS = {"stablemoed.service": 1.2, "stablemoe-worker@.service": 1.3, "stablemoe-freqd.service": 2.0}
SYSTEMD = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../systemd")


def run(*command):
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.returncode, (ran.stdout + ran.stderr).strip()


def staged(folder, build, unit):
    """A copy whose program exists: verify looks for it, and it need not be installed here."""
    with open(os.path.join(build, "systemd", unit), encoding="utf-8") as f:
        text = f.read()
    socket = unit.replace(".service", ".socket")
    if os.path.exists(os.path.join(SYSTEMD, socket)):
        shutil.copy(os.path.join(SYSTEMD, socket), folder)
    path = os.path.join(folder, unit.replace("@.", "@attic."))
    with open(path, "w", encoding="utf-8") as f:
        f.write(re.sub(r"^(ExecStart|ExecStopPost)=\S+", r"\1=/bin/true", text, flags=re.M))
    return path


def check_unit(path, most):
    rc, said = run("systemd-analyze", "verify", "--man=no", path)
    if rc or said:
        yield f"{os.path.basename(path)}: {said or f'verify exits {rc}'}"
    rc, said = run("systemd-analyze", "security", "--offline=true", "--no-pager", path)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    if not found:
        yield f"{os.path.basename(path)}: no exposure level in: {said[-200:]}"
        return
    print(f"{os.path.basename(path)}: exposure {found.group(1)}, at most {most}")
    if float(found.group(1)) > most:
        yield f"{os.path.basename(path)}: exposure {found.group(1)} is above {most}"


def check_user(folder, root):
    """sysusers makes the user the daemon's unit and tmpfiles name."""
    if not shutil.which("systemd-sysusers"):
        return
    os.mkdir(os.path.join(folder, "etc"))
    rc, said = run("systemd-sysusers", f"--root={folder}",
                   os.path.realpath(os.path.join(root, "systemd/sysusers.conf")))
    passwd = os.path.join(folder, "etc/passwd")
    if rc or not os.path.exists(passwd):
        yield f"sysusers.conf: {said or f'exits {rc}'}"
        return
    with open(passwd, encoding="utf-8") as f:
        if not re.search(r"^stablemoe:.*:/var/lib/stablemoe:/usr/sbin/nologin$", f.read(), re.M):
            yield "sysusers.conf: makes no user stablemoe"


def main():
    parser = tree.arguments(__doc__)
    parser.add_argument("--build", required=True)
    args = parser.parse_args()
    if not shutil.which("systemd-analyze"):
        tree.skip("no systemd-analyze here")
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for unit, most in UNITS.items():
            problems += check_unit(staged(folder, args.build, unit), most)
        problems += check_user(folder, args.root)
    tree.verdict("units", problems)


if __name__ == "__main__":
    main()
