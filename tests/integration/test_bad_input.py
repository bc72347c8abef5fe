#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong is said in one line, with exit code 2 (usage, configuration) or 1, or in an error
frame; and whoever did nothing wrong does not notice."""

import gzip
import os
import socket

import harness
from harness import train_args

NOBODY = "127.0.0.1:1"  # no gateway listens there

# program: what everyone refuses, with its required options
CALLS = {
    "stablemoed": ["--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"],
    "stablemoe-worker": ["--gateway", NOBODY, "--id", "w"],
    "stablemoe-train": ["--gateway", NOBODY, "--dataset", "fashion-mnist"],
    "stablemoectl": [],
}


class Wrong(harness.FleetTest):
    def refused(self, program, *args, code=2, says=()):
        """Runs a program that must say `says` in one line on stderr, nothing on stdout, and end."""
        argv = [os.path.join(harness.BIN, program), *CALLS[program], *args]
        got, out, err = self.fleet.run(argv)
        self.assertEqual((got, out), (code, ""), f"{args}: {err}")
        self.assertRegex(err, rf"\A{program}: \S[^\n]*\n\Z", args)
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, err, args)

    def file(self, name, text):
        path = self.fleet.path(name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path


class CommandLine(Wrong):
    def test_every_program_refuses_options_and_operands_it_does_not_know(self):
        for program in CALLS:
            self.refused(program, "--bogus", says=["--bogus: unknown option", "nearest is --"])
        for program in ("stablemoed", "stablemoe-worker", "stablemoe-train"):
            self.refused(program, "extra", says="extra: one operand too many")
        for program, option in (("stablemoed", "--config"), ("stablemoe-worker", "--speed"),
                                ("stablemoe-train", "--epochs"), ("stablemoectl", "--state-dir")):
            self.refused(program, option, says=f"{option}: needs a value")

    def test_what_is_required_is_asked_for(self):
        for program, args, says in (
                ("stablemoe-worker", [], "--gateway: is required"),
                ("stablemoe-worker", ["--gateway", NOBODY], "--id: needed"),
                ("stablemoe-train", ["--gateway", NOBODY], "--dataset: is required"),
                ("stablemoe-train", ["--dataset", "fashion-mnist"], "--gateway: is required"),
                ("stablemoectl", [], "COMMAND [ARGUMENT..]: missing"),
                ("stablemoectl", ["policy"], "policy: needs a NAME")):
            code, out, err = self.fleet.run([os.path.join(harness.BIN, program), *args])
            self.assertEqual((code, out), (2, ""), err)
            self.assertOneLine(err, says)

    def test_values_out_of_range_are_refused_with_the_range(self):
        for program, option, value, says in (
                ("stablemoe-worker", "--speed", "0", "lies outside 0.01 .. 1"),
                ("stablemoe-worker", "--speed", "1.01", "lies outside 0.01 .. 1"),
                ("stablemoe-worker", "--speed", "nan", '"nan" is not 0.01 .. 1'),
                ("stablemoe-worker", "--speed", "fast", '"fast" is not 0.01 .. 1'),
                ("stablemoe-worker", "--lanes", "0", "lies outside 1 .. 256"),
                ("stablemoe-worker", "--memory", "15MiB", "at least 16MiB"),
                ("stablemoe-worker", "--id", "a b", "A-Z a-z 0-9"),
                ("stablemoe-worker", "--freq-driver", "turbo", "duty or null"),
                ("stablemoe-worker", "--gateway", "nowhere", "needs a port"),
                ("stablemoe-train", "--top-k", "0", "lies outside 1 .. 8"),
                ("stablemoe-train", "--top-k", "9", "lies outside 1 .. 8"),
                ("stablemoe-train", "--experts", "1025", "lies outside 1 .. 1024"),
                ("stablemoe-train", "--d-ff", "65537", "lies outside 1 .. 65536"),
                ("stablemoe-train", "--lr", "inf", '"inf" is not 0 .. 100'),
                ("stablemoe-train", "--batch", "1.5", '"1.5" is not 1 .. 65536'),
                ("stablemoe-train", "--activation", "tanh", "relu, gelu or swiglu"),
                ("stablemoe-train", "--dataset", "mnist", "not one of fashion-mnist"),
                ("stablemoe-train", "--router", "dice", "learned, switch, stablemoe, base or hash"),
                ("stablemoe-train", "--patches", "3", "cannot be cut into 3 x 3"),
                ("stablemoe-train", "--dataset", "cifar10", "give the directory")):
            self.refused(program, option, value, says=says)
        self.refused("stablemoe-train", "--experts", "2", "--top-k", "3",
                     says="--top-k 3: there are only 2 experts")
        self.refused("stablemoe-train", "--batch", "4", "--parts", "5", says="--parts 5")
        self.refused("stablemoe-train", "--router", "switch", says="give --top-k 1")
        self.refused("stablemoe-train", "--local", "--wire", "bf16", says="--wire bf16: with --local nothing travels")
        self.refused("stablemoe-train", "--wire", "fp16", says="--wire")


class Configuration(Wrong):
    def test_a_wrong_file_is_refused_with_its_line(self):
        for text, says in (
                ("[routing]\npolcy = topk\n", ':2: no key "polcy" in [routing]; nearest is "policy"'),
                ("[ruoting]\nv = 1\n", ":2: no section [ruoting]; nearest is [routing]"),
                ("[routing]\n\nslot = 5min\n", ':3: routing.slot: "5min" lies outside 1ms .. 1min'),
                ("[routing]\nv = -1\n", ':2: routing.v: "-1" lies outside'),
                ("[routing]\nv = nan\n", ':2: routing.v: "nan" is not'),
                ("[routing]\nslot = 20\n", ":2: routing.slot"),
                ("[routing]\nv = 1\nv = 2\n", ":3: routing.v: given before, on line 2"),
                ("[routing\n", ":1: neither [section]"),
                ("[routing]\nslot\n", ":2: neither [section]"),
                ("[fleet]\nworkers_max = 0\n", ":2: fleet.workers_max"),
                ("[net]\nlisten = 127.0.0.1\n", ":2: net.listen")):
            path = self.file("bad.conf", text)
            for how in ((), ("--check-config",)):
                self.refused("stablemoed", "--state-dir", self.fleet.state_dir, "--config", path, *how,
                             says=path + says)
        self.refused("stablemoed", "--config", self.fleet.path("none"), says="No such file")
        self.assertFalse(os.path.exists(self.fleet.state_dir), "nothing was begun")

    def test_a_wrong_override_is_refused_with_its_origin(self):
        for setting, says in (("routing.slot=5min", "--set routing.slot:"), ("routing.slot", "--set:"),
                              ("nosuch.key=1", "--set: no section [nosuch]"),
                              ("routing.policy=best", '"best" is not lyapunov, topk')):
            self.refused("stablemoed", "--set", setting, says=says)
        self.fleet.env["STABLEMOE_ROUTING_SLOTT"] = "5ms"
        self.refused("stablemoed", says="nearest is STABLEMOE_ROUTING_SLOT")
        del self.fleet.env["STABLEMOE_ROUTING_SLOTT"]
        self.fleet.env["STABLEMOE_ROUTING_SLOT"] = "5min"
        self.refused("stablemoed", says=["STABLEMOE_ROUTING_SLOT", "lies outside"])

    def test_a_reload_is_refused_where_it_does_not_go_with_what_needs_a_restart(self):
        config = self.fleet.path("stablemoed.conf")

        def write(text):
            with open(config, "w", encoding="utf-8") as f:
                f.write(text)

        write("[fleet]\nworkers_max = 4\n[limits]\ntensors = 512MiB\n")
        daemon = self.fleet.start_daemon("--config", config)
        for section, stays, wrong in (("fleet", "workers_max = 100", "workers_min = 5"),
                                      ("limits", "tensors = 8GiB", "[trainers]\nwindow = 1GiB")):
            write(f"[routing]\nv = 7\n[{section}]\n{stays}\n{wrong}\n")
            code, _, err = self.fleet.ctl("reload")
            self.assertEqual(code, 1, "a restart would take it, this daemon cannot")
            self.assertOneLine(err, "restart", f"{section}.{stays.split()[0]}", "larger than")
            self.assertEqual(self.fleet.status()["v"], 20, "nothing changed")
        write("[routing]\nv = 7\n[fleet]\nworkers_max = 100\nworkers_min = 4\n")
        self.assertEqual(self.fleet.ctl("reload"), (0, "", ""))
        self.assertEqual(self.fleet.status()["v"], 7)
        daemon.wait_for_line("needs_restart=.*fleet.workers_max")

    def test_plaintext_leaves_the_machine_only_when_told_to(self):
        self.refused("stablemoed", "--set", "security.insecure=loopback-only", "--listen", "0.0.0.0:0",
                     says="not a loopback address")
        self.refused("stablemoed", "--set", "net.insecure=yes", says="it belongs to [security]")
        self.refused("stablemoed", "--status", "0.0.0.0:0", says="not a loopback address")
        self.refused("stablemoe-worker", "--gateway", "192.0.2.1:7700", "--id", "w", says="--key: needed")

    def test_a_port_in_use_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            for option, what in (("--listen", "listen"), ("--status", "status")):
                self.refused("stablemoed", "--state-dir", self.fleet.state_dir, option, address,
                             says=f"{what} {address}: address already in use")

    def test_a_bad_state_directory_is_named(self):
        path = self.file("file", "")
        self.refused("stablemoed", "--state-dir", path, code=1, says=f"{path}: Not a directory")
        public = self.fleet.path("public")
        os.mkdir(public)
        os.chmod(public, 0o777)
        self.refused("stablemoed", "--state-dir", public, code=1, says="everyone may write to it")
        self.refused("stablemoe-worker", "--state-dir", public, code=1, says="everyone may write")


class Absent(Wrong):
    def test_a_gateway_that_is_away_is_waited_for_as_long_as_was_said(self):
        if os.path.exists(harness.DATA):
            self.refused("stablemoe-train", "--patience", "200ms", code=1,
                         says=f"gateway {NOBODY} is away")
        worker = self.fleet.start_worker("w1", gateway=NOBODY)
        worker.wait_for_line(r"level=warning .*no gateway, trying again.*connection refused")
        self.assertTrue(worker.running())

    def test_a_daemon_that_is_not_there_is_said_by_ctl(self):
        self.refused("stablemoectl", "--state-dir", self.fleet.dir, "status", code=1,
                     says="is stablemoed running?")
        self.refused("stablemoectl", "bogus", says="bogus: unknown command")
        for words in (("watch",), ("key", "list"), ("key", "add", "worker", "w")):
            self.refused("stablemoectl", "--state-dir", self.fleet.dir, "--json", *words,
                         says=f"--json: {words[0]} does not answer in JSON")

    def test_ctl_says_what_the_daemon_refused(self):
        self.fleet.start_daemon()
        for words, says in ((["policy", "best"], "best"), (["drain", "nobody"], "nobody"),
                            (["set-budget", "nobody", "5"], 'no worker "nobody"')):
            self.refused("stablemoectl", "--state-dir", self.fleet.state_dir, *words, code=1, says=says)
        for watts in ("0", "-1", "1e7", "nan", "inf", "0x10", "5W", "1e400", "--", "1e-4", ""):
            code = 2 if watts in ("", "--", "-1") else 1  # ctl's own refusal, or the daemon's
            self.refused("stablemoectl", "--state-dir", self.fleet.state_dir, "set-budget", "w1", watts, code=code)
        for words, says in ((["set-budget"], "needs a WORKER WATTS"), (["set-budget", "w1"], "needs a WORKER WATTS"),
                            (["drain", "w1", "w2"], "takes WORKER"), (["status", "x"], "takes no argument")):
            self.refused("stablemoectl", "--state-dir", self.fleet.state_dir, *words, says=says)

    def test_a_file_of_budgets_that_is_not_ours_is_refused_by_its_line(self):
        os.makedirs(self.fleet.state_dir, mode=0o700)
        for text, says in (("w1 5\nw2\n", "budgets:2: expected"), ("w1 five\n", "budgets:1: expected"),
                           ("w1 off\0", "budgets: is not text")):
            with open(os.path.join(self.fleet.state_dir, "budgets"), "w", encoding="ascii") as f:
                f.write(text)
            self.refused("stablemoed", "--state-dir", self.fleet.state_dir, "--listen", "127.0.0.1:0", "--status",
                         "127.0.0.1:0", code=1, says=says)


@harness.need_data
class Data(Wrong):
    """Data sets and checkpoints that are not whole; found out before the fleet is asked for anything."""

    def setUp(self):
        super().setUp()
        self.dir = self.fleet.path("data")
        os.mkdir(self.dir)
        for name in os.listdir(harness.DATA):
            os.symlink(os.path.join(harness.DATA, name), os.path.join(self.dir, name))

    def spoil(self, name, change):
        path = os.path.join(self.dir, name)
        with open(os.path.join(harness.DATA, name), "rb") as f:
            whole = f.read()
        os.unlink(path)
        with open(path, "wb") as f:
            f.write(change(whole))
        return path

    def refuse(self, says, code=2):
        self.refused("stablemoe-train", "--data-dir", self.dir, code=code, says=says)

    def test_a_missing_data_set_names_file_and_package(self):
        path = os.path.join(self.dir, "train-images-idx3-ubyte.gz")
        os.unlink(path)
        self.refuse([path[:-3], "no such file", "dataset-fashion-mnist"], code=1)

    def test_a_data_set_that_was_cut_off_is_named(self):
        name = "t10k-images-idx3-ubyte.gz"
        self.refuse([self.spoil(name, lambda b: b[:len(b) // 2]), "the file is cut off"])
        unpacked = lambda change: lambda b: gzip.compress(change(gzip.decompress(b)), 1)
        path = self.spoil(name, unpacked(lambda b: b[:-1]))
        self.refuse([path, "7840015 bytes, the header announces 7840016"])
        self.refuse([self.spoil(name, lambda b: b""), name])
        self.spoil(name, lambda b: b)
        path = self.spoil("t10k-labels-idx1-ubyte.gz", unpacked(lambda b: b[:-1] + b"\x0a"))
        self.refuse([path, "label of image 9999: 10, expected 0..9"])

    def test_a_checkpoint_that_is_no_checkpoint_is_named(self):
        self.fleet.start_daemon()
        self.fleet.start_workers(1)
        for name, text, code in (("none", None, 1), ("empty", "", 2), ("text", "not safetensors", 2)):
            path = self.file(name, text) if text is not None else self.fleet.path(name)
            self.refused("stablemoe-train", "--gateway", self.fleet.gateway, "--quiet", "--name",
                         "trainer", "--resume", path, *train_args(100), code=code, says=path)

    def test_a_checkpoint_of_another_model_is_refused(self):
        self.fleet.start_daemon()
        self.fleet.start_workers(1)
        path = self.fleet.path("run.safetensors")
        trainer = self.fleet.start_trainer("--checkpoint", path, *train_args(100))
        self.assertEqual(trainer.wait(), 0, trainer.err())
        self.refused("stablemoe-train", "--gateway", self.fleet.gateway, "--quiet", "--name",
                     "trainer", "--resume", path, *train_args(100, **{"d-model": 48}), code=2,
                     says=path)


class Peers(Wrong):
    """Mistakes on the wire, beside a run that must not notice."""

    def mistakes(self, layer):
        """{mistake: (code, sentence)}, and the steps that were done right in between."""
        code, out, err = self.fleet.run([os.path.join(harness.HELPERS, "integration_mistakes"),
                                         self.fleet.gateway, layer])
        self.assertEqual(code, 0, err)
        lines = [line.split("\t") for line in out.splitlines()]
        return ({line[0]: (int(line[1]), line[2]) for line in lines if line[0] != "step"},
                [int(line[1]) for line in lines if line[0] == "step"])

    @harness.need_data
    def test_what_a_trainer_may_not_do_is_refused_with_a_code_and_nothing_is_lost(self):
        self.fleet.start_daemon("--set", "fleet.workers_min=2")
        self.fleet.start_workers(2)
        run = self.fleet.start_trainer(*train_args(1000, epochs=10000))
        self.fleet.wait_steps(5)
        told, steps = self.mistakes("moe")
        field, state, missing, exists, nan, memory = -1005, -1003, -1006, -1007, -1010, -1014
        for mistake, code, part in (
                ("no experts", field, "experts 0: not in 1..1024"),
                ("1025 experts", field, "experts 1025: not in 1..1024"),
                ("d_model 0", field, "d_model 0: not in 1..65536"),
                ("d_model 65537", field, "d_model 65537: not in 1..65536"),
                ("d_ff 65537", field, "d_ff 65537: not in 1..65536"),
                ("unknown activation", field, "activation 9: not in 1..3"),
                ("unknown optimizer", field, "optimizer 9: not in 1..2"),
                ("bad name", field, "layer name"),
                ("owned layer", exists, "layer moe: trainer trainer owns it"),
                ("no such layer", missing, "layer nobodys: no such layer"),
                ("too large a layer", memory, "cannot host it"),
                ("no tokens", field, "tokens 0: not in 1..262144"),
                ("top-k 0", field, "top_k 0: not in 1..4"),
                ("top-k larger than experts", field, "top_k 5: not in 1..4"),
                ("score NaN", nan, "token 15, expert 3 is not finite"),
                ("score inf", nan, "token 15, expert 3 is not finite"),
                ("score -inf", nan, "token 15, expert 3 is not finite"),
                ("gradient waited for, not given", state, "no gradient was given"),
                ("gradient twice", state, "given already"),
                ("another optimizer than declared", field, "declared with 1"),
                ("state of expert 99", field, "expert 99: layer mistakes has 4"),
                ("no part of a state", field, "not in 1..7"),
                ("parts unknown", field, "not in 1..7")):
            got = told.pop(mistake, (0, ""))
            self.assertEqual(got[0], code, mistake)
            self.assertIn(part, got[1])
        self.assertEqual(told, {}, "mistakes that nobody expects here")
        self.assertEqual(steps, [1, 2, 3, 4])
        # The run beside it went on, and nobody's visit failed.
        self.fleet.wait_steps(self.fleet.status()["steps"] + 5)
        status = self.fleet.status()
        self.assertTrue(run.running(), run.err())
        self.assertEqual(status["ledger"]["failed"], 0)
        self.assertBalanced(status["ledger"], "after the mistakes")
        self.assertEqual(self.fleet.ready(), 2)
        run.kill()

    def test_what_is_not_the_protocol_costs_only_its_own_connection(self):
        self.fleet.start_daemon()
        self.fleet.start_workers(1)
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"SMOE" + b"\xff" * 16, b"\x00" * 4096, os.urandom(64)):
            with socket.create_connection(harness.split_address(self.fleet.gateway)) as s:
                s.settimeout(harness.PATIENCE_S)
                s.sendall(noise)
                try:
                    while s.recv(4096):
                        pass
                except ConnectionError:
                    pass
        self.assertEqual(self.fleet.ready(), 1)
        harness.wait_for("the others to be gone", lambda: self.fleet.status()["io"]["sessions"] == 1)

    def test_a_trainer_s_name_is_taken_while_it_is_connected(self):
        if not os.path.exists(harness.DATA):
            self.skipTest("dataset-fashion-mnist is not installed")
        self.fleet.start_daemon()
        self.fleet.start_workers(1)
        run = self.fleet.start_trainer(*train_args(1000, epochs=10000))
        self.fleet.wait_steps(1)
        self.refused("stablemoe-train", "--gateway", self.fleet.gateway, "--name", "trainer", "--quiet",
                     *train_args(100), code=1, says="trainer trainer is connected already")
        run.kill()


if __name__ == "__main__":
    harness.main()
