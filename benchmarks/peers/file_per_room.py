"""How one would do it by hand: each room's state becomes a file, synced and renamed, in a pool of threads.

    python -m benchmarks.peers.file_per_room DIRECTORY BYTES COUNT

An echo server of trio-websocket, beside so many rooms with a state of about so many bytes. They have no
members and no actors. It takes the same lines as ``benchmarks/servers/sleepers.py``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import cbor2
import trio
import trio_websocket

from benchmarks.servers.chat import Chat, remembered

THREADS: Final = 16
"""Syncs side by side share a commit of the file system's journal; more of them made nothing faster."""


def encode(encoder: cbor2.CBOREncoder, value: Any) -> None:
    """Make a map of an instance."""
    encoder.encode({field.name: getattr(value, field.name) for field in attrs.fields(type(value))})


def write(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole after a power cut, or the one before it."""
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


async def save(directory: Path, rooms: dict[str, Chat], keys: Iterator[str]) -> None:
    """Write one room after another."""
    for key in keys:
        content = cbor2.dumps(rooms[key], default=encode)
        await trio.to_thread.run_sync(write, directory / f"{key}.cbor", content, limiter=LIMITER)
        del rooms[key]


async def sleep(directory: Path, rooms: dict[str, Chat], first: int, end: int) -> int:
    """Write rooms, and forget them; returns how many there are on the disk."""
    keys = [str(number) for number in range(first, end)]
    left = iter(keys)
    async with trio.open_nursery() as nursery:
        for _ in range(THREADS):
            nursery.start_soon(save, directory, rooms, left)
    return sum((directory / f"{key}.cbor").exists() for key in keys)


async def echo(request: trio_websocket.WebSocketRequest) -> None:
    """Send back what comes."""
    connection = await request.accept()
    with contextlib.suppress(trio_websocket.ConnectionClosed):
        while True:
            await connection.send_message(await connection.get_message())


async def main(directory: Path, size: int, count: int) -> None:
    """Serve, and obey until the standard input ends."""
    rooms = {str(number): remembered(size) for number in range(count)}
    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, echo, "127.0.0.1", 0, None)
        server = await nursery.start(serve)
        print(f"listening on ws://127.0.0.1:{server.port}", flush=True)
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
            async for line in commands:
                _, _, first, end = line.decode().split()
                print(await sleep(directory, rooms, int(first), int(end)), flush=True)
        nursery.cancel_scope.cancel()


LIMITER: Final = trio.CapacityLimiter(THREADS)

if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
