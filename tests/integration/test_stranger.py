#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A worker and a trainer written from docs/protocol.md alone, and the real gateway.

They are in stranger/, in plain Python with its own protobuf: they share no line with the programs, so
what they agree on with them is what the page says. The trainer computes every layer a second time by
itself, and the experts of both must be the same after each step. Then the things that somebody who reads
the page carelessly gets wrong, with the Error that the page promises for each.
"""

import math
import os
import random
import signal
import socket
import struct
import sys
import time

import harness
import strangers

if not strangers.MISSING:
    import ffn
    import trainer
    import wire
    from wire import pb

TOLERANCE = 1e-5  # of a value's size, and of 1 where that is less: sums of float32 in another order


def shape(activation, optimizer, dtype=2 if harness.FLOAT64 else 1, experts=4, d=4, h=6,
          zero_output=False):
    return pb.LayerShape(experts=experts, d_model=d, d_ff=h, activation=activation, dtype=dtype,
                         optimizer=optimizer, seed=0x1234567890abcdef, zero_output=zero_output)


def sgd(rate=0.2):
    return pb.Optimizer(kind=ffn.SGD, learning_rate=rate, momentum=0.5, weight_decay=1e-3)


def adamw(rate=0.02):
    return pb.Optimizer(kind=ffn.ADAMW, learning_rate=rate, beta1=0.9, beta2=0.99, epsilon=1e-8,
                        weight_decay=0.01)


class Twin:
    """A layer that the fleet holds, computed here as well: what the fleet says is compared with it."""

    def __init__(self, test, remote, layer, top_k=2, tokens=12):
        self.test = test
        self.remote = remote
        self.layer = layer
        self.shape = layer.shape
        self.top_k = top_k
        self.experts = [ffn.Expert(self.shape, e) for e in range(self.shape.experts)]
        generator = random.Random(7)
        self.x = [[ffn.reals(self.shape, ffn.raw(self.shape, [generator.gauss(0, 1)]))[0]
                   for _ in range(self.shape.d_model)] for _ in range(tokens)]
        self.scores = [[generator.random() for _ in range(self.shape.experts)] for _ in range(tokens)]

    def near(self, mine, theirs, what):
        self.test.assertEqual(len(mine), len(theirs), what)
        for a, b in zip(mine, theirs):
            if not abs(a - b) <= TOLERANCE * max(1.0, abs(a)):
                self.test.fail(f"{what}: {a} here, {b} there")

    def submit(self, train=True):
        return self.remote.submit(self.layer, self.x, self.scores, self.top_k, train)

    def loss_and_dy(self, batch):
        """Mean over tokens of |sum over choices of y - sin(x)|^2 / 2, and its gradient by visit."""
        loss, dy = 0.0, []
        for token, x in enumerate(self.x):
            ys = [batch.y[token * self.top_k + k] for k in range(self.top_k)]
            error = [sum(y[i] for y in ys) - math.sin(x[i]) for i in range(len(x))]
            loss += sum(e * e for e in error) / 2 / len(self.x)
            dy += [error] * self.top_k
        return loss, dy

    def results(self, batch):
        """Waits for all results, compares them, and tells the loss."""
        self.remote.wait_for(lambda: batch.has_results())
        chosen = [batch.experts[v:v + self.top_k] for v in range(0, len(batch.experts), self.top_k)]
        for token, experts in enumerate(chosen):
            self.test.assertEqual(len(set(experts)), self.top_k, "different experts for a token")
            for k, e in enumerate(experts):
                v = token * self.top_k + k
                self.near(self.experts[e].forward(self.x[token]), batch.y[v], f"y of visit {v}")
        return self.loss_and_dy(batch)

    def backward(self, batch, dy):
        """The gradient, here and there; waits for all of dx."""
        self.remote.gradient(batch, dy)
        self.remote.wait_for(lambda: batch.has_input_gradients())
        self.backward_here(batch, dy)

    def backward_here(self, batch, dy):
        for v, e in enumerate(batch.experts):
            dx = self.experts[e].backward(self.x[v // self.top_k], dy[v])
            if batch.dx:
                self.near(dx, batch.dx[v], f"dx of visit {v}")

    def step(self, optimizer, clip_norm=0.0, dense=0.0):
        """The step, here and there."""
        divisor = float(len(self.x))
        done = self.remote.step(optimizer, divisor, clip_norm, dense)
        self.step_here(optimizer, done, divisor, clip_norm, dense)
        return done

    def step_here(self, optimizer, done, divisor, clip_norm, dense):
        norm = dense + sum(e.square_norm(divisor) for e in self.experts)
        scale = min(1.0, clip_norm / norm ** 0.5) if clip_norm else 1.0
        self.near([norm, scale], [done.square_norm, done.clip_scale], "norm and clip scale")
        self.take_step(optimizer, scale / divisor, done.step)

    def take_step(self, optimizer, scale, number):
        for expert in self.experts:
            expert.theta, expert.moments = expert.stepped(optimizer, scale, number)
            expert.zero_gradient()

    def compare(self, step):
        for number, expert in enumerate(self.experts):
            at, vectors = self.remote.fetch(self.layer, number, 7)
            self.test.assertEqual(at, step)
            mine = [expert.theta, *expert.moments, expert.gradient]
            for here, there, what in zip(mine, vectors, ("weights", "moment", "moment", "gradient")):
                self.near(here, there, f"{what} of expert {number} after step {step}")
            self.test.assertEqual(len(vectors), len(mine))

    def train(self, optimizer, steps, clip_norm=0.0, dense=0.0):
        """Whole steps of one batch each; the loss of each."""
        losses = []
        for _ in range(steps):
            batch = self.submit()
            loss, dy = self.results(batch)
            losses.append(loss)
            self.backward(batch, dy)
            self.compare_sums()
            done = self.step(optimizer, clip_norm, dense)
            self.compare(done.step)
        return losses

    def checkpoint(self):
        return [self.remote.fetch(self.layer, e, 3)[1] for e in range(self.shape.experts)]

    def resume(self, saved, step):
        self.remote.restore(step)
        for e, vectors in enumerate(saved):
            self.remote.store(self.layer, e, step, vectors)
            self.experts[e].set_state(ffn.raw(self.shape, [v for vector in vectors for v in vector]))

    def compare_sums(self):
        for number, expert in enumerate(self.experts):
            _, (total,) = self.remote.fetch(self.layer, number, 4)
            self.near(expert.gradient, total, f"gradient sum of expert {number}")


class StrangerTest(harness.FleetTest):
    def start_strangers(self, *names, options=()):
        return [self.fleet.start(name, [sys.executable, "-B", os.path.join(strangers.FOLDER, "worker.py"),
                                        "--gateway", self.fleet.gateway, "--id", name, *options])
                for name in names]

    def start(self, *args, strangers=0, real=0, policy="topk", worker_options=(), **options):
        """A daemon and its workers; answers the strangers. By default a token goes to the same experts
        in each step, so that losses may be compared and every worker has work."""
        n = strangers + real
        self.daemon = self.fleet.start_daemon("--set", f"fleet.workers_min={n}", "--set",
                                              f"routing.policy={policy}", *args, **options)
        workers = self.start_strangers(*(f"s{i + 1}" for i in range(strangers)),
                                       options=worker_options)
        for i in range(real):
            self.fleet.start_worker(f"w{i + 1}")
        self.fleet.wait_ready(n)
        return workers

    def connect(self, name="run"):
        remote = trainer.Trainer(self.fleet.gateway, name)
        self.addCleanup(lambda: remote.connection.close())
        return remote

    def twin(self, layer_shape, **options):
        remote = self.connect()
        return Twin(self, remote, remote.declare("moe", 5, layer_shape), **options)

    def standing(self):
        """(host, follower) of every expert of the one layer there is."""
        return [(e["worker"], e["copy"]) for e in self.fleet.status("experts")["layers"][0]["experts"]]

    def wait_for_copies(self, *names):
        """Waits until every expert has its two copies, on these workers."""
        harness.wait_for(f"copies on {names}", lambda: all(
            {host, copy} == set(names) for host, copy in self.standing()))

    def assertFalls(self, losses):
        self.assertLess(losses[-1], 0.7 * losses[0], losses)


class TrainingTest(StrangerTest):
    def test_sgd_on_two_strangers(self):
        self.start(strangers=2)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        twin.compare(0)
        self.assertFalls(twin.train(sgd(), 6, clip_norm=1.0, dense=0.1))
        twin.remote.close()

    def test_adamw_in_float64_on_two_strangers(self):
        self.start(strangers=2)
        twin = self.twin(shape(ffn.SWIGLU, ffn.ADAMW, dtype=ffn.F64))
        twin.compare(0)
        self.assertFalls(twin.train(adamw(), 8))

    def test_every_activation_and_optimizer_on_real_workers(self):
        self.start(real=2)
        for number, (activation, optimizer) in enumerate(
                [(ffn.RELU, ffn.ADAMW), (ffn.GELU, ffn.SGD), (ffn.SWIGLU, ffn.SGD)]):
            remote = self.connect(f"run-{number}")
            layer = remote.declare(f"moe-{number}", 5 + number, shape(activation, optimizer))
            twin = Twin(self, remote, layer)
            twin.compare(0)
            self.assertFalls(twin.train(sgd() if optimizer == ffn.SGD else adamw(), 8, clip_norm=2.0))

    def test_a_stranger_and_a_real_worker_share_a_layer_that_starts_at_zero(self):
        self.start(strangers=1, real=1)
        twin = self.twin(shape(ffn.GELU, ffn.ADAMW, zero_output=True))
        self.assertFalls(twin.train(adamw(), 8))
        self.assertTrue(all(w["visits_routed"] > 0 for w in self.fleet.workers().values()))

    def test_two_layers_and_many_batches_are_one_step(self):
        self.start(strangers=2, policy="lyapunov")
        remote = self.connect()
        twins = [Twin(self, remote, remote.declare(name, 5, layer_shape))
                 for name, layer_shape in (("a", shape(ffn.RELU, ffn.SGD)),
                                           ("b", shape(ffn.GELU, ffn.SGD, experts=3, d=3)))]
        for _ in range(2):
            norms, batches = [], [twin.submit() for twin in twins for _ in range(3)]
            for i, batch in enumerate(batches):
                _, dy = twins[i // 3].results(batch)
                twins[i // 3].backward(batch, dy)
            done = remote.step(sgd(), 10.0)
            norms = [e.square_norm(10.0) for twin in twins for e in twin.experts]
            twins[0].near([sum(norms)], [done.square_norm], "norm of both layers")
            for twin in twins:
                twin.take_step(sgd(), 1 / 10.0, done.step)
                twin.compare(done.step)

    def test_batches_after_a_step_see_the_new_weights_and_others_may_look_on(self):
        self.start(strangers=2, policy="lyapunov")
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        remote = twin.remote
        batch = twin.submit()
        _, dy = twin.results(batch)
        remote.gradient(batch, dy)
        twin.backward_here(batch, dy)
        number = remote.begin_step(sgd(), 12.0)  # without waiting for dx or StepDone
        after = twin.submit()
        done = remote.end_step()
        self.assertEqual(done.step, number)
        twin.step_here(sgd(), done, 12.0, 0.0, 0.0)
        twin.results(after)
        remote.discard(after)
        onlooker = self.connect("onlooker")
        seen = Twin(self, onlooker, onlooker.declare("moe", 0, None, evaluate_only=True))
        self.assertEqual(seen.layer.step, 1)
        seen.experts = twin.experts
        seen.results(seen.submit(train=False))
        seen.compare(1)


class RecoveryTest(StrangerTest):
    def setUp(self):
        super().setUp()
        self.port = f"127.0.0.1:{harness.free_port()}"

    def half_a_step(self, twin):
        """A batch with its gradient sent, and one without results."""
        batch = twin.submit()
        _, dy = twin.results(batch)
        twin.remote.gradient(batch, dy)
        twin.backward_here(batch, dy)

    def test_a_worker_that_loses_its_connection_makes_the_trainer_send_again(self):
        workers = self.start(strangers=2)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        twin.train(sgd(), 2)
        self.half_a_step(twin)
        workers[0].signal(signal.SIGUSR1)
        twin.remote.wait_for(lambda: twin.remote.needs)
        twin.compare(twin.step(sgd()).step)
        twin.train(sgd(), 1)

    def test_a_trainer_that_loses_its_connection_goes_on(self):
        self.start(strangers=2)
        twin = self.twin(shape(ffn.RELU, ffn.ADAMW))
        twin.train(adamw(), 2)
        self.half_a_step(twin)
        attempt = twin.remote.attempt
        twin.remote.connection.socket.shutdown(socket.SHUT_RDWR)
        twin.compare(twin.step(adamw()).step)
        self.assertGreater(twin.remote.attempt, attempt)
        twin.train(adamw(), 1)

    def test_a_step_done_that_was_lost_is_said_again(self):
        self.start(strangers=2)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        remote = twin.remote
        self.half_a_step(twin)
        remote.wait_for(lambda: next(iter(remote.batches.values())).has_input_gradients())
        remote.begin_step(sgd(), 12.0, 0.5)
        self.fleet.wait_steps(1)
        remote.reconnect()
        twin.step_here(sgd(), remote.end_step(), 12.0, 0.5, 0.0)
        twin.compare(1)
        twin.train(sgd(), 1)

    def kill_one(self, killed):
        workers = self.start(strangers=2)
        twin = self.twin(shape(ffn.GELU, ffn.ADAMW))
        twin.train(adamw(), 3)
        self.half_a_step(twin)
        workers[killed].kill()
        twin.remote.wait_for(lambda: twin.remote.needs)
        twin.compare(twin.step(adamw()).step)
        twin.train(adamw(), 2)
        self.assertEqual({host for host, _ in self.standing()}, {f"s{2 - killed}"})

    def test_a_worker_that_is_killed_is_replaced_by_the_copies(self):
        self.kill_one(0)

    def test_so_is_the_other(self):
        self.kill_one(1)

    def stranger_and_real(self):
        self.fleet.start_daemon("--set", "fleet.workers_min=2")
        both = self.start_strangers("s1")[0], self.fleet.start_worker("w1")
        self.fleet.wait_ready(2)
        return both

    def test_a_stranger_takes_over_from_a_real_worker(self):
        _, real = self.stranger_and_real()
        twin = self.twin(shape(ffn.SWIGLU, ffn.SGD))
        twin.train(sgd(), 3)
        real.kill()
        twin.train(sgd(), 3)

    def test_a_real_worker_takes_over_from_a_stranger(self):
        stranger, _ = self.stranger_and_real()
        twin = self.twin(shape(ffn.SWIGLU, ffn.SGD))
        twin.train(sgd(), 3)
        stranger.kill()
        twin.train(sgd(), 3)

    def test_a_copy_is_filled_and_its_filler_may_go(self):
        s1, s2 = self.start(strangers=2)
        twin = self.twin(shape(ffn.RELU, ffn.ADAMW))
        twin.train(adamw(), 2)
        s1.kill()
        twin.train(adamw(), 1)
        self.start_strangers("s3")
        self.wait_for_copies("s2", "s3")
        twin.train(adamw(), 2)
        s2.kill()
        twin.train(adamw(), 2)
        self.fleet.start_worker("w4")
        self.wait_for_copies("s3", "w4")
        twin.train(adamw(), 1)

    def test_a_worker_that_never_heard_of_the_commit_learns_of_it_when_it_returns(self):
        self.daemon = self.fleet.start_daemon("--set", "fleet.workers_min=2")
        s1, = self.start_strangers("s1", options=["--deaf-to-commits"])
        s2, = self.start_strangers("s2")
        self.fleet.wait_ready(2)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        twin.train(sgd(), 1)
        self.wait_for_copies("s1", "s2")
        self.assertIn("step 1 was committed", s1.out())
        twin.compare(1)
        s2.kill()  # what s1 has staged is all there is now
        twin.compare(1)
        twin.train(sgd(), 2)

    def test_rows_of_x_that_were_given_up_are_asked_for_again(self):
        self.start(strangers=2, worker_options=["--evict"])
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        twin.train(sgd(), 2)
        self.half_a_step(twin)
        twin.compare(twin.step(sgd()).step)
        self.assertEqual(twin.remote.inputs_asked, 3)
        self.assertGreater(self.fleet.status()["io"]["evictions"], 0)

    def test_a_daemon_that_is_killed_finds_all_again(self):
        self.start(strangers=1, real=1, listen=self.port)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        twin.train(sgd(), 2)
        self.half_a_step(twin)
        self.daemon.kill()
        self.fleet.start_daemon(listen=self.port)
        twin.step(sgd())
        twin.compare(3)
        twin.train(sgd(), 1)

    def test_a_step_done_that_died_with_the_daemon_is_said_by_the_next(self):
        self.start(strangers=2, listen=self.port)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        twin.train(sgd(), 1)
        self.half_a_step(twin)
        twin.remote.begin_step(sgd(), 12.0, 0.5)
        self.fleet.wait_steps(1)
        self.daemon.kill()
        self.fleet.start_daemon(listen=self.port)
        twin.remote.reconnect()
        twin.step_here(sgd(), twin.remote.end_step(), 12.0, 0.5, 0.0)
        twin.compare(2)
        twin.train(sgd(), 1)

    def test_daemon_and_a_worker_may_be_killed_together(self):
        workers = self.start(strangers=2, listen=self.port)
        twin = self.twin(shape(ffn.GELU, ffn.SGD))
        twin.train(sgd(), 2)
        self.half_a_step(twin)
        self.daemon.kill()
        workers[1].kill()
        self.fleet.start_daemon(listen=self.port)
        twin.compare(twin.step(sgd()).step)
        twin.train(sgd(), 1)

    def sleeps_through_a_restore(self, start_sleeper):
        """The worker comes back with a step of the same number and another history."""
        self.fleet.start_daemon("--set", "fleet.workers_min=2")
        sleeper, (stays,) = start_sleeper("sleeper"), self.start_strangers("stays")
        self.fleet.wait_ready(2)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        twin.train(sgd(), 1)
        saved = twin.checkpoint()
        twin.train(sgd(), 1)
        sleeper.signal(signal.SIGSTOP)
        harness.wait_for("the loss of it", lambda: self.fleet.ready() == 1)
        twin.resume(saved, 1)
        twin.train(sgd(0.01), 1)
        sleeper.signal(signal.SIGCONT)
        self.wait_for_copies("sleeper", "stays")
        stays.kill()
        twin.compare(2)
        twin.train(sgd(), 1)

    def test_a_step_of_the_same_number_from_before_a_restore_counts_for_nothing(self):
        self.sleeps_through_a_restore(lambda name: self.start_strangers(name)[0])

    def test_nor_does_it_in_a_real_worker(self):
        self.sleeps_through_a_restore(self.fleet.start_worker)

    def test_a_checkpoint_brings_a_layer_back(self):
        self.start(strangers=1, real=1)
        twin = self.twin(shape(ffn.RELU, ffn.ADAMW))
        twin.train(adamw(), 2)
        saved = twin.checkpoint()
        twin.train(adamw(), 2)
        twin.resume(saved, 2)
        twin.compare(2)
        twin.train(adamw(), 1)
        twin.compare(3)


class CreditTest(StrangerTest):
    def test_a_window_of_two_batches_is_enough_and_no_more_is_taken(self):
        self.start("--set", "trainers.window_visits=50", strangers=2)
        twin = self.twin(shape(ffn.RELU, ffn.SGD))
        batches = [twin.submit() for _ in range(6)]
        self.assertEqual([b.submitted for b in batches], [True, True] + 4 * [False])
        for batch in batches:
            twin.backward(batch, twin.results(batch)[1])
        twin.compare(twin.step(sgd()).step)
        greedy = self.connect("greedy")
        seen = Twin(self, greedy, greedy.declare("moe", 0, None, evaluate_only=True), tokens=26)
        greedy.credit = pb.Credit(bytes_total=1 << 60, visits_total=1 << 60)  # it was told 50
        seen.submit(train=False)
        with self.assertRaises(wire.Refused) as refused:
            greedy.wait_for(lambda: False)
        self.assertEqual((refused.exception.error.code, refused.exception.error.fatal),
                         (wire.ECREDIT, True))


class RefusalTest(StrangerTest):
    """What section 1, 2 and 5 promise for peers that do it wrong."""

    HELLO = dict(protocol_min=1, protocol_max=1, role=2, name="wrong", incarnation=1)

    def setUp(self):
        super().setUp()
        self.fleet.start_daemon()

    def open(self):
        connection = wire.Connection(self.fleet.gateway)
        self.addCleanup(connection.close)
        return connection

    def said_hello(self, **hello):
        connection = self.open()
        connection.send(pb.Hello(**{**self.HELLO, **hello}))
        self.welcome, _ = connection.receive(5.0)
        self.assertIsInstance(self.welcome, pb.Welcome)
        return connection

    def assertEnds(self, connection, code, *words):
        """A fatal Error with this code, then the end."""
        error, _ = connection.receive(5.0)
        self.assertIsInstance(error, pb.Error)
        self.assertTrue(error.fatal, error)
        self.assertEqual(error.code, code, error)
        self.assertTrue(error.message)
        for word in words:
            self.assertIn(word, error.message)
        with self.assertRaises(wire.Closed):
            connection.receive(5.0)

    def refused_bytes(self, data, code, hello=True, **options):
        connection = self.said_hello(**options) if hello else self.open()
        connection.send_bytes(data)
        self.assertEnds(connection, code)

    def refused(self, message, code, raw=b"", **options):
        self.refused_bytes(wire.frame(message, raw), code, **options)

    def refused_hello(self, code, **fields):
        self.refused(pb.Hello(**{**self.HELLO, **fields}), code, hello=False)

    def test_frames_that_break_section_1(self):
        ping = wire.frame(pb.Ping(nonce=1))
        for hello in (False, True):
            self.refused_bytes(wire.header(4, 0, 0, magic=b"HTTP"), wire.EMALFORMED, hello)
            self.refused_bytes(wire.header(4, 0, 0, version=2), wire.EMALFORMED, hello)
            self.refused_bytes(wire.header(4, 0, 0, flags=1), wire.EMALFORMED, hello)
            self.refused_bytes(ping[:16] + b"\0\0\0\0" + ping[20:], wire.EMALFORMED, hello)
        self.refused_bytes(wire.header(99, 0, 0), wire.EMALFORMED)
        self.refused_bytes(wire.header(4, 3, 0) + b"\xff\xff\xff", wire.EMALFORMED)
        self.refused_bytes(wire.header(4, (64 << 10) + 1, 0), wire.ETOOBIG)

    def test_hellos_that_are_not_one(self):
        self.refused_bytes(wire.header(1, 1025, 0), wire.ETOOBIG, hello=False)
        self.refused_bytes(wire.header(1, 0, 8), wire.EMALFORMED, hello=False)
        self.refused(pb.Ping(nonce=1), wire.ESTATE, hello=False)
        self.refused_hello(wire.EVERSION, protocol_min=2, protocol_max=9)
        self.refused_hello(wire.EFIELD, protocol_min=0)
        self.refused_hello(wire.EFIELD, role=0)
        self.refused_hello(wire.EFIELD, name="-x")
        self.refused_hello(wire.EFIELD, name="x" * 64)
        self.refused_hello(wire.EFIELD, incarnation=0)
        self.refused_hello(wire.EFIELD, role=1)  # without WorkerCaps
        self.refused(pb.Hello(**self.HELLO), wire.ESTATE)  # twice

    def test_a_second_process_of_a_name_and_a_second_connection_of_a_process(self):
        first = self.said_hello()
        self.refused_hello(wire.EEXIST, incarnation=2)
        self.said_hello()
        self.assertEnds(first, -1018)

    def test_silence_before_hello(self):
        connection, began = self.open(), time.monotonic()
        with self.assertRaises(wire.Closed):
            connection.receive(10.0)
        self.assertGreater(time.monotonic() - began, 1.5)

    def test_a_ping_is_answered(self):
        connection = self.said_hello()
        connection.send(pb.Ping(nonce=77))
        self.assertEqual(connection.receive(5.0)[0], pb.Pong(nonce=77))

    def test_messages_of_the_wrong_side(self):
        self.refused(pb.Inventory(), wire.EROLE)
        self.refused(pb.Welcome(), wire.EROLE)
        self.refused(pb.Step(), wire.EROLE, role=1, worker=self.caps())
        self.refused(pb.Report(freq_max_hz=1e9), wire.ESTATE, role=1, worker=self.caps())

    @staticmethod
    def caps():
        return pb.WorkerCaps(freq_max_hz=1e9, inbox_bytes_max=1 << 20, lanes=1, freq_driver="null")

    def test_an_output_of_the_wrong_size_ends_the_worker_s_connection(self):
        worker = self.said_hello(role=1, worker=self.caps())
        worker.send(pb.Inventory())
        remote = trainer.Trainer(self.fleet.gateway, "run")
        self.addCleanup(lambda: remote.connection.close())
        layer = remote.declare_soon("moe", 5, shape(ffn.RELU, ffn.SGD, ffn.F32))
        host = self.receive(worker, pb.Host)
        worker.send(pb.Hosted(layer=host.layer))
        remote.wait_for(lambda: layer.number is not None)
        remote.submit(layer, [[0.0] * 4] * 3, [[0.5] * 4] * 3, 2)
        decision = self.receive(worker, pb.Decision)
        while not decision.parcels:  # it says a frequency
            decision = self.receive(worker, pb.Decision)
        worker.send(pb.Output(parcel=12345), bytes(64))  # of nobody: passed over
        worker.send(pb.Output(parcel=decision.parcels[0].id),
                    bytes(16 * decision.parcels[0].rows + 16))
        self.assertEnds(worker, wire.ESHAPE)
        remote.wait_for(lambda: remote.needs)  # what was at the worker is asked for again

    def receive(self, connection, kind):
        """The next message of this kind; life signs are given meanwhile."""
        while True:
            received = connection.receive(0.2)
            if received and isinstance(received[0], kind):
                return received[0]
            connection.send(pb.Ping())

    def refused_request(self, remote, code, **declaration):
        remote.connection.send(pb.LayerDeclare(request=77, **declaration))
        error = self.receive(remote.connection, pb.Error)
        self.assertEqual((error.code, error.request, error.fatal), (code, 77, False), error)

    def test_declarations_that_are_refused(self):
        self.start_strangers("s1")
        one, two = (trainer.Trainer(self.fleet.gateway, name) for name in ("one", "two"))
        for remote in (one, two):
            self.addCleanup(remote.connection.close)
        right, wrong = shape(ffn.RELU, ffn.SGD, ffn.F32), shape(ffn.RELU, ffn.SGD, ffn.F32, d=5)
        one.declare("moe", 5, right)
        self.refused_request(one, wire.ESHAPE, name="moe", run=5, shape=wrong)
        self.refused_request(one, wire.EEXIST, name="moe", run=6, shape=right)
        self.refused_request(two, wire.EEXIST, name="moe", run=5, shape=right)
        self.refused_request(two, wire.EUNKNOWN, name="other", evaluate_only=True)
        self.refused_request(one, wire.ELOST, name="moe", run=5, shape=right, step=1)
        self.refused_request(two, wire.ELOST, name="other", run=7, shape=right, step=1)
        two.declare("other", 7, right)

    def submit(self, raw_bytes, **fields):
        remote = trainer.Trainer(self.fleet.gateway, "wrong")
        self.addCleanup(lambda: remote.connection.close())
        layer = remote.declare("moe", 5, shape(ffn.RELU, ffn.SGD, ffn.F32))
        message = dict(batch=1, attempt=remote.attempt, layer=layer.number, tokens=2, top_k=2)
        remote.connection.send(pb.Submit(**{**message, **fields}), raw_bytes)
        return remote.connection

    def test_submits_that_are_wrong(self):
        self.start_strangers("s1")
        good = struct.pack("<8f", *range(8)) + struct.pack("<8f", *range(8))
        self.assertEnds(self.submit(good[:-4]), wire.ESHAPE)
        self.assertEnds(self.submit(good + bytes(8)), wire.ESHAPE)
        self.assertEnds(self.submit(b""), wire.EMALFORMED)
        self.assertEnds(self.submit(good, tokens=0), wire.EFIELD)
        for code, raw, fields in (
                (wire.EUNKNOWN, good, {"layer": 5}),
                (wire.EFIELD, good, {"top_k": 5}),
                (wire.EFIELD, struct.pack("<4H", 1, 2, 3, 3) + good[32:], {"routed": True}),
                (wire.ENOTFINITE, struct.pack("<8f", *[math.nan] * 8) + good[32:], {})):
            connection = self.submit(raw, **fields)
            error, _ = connection.receive(5.0)
            while isinstance(error, pb.Credit):
                error, _ = connection.receive(5.0)
            self.assertEqual((error.code, error.batch, error.fatal), (code, 1, False), error)
            connection.close()


if __name__ == "__main__":
    strangers.main()
