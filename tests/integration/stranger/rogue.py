# SPDX-License-Identifier: Apache-2.0
"""A worker that lies, in one way each: what it sends is a message of the protocol, or nearly, and wrong.

It behaves until it has had its part in a step, so that it holds what others will have to take over.
"""

import argparse
import math
import signal

import wire
import worker
from wire import pb


NEIGHBOURS = 8  # numbers of parcels on both sides of one's own: some are other workers'


class Rogue(worker.Worker):
    def __init__(self, address, name, way, context=None):
        super().__init__(address, name, context=context)
        self.way = way
        self.send_as_it_is = None
        self.mine = set()  # parcels that it was given

    def lies(self, way):
        return self.way == way and any(layer.at[0] > 0 for layer in self.layers.values())

    def session(self):
        try:
            super().session()
        except wire.Refused as e:
            print(f"code {e.error.code}", flush=True)
            raise

    def on_Decision(self, decision, raw):
        self.mine |= {parcel.id for parcel in decision.parcels}
        super().on_Decision(decision, raw)

    def hello(self):
        super().hello()
        self.send_as_it_is = self.connection.send
        self.connection.send = self.send

    def spoilt(self, layer, raw, value):
        """The last number of the raw part is this one."""
        last = worker.ffn.raw(layer.shape, [value])
        return raw[:-len(last)] + last

    def send(self, message, raw=b""):
        layer = next(iter(self.layers.values()), None)
        kind = type(message)
        if kind is pb.Output and self.lies("nan-output"):
            raw = self.spoilt(layer, raw, math.nan)
        elif kind is pb.Output and self.lies("huge-output"):
            raw = self.spoilt(layer, raw, -1.1e18)
        elif kind is pb.Output and self.lies("short-output"):
            raw = raw[:-8]
        elif kind is pb.Output and self.lies("output-of-nobody"):
            self.send_as_it_is(pb.Output(parcel=message.parcel + (1 << 40)), raw)
            self.send_as_it_is(message, raw)  # late or of nobody: passed over, and the true one counts
            message = pb.Output(parcel=message.parcel)  # twice
        elif kind is pb.Output and self.lies("output-of-others"):
            for other in range(max(message.parcel - NEIGHBOURS, 1), message.parcel + NEIGHBOURS):
                if other not in self.mine:
                    self.send_as_it_is(pb.Output(parcel=other), self.spoilt(layer, raw, 0.5))
        elif kind is pb.ParcelGradient and self.lies("gradient-of-others"):
            for other in range(max(message.parcel - NEIGHBOURS, 1), message.parcel + NEIGHBOURS):
                if other not in self.mine:
                    self.send_as_it_is(pb.ParcelGradient(parcel=other), self.spoilt(layer, raw, 0.5))
        elif kind is pb.ParcelGradient and self.lies("infinite-gradient"):
            raw = self.spoilt(layer, raw, math.inf)
        elif kind is pb.StepNorm and self.lies("huge-norm"):
            for norms in message.layers:
                norms.square_norms[:] = [1.1e36] * len(norms.square_norms)
        elif kind is pb.StepNorm and self.lies("endless-norm"):
            for norms in message.layers:
                norms.square_norms[:] = [-1.0] * len(norms.square_norms)
        elif kind is pb.StepGradient and self.lies("nan-sum"):
            raw = self.spoilt(layer, raw, math.nan)
        elif kind is pb.Report and self.lies("report-of-nonsense"):
            message = pb.Report(freq_max_hz=-1.0)
        self.send_as_it_is(message, raw)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--gateway", "--id", "--way"):
        parser.add_argument(name, required=True)
    parser.add_argument("--certificate")
    args = parser.parse_args()
    context = wire.secure(args.certificate) if args.certificate else None
    rogue = Rogue(args.gateway, args.id, args.way, context)

    def stop(*_):
        rogue.stop = True

    signal.signal(signal.SIGTERM, stop)
    rogue.run()


if __name__ == "__main__":
    main()
