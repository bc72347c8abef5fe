#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is installed is whole: docs/example.c and docs/twostage.c are built with it as a user would, and learn on its
fleet."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

import harness

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs")
EXAMPLE = os.path.join(DOCS, "example.c")
HEADERS = ("stablemoe.h", "twostage.h")
BUILD = os.environ.get("SMOE_BUILD", os.path.join(harness.BIN, ".."))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def only(pattern, tree):
    """The one path below `tree` that ends like this."""
    found = [os.path.join(folder, name) for folder, _, names in os.walk(tree) for name in names
             if os.path.join(folder, name).endswith(pattern)]
    assert len(found) == 1, (pattern, found)
    return found[0]


class Install(harness.FleetTest):
    @classmethod
    def setUpClass(cls):
        # DESTDIR as well as a prefix: no path of a configured absolute directory can lead outside.
        cls.tree = tempfile.mkdtemp(prefix="smoe-install-")
        cls.addClassCleanup(shutil.rmtree, cls.tree)
        subprocess.run([os.environ.get("SMOE_CMAKE", "cmake"), "--install", BUILD, "--prefix",
                        "/stablemoe"], env={**os.environ, "DESTDIR": cls.tree}, check=True,
                       stdout=subprocess.DEVNULL)
        cls.library = os.path.dirname(only("/libstablemoe.so", cls.tree))

    def setUp(self):
        super().setUp()
        self.fleet.env["LD_LIBRARY_PATH"] = self.library

    def pkg_config(self, *args):
        folder = os.path.dirname(only("/stablemoe.pc", self.tree))
        done = subprocess.run(["pkg-config", *args, "stablemoe"], capture_output=True, text=True,
                              env={**os.environ, "PKG_CONFIG_LIBDIR": folder}, check=True)
        return shlex.split(done.stdout)

    def compile(self, *args, source=EXAMPLE):
        """Builds an example as its head says, and strictly."""
        program = self.fleet.path("example")
        words = [os.environ.get("SMOE_CC", "cc"), source, "-o", program, *args, *WARNINGS]
        if harness.SANITIZED:
            words.append(f"-fsanitize={os.environ['SMOE_SANITIZED']}")
        subprocess.run(words + self.pkg_config("--cflags", "--libs"), check=True)
        return program

    def test_the_example_learns_on_an_installed_fleet(self):
        program = self.compile("-std=c11")
        installed = harness.BIN
        self.addCleanup(setattr, harness, "BIN", installed)
        harness.BIN = os.path.dirname(only("bin/stablemoed", self.tree))
        self.fleet.start_daemon("--set", "fleet.workers_min=2")
        self.fleet.start_workers(2)
        code, out, err = self.fleet.run([program, self.fleet.gateway])
        self.assertEqual((code, err), (0, ""))
        lines = [re.fullmatch(r"step (\d+) loss (\d+\.\d+)", line) for line in out.splitlines()]
        self.assertEqual([int(line.group(1)) for line in lines], list(range(10, 101, 10)))
        losses = [float(line.group(2)) for line in lines]
        self.assertLess(losses[-1], 0.1 * losses[0])
        self.assertEqual(self.fleet.status()["steps"], 100)
        self.assertBalanced(self.fleet.status()["ledger"], "after the example")

    def test_the_two_stages_of_another_trainer_end_in_a_router_that_keeps_its_word(self):
        program = self.compile("-std=c11", source=os.path.join(DOCS, "twostage.c"))
        self.fleet.start_daemon("--set", "fleet.workers_min=2", "--set", "routing.policy=topk")
        self.fleet.start_workers(2)
        code, out, err = self.fleet.run([program, self.fleet.gateway])
        self.assertEqual((code, err), (0, ""))
        losses = [float(loss) for loss in re.findall(r"^step \d+ loss (\d+\.\d+)$", out, re.M)]
        self.assertEqual(len(losses), 16)
        self.assertLess(losses[-1], 0.3 * losses[0])
        digest = re.search(r"^frozen: version 1, digest ([0-9a-f]{16})$", out, re.M).group(1)
        self.assertEqual(self.fleet.status("experts")["layers"][0]["router"]["digest"], digest)
        self.assertIn("\n0 tokens changed their expert after the freeze\n", out)

    def test_the_example_says_in_one_line_what_is_wrong_with_an_address(self):
        program = self.compile("-std=c11")
        code, out, err = self.fleet.run([program, "127.0.0.1"])
        self.assertEqual((code, out, err.count("\n")), (1, "", 1), err)

    def test_the_example_uses_nothing_but_the_public_header(self):
        with open(EXAMPLE, encoding="utf-8") as f:
            text = f.read()
        ours = [h for h in re.findall(r'#include [<"]([^>"]+)', text) if "/" in h]
        self.assertEqual(ours, ["stablemoe/stablemoe.h"])
        self.assertLessEqual(text.count("\n"), 75)

    def test_the_header_is_c11_and_c_plus_plus(self):
        include = self.pkg_config("--cflags")
        for language, compiler in (("c", "cc"), ("c++", "c++")):
            if not shutil.which(compiler):
                continue
            subprocess.run([compiler, "-x", language, "-fsyntax-only", *WARNINGS, *include, "-"],
                           input="".join(f"#include <stablemoe/{h}>\n" for h in HEADERS).encode(), check=True)

    def test_the_library_exports_its_header_and_nothing_else(self):
        declared = set()
        for header in HEADERS:
            with open(only(f"stablemoe/{header}", self.tree), encoding="utf-8") as f:
                declared |= set(re.findall(r"SMOE_API[^;(]*?\b(smoe_\w+)\(", f.read()))
        self.assertGreater(len(declared), 20)
        named = subprocess.run(["nm", "--dynamic", "--defined-only", "--format=posix",
                                os.path.join(self.library, "libstablemoe.so")],
                               capture_output=True, text=True, check=True)
        exported = {line.split()[0] for line in named.stdout.splitlines()}
        self.assertEqual({name for name in exported if not name.startswith("__")}, declared)

    def test_every_installed_program_runs(self):
        binaries = os.path.dirname(only("bin/stablemoed", self.tree))
        names = sorted(os.listdir(binaries))
        self.assertTrue({"stablemoed", "stablemoe-worker", "stablemoe-train", "stablemoectl"}
                        <= set(names), names)
        for name in names:
            code, out, err = self.fleet.run([os.path.join(binaries, name), "--version"])
            self.assertEqual((code, err), (0, ""), name)
            self.assertRegex(out, rf"^{name} \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    harness.main()
