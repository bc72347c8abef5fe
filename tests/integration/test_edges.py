#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where a worker's life begins and ends: signals that come too early."""

import signal

import harness
from faults import Faults

class Worker(harness.FleetTest):
    def test_a_signal_while_it_fails_to_start_is_not_what_ends_it(self):
        faults = Faults(self.fleet, "worker")
        faults.bind_signal = signal.SIGTERM
        worker = self.fleet.start_worker("w", "--peer-listen", "127.0.0.1:0", gateway="127.0.0.1:1",
                                         beneath=faults.beneath)
        worker.expected = {1}
        self.assertEqual(worker.wait(), 1)
        self.assertIn("--peer-listen 127.0.0.1:0: address already in use", worker.err())


if __name__ == "__main__":
    harness.main()
