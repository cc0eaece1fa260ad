"""The store in Valkey when the server is killed, stopped or away, or is not what it has to be."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.stores.acknowledged import check_acknowledged
from tests.valkey import Valkey
from trio_rooms._valkey import Connection
from trio_rooms.errors import StaleWrite, StoreClosed, StoreError, StoreFull, StoreReadOnly
from trio_rooms.stores import ValkeyStore
from trio_rooms.stores.base import Commit, Due, Entry, LinkHalf, Opening, Post, RoomHalf, Timer, Verdict
from trio_rooms.stores.valkey.lines import Line

SCRIPT = Path(__file__).with_name("store_process.py")


@contextlib.contextmanager
def writing(server: Valkey) -> Iterator[subprocess.Popen[str]]:
    """Another process that commits for ever."""
    command = [sys.executable, str(SCRIPT), "commit", str(server.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


async def test_every_acknowledged_commit_survives_kill_9(own_valkey: Valkey) -> None:
    """Of the server, some times, which costs the writer nothing but time; and then of the writer."""
    acknowledged: dict[str, int] = {}
    with writing(own_valkey) as writer:
        assert writer.stdout is not None
        for lines in (1, 60, 200):
            for _ in range(lines):
                key, number = writer.stdout.readline().split()
                acknowledged[key] = int(number)
            own_valkey.kill()
            own_valkey.start()
        for _ in range(50):
            key, number = writer.stdout.readline().split()
            acknowledged[key] = int(number)
        writer.kill()
        for line in writer.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                key, number = line.split()
                acknowledged[key] = int(number)
    async with ValkeyStore(own_valkey.url) as store:
        await check_acknowledged(store, acknowledged)


async def test_what_was_handed_over_outlives_a_kill_of_the_server(own_valkey: Valkey) -> None:
    """In its order and once, though nobody waits for it, also what comes while there is no server."""
    async with ValkeyStore(own_valkey.url) as store:
        own_valkey.stop()
        for number in range(1, 6):
            with trio.CancelScope() as scope:
                scope.cancel()
                sends = (Post("ana", number, b"", 9.0),)
                await store.commit(Commit("chat/1", number, 1, b"%d" % number, sends=sends))
        own_valkey.kill()
        await until(lambda: not any(connections(store)))
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.commit(Commit("chat/1", 6, 1, b"6", sends=(Post("ana", 6, b"", 9.0),)))
        assert store.statistics().pending == 6
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, Commit("chat/1", 7, 1, b"7"))
            nursery.start_soon(trio.to_thread.run_sync, own_valkey.start)
        assert [one.generation for one in (await store.load("chat/1")).snapshots] == [7, 6]
        assert [one.post.id for one in await store.inbox("ana")] == [1, 2, 3, 4, 5, 6]
        assert store.statistics().commits == 7
        assert store.statistics().failures == 0


async def until(condition: object) -> None:
    """Wait for something that sockets bring about."""
    assert callable(condition)
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.001)


def lines(store: ValkeyStore) -> tuple[Line, ...]:
    """What it has open."""
    assert store._opened is not None
    return store._opened._lines


def connections(store: ValkeyStore) -> list[Connection | None]:
    """Those that there are."""
    return [line.server.connection for line in lines(store)]


async def said(store: ValkeyStore, count: int) -> None:
    """Wait until so many writes are on their way, and the system has them."""
    await until(
        lambda: (
            store.statistics().pending == count and not any(one and one.unsent for one in connections(store))
        )
    )


async def test_a_lost_answer_is_no_second_commit(own_valkey: Valkey) -> None:
    """What the server did before its answer was lost is not done again, and is a success."""
    async with ValkeyStore(own_valkey.url) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        # The server carries out what it has read, and tells nobody.
        own_valkey.stop()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                store.commit, Commit("chat/1", 2, 1, b"two", sends=(Post("ana", 1, b"", 9.0),))
            )
            nursery.start_soon(store.post, [Post("ana", 2, b"", 9.0)])
            await said(store, 2)
            for line in lines(store):
                line.server.drop("of the test")
            own_valkey.go_on()
        head = await store.head("chat/1")
        assert head.number == 2
        assert {one.post.id for one in await store.inbox("ana")} == {1, 2}
        assert store.statistics().failures == 0


def test_a_server_that_stays_away_is_told(own_valkey: Valkey) -> None:
    """Calls wait for 5 s, and then say what is known: nothing was written, or it is not known."""

    async def main() -> None:
        store = ValkeyStore(own_valkey.url)
        async with store:
            await store.commit(Commit("chat/1", 1, 1, b"one"))
            own_valkey.stop()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fails, store, 2, "it is not known whether this was written")
                await said(store, 1)
                own_valkey.kill()
                await until(lambda: not any(connections(store)))
                nursery.start_soon(fails, store, 3, "nothing was written")
                began = trio.current_time()
                with pytest.raises(StoreError, match="cannot be reached"):
                    await store.head("chat/1")
                assert 4.9 < trio.current_time() - began < 12
            assert store.statistics().failures == 2
            own_valkey.start()
            await store.commit(Commit("chat/1", 2, 1, b"two"))
            own_valkey.kill()
            # A block ends although the server is away.
        assert store.statistics().pending == 0
        began = trio.current_time()
        with pytest.raises(StoreError, match="cannot be reached"):
            await store.open()
        assert 4.9 < trio.current_time() - began < 12

    async def fails(store: ValkeyStore, number: int, what: str) -> None:
        with pytest.raises(StoreError, match=what) as caught:
            await store.commit(Commit("chat/1", number, 1, b"not"))
        assert type(caught.value) is StoreError

    # Seconds pass faster, since nothing but time happens in them.
    trio.run(main, clock=trio.testing.MockClock(rate=20))


async def test_an_opening_waits_for_a_server_that_starts(own_valkey: Valkey) -> None:
    """It may come a little later than whoever wants it."""
    own_valkey.kill()
    async with trio.open_nursery() as nursery:
        store = ValkeyStore(own_valkey.url)
        nursery.start_soon(store.open)
        await trio.to_thread.run_sync(own_valkey.start)
    assert store.epoch == 1
    await store.aclose()


async def test_a_cancelled_opening_leaves_nothing(own_valkey: Valkey) -> None:
    """It is not open, and can be opened."""
    store = ValkeyStore(own_valkey.url)
    for deadline in (0, 0.0005, 0.001, 0.002, 0.004):
        with trio.move_on_after(deadline):
            await store.open()
            await store.aclose()
    with pytest.raises(StoreClosed):
        assert store.epoch
    async with store:
        assert store.epoch >= 1
    await until(lambda: b"trio-rooms-store" not in own_valkey.ask("CLIENT", "LIST"))


async def test_whoever_opens_it_takes_it(valkey: Valkey) -> None:
    """Whoever had it before is refused from then on, whatever it writes."""
    async with ValkeyStore(valkey.url) as first:
        await first.commit(Commit("chat/1", 1, 1, b"one"))
        async with ValkeyStore(valkey.url) as second:
            assert (first.epoch, second.epoch) == (1, 2)
            for commit in (
                Commit("chat/1", 2, 1, b"two"),
                Commit("chat/2", 1, 1),
                Commit("chat/1", 2, 1, destroy=True),
            ):
                with pytest.raises(StaleWrite, match="opened for writing since"):
                    await first.commit(commit)
            with pytest.raises(StaleWrite):
                await first.post([Post("ana", 1, b"", 9.0)])
            with pytest.raises(StaleWrite):
                await first.settle("ana", [1])
            await second.commit(Commit("chat/1", 2, 2, b"two"))
        assert (await first.head("chat/1")).number == 2


async def test_whoever_only_looks_takes_nothing(valkey: Valkey) -> None:
    """It can be read while it is written, and cannot be written."""
    async with ValkeyStore(valkey.url) as store, ValkeyStore(valkey.url, read_only=True) as looking:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        assert looking.epoch == 1
        assert (await looking.load("chat/1")).snapshots[0].document == b"one"
        for write in (
            looking.commit(Commit("chat/1", 2, 1)),
            looking.post([Post("ana", 1, b"", 1.0)]),
            looking.settle("ana", [1]),
        ):
            with pytest.raises(StoreReadOnly):
                await write
        await store.commit(Commit("chat/1", 2, 1, b"two"))


async def test_a_server_that_may_lose_what_it_has_is_refused(own_valkey: Valkey) -> None:
    """What to set is said; the last second may be lost where that is wanted."""
    own_valkey.ask("CONFIG", "SET", "appendfsync", "everysec")
    with pytest.raises(StoreError, match="appendfsync always"):
        await ValkeyStore(own_valkey.url).open()
    async with ValkeyStore(own_valkey.url, durability="everysec") as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
    with pytest.raises(ValueError, match="durability"):
        ValkeyStore(own_valkey.url, durability="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="URL of an engine"):
        ValkeyStore("data")


async def test_a_full_server_refuses_and_can_be_emptied(own_valkey: Valkey) -> None:
    """Without memory left nothing is written; destroying, settling and reading go on, and sessions end."""
    half = RoomHalf(0, None, b"", Opening(b"token", None, 4, 60.0))
    async with ValkeyStore(own_valkey.url) as store:
        await store.commit(Commit("chat/1", 1, 1, bytes(100_000)))
        timer = {"name": Timer(9.0, b"")}
        await store.commit(Commit("chat/2", 1, 1, writes={"name": b""}, sessions={1: half}, timers=timer))
        await store.post([Post("ana", 1, b"", 9.0)])
        own_valkey.ask("CONFIG", "SET", "maxmemory", 1_000_000)
        with pytest.raises(StoreFull, match="maxmemory"):
            await store.commit(Commit("chat/1", 2, 1, b"two"))
        with pytest.raises(StoreFull, match="nothing was written"):
            await store.post([Post("ana", 2, b"", 9.0)])
        assert (await store.head("chat/1")).number == 1
        for more in (
            {"writes": {"name": b""}},
            {"sessions": {1: half}},
            {"timers": {"name": Timer(9.0, b"")}},
            {"entries": (Entry(1, b"", b"", 0.0),), "seq": 1},
            {"verdicts": (Verdict(1, 1, b""),)},
            {"sends": (Post("ana", 3, b"", 9.0),)},
        ):
            with pytest.raises(StoreFull, match="maxmemory"):
                await store.commit(Commit("chat/2", 2, 1, **more))
        await store.commit(Commit("chat/2", 2, 1, links={1: LinkHalf(0, 9.0)}))
        away = Due(9.0, "chat/2", sid=1)
        assert away in await store.due(9.0, 9)
        gone: dict[str, Any] = {"writes": {"name": None}, "sessions": {1: None}, "timers": {"name": None}}
        await store.commit(Commit("chat/2", 3, 1, **gone))
        assert await store.due(9.0, 9) == []
        await store.settle("ana", [1])
        await store.commit(Commit("chat/1", 2, 1, destroy=True))
        own_valkey.ask("CONFIG", "SET", "maxmemory", 0)
        await store.commit(Commit("chat/1", 3, 1, b"three"))
        with pytest.raises(StoreFull, match="32 MiB"):
            await store.commit(Commit("chat/1", 4, 1, bytes(33 << 20)))
        assert await store.inbox("ana") == []


async def test_functions_that_were_thrown_out_are_loaded_again(valkey: Valkey) -> None:
    """Reads and writes go on as if nothing had happened."""
    async with ValkeyStore(valkey.url) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        valkey.ask("FUNCTION", "FLUSH")
        assert (await store.head("chat/1")).number == 1
        valkey.ask("FUNCTION", "FLUSH")
        async with trio.open_nursery() as nursery:
            for number in range(2, 9):
                nursery.start_soon(store.commit, Commit(f"chat/{number}", 1, 1, b"one"))
        assert len(await store.keys()) == 8
        assert store.statistics().failures == 0


async def test_large_documents_come_back(valkey: Valkey) -> None:
    """Also such as are read on their own, and while they are replaced."""
    async with ValkeyStore(valkey.url) as store:
        large = os.urandom(5 << 20)
        await store.commit(Commit("chat/1", 1, 1, large))
        await store.commit(Commit("chat/1", 2, 1, large + b"2"))
        assert [one.document for one in (await store.load("chat/1")).snapshots] == [large + b"2", large]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.load, "chat/1")
            for number in range(3, 6):
                await store.commit(Commit("chat/1", number, 1, large))
        found = await store.load("chat/1")
        assert [one.generation for one in found.snapshots] == [5, 4]


def test_replicas_have_what_was_committed(own_valkey: Valkey, tmp_path: Path) -> None:
    """Before a commit returns; without one it is not known whether it happened, and it may be sent again."""
    follower = Valkey(tmp_path / "follower", ("--replicaof", "127.0.0.1", str(own_valkey.port)))

    async def main() -> None:
        async with ValkeyStore(own_valkey.url, replicas=1) as store:
            first = Commit("chat/1", 1, store.epoch, b"one")
            await store.commit(first)
            assert follower.ask("GET", "{rooms}:d0:chat/1") == b"one"
            follower.kill()
            second = Commit("chat/1", 2, store.epoch, b"two")
            began = trio.current_time()
            with pytest.raises(StoreError, match="it is not known whether this was written"):
                await store.commit(second)
            assert 4.9 < trio.current_time() - began < 20
            follower.start()
            await until(lambda: b"master_link_status:up" in follower.ask("INFO", "replication"))
            await store.commit(second)
            assert follower.ask("GET", "{rooms}:d1:chat/1") == b"two"

    follower.start()
    try:
        trio.run(until, lambda: b"master_link_status:up" in follower.ask("INFO", "replication"))
        trio.run(main, clock=trio.testing.MockClock(rate=10))
    finally:
        follower.kill()
