"""What tests of stores run as a process: ``store_process.py ROLE DIRECTORY``, or the port of a server."""

from __future__ import annotations

import os
import resource
import sys
import warnings
from pathlib import Path

import trio

from trio_rooms.errors import StoreError, StoreFull, StoreReadOnly
from trio_rooms.stores import Commit, Entry, LinkHalf, Opening, Post, RoomHalf, Store, Timer, Verdict
from trio_rooms.stores.sqlite.store import DiskStore

NOBODY = 65534


def say(*words: object) -> None:
    """Tell the test a line."""
    print(*words, flush=True)


async def hold(directory: Path) -> None:
    """Have the directory open until killed, or until standard input ends."""
    async with DiskStore(directory):
        say("open")
        await trio.to_thread.run_sync(sys.stdin.read)


async def fork(directory: Path) -> None:
    """Have the directory open in a process with a forked child, which outlives it."""
    async with DiskStore(directory):
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: of forking beside threads
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, b".")
            os.read(0, 1)
            os._exit(0)
        os.read(reading, 1)  # It has gone through what it does after the fork.
        say("open")
        await trio.sleep_forever()


def store_at(where: Path) -> Store:
    """The store of a directory; or of a server at a port of this machine, where that is all that is said."""
    if not where.name.isdigit():
        return DiskStore(where)
    from trio_rooms.stores.valkey.store import ValkeyStore  # noqa: PLC0415

    return ValkeyStore(f"valkey://127.0.0.1:{where.name}")


async def commit(directory: Path) -> None:
    """Commit all that there is to eight rooms, snapshots alone to three, and tell what is acknowledged."""

    async def work(key: str) -> None:
        number = (await store.head(key)).number
        while True:
            number += 1
            document = b"%d " % number * 1000
            writes: dict[str, bytes | None] = {"a": document, "b": document}
            commit = Commit(
                key,
                number,
                store.epoch,
                document,
                writes,
                entries=(Entry(number, b"all", document, 1.0),),
                seq=number,
                trim=max(number - 3, 0),
                sessions={1: RoomHalf(number, document, b"", Opening(b"", None, 0, 60.0))},
                links={1: LinkHalf(0, float(number), number)},
                verdicts=(Verdict(1, number, document),),
                answered={1: max(number - 3, 0)},
                timers={"t": Timer(float(number), document)},
                sends=(Post(key, number, document, 1.0),),
            )
            await store.commit(commit)
            await store.settle(key, range(max(number - 2, 1), number))
            say(key, number)

    async def save(key: str, size: int) -> None:
        number = (await store.head(key)).number
        while True:
            number += 1
            await store.commit(Commit(key, number, store.epoch, b"%d " % number * size))
            say(key, number)

    async with store_at(directory) as store, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(work, f"chat/{number}")
        for size in (10, 1000, 10_000):
            nursery.start_soon(save, f"saved/{size}", size)


async def fill(directory: Path) -> None:
    """Commit until a limit on the size of files is reached, then lift it."""
    async with DiskStore(directory) as store:
        await store.commit(Commit("chat/0", 1, 1, b"before"))
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
        count = 0
        try:
            while True:
                await store.commit(Commit(f"full/{count}", 1, 1, bytes(50_000)))
                count += 1
        except StoreFull as exc:
            say("full", exc)
        say("readable", (await store.load("chat/0")).snapshots[0].document)
        say("whole", len(await store.keys("full/")) == count)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        await store.commit(Commit("chat/0", 2, 1, b"after"))
    async with DiskStore(directory) as store:
        say(
            "again",
            (await store.load("chat/0")).snapshots[0].document,
            len(await store.keys("full/")) == count,
        )


async def read_only(directory: Path) -> None:
    """As a user without rights: try to use a directory that must not be written."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    for path in (directory, directory / "new", directory.with_name("file")):
        try:
            async with DiskStore(path):
                say("opened")
        except StoreReadOnly as exc:
            say("refused", exc)
    async with DiskStore(directory, read_only=True) as store:
        say("looked", store.epoch, await store.keys())


if __name__ == "__main__":
    role, where = sys.argv[1:]
    try:
        trio.run(globals()[role], Path(where))
    except StoreError as error:
        say(type(error).__name__, error)
