# SPDX-License-Identifier: Apache-2.0
"""Frames of the protocol, written from docs/protocol.md and proto/stablemoe.proto alone.

Nothing in this directory knows anything of the programs it speaks with but that page and that file: if
they and the page disagree, these programs fail, and the page or the programs are to be mended.
"""

import importlib.util
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.join(HERE, "../../../proto/stablemoe.proto")
BUILD = os.path.join(os.environ.get("SMOE_BIN", os.path.join(HERE, "../../../build/release/bin")), "..")


def generate():
    """The module protoc makes of the messages, in the build directory; made again by whoever runs."""
    into = os.path.join(BUILD, "tests", "stranger")
    os.makedirs(into, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as out:
        subprocess.run(["protoc", "--proto_path", os.path.dirname(PROTO), "--python_out", out, PROTO],
                       check=True)
        path = os.path.join(out, "stablemoe_pb2.py")
        spec = importlib.util.spec_from_file_location("stablemoe_pb2", path)
        module = importlib.util.module_from_spec(spec)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        spec.loader.exec_module(module)
        sys.dont_write_bytecode = before
    return module


pb = generate()

# Section 3: the number of each message.
TYPES = {
    1: pb.Hello, 2: pb.Welcome, 3: pb.Error, 4: pb.Ping, 5: pb.Pong, 6: pb.Bye,
    16: pb.LayerDeclare, 17: pb.LayerReady, 18: pb.Submit, 19: pb.Result, 20: pb.Gradient,
    21: pb.InputGradient, 22: pb.Step, 23: pb.StepDone, 24: pb.Discard, 25: pb.Credit, 26: pb.Need,
    27: pb.Restore, 28: pb.NeedInputs, 29: pb.Inputs, 32: pb.ExpertFetch, 33: pb.ExpertState, 34: pb.ExpertStore, 35: pb.ExpertStored,
    48: pb.Inventory, 49: pb.Host, 50: pb.Hosted, 51: pb.Decision, 52: pb.Output, 53: pb.Backprop,
    54: pb.ParcelGradient, 55: pb.Reset, 56: pb.Report, 57: pb.StepPrepare, 58: pb.StepNorm,
    59: pb.StepStage, 60: pb.StepStaged, 61: pb.StepCommit, 62: pb.Forget,
    63: pb.StepGradient, 64: pb.Evicted, 65: pb.ParcelInputs, 80: pb.Freeze, 81: pb.RouterQuery, 82: pb.RouterState,
    83: pb.RoutingReport,
}
NUMBERS = {message: number for number, message in TYPES.items()}

# Section 11: the codes that are compared with.
EMALFORMED, ETOOBIG, EVERSION, ESTATE, EROLE, EFIELD, EUNKNOWN, EEXIST, ECREDIT, EITERATION, \
    ENOTFINITE, ESHAPE, ELOST = range(-1000, -1013, -1)
ECLOSED = -1018

HEADER = 20


class Closed(Exception):
    """The connection ended."""


class Refused(Exception):
    """The other end sent an Error."""

    def __init__(self, error):
        super().__init__(f"{error.code}: {error.message}")
        self.error = error


def header(number, body_bytes, raw_bytes, magic=b"SMOE", version=1, flags=0):
    head = magic + struct.pack("<BBHII", version, flags, number, body_bytes, raw_bytes)
    return head + struct.pack("<I", zlib.crc32(head))


def frame(message, raw=b""):
    body = message.SerializeToString()
    return header(NUMBERS[type(message)], len(body), len(raw)) + body + raw


def secure(pem):
    """TLS as section 1 has it, by the certificate in a file. Who the gateway is, is not asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["stablemoe/1"])
    context.load_cert_chain(pem)
    return context


class Connection:
    """One TCP stream of frames; through TLS if there is an ssl.SSLContext."""

    def __init__(self, address, context=None):
        host, port = address.rsplit(":", 1)
        try:
            self.socket = socket.create_connection((host, int(port)), 5.0)
            if context:
                self.socket = context.wrap_socket(self.socket)
        except OSError as e:
            raise Closed(str(e)) from e
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def close(self):
        self.socket.close()

    def send_bytes(self, data):
        try:
            self.socket.settimeout(30.0)
            self.socket.sendall(data)
        except OSError as e:
            raise Closed(str(e)) from e

    def send(self, message, raw=b""):
        self.send_bytes(frame(message, raw))

    def receive(self, seconds):
        """The next (message, raw), or None when there was none for so long."""
        while True:
            taken = self.take()
            if taken:
                return taken
            try:
                self.socket.settimeout(max(seconds, 1e-3))
                piece = self.socket.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError as e:
                raise Closed(str(e)) from e
            if not piece:
                raise Closed("closed by the other end")
            self.received += piece

    def take(self):
        if len(self.received) < HEADER:
            return None
        head = self.received[:HEADER]
        version, flags, number, body, raw = struct.unpack("<BBHII", head[4:16])
        if head[:4] != b"SMOE" or (version, flags) != (1, 0) or \
                zlib.crc32(head[:16]) != struct.unpack("<I", head[16:])[0]:
            raise Closed(f"not a frame: {head.hex()}")
        if len(self.received) < HEADER + body + raw:
            return None
        message = TYPES[number].FromString(self.received[HEADER:HEADER + body])
        bulk = self.received[HEADER + body:HEADER + body + raw]
        self.received = self.received[HEADER + body + raw:]
        return message, bulk
