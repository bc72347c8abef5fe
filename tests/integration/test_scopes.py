#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each session has what is its own and nothing else, through TLS: a trainer that names another's layers and
batches, a worker that answers for another, whoever says to be somebody else. All of them have a proper
certificate, and speak by the page alone (stranger/). Each is refused with the reason, and whom it was about does not
notice: what it computes stays what it computes by itself.
"""

import os
import socket
import sys
import unittest

import authority
import harness
import strangers
import test_security
import test_stranger

if not strangers.MISSING:
    import ffn
    import trainer
    import wire
    import worker
    from wire import pb


@unittest.skipIf(authority.MISSING, authority.MISSING)
class Scoped(harness.FleetTest):
    SETTINGS = ()

    def setUp(self):
        super().setUp()
        self.certify = authority.Authority(self.fleet.dir).certify
        self.daemon = self.fleet.start_daemon(
            "--set", f"security.certificate={self.certify('gateway', 'g')}", "--set", "security.insecure=no",
            "--set", "fleet.workers_min=2", "--set", "routing.policy=topk", "--set", "fleet.lease=2s", *self.SETTINGS)

    def workers(self, *names):
        for name in names:
            self.fleet.start_worker(name, "--key", self.certify("worker", name))

    def trainer(self, name):
        remote = trainer.Trainer(self.fleet.gateway, name, wire.secure(self.certify("trainer", name)))
        self.addCleanup(lambda: remote.connection.close())
        return remote

    def answer(self, peer, message, raw=b""):
        """The Error that a message brings: (code, sentence, whether the session ends)."""
        peer.connection.send(message, raw)
        while True:
            received = peer.connection.receive(20.0)
            self.assertIsNotNone(received, f"{message}: nothing was answered")
            if isinstance(received[0], pb.Error):
                return received[0].code, received[0].message, received[0].fatal

    def assertRefused(self, peer, message, code, sentence, raw=b""):
        before = self.fleet.status()["ledger"]
        self.assertEqual(self.answer(peer, message, raw), (code, sentence, False))
        self.assertEqual(self.fleet.status()["ledger"], before, "nothing was booked")


class Trainers(Scoped):
    """`mine` has a layer, a committed step and a batch under way; `theirs` has nothing."""

    def setUp(self):
        super().setUp()
        self.workers("w1", "w2")
        self.fleet.wait_ready(2)
        mine = self.trainer("mine")
        self.shape = test_stranger.shape(ffn.RELU, ffn.SGD)
        self.twin = test_stranger.Twin(self, mine, mine.declare("moe", 5, self.shape))
        self.twin.train(test_stranger.sgd(), 1)
        self.batch = self.twin.submit()
        self.dy = self.twin.results(self.batch)[1]
        self.theirs = self.trainer("theirs")
        self.layer = self.twin.layer.number

    def one_token(self):
        return pb.Submit(batch=1, attempt=self.theirs.attempt, layer=self.layer, tokens=1, top_k=1,
                         needs_gradient=True), bytes(4 * self.shape.experts) + bytes(4 * self.shape.d_model)

    def step(self, number, batch):
        return pb.Step(step=number, attempt=self.theirs.attempt, batches=[batch], optimizer=test_stranger.sgd(),
                       gradient_divisor=1.0)

    def state(self):
        """As many zeros as an expert's weights and moments have bytes."""
        return bytes(4 * sum(len(vector) for vector in self.twin.checkpoint()[0]))

    def assertUnharmed(self):
        """The batch that was under way is finished, and its step is the step computed here."""
        self.twin.backward(self.batch, self.dy)
        self.twin.compare(self.twin.step(test_stranger.sgd()).step)
        self.assertLawful()

    def test_a_layer_that_one_has_not_declared_does_not_exist(self):
        peer, layer = self.theirs, self.layer
        submit, raw = self.one_token()
        self.assertRefused(peer, submit, wire.EUNKNOWN, f"SUBMIT.layer {layer}: not declared by you", raw)
        self.assertRefused(peer, pb.ExpertFetch(request=7, layer=layer, expert=0, parts=1), wire.EUNKNOWN,
                           f"EXPERT_FETCH: layer {layer}: not declared by you")
        self.assertRefused(peer, pb.ExpertStore(request=8, layer=layer, expert=0, parts=3, step=1), wire.EUNKNOWN,
                           f"EXPERT_STORE: layer {layer}: not declared by you", self.state())
        self.assertUnharmed()

    def test_a_layer_has_one_owner(self):
        for run in (5, 6):  # the very one, and another in its place
            self.assertRefused(self.theirs, pb.LayerDeclare(request=9, name="moe", run=run, shape=self.shape),
                               wire.EEXIST, "layer moe: trainer mine owns it")
        self.assertUnharmed()

    def test_whoever_evaluates_on_a_layer_does_not_train_it(self):
        peer = self.theirs
        seen = peer.declare("moe", 5, self.shape, evaluate_only=True)
        self.assertEqual(seen.number, self.layer)
        submit, raw = self.one_token()
        self.assertRefused(peer, submit, wire.EROLE,
                           "SUBMIT.needs_gradient: layer moe is attached for evaluation only", raw)
        self.assertRefused(peer, pb.ExpertStore(request=8, layer=seen.number, expert=0, parts=3, step=1), wire.EROLE,
                           "EXPERT_STORE: layer moe: attached for evaluation only", self.state())
        self.assertRefused(peer, self.step(1, self.batch.number), wire.ESTATE, "STEP: you own no layer")
        self.assertUnharmed()

    def test_a_batch_of_another_does_not_exist(self):
        peer, number = self.theirs, self.batch.number
        own = peer.declare("other", 1, self.shape)
        dy = bytes(4 * self.shape.d_model * self.batch.n_visits())
        self.assertRefused(peer, pb.Gradient(batch=number, attempt=peer.attempt), wire.EUNKNOWN,
                           f"GRADIENT.batch {number}: no such batch", dy)
        self.assertRefused(peer, self.step(1, number), wire.EUNKNOWN,
                           f"STEP.batches[0]: no training batch {number}")
        before = self.fleet.status()["ledger"]
        peer.connection.send(pb.Discard(batch=number, attempt=peer.attempt))  # nothing to give up: no answer
        peer.connection.send(pb.Inputs(batch=number, attempt=peer.attempt), dy)  # nobody asked: passed over
        peer.fetch(own, 0, 1)  # what came before has been dealt with
        self.assertEqual(self.fleet.status()["ledger"], before)
        self.assertUnharmed()

    def test_going_back_takes_nobody_else_back(self):
        own = self.theirs.declare("other", 1, self.shape)
        self.theirs.connection.send(pb.Restore(step=0, attempt=self.theirs.attempt))
        self.theirs.fetch(own, 0, 1)
        self.twin.compare_sums()
        self.assertUnharmed()

    def test_a_trainer_does_not_speak_for_a_worker(self):
        for message in (pb.Output(parcel=1), pb.Report(freq_max_hz=1e9), pb.Inventory()):
            peer = self.trainer("fourth")
            code, sentence, fatal = self.answer(peer, message)
            self.assertEqual((code, fatal), (wire.EROLE, True), sentence)
            self.assertIn(type(message).__name__.upper(), sentence)
            peer.connection.close()
            harness.wait_for("its end", lambda: not any(
                t["name"] == "fourth" and t["connected"] for t in self.fleet.status()["trainers"]))
        self.assertUnharmed()


class Names(Scoped):
    """A key is for one name and one role."""

    def hello(self, pem, role, name):
        connection = wire.Connection(self.fleet.gateway, wire.secure(pem))
        self.addCleanup(connection.close)
        caps = pb.WorkerCaps(freq_max_hz=1e9, inbox_bytes_max=1 << 24, lanes=1, freq_driver="null")
        connection.send(pb.Hello(protocol_min=1, protocol_max=1, role=role, name=name, incarnation=1, software="s",
                                 worker=caps if role == pb.ROLE_WORKER else None))
        error, _ = connection.receive(20.0)
        self.assertIsInstance(error, pb.Error)
        with self.assertRaises(wire.Closed):
            connection.receive(20.0)
        return error.code, error.message

    def test_nobody_is_somebody_else(self):
        self.workers("w1", "w2")
        self.fleet.wait_ready(2)
        worker, run = self.certify("worker", "r1"), self.certify("trainer", "t1")
        for pem, role, name, says in (
                (worker, pb.ROLE_WORKER, "w1", "HELLO: the key of worker r1 is not for worker w1"),
                (worker, pb.ROLE_TRAINER, "r1", "HELLO: the key of worker r1 is not for a trainer"),
                (run, pb.ROLE_WORKER, "t1", "HELLO: the key of trainer t1 is not for a worker"),
                (run, pb.ROLE_TRAINER, "t2", "HELLO: the key of trainer t1 is not for trainer t2")):
            self.assertEqual(self.hello(pem, role, name), (wire.EROLE, says))
        self.assertEqual(self.fleet.ready(), 2)
        self.assertEqual(sorted(self.fleet.workers()), ["w1", "w2"])


class Workers(Scoped):
    """A worker that is one of three, and answers for the others as well."""

    def assertPassedOver(self, way):
        self.workers("w1", "w2")
        pem = self.certify("worker", "r1")
        self.fleet.start("r1", [sys.executable, "-B", os.path.join(strangers.FOLDER, "rogue.py"), "--gateway",
                                self.fleet.gateway, "--id", "r1", "--way", way, "--certificate", pem])
        self.fleet.wait_ready(3)
        mine = self.trainer("mine")
        twin = test_stranger.Twin(self, mine, mine.declare("moe", 5, test_stranger.shape(ffn.RELU, ffn.SGD,
                                                                                        experts=6)))
        twin.train(test_stranger.sgd(), 4)  # y, dx, sums, norms and weights: all as computed here
        late = {name: w["late_results"] for name, w in self.fleet.workers().items()}
        self.assertGreater(late["r1"], 10)
        self.assertEqual((late["w1"], late["w2"]), (0, 0))
        self.assertLawful()

    def test_outputs_of_visits_that_are_others_count_for_nothing(self):
        self.assertPassedOver("output-of-others")

    def test_gradients_of_visits_that_are_others_count_for_nothing(self):
        self.assertPassedOver("gradient-of-others")

    def test_a_report_is_about_whoever_sends_it(self):
        self.workers("w1", "w2")
        self.fleet.wait_ready(2)
        before = self.fleet.workers()["w1"]["freq_khz"]
        pem = self.certify("worker", "r1")
        self.fleet.start("r1", [sys.executable, "-B", os.path.join(strangers.FOLDER, "rogue.py"), "--gateway",
                                self.fleet.gateway, "--id", "r1", "--way", "none", "--certificate", pem])
        self.fleet.wait_ready(3)
        harness.wait_for("its report", lambda: self.fleet.workers()["r1"]["freq_khz"] == 1000000)
        self.assertEqual(self.fleet.workers()["w1"]["freq_khz"], before)


class Waiting(Scoped):
    SETTINGS = ("--set", "net.hello_timeout=1min")

    def come_in(self, context, n):
        """The n-th that shakes hands by a certificate, and says no more; 24 of each address."""
        raw = socket.create_connection(harness.split_address(self.fleet.gateway), 20.0, (f"127.0.0.{2 + n // 24}", 0))
        end = context.wrap_socket(raw)
        self.addCleanup(end.close)
        return end

    def test_those_before_hello_are_few_and_the_oldest_makes_room(self):
        context = wire.secure(self.certify("worker", "w1"))
        self.come_in(context, 0).close()  # what OpenSSL keeps for itself
        before = test_security.rss(self.daemon)
        crowd = [self.come_in(context, n) for n in range(96)]
        grown = test_security.rss(self.daemon) - before
        print(f"96 before hello, by certificates: grown by {grown >> 10} KiB", file=sys.stderr)
        if not harness.SANITIZED:
            self.assertLess(grown, 96 * 65536)
        self.come_in(context, 96)
        self.assertEqual(crowd[0].recv(1), b"", "the oldest is gone")
        self.assertEqual(self.fleet.status()["io"]["crowded_out"], 1)
        crowd[1].settimeout(0.1)
        self.assertRaises(TimeoutError, crowd[1].recv, 1)


class Idle(Scoped):
    SETTINGS = ("--set", "fleet.silence=1min", "--set", "fleet.workers_max=100")
    SESSIONS = 88

    def come_in(self, name):
        """A worker by the page alone, that is welcome and then says nothing."""
        peer = worker.Worker(self.fleet.gateway, name, context=wire.secure(self.certify("worker", name)))
        peer.connection = wire.Connection(peer.address, peer.context)
        self.addCleanup(lambda: peer.connection.close())
        peer.hello()

    def test_an_idle_worker_costs_little(self):
        for n in range(8):  # what OpenSSL and the fleet's tables keep for themselves
            self.come_in(f"early-{n}")
        self.fleet.wait_ready(8)
        before = test_security.rss(self.daemon)
        for n in range(self.SESSIONS):
            self.come_in(f"idle-{n}")
        self.fleet.wait_ready(8 + self.SESSIONS)
        grown = test_security.rss(self.daemon) - before
        print(f"idle workers, by certificates: {grown / self.SESSIONS / 1024:.1f} KiB each", file=sys.stderr)
        if not harness.SANITIZED:
            self.assertLess(grown, self.SESSIONS * 40960)


class Readers(Scoped):
    def test_the_status_port_reads_and_nothing_else(self):
        self.workers("w1", "w2")
        self.fleet.wait_ready(2)
        before = self.fleet.status()
        for line in ("policy random", "drain w1", "undrain w1", "set-budget w1 5", "reload", "reload-keys"):
            error = self.fleet.status(line)
            self.assertEqual((error["code"], error["error"]),
                             (wire.EROLE, "the status port is read-only: use stablemoectl"), line)
        after = self.fleet.status()
        self.assertEqual((after["policy"], [w["state"] for w in after["workers"]]),
                         (before["policy"], [w["state"] for w in before["workers"]]))


if __name__ == "__main__":
    strangers.main()
