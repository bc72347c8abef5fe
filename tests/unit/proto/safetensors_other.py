# SPDX-License-Identifier: Apache-2.0
"""Reads the file test_safetensors.c wrote, checks it with nothing but json and struct, and replaces it
by one with the same content in another shape: tensors in another order, other spacing, no padding."""
import json
import struct
import sys

CODES = {"F32": "f", "F64": "d", "U8": "B", "I64": "q", "U64": "Q"}


def read(raw):
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + length])
    metadata = header.pop("__metadata__", {})
    data, tensors = raw[8 + length:], {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        values = list(struct.iter_unpack("<" + CODES[t["dtype"]], data[begin:end]))
        tensors[name] = (t["dtype"], t["shape"], [v for (v,) in values])
    assert sum(t["data_offsets"][1] - t["data_offsets"][0] for t in header.values()) == len(data)
    return tensors, metadata


def write(tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name in sorted(tensors, reverse=True):
        dtype, shape, values = tensors[name]
        packed = struct.pack("<%d%s" % (len(values), CODES[dtype]), *values)
        header[name] = {"data_offsets": [len(data), len(data) + len(packed)],
                        "shape": shape, "dtype": dtype}
        data += packed
    text = json.dumps(header, indent=1).encode()
    return struct.pack("<Q", len(text)) + text + data


path = sys.argv[1]
with open(path, "rb") as file:
    tensors, metadata = read(file.read())
assert metadata == {"step": "12", "note": 'a\n\t"b"'}, metadata
assert tensors["labels"] == ("U8", [3], [1, 2, 255])
assert tensors['odd "name\\'] == ("F64", [1, 2, 1], [0.1, -1e300])
assert tensors["experts.0.w_in"][1:] == ([2, 3], [
    struct.unpack("f", struct.pack("f", v))[0] for v in (0, 1.5, -2, 3e30, 1e-30, -0.0)])
assert tensors["scalar"] == ("I64", [], [-2**63])
assert tensors["count"] == ("U64", [1], [2**64 - 1])
assert tensors["empty"] == ("F32", [0, 7], [])
assert len(tensors) == 6
with open(path, "wb") as file:
    file.write(write(tensors, metadata))
