# SPDX-License-Identifier: Apache-2.0
"""A worker, written from docs/protocol.md: sections 2, 6, 7 and 8.

It does everything at once when it is asked to, so it never has work waiting and needs no threads:
each frame is carried out and answered before the next is read. Between frames it gives life signs.
SIGTERM ends it; SIGUSR1 makes it drop its connection, as a network would.
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
    def __init__(self, name, run, shape):
        self.name = name
        self.run = run
        self.shape = shape
        self.step = 0
        self.experts = {}


class Parcel:
    def __init__(self, layer, expert, keep, x):
        self.layer = layer
        self.expert = expert
        self.keep = keep
        self.x = x


class Worker:
    """What outlives a connection: the experts, the epoch and the counters."""

    def __init__(self, address, name):
        self.address = address
        self.name = name
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
        self.steps = {}  # by owner: (StepPrepare, staged states)
        for layer in self.layers.values():
            for expert in layer.experts.values():
                expert.zero_gradient()
        self.connection = wire.Connection(self.address)
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
            pb.InventoryLayer(name=layer.name, run=layer.run, step=layer.step, shape=layer.shape,
                              experts=sorted(layer.experts))
            for layer in self.layers.values() if layer.experts]))

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
        layer = self.layers.setdefault((host.name, host.run), Layer(host.name, host.run, host.shape))
        self.drop_steps([host.layer])
        self.numbers[host.layer] = layer
        wanted = set(host.experts)
        self.drop_parcels(lambda p: p.layer is layer and p.expert.number not in wanted)
        kept = layer.experts
        layer.experts = {e: kept.get(e) or self.new_expert(layer, e) for e in host.experts}
        if not wanted:
            del self.layers[host.name, host.run]
        self.connection.send(pb.Hosted(layer=host.layer))

    @staticmethod
    def new_expert(layer, number):
        expert = ffn.Expert(layer.shape, number)
        expert.number = number
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
            expert = layer.experts[parcel.expert]
            began = time.thread_time_ns()
            y = [expert.forward(row) for row in x]
            self.count("forward", layer, parcel.rows, 1, began)
            if parcel.keep:
                self.parcels[parcel.id] = Parcel(layer, expert, parcel.keep, x)
            self.connection.send(pb.Output(parcel=parcel.id), self.join(layer, y))
            self.work_is_done()

    def on_Backprop(self, backprop, raw):
        self.report.sequence = backprop.sequence
        at = 0
        for number in backprop.parcels:
            parcel = self.parcels.pop(number)
            layer = parcel.layer
            size = len(parcel.x) * layer.shape.d_model * ffn.real_bytes(layer.shape)
            dy, at = self.rows(layer, raw[at:at + size]), at + size
            began = time.thread_time_ns()
            dx = [parcel.expert.backward(*pair) for pair in zip(parcel.x, dy)]
            self.count("backward", layer, len(dx), 2, began)
            self.connection.send(pb.ParcelGradient(parcel=number), self.join(layer, dx))
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
            for expert in layer.experts.values():
                expert.zero_gradient()
        self.drop_steps(reset.layers)

    def drop_steps(self, numbers):
        self.steps = {owner: step for owner, step in self.steps.items()
                      if not set(step[0].layers) & set(numbers)}

    # ---- a step ----

    def on_StepPrepare(self, prepare, _):
        self.steps[prepare.owner] = (prepare, {})
        answer = pb.StepNorm(step=prepare.step, attempt=prepare.attempt, owner=prepare.owner)
        for number in prepare.layers:
            experts = self.numbers[number].experts
            answer.layers.add(layer=number, experts=sorted(experts), square_norms=[
                experts[e].square_norm(prepare.gradient_divisor) for e in sorted(experts)])
        self.connection.send(answer)

    def pending(self, message):
        """The step that StepStage or StepCommit mean, or None after a Reset."""
        step = self.steps.get(message.owner)
        same = step and (step[0].step, step[0].attempt) == (message.step, message.attempt)
        return step if same else None

    def on_StepStage(self, stage, _):
        step = self.pending(stage)
        if not step:
            return
        prepare, staged = step
        for number in prepare.layers:
            for expert in self.numbers[number].experts.values():
                staged[expert] = expert.stepped(
                    prepare.optimizer, stage.clip_scale / prepare.gradient_divisor, prepare.step)
                expert.zero_gradient()
        self.connection.send(pb.StepStaged(step=stage.step, attempt=stage.attempt, owner=stage.owner))

    def on_StepCommit(self, commit, _):
        self.see_epoch(commit.epoch)
        step = self.pending(commit)
        if not step:
            return
        prepare, staged = self.steps.pop(commit.owner)
        for expert, state in staged.items():
            expert.theta, expert.moments = state
        for number in prepare.layers:
            self.numbers[number].step = commit.step

    # ---- states ----

    def on_ExpertFetch(self, fetch, _):
        layer = self.numbers[fetch.layer]
        self.connection.send(
            pb.ExpertState(request=fetch.request, layer=fetch.layer, expert=fetch.expert,
                           parts=fetch.parts, step=layer.step),
            layer.experts[fetch.expert].state(fetch.parts))

    def on_ExpertStore(self, store, raw):
        layer = self.numbers[store.layer]
        layer.experts[store.expert].set_state(raw)
        layer.step = store.step
        self.connection.send(pb.ExpertStored(request=store.request, layer=store.layer,
                                             expert=store.expert))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--id", required=True)
    args = parser.parse_args()
    worker = Worker(args.gateway, args.id)

    def stop(*_):
        worker.stop = True

    def drop(*_):
        worker.drop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, drop)
    worker.run()


if __name__ == "__main__":
    main()
