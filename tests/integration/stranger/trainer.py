# SPDX-License-Identifier: Apache-2.0
"""A trainer, written from docs/protocol.md: sections 2, 5, 7 and 8.

It keeps what the page says a trainer keeps (x, scores, experts and dy of every batch until it has
ended, and the pending Step), each with a mark whether it was sent under the present attempt. `advance`
sends whatever may be sent and was not. So recovery is no special case: a new attempt clears the marks.
"""

import random
import struct
import time
from array import array

import ffn
import wire
from wire import pb

PATIENCE_S = 20.0


def padded(data):
    return data + bytes(-len(data) % 8)


class Layer:
    def __init__(self, name, run, shape, evaluate_only):
        self.name = name
        self.run = run
        self.shape = shape
        self.evaluate_only = evaluate_only
        self.number = None  # on this connection, once ready
        self.step = 0


class Batch:
    def __init__(self, number, layer, x, scores, top_k, train):
        self.number = number
        self.layer = layer
        self.x = x
        self.scores = scores
        self.top_k = top_k
        self.train = train
        self.experts = None  # by visit, once all results have come: what a replay asks for
        self.dy = None
        self.restart()

    def restart(self):
        """Nothing of it was sent in this attempt."""
        self.submitted = self.gradient_sent = False
        self.visits, self.y, self.dx, self.told_scores = {}, {}, {}, {}

    def n_visits(self):
        return len(self.x) * self.top_k

    def has_results(self):
        return len(self.y) == self.n_visits()

    def has_input_gradients(self):
        return len(self.dx) == self.n_visits()


class Trainer:
    def __init__(self, address, name, context=None):
        self.address = address
        self.name = name
        self.context = context  # of TLS; None: plaintext
        self.incarnation = random.getrandbits(64) | 1
        self.layers = []
        self.batches = {}  # that have not ended
        self.pending = None  # the Step that is not answered
        self.attempt = 0
        self.requests = random.randrange(1, 1 << 20)
        self.answers = {}
        self.next_batch = 1
        self.needs = []  # why uncommitted work was asked for again
        self.inputs_asked = 0  # how often x was
        self.connect()

    # ---- sessions ----

    def connect(self):
        self.connection = wire.Connection(self.address, self.context)
        self.connection.send(pb.Hello(protocol_min=1, protocol_max=1, role=pb.ROLE_TRAINER,
                                      name=self.name, incarnation=self.incarnation,
                                      software="stranger"))
        received = self.connection.receive(5.0)
        if not received:
            raise wire.Closed("no answer to Hello")
        if isinstance(received[0], pb.Error):
            raise wire.Refused(received[0])
        self.welcome = received[0]
        self.credit = self.welcome.credit
        self.sent_bytes = self.sent_visits = 0
        self.begin_attempt(self.welcome.attempt)
        for layer in self.layers:
            self.ask_for(layer)

    def reconnect(self):
        self.connection.close()
        pause, deadline = 0.05, time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.connect()
            except wire.Closed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, 2.0)

    def begin_attempt(self, attempt):
        self.attempt = attempt
        for batch in self.batches.values():
            batch.restart()
        self.step_sent = False

    def close(self):
        self.connection.send(pb.Bye())
        self.connection.close()

    def wait_for(self, condition, seconds=PATIENCE_S):
        """Handles what comes, and goes on, until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} waited too long")
            try:
                self.advance()
                received = self.connection.receive(0.2)
                if received:
                    getattr(self, "on_" + type(received[0]).__name__)(*received)
            except wire.Closed:
                self.reconnect()

    # ---- layers ----

    def request(self):
        self.requests += 1
        return self.requests

    def ask_for(self, layer):
        layer.number, layer.request = None, self.request()
        self.connection.send(pb.LayerDeclare(
            request=layer.request, name=layer.name, run=layer.run, shape=layer.shape,
            evaluate_only=layer.evaluate_only, step=layer.step))

    def declare_soon(self, name, run, shape, evaluate_only=False, step=0):
        layer = Layer(name, run, shape, evaluate_only)
        layer.step = step
        self.layers.append(layer)
        self.ask_for(layer)
        return layer

    def declare(self, *args, **options):
        layer = self.declare_soon(*args, **options)
        self.wait_for(lambda: layer.number is not None)
        return layer

    def on_LayerReady(self, ready, _):
        layer = next(la for la in self.layers if la.request == ready.request)
        layer.number, layer.shape, layer.step = ready.layer, ready.shape, ready.step
        if self.pending and ready.step == self.pending.step and not self.step_sent:
            # it was committed, only its StepDone was lost: the same Step brings the same answer
            for number in self.pending.batches:
                self.batches.pop(number, None)
            self.pending.attempt = self.attempt
            self.connection.send(self.pending)
            self.step_sent = True

    # ---- batches ----

    def submit(self, layer, x, scores, top_k, train=True):
        batch = Batch(self.next_batch, layer, x, scores, top_k, train)
        self.next_batch += 1
        self.batches[batch.number] = batch
        self.advance()
        return batch

    def gradient(self, batch, dy):
        """dy by visit: rows of d_model."""
        batch.dy = dy
        self.advance()

    def discard(self, batch):
        del self.batches[batch.number]
        self.connection.send(pb.Discard(batch=batch.number, attempt=self.attempt))

    def advance(self):
        """Sends what may be sent and was not yet sent in this attempt."""
        try:
            self.send_what_may_be()
        except wire.Closed:
            self.reconnect()

    def send_what_may_be(self):
        if any(layer.number is None for layer in self.layers):
            return
        for batch in self.batches.values():
            if not batch.submitted and not self.send_batch(batch):
                return
            if batch.dy and batch.has_results() and not batch.gradient_sent:
                flat = [value for row in batch.dy for value in row]
                self.connection.send(pb.Gradient(batch=batch.number, attempt=self.attempt),
                                     ffn.raw(batch.layer.shape, flat))
                batch.gradient_sent = True
        if self.pending and not self.step_sent and \
                all(self.batches[b].gradient_sent for b in self.pending.batches):
            self.pending.attempt = self.attempt
            self.connection.send(self.pending)
            self.step_sent = True

    def send_batch(self, batch):
        """Submits it if the credit covers it."""
        flat = [value for row in batch.x for value in row]
        if batch.experts:
            wanted = padded(array("H", batch.experts).tobytes())
        else:
            wanted = array("f", [value for row in batch.scores for value in row]).tobytes()
        raw = wanted + ffn.raw(batch.layer.shape, flat)
        if self.sent_bytes + len(raw) > self.credit.bytes_total or \
                self.sent_visits + batch.n_visits() > self.credit.visits_total:
            return False
        self.sent_bytes += len(raw)
        self.sent_visits += batch.n_visits()
        self.connection.send(pb.Submit(
            batch=batch.number, attempt=self.attempt, layer=batch.layer.number, tokens=len(batch.x),
            top_k=batch.top_k, needs_gradient=batch.train, routed=batch.experts is not None), raw)
        batch.submitted = True
        return True

    def on_Credit(self, credit, _):
        self.credit = credit

    def batch_of(self, message):
        return self.batches.get(message.batch) if message.attempt == self.attempt else None

    @staticmethod
    def rows(batch, raw):
        d, numbers = batch.layer.shape.d_model, ffn.reals(batch.layer.shape, raw)
        return [numbers[i:i + d] for i in range(0, len(numbers), d)]

    def on_Result(self, result, raw):
        batch, n = self.batch_of(result), result.rows
        if not batch:
            return
        visits = struct.unpack(f"<{n}I", raw[:4 * n])
        batch.told_scores.update(zip(visits, struct.unpack(f"<{n}f", raw[4 * n:8 * n])))
        batch.y.update(zip(visits, self.rows(batch, raw[8 * n:])))
        batch.visits.update((v, result.expert) for v in visits)
        if batch.has_results():
            batch.experts = [batch.visits[v] for v in range(batch.n_visits())]
            if not batch.train:
                del self.batches[batch.number]

    def on_InputGradient(self, gradient, raw):
        batch, n = self.batch_of(gradient), gradient.rows
        if batch:
            visits = struct.unpack(f"<{n}I", raw[:4 * n])
            batch.dx.update(zip(visits, self.rows(batch, raw[len(padded(bytes(4 * n))):])))

    def on_NeedInputs(self, need, _):
        batch = self.batch_of(need)
        if batch:
            self.inputs_asked += 1
            flat = [value for row in batch.x for value in row]
            self.connection.send(pb.Inputs(batch=need.batch, attempt=need.attempt),
                                 ffn.raw(batch.layer.shape, flat))

    # ---- recovery ----

    def on_Need(self, need, _):
        self.needs.append(need.reason)
        self.begin_attempt(need.attempt)

    def on_Error(self, error, _):
        if error.request in self.answers:
            self.answers[error.request] = error
            return
        raise wire.Refused(error)

    def on_Bye(self, *_):
        raise wire.Closed("bye")

    def on_Pong(self, *_):
        pass

    def on_Ping(self, ping, _):
        self.connection.send(pb.Pong(nonce=ping.nonce))

    # ---- steps ----

    def begin_step(self, optimizer, divisor=1.0, clip_norm=0.0, dense_square_norm=0.0):
        """Asks to commit all training batches; answers the step's number."""
        number = max(la.step for la in self.layers if not la.evaluate_only) + 1
        self.pending = pb.Step(
            step=number, batches=[b.number for b in self.batches.values() if b.train],
            optimizer=optimizer, gradient_divisor=divisor, clip_norm=clip_norm,
            dense_square_norm=dense_square_norm)
        self.step_sent, self.done = False, None
        self.advance()
        return number

    def end_step(self):
        """Waits for StepDone, which it answers."""
        self.wait_for(lambda: self.done)
        return self.done

    def step(self, *args):
        self.begin_step(*args)
        return self.end_step()

    def on_StepDone(self, done, _):
        for number in self.pending.batches:
            self.batches.pop(number, None)
        for layer in self.layers:
            if not layer.evaluate_only:
                layer.step = done.step
        self.pending, self.done = None, done

    # ---- states ----

    def ask(self, message, raw=b""):
        """Sends a request and waits for what answers it."""
        message.request = self.request()
        self.answers[message.request] = None
        self.connection.send(message, raw)
        self.wait_for(lambda: self.answers[message.request] is not None)
        answer = self.answers.pop(message.request)
        if isinstance(answer, pb.Error):
            raise wire.Refused(answer)
        return answer

    def fetch(self, layer, expert, parts):
        """(step, the vectors asked for)"""
        while True:
            try:
                state, raw = self.ask(pb.ExpertFetch(layer=layer.number, expert=expert, parts=parts))
                break
            except wire.Refused as refused:
                if refused.error.code not in (wire.ESTATE, wire.ECLOSED):
                    raise
                time.sleep(0.02)  # a host has just gone
        n = ffn.n_params(layer.shape)
        numbers = ffn.reals(layer.shape, raw)
        return state.step, [numbers[i:i + n] for i in range(0, len(numbers), n)]

    def store(self, layer, expert, step, vectors):
        flat = [value for vector in vectors for value in vector]
        self.ask(pb.ExpertStore(layer=layer.number, expert=expert, parts=3, step=step),
                 ffn.raw(layer.shape, flat))

    def on_ExpertState(self, state, raw):
        self.answers[state.request] = (state, raw)

    def on_ExpertStored(self, stored, _):
        self.answers[stored.request] = stored

    def restore(self, step):
        """Goes back to a checkpoint's step; what was not committed is submitted again."""
        before = self.attempt
        self.connection.send(pb.Restore(step=step, attempt=self.attempt))
        self.wait_for(lambda: self.attempt != before)
        for layer in self.layers:
            layer.step = step
