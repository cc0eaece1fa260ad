"""The end of a room, and who is not heard any more: those whom it closed, and all who were in it."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.raw import CLOSE, TEXT, close_frame, frame, serving, soon
from trio_rooms import Context, Disconnect, MemoryStore, Room, RoomFailed, open_rooms
from trio_rooms.testing import Closed, FaultyStore, connect

State = dict[str, Any]
IDLE = 10.0


@attrs.define(eq=False)
class Journal:
    """What happened, and what the hooks are to do."""

    told: list[str] = attrs.field(factory=list)
    destroys: list[str] = attrs.field(factory=list)
    """The hooks of waking that destroy the room, each once for each time that it stands here."""
    pause: trio.Event | None = None
    """What on_connect waits for."""


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


def _destroy(ctx: Context[State], hook: str) -> None:
    journal.told.append(hook)
    if hook in journal.destroys:
        journal.destroys.remove(hook)
        ctx.room.destroy()
        ctx.room.destroy()


async def _create(ctx: Context[State]) -> None:
    _destroy(ctx, "create")


async def _wake(ctx: Context[State]) -> None:
    _destroy(ctx, "wake")


async def _join(ctx: Context[State]) -> None:
    if journal.pause is not None:
        await journal.pause.wait()
    journal.told.append("join")


async def _leave(_ctx: Context[State], left: Disconnect) -> None:
    journal.told.append(f"leave {left.code}")


async def _end(_ctx: Context[State]) -> None:
    journal.told.append("end")


async def _add(ctx: Context[State]) -> int:
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    return int(ctx.state["n"])


async def _nap(_ctx: Context[State], data: float) -> None:
    await trio.sleep(data)


async def _close(ctx: Context[State], data: float) -> None:
    await trio.sleep(data)
    for connection in ctx.room.connections:
        connection.close(4000, "out")


async def _kick(ctx: Context[State], data: tuple[str, float]) -> None:
    kicked = [one for one in ctx.room.connections if one.attachment == data[0]]
    await trio.sleep(data[1])
    for connection in kicked:
        connection.close(4000, "out")


async def _finish(ctx: Context[State], data: float) -> None:
    await trio.sleep(data)
    ctx.room.destroy()


def hall(*hooks: str, **options: Any) -> Room[State]:
    """A room with some hooks."""
    room: Room[State] = Room("hall", state=dict, idle_timeout=IDLE, **options)
    room.on("add")(_add)
    room.on("nap")(_nap)
    room.on("close")(_close)
    room.on("kick")(_kick)
    room.on("finish")(_finish)
    known: dict[str, Callable[..., Awaitable[Any]]] = {
        "on_create": _create,
        "on_wake": _wake,
        "on_connect": _join,
        "on_disconnect": _leave,
        "on_destroy": _end,
    }
    for hook in hooks or known:
        getattr(room, hook)(known[hook])
    return room


# Who is not heard any more.


async def test_what_waits_of_a_connection_that_is_closed_is_dropped(autojump_clock: MockClock) -> None:
    """Messages that came before the close, and had to wait, are neither handled nor answered."""
    async with open_rooms([hall()]) as rooms:
        room = rooms.get("hall", "x")
        async with connect(rooms, "hall/x") as bad:
            await bad.emit("close", 1.0, id=1)
            await bad.emit("add", id=2)
            with pytest.raises(trio.EndOfChannel):
                await bad.receive()
            assert bad.closed == Closed(4000, "out")
        assert await room.ask("add") == 1


async def test_who_is_closed_after_it_left_is_not_heard_either(autojump_clock: MockClock) -> None:
    """What a client sent before it left is handled, unless the room wants nothing more of it."""
    async with open_rooms([hall()]) as rooms, connect(rooms, "hall/x") as stays:
        for number, kick in enumerate((False, True)):
            async with connect(rooms, "hall/x", attachment="leaves") as leaves:
                assert await stays.ask("add") == 2 * number + 1
                await stays.emit("kick", ["leaves", 1.0] if kick else ["nobody", 1.0])
                await leaves.emit("add")
                await leaves.hang_up()
        assert await stays.ask("add") == 4


async def test_who_is_turned_away_is_not_heard(autojump_clock: MockClock) -> None:
    """By an on_connect that closes or raises."""
    room: Room[State] = Room("bank", state=dict)
    room.on("add")(_add)

    @room.on_connect
    async def come(ctx: Context[State]) -> None:
        await trio.sleep(1)
        if ctx.room.id == "raises":
            raise ValueError
        ctx.connection.close(4003, "banned")

    async with open_rooms([room]) as rooms:
        for id_, code in (("raises", 1011), ("closes", 4003)):
            async with connect(rooms, f"bank/{id_}") as client:
                await client.emit("add", id=1)
                with pytest.raises(trio.EndOfChannel):
                    await client.receive()
                assert client.closed is not None
                assert client.closed.code == code
            assert await rooms.get("bank", id_).ask("add") == 1


async def test_a_plain_room_is_not_told_more_of_whom_it_closed(autojump_clock: MockClock) -> None:
    """A handler that raises closes its connection, and what that had sent behind is dropped."""
    room: Room[None] = Room("plain")

    @room.on_message
    async def message(_ctx: Context[None], message: str | bytes) -> None:
        journal.told.append(str(message))
        await trio.sleep(0.1)
        if message == "bad":
            raise ValueError

    async with open_rooms([room]) as rooms, connect(rooms, "plain/x") as client:
        for one in ("good", "bad", "more"):
            await client.send(one)
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed == Closed(1011, "the room failed")
    assert journal.told == ["good", "bad"]


# Destroyed rooms stay destroyed.


@pytest.mark.parametrize("end", ["answers", "vanishes", "says nothing"])
async def test_the_end_of_a_connection_that_was_closed_before_makes_no_room(end: str) -> None:
    """Although the room slept in between, and knew nothing of it any more when it was destroyed."""
    store = MemoryStore()
    async with serving(hall(), store=store, close_timeout=0.3) as served:
        first = frame(TEXT, b'{"event": "close", "data": 0}')
        async with served.client("/hall/x", first=first) as client:
            assert (await client.frame())[0] == CLOSE
            room = served.rooms.get("hall", "x")
            assert await room.hibernate()
            await room.destroy()
            told = [*journal.told]
            if end == "answers":
                await client.send(close_frame(4000))
            elif end == "vanishes":
                await client.stream.aclose()
            await soon(lambda: served.rooms.statistics().hub.closing == 0)
        await room.hibernate()
        assert journal.told == told
        assert await store.keys() == []


@pytest.mark.parametrize("by", ["the room", "the program"])
async def test_nothing_of_the_connections_makes_a_room_again(by: str, autojump_clock: MockClock) -> None:
    """Messages, arrivals and departures that wait when a room is destroyed end with it."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([hall()], store=store) as rooms, trio.open_nursery() as nursery:
        room = rooms.get("hall", "x")
        async with connect(rooms, "hall/x") as one, connect(rooms, "hall/x") as two:
            await one.ask("add")
            nursery.start_soon(room.ask, *(("finish", 1.0) if by == "the room" else ("nap", 1.0)))
            await wait_all_tasks_blocked()
            if by == "the program":
                nursery.start_soon(room.destroy)
                await wait_all_tasks_blocked()
            await one.emit("add", id=1)
            await two.drop()
            async with connect(rooms, "hall/x") as three:
                await three.emit("add", id=1)
                for client in (one, three):
                    with pytest.raises(trio.EndOfChannel):
                        await client.receive()
                    assert client.closed == Closed(1000, "the room was destroyed")
        await trio.sleep(3 * IDLE)
        assert journal.told == ["create", "join", "join", "end"]
        assert await store.keys() == []


async def test_who_asked_before_a_destruction_is_not_left_behind_it(autojump_clock: MockClock) -> None:
    """A room that one handler destroyed and a question makes again is destroyed again, as was asked."""
    store = MemoryStore()
    answers: list[Any] = []

    async def note(what: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        answers.append((what.__name__, await what(*arguments)))

    async with open_rooms([hall("on_create")], store=store) as rooms:
        room = rooms.get("hall", "x")
        async with trio.open_nursery() as nursery:
            for step in (
                (room.ask, "finish", 1.0), (room.hibernate,), (room.destroy,), (room.ask, "add"),
                (room.hibernate,), (room.destroy,),
            ):  # fmt: skip
                nursery.start_soon(note, *step)
                await wait_all_tasks_blocked()
        assert sorted(answers, key=str) == [
            ("ask", 1), ("ask", None), ("destroy", None), ("destroy", None), ("hibernate", True),
            ("hibernate", True),
        ]  # fmt: skip
        assert await store.keys() == []
        assert journal.told == ["create", "create"]


# Rooms that end as they wake.


async def test_a_room_that_on_wake_destroys_is_gone_before_it_handles_anything(
    autojump_clock: MockClock,
) -> None:
    """What woke it begins a new one, and nothing that was answered is deleted."""
    async with open_rooms([hall()]) as rooms:
        room = rooms.get("hall", "x")
        assert await room.ask("add") == 1
        await room.hibernate()
        journal.destroys = ["wake"]
        assert [await room.ask("add") for _ in range(3)] == [1, 2, 3]
        assert journal.told == ["create", "wake", "end", "create"]
        await room.hibernate()
        assert await room.ask("add") == 4


async def test_who_comes_to_a_room_that_ends_as_it_wakes_is_in_the_new_one(autojump_clock: MockClock) -> None:
    """Its on_connect had not begun. Who was there before is closed with the old one."""
    async with open_rooms([hall()]) as rooms:
        room = rooms.get("hall", "x")
        async with connect(rooms, "hall/x") as old:
            await old.ask("add")
            await room.hibernate()
            journal.destroys = ["wake"]
            async with connect(rooms, "hall/x") as new:
                assert await new.ask("add") == 1
                assert room.emit("hello").reached == 1
                assert await new.receive() == {"event": "hello", "data": None}
            with pytest.raises(trio.EndOfChannel):
                await old.receive()
            assert old.closed == Closed(1000, "the room was destroyed")
        assert journal.told == ["create", "join", "wake", "end", "create", "join", "leave 1000"]


@pytest.mark.parametrize("client", [False, True])
async def test_a_room_that_always_ends_as_it_wakes_does_so_twice(
    client: bool, autojump_clock: MockClock
) -> None:
    """Then its mail is refused, and its connections are closed: a third one would end as well."""
    store = MemoryStore()
    journal.destroys = ["create"] * 100
    async with open_rooms([hall()], store=store) as rooms:
        room = rooms.get("hall", "x")
        for tries in range(1, 4):
            if client:
                async with connect(rooms, "hall/x") as one:
                    await one.emit("add", id=1)
                    with pytest.raises(trio.EndOfChannel):
                        await one.receive()
                    assert one.closed == Closed(1000, "the room was destroyed")
            else:
                with pytest.raises(RoomFailed, match="destroys itself"):
                    await room.ask("add")
            assert journal.told == ["create", "end"] * 2 * tries
        await room.destroy()
        assert await store.keys() == []
        journal.destroys.clear()
        assert await room.ask("add") == 1


@pytest.mark.parametrize("order", [*itertools.permutations(("ask", "destroy", "hibernate"))])
async def test_everybody_is_answered_where_a_room_ends_as_it_wakes(
    order: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """Whatever waits when it does."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([hall("on_create", "on_wake")], store=store) as rooms:
        room = rooms.get("hall", "x")
        await room.ask("add")
        await room.hibernate()
        journal.destroys = ["wake"]
        gate = store.hold_loads()
        answers: dict[str, Any] = {}

        async def note(what: str) -> None:
            answers[what] = await (room.ask("add") if what == "ask" else getattr(room, what)())

        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room.ask, "nap", 0)
                await gate.wait_arrived()
                for what in order:
                    nursery.start_soon(note, what)
                    await wait_all_tasks_blocked()
                gate.release()
        assert answers["ask"] == 1
        assert answers["destroy"] is None
        await trio.sleep(3 * IDLE)
        assert (await store.keys() == []) is (order.index("ask") < order.index("destroy"))


async def test_closing_who_has_vanished_leaves_nothing(autojump_clock: MockClock) -> None:
    """A handler may close a connection that is gone, as one that says good-bye to all may."""
    async with open_rooms([hall()]) as rooms:
        async with connect(rooms, "hall/x", attachment="leaves") as leaves, connect(rooms, "hall/x") as stays:
            await stays.emit("kick", ["leaves", 1.0])
            await wait_all_tasks_blocked()
            await leaves.drop()
            assert await stays.ask("add") == 1
        assert not rooms._hub.closing._leaving
