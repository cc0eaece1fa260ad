"""A bare sync of some bytes, one after another: what no gate can be faster than.

    python -m benchmarks.peers.syncing FILE BYTES

For a line with seconds on its standard input it answers with a line of JSON: how long each took.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter

_SIZE = 4 << 20
"""Bytes of the file, which are written over, as SQLite does with its log."""


def main(path: str, size: int) -> None:
    """Obey until the standard input ends."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(file, bytes(_SIZE))
    os.fsync(file)
    data, at = os.urandom(size), 0
    for line in sys.stdin:
        took = []
        until = perf_counter() + float(line)
        while (began := perf_counter()) < until:
            os.pwrite(file, data, at)
            os.fdatasync(file)
            took.append(perf_counter() - began)
            at = (at + size) % (_SIZE - size)
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
