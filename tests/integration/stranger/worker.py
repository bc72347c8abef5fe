# SPDX-License-Identifier: Apache-2.0
"""A worker, written from docs/protocol.md: sections 2, 6, 7 and 8.

It does everything at once when it is asked to, so it never has work waiting and needs no threads:
each frame is carried out and answered before the next is read. Between frames it gives life signs.
SIGTERM ends it; SIGUSR1 makes it drop its connection, as a network would. With --evict it is short of
memory: it gives up x of whatever it has to keep. With --deaf-to-commits it loses its connection instead
of hearing a StepCommit, once.
"""

import argparse
import random
import signal
import time

import ffn
import wire
from wire import pb

NOMINAL_HZ = 1e9


class Layer:
    """`held` is what is hosted and followed; `staged` a step that is staged whole, over connections too:
    its (step, attempt) and the new state of every expert that takes part."""

    def __init__(self, name, run, shape):
        self.name = name
        self.run = run
        self.shape = shape
        self.at = (0, 0)  # last committed step heard of, and its attempt
        self.held = {}
        self.copies = set()  # of these, the numbers that are only followed
        self.staged, self.staged_states = None, {}

    def hosted(self):
        return sorted(set(self.held) - self.copies)

    def current(self):
        """Those whose state is that step's, and staged if a step is."""
        return sorted(e for e, expert in self.held.items() if expert.at == self.at and
                      (not self.staged or expert in self.staged_states))

    def commit(self):
        self.at = self.staged
        for expert, (theta, moments) in self.staged_states.items():
            expert.theta, expert.moments, expert.at = theta, moments, self.at
        self.unstage()

    def unstage(self):
        self.staged, self.staged_states = None, {}


class Parcel:
    def __init__(self, layer, expert, rows, x):
        self.layer = layer
        self.expert = expert
        self.rows = rows
        self.x = x  # None when it had to make room
        self.dy = None


class Worker:
    """What outlives a connection: the experts, the epoch and the counters."""

    def __init__(self, address, name, evict=False, deaf=False, context=None):
        self.address = address
        self.name = name
        self.evict = evict
        self.deaf = deaf
        self.context = context  # of TLS; None: plaintext
        self.incarnation = random.getrandbits(64) | 1
        self.layers = {}  # by (name, run)
        self.epoch = 0
        self.report = pb.Report(energy_source="none", freq_max_hz=NOMINAL_HZ,
                                freq_khz=int(NOMINAL_HZ / 1e3))
        self.drop = self.stop = False

    # ---- sessions ----

    def run(self):
        pause = 0.05
        while not self.stop:
            try:
                self.session()
                pause = 0.05
            except wire.Closed as e:
                print(f"{self.name}: {e}", flush=True)
            except wire.Refused as e:
                print(f"{self.name}: refused: {e}", flush=True)
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 2.0)

    def session(self):
        """One connection, from Hello to whatever ends it."""
        self.drop = False
        self.numbers = {}  # layers by the number they have on this connection
        self.parcels = {}
        self.steps = {}  # by owner: (StepPrepare, the copies that have their gradient sum)
        for layer in self.layers.values():
            for expert in layer.held.values():
                expert.zero_gradient()
        self.connection = wire.Connection(self.address, self.context)
        try:
            self.hello()
            while not self.stop and not self.drop:
                self.life_sign(self.silence / 4)
                received = self.connection.receive(self.silence / 8)
                if received:
                    self.handle(*received)
                    self.work_is_done()
            if self.stop:
                self.connection.send(pb.Bye(reason="asked to stop"))
        finally:
            self.connection.close()

    def hello(self):
        caps = pb.WorkerCaps(freq_max_hz=NOMINAL_HZ, inbox_bytes_max=1 << 24, lanes=1,
                             freq_driver="null")
        self.connection.send(pb.Hello(protocol_min=1, protocol_max=1, role=pb.ROLE_WORKER,
                                      name=self.name, incarnation=self.incarnation,
                                      software="stranger", worker=caps))
        received = self.connection.receive(5.0)
        if not received:
            raise wire.Closed("no answer to Hello")
        welcome = received[0]
        if isinstance(welcome, pb.Error):
            raise wire.Refused(welcome)
        self.see_epoch(welcome.epoch)
        self.silence = welcome.silence_ms_max / 1000
        self.reported = time.monotonic()
        self.connection.send(pb.Inventory(layers=[
            pb.InventoryLayer(name=layer.name, run=layer.run, step=layer.at[0],
                              attempt=layer.at[1], shape=layer.shape, experts=layer.current(),
                              staged_step=layer.staged[0] if layer.staged else 0,
                              staged_attempt=layer.staged[1] if layer.staged else 0)
            for layer in self.layers.values()]))

    def see_epoch(self, epoch):
        if epoch < self.epoch:
            raise wire.Closed(f"the daemon's epoch is {epoch}, it was {self.epoch}")
        self.epoch = epoch

    def life_sign(self, seconds):
        if time.monotonic() - self.reported >= seconds:
            self.connection.send(self.report)
            self.reported = time.monotonic()

    def work_is_done(self):
        self.life_sign(min(0.02, self.silence / 4))

    def handle(self, message, raw):
        getattr(self, "on_" + type(message).__name__)(message, raw)

    # ---- any peer ----

    def on_Ping(self, ping, _):
        self.connection.send(pb.Pong(nonce=ping.nonce))

    def on_Pong(self, *_):
        pass

    def on_Bye(self, bye, _):
        raise wire.Closed(f"bye: {bye.reason}")

    def on_Error(self, error, _):
        if error.fatal:
            raise wire.Refused(error)

    # ---- hosting ----

    def on_Host(self, host, _):
        wanted = set(host.experts) | set(host.copies)
        if not wanted:
            self.drop_layer(self.layers.pop((host.name, host.run), None))
            return
        held = self.layers.get((host.name, host.run))
        if held and host.fresh and held.at != (0, 0):  # of a life that the daemon has forgotten
            self.drop_layer(self.layers.pop((host.name, host.run)))
        layer = self.layers.setdefault((host.name, host.run), Layer(host.name, host.run, host.shape))
        self.numbers = {n: la for n, la in self.numbers.items() if la is not layer}
        self.drop_steps([host.layer])
        self.numbers[host.layer] = layer
        if layer.staged == (host.step, host.attempt):
            layer.commit()
            print(f"{self.name}: step {host.step} was committed", flush=True)
        layer.unstage()
        layer.at = (host.step, host.attempt)
        self.drop_parcels(lambda p: p.layer is layer and p.expert.number not in wanted)
        kept = layer.held
        layer.held = {e: kept.get(e) or self.new_expert(layer, e, host.fresh) for e in wanted}
        layer.copies = set(host.copies)
        self.connection.send(pb.Hosted(layer=host.layer))

    def drop_layer(self, layer):
        self.drop_parcels(lambda p: p.layer is layer)
        self.drop_steps([n for n, la in self.numbers.items() if la is layer])
        self.numbers = {n: la for n, la in self.numbers.items() if la is not layer}

    @staticmethod
    def new_expert(layer, number, fresh):
        """From the seed, or without any state until it comes."""
        expert = ffn.Expert(layer.shape, number)
        expert.number = number
        expert.at = layer.at if fresh else None
        return expert

    # ---- visits ----

    def flops(self, layer, rows):
        return 2 * ffn.matrices(layer.shape) * layer.shape.d_model * layer.shape.d_ff * rows

    def count(self, kind, layer, rows, factor, began):
        took = time.thread_time_ns() - began
        report = self.report
        for field, n in ((f"{kind}_visits", rows), (f"{kind}_flops", factor * self.flops(layer, rows)),
                         (f"{kind}_cycles", int(took * NOMINAL_HZ / 1e9)),
                         ("cycles", int(took * NOMINAL_HZ / 1e9)), ("busy_ns", took),
                         ("active_ns", took)):
            setattr(report, field, getattr(report, field) + n)

    @staticmethod
    def rows(layer, raw):
        numbers, d = ffn.reals(layer.shape, raw), layer.shape.d_model
        return [numbers[i:i + d] for i in range(0, len(numbers), d)]

    @staticmethod
    def join(layer, rows):
        return ffn.raw(layer.shape, [value for row in rows for value in row])

    def on_Decision(self, decision, raw):
        self.see_epoch(decision.epoch)
        self.report.sequence = decision.sequence
        at = 0
        for parcel in decision.parcels:
            layer = self.numbers[parcel.layer]
            size = parcel.rows * layer.shape.d_model * ffn.real_bytes(layer.shape)
            x, at = self.rows(layer, raw[at:at + size]), at + size
            expert = layer.held[parcel.expert]
            assert parcel.expert not in layer.copies and expert.at == layer.at
            began = time.thread_time_ns()
            y = [expert.forward(row) for row in x]
            self.count("forward", layer, parcel.rows, 1, began)
            self.connection.send(pb.Output(parcel=parcel.id), self.join(layer, y))
            if parcel.keep:
                self.parcels[parcel.id] = Parcel(layer, expert, parcel.rows,
                                                 None if self.evict else x)
                if self.evict:
                    self.connection.send(pb.Evicted(parcels=[parcel.id]))
            self.work_is_done()

    def cut(self, numbers, raw):
        """The rows in the raw part of each parcel named."""
        at = 0
        for number in numbers:
            parcel = self.parcels[number]
            size = parcel.rows * parcel.layer.shape.d_model * ffn.real_bytes(parcel.layer.shape)
            yield number, parcel, self.rows(parcel.layer, raw[at:at + size])
            at += size
        assert at == len(raw)

    def on_Backprop(self, backprop, raw):
        self.report.sequence = backprop.sequence
        for number, parcel, dy in self.cut(backprop.parcels, raw):
            parcel.dy = dy
            if parcel.x:
                self.backward(number, parcel)

    def on_ParcelInputs(self, inputs, raw):
        for number, parcel, x in self.cut(inputs.parcels, raw):
            assert parcel.dy and not parcel.x
            parcel.x = x
            self.backward(number, parcel)

    def backward(self, number, parcel):
        began = time.thread_time_ns()
        dx = [parcel.expert.backward(*pair) for pair in zip(parcel.x, parcel.dy)]
        self.count("backward", parcel.layer, len(dx), 2, began)
        self.connection.send(pb.ParcelGradient(parcel=number), self.join(parcel.layer, dx))
        del self.parcels[number]
        self.work_is_done()

    def drop_parcels(self, condition):
        self.parcels = {i: p for i, p in self.parcels.items() if not condition(p)}

    def on_Forget(self, forget, _):
        for number in forget.parcels:
            self.parcels.pop(number, None)

    def on_Reset(self, reset, _):
        layers = [self.numbers[number] for number in reset.layers]
        self.drop_parcels(lambda p: p.layer in layers)
        for layer in layers:
            layer.unstage()
            for expert in layer.held.values():
                expert.zero_gradient()
        self.drop_steps(reset.layers)

    def drop_steps(self, numbers):
        self.steps = {owner: step for owner, step in self.steps.items()
                      if not set(step[0].layers) & set(numbers)}

    # ---- a step ----

    def on_StepPrepare(self, prepare, _):
        self.steps[prepare.owner] = (prepare, set())
        for wanted in prepare.gradients:
            layer = self.numbers[wanted.layer]
            for e in wanted.experts:
                assert e not in layer.copies
                layer.held[e].set_gradient(layer.held[e].state(4))  # what is sent is what is used
                self.connection.send(
                    pb.StepGradient(step=prepare.step, attempt=prepare.attempt, layer=wanted.layer,
                                    expert=e, owner=prepare.owner), layer.held[e].state(4))
        answer = pb.StepNorm(step=prepare.step, attempt=prepare.attempt, owner=prepare.owner)
        for number in prepare.layers:
            layer = self.numbers[number]
            answer.layers.add(layer=number, experts=layer.hosted(), square_norms=[
                layer.held[e].square_norm(prepare.gradient_divisor) for e in layer.hosted()])
        self.connection.send(answer)

    def pending(self, message):
        """The step that a later message of it means, or None after a Reset."""
        step = self.steps.get(message.owner)
        same = step and (step[0].step, step[0].attempt) == (message.step, message.attempt)
        return step if same else None

    def on_StepGradient(self, gradient, raw):
        step = self.pending(gradient)
        if not step:
            return
        layer = self.numbers[gradient.layer]
        assert gradient.expert in layer.copies
        copy = layer.held[gradient.expert]
        copy.set_gradient(raw)
        step[1].add(copy)

    def on_StepStage(self, stage, _):
        step = self.pending(stage)
        if not step:
            return
        prepare, summed = step
        for number in prepare.layers:
            layer = self.numbers[number]
            layer.staged = (stage.step, stage.attempt)
            for e, expert in layer.held.items():
                if e in layer.copies and expert not in summed:
                    continue  # it is still to be filled
                layer.staged_states[expert] = expert.stepped(
                    prepare.optimizer, stage.clip_scale / prepare.gradient_divisor, prepare.step)
                expert.zero_gradient()
        self.connection.send(pb.StepStaged(step=stage.step, attempt=stage.attempt, owner=stage.owner))

    def on_StepCommit(self, commit, _):
        if self.deaf:
            self.deaf = False
            raise wire.Closed("did not hear a commit")
        self.see_epoch(commit.epoch)
        step = self.pending(commit)
        if not step:
            return
        del self.steps[commit.owner]
        for number in step[0].layers:
            self.numbers[number].commit()

    # ---- states ----

    def on_ExpertFetch(self, fetch, _):
        expert = self.numbers[fetch.layer].held[fetch.expert]
        self.connection.send(
            pb.ExpertState(request=fetch.request, layer=fetch.layer, expert=fetch.expert,
                           parts=fetch.parts, step=expert.at[0]), expert.state(fetch.parts))

    def on_ExpertStore(self, store, raw):
        layer = self.numbers[store.layer]
        self.drop_steps([store.layer])
        layer.unstage()
        layer.at = layer.held[store.expert].at = (store.step, store.attempt)
        layer.held[store.expert].set_state(raw)
        self.connection.send(pb.ExpertStored(request=store.request, layer=store.layer,
                                             expert=store.expert))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--evict", action="store_true")
    parser.add_argument("--deaf-to-commits", action="store_true")
    args = parser.parse_args()
    worker = Worker(args.gateway, args.id, args.evict, args.deaf_to_commits)

    def stop(*_):
        worker.stop = True

    def drop(*_):
        worker.drop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, drop)
    worker.run()


if __name__ == "__main__":
    main()
