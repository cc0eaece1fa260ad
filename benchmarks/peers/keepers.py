"""Keepers of documents by key, each durable when it says so: a `DiskStore`, and what others would use.

    python -m benchmarks.peers.keepers KIND DIRECTORY BYTES [SERVER]

A line on its standard input is ``alone SECONDS`` (one document after another), ``together SECONDS`` (1,000 at
once, again and again) or ``check`` (close, open again, and compare all that was written last). It answers
with a line of JSON: how long each took, or how many documents were compared.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Final

import trio

from trio_rooms import DiskStore
from trio_rooms.stores import Commit, Store

TOGETHER: Final = 1000
"""Documents that are kept at once; there are as many keys."""
WARM: Final = 50


class Keeper(abc.ABC):
    """Keeps the last document of each key. Most of them block, which does no harm here."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size

    @abc.abstractmethod
    async def open(self) -> None:
        """Begin, or go on with what is there."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End."""

    @abc.abstractmethod
    async def put(self, key: str, document: bytes) -> None:
        """Keep one document; durable when this returns."""

    @abc.abstractmethod
    async def put_all(self, documents: Mapping[str, bytes]) -> None:
        """Keep many; all durable when this returns."""

    @abc.abstractmethod
    async def get(self, key: str) -> bytes:
        """The last document of a key."""


class Rooms(Keeper):
    """Ours: the store itself, without rooms. It keeps two documents of each key."""

    async def open(self) -> None:
        """See `Keeper`."""
        self._store = self._make_store()
        await self._store.open()
        self._numbers = {key: (await self._store.head(key)).number for key in await self._store.keys()}

    def _make_store(self) -> Store:
        return DiskStore(self.directory)

    async def close(self) -> None:
        """See `Keeper`."""
        await self._store.aclose()

    async def put(self, key: str, document: bytes) -> None:
        """See `Keeper`."""
        self._numbers[key] = number = self._numbers.get(key, 0) + 1
        await self._store.commit(Commit(key, number, self._store.epoch, document))

    async def put_all(self, documents: Mapping[str, bytes]) -> None:
        """Let each document have a task of its own, as each room has."""
        async with trio.open_nursery() as nursery:
            for key, document in documents.items():
                nursery.start_soon(self.put, key, document)

    async def get(self, key: str) -> bytes:
        """See `Keeper`."""
        return (await self._store.load(key)).snapshots[0].document


class ValkeyRooms(Rooms):
    """Ours in a server of Valkey, with the same store."""

    program = ""

    async def open(self) -> None:
        """Start the server; the store waits for it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        always = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        rest = ("--maxmemory-policy", "noeviction", "--dir", str(self.directory), "--bind", "127.0.0.1")
        with (self.directory / "log").open("wb") as log:
            self._server = subprocess.Popen(  # noqa: ASYNC220 (nothing else goes on here)
                [self.program, "--port", str(self._port), *always, *rest], stdout=log, stderr=log
            )
        await super().open()

    def _make_store(self) -> Store:
        # It takes what those have who measure it.
        from trio_rooms.stores import ValkeyStore  # noqa: PLC0415

        return ValkeyStore(f"valkey://127.0.0.1:{self._port}")

    async def close(self) -> None:
        """Kill the server: what it has answered is in its log."""
        await super().close()
        self._server.kill()
        self._server.wait()


class Sqlite(Keeper):
    """One table, in the same mode and as durable as ours."""

    async def open(self) -> None:
        """See `Keeper`."""
        self._connection = sqlite3.connect(self.directory / "documents.sqlite3", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, document BLOB NOT NULL)"
        )

    async def close(self) -> None:
        """See `Keeper`."""
        self._connection.close()

    async def put(self, key: str, document: bytes) -> None:
        """Let each have a transaction of its own."""
        self._connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (key, document))

    async def put_all(self, documents: Mapping[str, bytes]) -> None:
        """Write all in one transaction."""
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?)", documents.items())
        self._connection.execute("COMMIT")

    async def get(self, key: str) -> bytes:
        """See `Keeper`."""
        row = self._connection.execute("SELECT document FROM documents WHERE key = ?", (key,)).fetchone()
        return bytes(row[0])


class Overwriting(Keeper):
    """The limit: a file of fixed size, whose parts are written over and synced; one cut short is lost."""

    async def open(self) -> None:
        """See `Keeper`."""
        self._file = os.open(self.directory / "documents", os.O_RDWR | os.O_CREAT)
        if os.fstat(self._file).st_size == 0:
            # Written, not only allocated: then a sync has no more to say than the bytes themselves.
            os.write(self._file, bytes(self.size * TOGETHER))
            os.fsync(self._file)

    async def close(self) -> None:
        """See `Keeper`."""
        os.close(self._file)

    async def put(self, key: str, document: bytes) -> None:
        """See `Keeper`."""
        os.pwrite(self._file, document, int(key) * self.size)
        os.fdatasync(self._file)

    async def put_all(self, documents: Mapping[str, bytes]) -> None:
        """Sync once."""
        for key, document in documents.items():
            os.pwrite(self._file, document, int(key) * self.size)
        os.fdatasync(self._file)

    async def get(self, key: str) -> bytes:
        """See `Keeper`."""
        return os.pread(self._file, self.size, int(key) * self.size)


class Valkey(Keeper):
    """A server of Valkey, or of Redis, which syncs its log before it answers."""

    program = ""

    async def open(self) -> None:
        """Start it, and wait until it has read its log."""
        self._place = contextlib.ExitStack()
        # Not in the directory: the path of such a socket has 107 bytes at most.
        path = Path(self._place.enter_context(tempfile.TemporaryDirectory())) / "socket"
        log = self._place.enter_context((self.directory / "log").open("wb"))
        always = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        where = ("--port", "0", "--unixsocket", str(path), "--dir", str(self.directory))
        self._server = subprocess.Popen(  # noqa: ASYNC220 (nothing else goes on here)
            [self.program, *always, *where], stdout=log, stderr=log
        )
        self._place.callback(self._server.wait)
        self._place.callback(self._server.kill)
        self._socket = self._place.enter_context(socket.socket(socket.AF_UNIX))
        self._unread = b""
        with trio.fail_after(30):
            while not self._is_ready(path):
                if self._server.poll() is not None:
                    raise SystemExit((self.directory / "log").read_text(errors="replace"))
                await trio.sleep(0.01)

    def _is_ready(self, path: Path) -> bool:
        try:
            self._socket.connect(str(path))
        except OSError:
            return False
        while True:
            self._send([_command(b"PING")])
            answer = self._line()
            if answer == b"+PONG":
                return True
            if not answer.startswith(b"-LOADING"):
                raise SystemExit(answer.decode())
            time.sleep(0.01)

    async def close(self) -> None:
        """Kill it: what it has answered is in its log."""
        self._place.close()

    async def put(self, key: str, document: bytes) -> None:
        """Set one key."""
        self._send([_command(b"SET", key.encode(), document)])
        self._expect(b"+OK", 1)

    async def put_all(self, documents: Mapping[str, bytes]) -> None:
        """Set all keys before the first answer is read."""
        self._send(_command(b"SET", key.encode(), document) for key, document in documents.items())
        self._expect(b"+OK", len(documents))

    async def get(self, key: str) -> bytes:
        """See `Keeper`."""
        self._send([_command(b"GET", key.encode())])
        return self._take(int(self._line()[1:]) + 2)[:-2]

    def _send(self, commands: Iterable[bytes]) -> None:
        self._socket.sendall(b"".join(commands))

    def _expect(self, answer: bytes, times: int) -> None:
        for _ in range(times):
            line = self._line()
            if line != answer:
                raise SystemExit(f"the server answered {line!r}")

    def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            self._receive()
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    def _take(self, length: int) -> bytes:
        while len(self._unread) < length:
            self._receive()
        taken, self._unread = self._unread[:length], self._unread[length:]
        return taken

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise SystemExit("the server hung up")
        self._unread += data


class ValkeyTransactions(Valkey):
    """All of a thousand in one transaction, which is synced once."""

    async def put_all(self, documents: Mapping[str, bytes]) -> None:
        """Set all keys in one MULTI."""
        sets = (_command(b"SET", key.encode(), document) for key, document in documents.items())
        self._send([_command(b"MULTI"), *sets, _command(b"EXEC")])
        self._expect(b"+OK", 1)
        self._expect(b"+QUEUED", len(documents))
        self._expect(b"*%d" % len(documents), 1)
        self._expect(b"+OK", len(documents))


def _command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


KINDS: Final[dict[str, type[Keeper]]] = {
    "rooms": Rooms,
    "rooms-valkey": ValkeyRooms,
    "sqlite": Sqlite,
    "file": Overwriting,
    "valkey": Valkey,
    "valkey-transactions": ValkeyTransactions,
}


class Documents:
    """Documents of one size, no two of them equal, and which was the last of each key."""

    def __init__(self, size: int) -> None:
        self._rest = os.urandom(size - 8)
        self._number = 0
        self.last: dict[str, bytes] = {}

    def next(self) -> tuple[str, bytes]:
        """The next one, and its key."""
        self._number += 1
        key, document = str(self._number % TOGETHER), self._number.to_bytes(8) + self._rest
        self.last[key] = document
        return key, document

    def thousand(self) -> dict[str, bytes]:
        """One for each key."""
        return dict(self.next() for _ in range(TOGETHER))


async def alone(keeper: Keeper, documents: Documents, seconds: float) -> list[float]:
    """One after another; how long each took."""
    for _ in range(WARM):
        await keeper.put(*documents.next())
    took = []
    until = perf_counter() + seconds
    while (began := perf_counter()) < until:
        await keeper.put(*documents.next())
        took.append(perf_counter() - began)
    return took


async def together(keeper: Keeper, documents: Documents, seconds: float) -> list[float]:
    """A thousand at once; how long each thousand took."""
    await keeper.put_all(documents.thousand())
    took: list[float] = []
    while sum(took) < seconds:
        given = documents.thousand()
        began = perf_counter()
        await keeper.put_all(given)
        took.append(perf_counter() - began)
    return took


async def check(keeper: Keeper, documents: Documents) -> int:
    """Compare all that was written last with what is there after a new beginning."""
    await keeper.close()
    await keeper.open()
    for key, document in documents.last.items():
        found = await keeper.get(key)
        if found != document:
            raise SystemExit(f"the document of {key} is {found[:8]!r}..., not {document[:8]!r}...")
    return len(documents.last)


async def main(kind: str, directory: Path, size: int) -> None:
    """Obey until the standard input ends."""
    keeper, documents = KINDS[kind](directory, size), Documents(size)
    await keeper.open()
    try:
        for line in sys.stdin:
            command, _, seconds = line.strip().partition(" ")
            if command == "check":
                print(await check(keeper, documents), flush=True)
            else:
                measure = alone if command == "alone" else together
                print(json.dumps(await measure(keeper, documents, float(seconds))), flush=True)
    finally:
        await keeper.close()


if __name__ == "__main__":
    # An exception, so that a server that was started here is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    Valkey.program = ValkeyRooms.program = sys.argv[4] if len(sys.argv) > 4 else ""
    trio.run(main, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
