"""What is sent to users: where it waits, who gets it, and when it is removed."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from tests.sockets.bench import soon
from tests.users.dens import den, inside, nothing, told
from trio_rooms import Context, MemoryStore, Sent, open_rooms
from trio_rooms.testing import FaultyStore, connect


async def test_what_is_sent_to_who_is_away_waits_for_the_next_connection(autojump_clock: MockClock) -> None:
    """In order, until that has acknowledged it; whatever its priority was."""
    store = MemoryStore()
    async with open_rooms([den()], store=store) as rooms:
        ana = rooms.user("ana")
        for number, priority in enumerate(("low", "high", "normal")):
            assert await ana.send("told", number, priority=priority) == Sent(stored=1)  # type: ignore[arg-type]
        assert await ana.waiting() == 3
        async with inside(rooms, "ana") as client:
            assert await told(client, 3) == [0, 1, 2]
            assert await ana.waiting() == 3
            assert await ana.send("told", 3) == Sent(active=1)
            assert await told(client, 1) == [3]
            assert await ana.waiting() == 4
            await client.acknowledge()
            await trio.sleep(1)
            assert await ana.waiting() == 0
            async with inside(rooms, "ana") as other:
                await nothing(other)
        users = rooms.statistics().users
        assert (users.sent, users.stored, users.delivered) == (4, 3, 4)
        assert (users.connected, users.pending) == (0, 0)


async def test_a_client_that_acknowledges_nothing_gets_it_once(autojump_clock: MockClock) -> None:
    """To a connection without a session it is written, and removed; without a trace where she is there."""
    async with open_rooms([den()]) as rooms:
        ana = rooms.user("ana")
        await ana.send("told", 1)
        async with connect(rooms, "den/a", query={"user": "ana"}) as client:
            assert await told(client, 1) == [1]
            await soon(lambda: rooms.statistics().users.pending == 0)
            before = rooms._store.statistics().commits
            assert await ana.send("told", 2) == Sent(active=1)
            assert await told(client, 1) == [2]
            assert rooms._store.statistics().commits == before
        assert await ana.waiting() == 0


async def test_a_session_that_ends_gives_back_what_it_has_not_acknowledged(autojump_clock: MockClock) -> None:
    """To the next connection, or to one that is there; while it may come back, it is for nobody else."""
    async with open_rooms([den(resume_window=10)]) as rooms:
        ana = rooms.user("ana")
        await ana.send("told", 1)
        async with inside(rooms, "ana") as client:
            assert await told(client, 1) == [1]
            await client.drop()
        await soon(lambda: not ana.online)
        async with inside(rooms, "ana") as other:
            await nothing(other)
            assert await ana.send("told", 2) == Sent(active=1)
            assert await told(other, 1) == [2]
            async with inside(rooms, "ana", resume=client) as again:
                await nothing(again)  # It has seen it.
                assert await ana.waiting() == 1
                await other.acknowledge()
                await trio.sleep(1)
                assert await ana.waiting() == 0
                assert await ana.send("told", 3) == Sent(active=2)
                assert await told(other, 1) == await told(again, 1) == [3]
                await again.drop()
            await other.hang_up()
        await trio.sleep(30)
        async with inside(rooms, "ana") as third:
            assert await told(third, 1) == [3]
            assert rooms.statistics().users.given_back == 1


async def test_a_message_goes_on_with_its_session(autojump_clock: MockClock) -> None:
    """What it has not seen when it drops comes with what it was away for, once."""
    async with open_rooms([den(), den("hall", durability="commit")]) as rooms:
        for key in ("den/a", "hall/a"):
            ana = rooms.user(key)
            async with inside(rooms, key, key) as client:
                await client.drop()
                assert (await ana.send("told", 1)).reached + (await ana.send("told", 2)).reached >= 0
            async with inside(rooms, key, key, resume=client) as again:
                assert await told(again, 2) == [1, 2]
                await nothing(again)
                await again.acknowledge()
                await trio.sleep(1)
                assert await ana.waiting() == 0


async def test_a_handler_whose_effects_wait_sends_with_its_commit(autojump_clock: MockClock) -> None:
    """All that is known then is that it goes out."""
    async with open_rooms([den("hall", durability="commit")]) as rooms:
        async with inside(rooms, "bob", "hall/a") as bob, inside(rooms, "ana", "hall/b") as ana:
            assert await bob.ask("tell", {"to": "ana", "text": 1}) == [0, 0, 0, 0, 0, 1]
            assert await bob.ask("tell", {"to": "eve", "text": 2}) == [0, 0, 0, 0, 0, 1]
            assert await told(ana, 1) == [1]
            await soon(lambda: rooms.statistics().users.pending == 0)
            assert await rooms.user("eve").waiting() == 1
            assert await rooms.user("ana").waiting() == 1
        async with inside(rooms, "eve", "hall/b") as eve:
            assert await told(eve, 1) == [2]


async def test_an_inbox_is_for_one_room_where_that_was_said(autojump_clock: MockClock) -> None:
    """Other rooms' connections neither get it nor wait behind it."""
    async with open_rooms([den()]) as rooms:
        assert await rooms.get("den", "a").user("ana").send("told", "a") == Sent(stored=1)
        async with inside(rooms, "ana", "den/b") as elsewhere:
            assert await rooms.user("ana").send("told", "b") == Sent(active=1)
            assert await told(elsewhere, 1) == ["b"]
            assert await rooms.get("den", "a").user("ana").send("told", "aa") == Sent(stored=1)
            async with inside(rooms, "ana") as client:
                assert await told(client, 2) == ["a", "aa"]
            await nothing(elsewhere)


async def test_a_durable_handler_sends_with_its_commit_and_others_behind(
    autojump_clock: MockClock,
) -> None:
    """Whatever is handled while that waits goes out in its turn; then all is sent at once again."""
    store, room = FaultyStore(MemoryStore()), den()

    @room.on("pay", durable=True)
    async def pay(ctx: Context[dict[str, Any]], data: dict[str, Any]) -> int:
        ctx.state["paid"] = data["text"]
        return (await ctx.rooms.user(data["to"]).send("told", data["text"])).outbox

    async with (
        open_rooms([room], store=store) as rooms,
        inside(rooms, "bob") as bob,
        inside(rooms, "ana") as ana,
    ):
        assert await bob.ask("tell", {"to": "ana", "text": 0}) == [1, 0, 0, 0, 0, 0]
        held = store.hold_commits()
        await bob.emit("pay", {"to": "ana", "text": 1})
        await bob.emit("tell", {"to": "ana", "text": 2})
        await trio.sleep(1)
        assert await told(ana, 1) == [0]
        await nothing(ana)
        held.release()
        assert await told(ana, 2) == [1, 2]
        await trio.sleep(1)
        assert await bob.ask("tell", {"to": "ana", "text": 3}) == [1, 0, 0, 0, 0, 0]
        assert await told(ana, 1) == [3]
        assert await rooms.user("ana").waiting() == 4
