"""Valkey as an engine: what breaks, what is left behind, and what it has to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.valkey import Valkey as Server
from tests.valkey import free_port
from trio_rooms._cluster.seat import Seat
from trio_rooms.engines import MemoryEngine, Valkey
from trio_rooms.errors import EngineError, EngineLost, StoreError
from trio_rooms.stores import Commit

LEASE = 60.0


class Nothing:
    """Owns nothing."""

    def epoch_of(self, key: str) -> int:
        return 0


def keys(server: Server) -> set[str]:
    """All that there is in a server."""
    return {key.decode() for key in server.ask("KEYS", "*")}


async def test_a_server_that_is_killed(own_valkey: Server) -> None:
    """Who waits is told that it is lost; what was claimed is there when it starts again, and epochs go on."""
    hear, heard = trio.open_memory_channel[bytes](9)
    async with Valkey(own_valkey.url) as engine, trio.open_nursery() as nursery:
        await engine.join("ana#1", b"about", LEASE)
        claim = await engine.claim("chat/1", "ana#1")
        listening = trio.Event()

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(EngineLost):
                await engine.listen("ana#1", hear.send_nowait, task_status)
            listening.set()

        await nursery.start(listen)
        own_valkey.stop()

        async def lost() -> None:
            with pytest.raises(EngineLost):
                await engine.claim("chat/2", "ana#1")

        for _ in range(10):
            nursery.start_soon(lost)
        await trio.testing.wait_all_tasks_blocked(0.05)
        own_valkey.kill()
        with trio.fail_after(10):
            await listening.wait()
        with pytest.raises(EngineLost):
            await engine.renew("ana#1", b"", LEASE)
        with pytest.raises(EngineLost):
            await engine.listen("ana#1", hear.send_nowait)
        with pytest.raises(EngineLost):
            await engine.send("ana#1", b"lost")
        await trio.to_thread.run_sync(own_valkey.start)
        with trio.fail_after(10):
            while True:
                try:
                    assert (await engine.renew("ana#1", b"about", LEASE)).members == {"ana#1": b"about"}
                    await nursery.start(engine.listen, "ana#1", hear.send_nowait)
                    break
                except EngineLost:
                    await trio.sleep(0.02)
            assert await engine.claim("chat/1", "ana#1") == claim
            assert (await engine.claim("chat/3", "ana#1")).epoch > claim.epoch
            await engine.send("ana#1", b"again")
            assert await heard.receive() == b"again"
        nursery.cancel_scope.cancel()


async def test_a_server_that_stops_pauses_the_nodes(own_valkey: Server) -> None:
    """Their leases end by their own clocks; when it goes on they do too, as who they were."""
    told: list[str] = []
    async with (
        Valkey(own_valkey.url) as engine,
        Valkey(own_valkey.url) as other,
        trio.open_nursery() as nursery,
    ):
        ana, bob = Seat(engine, "ana", 0.4, dict), Seat(other, "bob", 0.4, dict)
        for seat in (ana, bob):
            await seat.join()
            seat.on_over.append(told.append)
            nursery.start_soon(seat.run)
        claim = await engine.claim("chat/1", ana.incarnation)
        own_valkey.stop()
        with trio.fail_after(10):
            for seat in (ana, bob):
                while seat.check():
                    await seat.sleep_until(seat.deadline)
            await trio.sleep_until(max(ana.deadline, bob.deadline) + 0.4)
            own_valkey.go_on()
            for seat in (ana, bob):
                await seat.resumed()
        assert told == []
        assert await other.claim("chat/1", bob.incarnation) == claim
        nursery.cancel_scope.cancel()


async def test_what_is_left_behind(valkey: Server) -> None:
    """Of a room that was let go of, or whose node is over, nothing; of all else two numbers."""
    async with Valkey(valkey.url) as engine:
        await engine.join("ana#1", b"", LEASE)
        await engine.join("bob#1", b"", LEASE)
        for number in range(5):
            claim = await engine.claim(f"chat/{number}", "ana#1")
            if number:
                assert await engine.release(f"chat/{number}", "ana#1", claim.epoch)
        await engine.note_user("u", "ana#1", here=True)
        for number in range(250):
            await engine.note_user(f"u{number}", "ana#1", here=True)
        assert {"{rooms}:r:chat/0", "{rooms}:at:ana#1", "{rooms}:user:u", "{rooms}:users:ana#1"} < keys(
            valkey
        )
        assert len(keys(valkey)) == 9 + 250
        await engine.leave("ana#1")
        assert await engine.nodes_of("u") == ()
        for _ in range(3):  # A beat takes out a hundred.
            await engine.renew("bob#1", b"", LEASE)
        await engine.note_user("u", "ana#1", here=True)  # It was on its way.
        valkey.ask("ZADD", "{rooms}:dead", 1, "ana#1")
        async with engine.store(Nothing(), durable=True) as store:
            assert await store.due(0, 9) == []
            await engine.leave("bob#1")
        assert {key for key in keys(valkey) if "opened" not in key} <= {
            "{rooms}:epochs", "{rooms}:beat", "{rooms}:alone"
        }  # fmt: skip


async def test_a_server_without_memory(own_valkey: Server) -> None:
    """Nodes stay members, rooms are claimed and let go of; else nothing could be destroyed."""
    async with Valkey(own_valkey.url) as engine:
        async with engine.store(Nothing(), durable=True):
            await engine.join("ana#1", b"", LEASE)
        kept = await engine.claim("chat/1", "ana#1")
        own_valkey.ask("CONFIG", "SET", "maxmemory", 1_000)
        assert (await engine.join("bob#1", b"", LEASE)).alive
        assert (await engine.renew("ana#1", b"more than before", LEASE)).members["ana#1"]
        claim = await engine.claim("chat/2", "bob#1")
        assert await engine.find(["chat/1", "chat/2"]) == {"chat/1": "ana#1", "chat/2": "bob#1"}
        assert await engine.release("chat/2", "bob#1", claim.epoch)
        await engine.note_user("u", "bob#1", here=True)
        assert await engine.nodes_of("u") == ("bob#1",)
        await engine.note_user("u", "bob#1", here=False)
        await engine.leave("ana#1")
        assert await engine.reclaim("bob#1", {"chat/1": kept.epoch}) == {"chat/1"}
    async with Valkey(own_valkey.url) as engine:  # Its functions are there, though it would take none.
        with trio.fail_after(5):
            assert (await engine.renew("bob#1", b"", LEASE)).alive
            async with engine.store(Nothing(), durable=True) as store:
                assert await store.due(0, 9) == []


async def test_a_server_that_has_lost_what_it_knew_last(valkey: Server) -> None:
    """An epoch that was given out is not given out again: nobody who has one can write for another."""
    async with Valkey(valkey.url) as engine:
        await engine.join("ana#1", b"", LEASE)
        before = await engine.claim("chat/1", "ana#1")
        valkey.ask("FLUSHALL")
        assert not (await engine.renew("ana#1", b"", LEASE)).alive
        await engine.join("bob#1", b"", LEASE)
        assert (await engine.claim("chat/1", "bob#1")).epoch > before.epoch


async def test_a_clock_that_was_set_back(valkey: Server) -> None:
    """Leases begin anew, instead of lasting until the clock is there again."""
    async with Valkey(valkey.url) as engine:
        for node in ("ana#1", "bob#1"):
            await engine.join(node, b"", LEASE)
            valkey.ask("ZINCRBY", "{rooms}:nodes", 1000, node)
        valkey.ask("INCRBYFLOAT", "{rooms}:beat", 1000)
        await engine.renew("ana#1", b"", LEASE)
        now, _ = valkey.ask("TIME")
        ends = float(valkey.ask("ZSCORE", "{rooms}:nodes", "bob#1"))
        assert int(now) < ends < int(now) + 2 * LEASE


async def test_clusters_side_by_side(valkey: Server) -> None:
    """Under another prefix, or in another database, nothing is seen of each other."""
    hear, heard = trio.open_memory_channel[bytes](9)
    engines = [Valkey(valkey.url), Valkey(valkey.url, prefix="other"), Valkey(f"{valkey.url}/1")]
    async with engines[0], engines[1], engines[2], trio.open_nursery() as nursery:
        for engine in engines:
            assert set((await engine.join("ana#1", b"", LEASE)).members) == {"ana#1"}
            assert (await engine.claim("chat/1", "ana#1")).owner == "ana#1"
            assert await engine.nodes_of("u") == ()
            await engine.note_user("u", "ana#1", here=True)
        await nursery.start(engines[0].listen, "ana#1", hear.send_nowait)
        for number, engine in reversed([*enumerate(engines)]):
            await engine.send("ana#1", b"%d" % number)
        with trio.fail_after(5):
            assert await heard.receive() == b"0"
        nursery.cancel_scope.cancel()
    for prefix in ("", "a:b", "a{b", "a b"):
        with pytest.raises(ValueError, match="prefix"):
            Valkey(valkey.url, prefix=prefix)


async def test_what_it_has_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that would forget rooms is refused when it is opened, with what to change."""
    nobody = Valkey(f"valkey://127.0.0.1:{free_port()}")
    with pytest.raises(EngineLost, match="cannot be reached"):
        await nobody.open()
    await nobody.aclose()
    server = Server(tmp_path, options=("--appendfsync", "everysec"))
    server.start()
    try:
        async with Valkey(server.url) as engine:
            with pytest.raises(StoreError, match="appendfsync always"):
                await engine.store(Nothing(), durable=True).open()
            async with engine.store(Nothing(), durable=False):
                pass
        assert "power failure" not in caplog.text
        engine = Valkey(server.url, durability="everysec")
        async with engine, engine.store(Nothing(), durable=True):
            assert "a power failure of the engine's machine may cost the last second" in caplog.text
        server.ask("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(
            EngineError, match=r"the engine at 127\.0\.0\.1:\d+ has appendonly no, .* set appendonly yes"
        ):
            await Valkey(server.url).open()
    finally:
        server.kill()


async def test_open_and_close(valkey: Server) -> None:
    """It may be closed twice and opened again; an opening that was cancelled has left nothing."""
    engine = Valkey(valkey.url)
    with trio.CancelScope() as scope:
        scope.cancel()
        await engine.open()
    assert scope.cancelled_caught
    for _ in range(2):
        await engine.open()
        await engine.join("ana#1", b"", LEASE)
        await engine.aclose()
        await engine.aclose()
        with pytest.raises(EngineLost):
            await engine.renew("ana#1", b"", LEASE)
    with trio.fail_after(5):
        while len(valkey.ask("CLIENT", "LIST").splitlines()) > 1:
            await trio.sleep(0.01)


@pytest.fixture
def replica(own_valkey: Server, tmp_path: Path) -> Iterator[Server]:
    """One that has what the other one has."""
    replica = Server(tmp_path / "replica", options=("--replicaof", "127.0.0.1", str(own_valkey.port)))
    replica.start()
    yield replica
    replica.kill()


async def test_claims_wait_for_replicas(own_valkey: Server, replica: Server) -> None:
    """A claim counts when a replica has it, and is lost while there is none; leases and messages go on."""
    async with Valkey(own_valkey.url, replicas=1) as engine:
        with trio.fail_after(20):
            while b"master_link_status:up" not in replica.ask("INFO", "replication"):
                await trio.sleep(0.02)
            await engine.join("ana#1", b"", LEASE)
            claim = await engine.claim("chat/1", "ana#1")
            assert replica.ask("HGET", "{rooms}:r:chat/1", "k") == b"%d" % claim.epoch
            replica.stop()
            with pytest.raises(EngineLost):
                await engine.claim("chat/2", "ana#1")
            assert (await engine.renew("ana#1", b"", LEASE)).alive
            await engine.send("ana#1", b"message")
            replica.go_on()
            while True:
                try:
                    claim = await engine.claim("chat/2", "ana#1")
                except EngineLost:
                    await trio.sleep(0.02)
                else:
                    break
            assert replica.ask("HGET", "{rooms}:r:chat/2", "k") == b"%d" % claim.epoch


async def test_who_is_fenced_off_writes_nothing(valkey: Server) -> None:
    """Whatever the order in which claims and commits of two nodes come, the later epoch wins."""

    class Claims(dict[str, int]):
        def epoch_of(self, key: str) -> int:
            return self.get(key, 0)

    async with Valkey(valkey.url) as one, Valkey(valkey.url) as other:
        await one.join("ana#1", b"", LEASE)
        await other.join("bob#1", b"", LEASE)
        ana, bob = Claims(), Claims()
        async with one.store(ana, durable=True) as left, other.store(bob, durable=True) as right:
            refused = 0
            for number in range(1, 21):
                claims, incarnation, store = ((ana, "ana#1", left), (bob, "bob#1", right))[number % 2]
                late = (right, left)[number % 2]
                before = max(ana.get("chat/1", 0), bob.get("chat/1", 0))
                if before:
                    await one.release("chat/1", ("bob#1", "ana#1")[number % 2], before)
                claims["chat/1"] = (await one.claim("chat/1", incarnation)).epoch
                assert claims["chat/1"] > before
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        store.commit, Commit("chat/1", number, claims["chat/1"], b"%d" % number)
                    )
                    if before:
                        try:
                            await late.commit(Commit("chat/1", number, before, b"late"))
                        except StoreError:
                            refused += 1
            assert refused == 19
            stored = await left.load("chat/1")
            assert stored.snapshots[0].document == b"20"


def test_engines_say_the_same_of_themselves() -> None:
    """What is public of both is what an engine has, and what each says beside it."""
    public = {name for name in dir(Valkey) if not name.startswith("_")}
    assert {name for name in dir(MemoryEngine) if not name.startswith("_")} - public == {
        "another", "cut", "delay", "down", "lose", "mend", "reachable", "up",
    }  # fmt: skip
