"""Rooms that ask rooms: whoever would wait for itself is told so, and nobody else."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import AskCircle, Context, HandlerFailed, Room, RoomFailed, Rooms, open_rooms


@attrs.define(eq=False)
class Journal:
    """What the rooms of a test do."""

    asking: list[tuple[str, str]] = attrs.field(factory=list)
    """Who waits in a handler for whom."""
    circles: list[tuple[str, ...]] = attrs.field(factory=list)
    begun: list[str] = attrs.field(factory=list)
    hook: str = ""
    """The hook that asks its own room."""
    gate: trio.Event = attrs.field(factory=trio.Event)


journal = Journal()
ROOMS: list[Rooms] = []
"""As an application may have them that knows nothing of ``ctx.rooms``."""

room: Room[list[Any]] = Room("room", state=list, idle_timeout=10)


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


@room.on("do")
async def do(ctx: Context[list[Any]], data: list[Any]) -> str:
    """Ask other rooms, one after the other, in a nursery, or in background tasks."""
    how, asked = data
    journal.begun.append(ctx.room.id)
    if how == "then":
        for whom, script in asked:
            await ask(ctx, whom, script)
    elif how == "behind":
        for whom, script in asked:
            ctx.room.start_soon(ask_behind, ctx, whom, script, keep_awake=True)
    else:
        async with trio.open_nursery() as nursery:
            for whom, script in asked:
                nursery.start_soon(ask, ctx, whom, script)
    return ctx.room.id


async def ask(ctx: Context[list[Any]], whom: str, script: Any) -> None:
    """Ask in a handler, and check what is told of a circle."""
    edge = (ctx.room.key, f"room/{whom}")
    journal.asking.append(edge)
    try:
        assert await ctx.rooms.get("room", whom).ask("do", script, timeout=50) == whom
    except AskCircle as error:
        journal.circles.append(error.rooms)
        must_be_true(error.rooms, edge)
    finally:
        journal.asking.remove(edge)


def must_be_true(circle: tuple[str, ...], edge: tuple[str, str]) -> None:
    """Each room of a circle waits for the next, and what is asked now would close it."""
    steps = list(itertools.pairwise(circle))
    assert circle[0] == circle[-1]
    assert steps[0] == edge
    assert set(steps) <= set(journal.asking)


async def ask_behind(ctx: Context[list[Any]], whom: str, script: Any) -> None:
    """Ask in a background task, in a nursery of its own."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ctx.rooms.get("room", whom).ask, "do", script)


@room.on("by global")
async def by_global(ctx: Context[list[Any]], data: str) -> Any:
    """Use rooms that came from elsewhere, in another way than asking an event."""
    handle = ROOMS[-1].get("room", ctx.room.id)
    if data == "destroy":
        return await handle.destroy()
    if data == "hibernate":
        return await handle.hibernate()
    return await handle.ask("do", ["then", []])


@room.on("stick")
async def stick(ctx: Context[list[Any]], data: str) -> Any:
    """Wait for the gate, then ask."""
    await journal.gate.wait()
    return await ctx.rooms.get("room", data).ask("do", ["then", []])


@room.on_create
async def created(ctx: Context[list[Any]]) -> None:
    """Ask, where this hook is to."""
    await ask_in_hook(ctx, "create")


@room.on_hibernate
async def sleeps(ctx: Context[list[Any]]) -> None:
    """The same."""
    await ask_in_hook(ctx, "hibernate")


async def ask_in_hook(ctx: Context[list[Any]], hook: str) -> None:
    """Ask the room that runs this hook."""
    if journal.hook == hook:
        journal.hook = ""
        await ctx.rooms.get("room", ctx.room.id).ask("do", ["then", []])


async def test_a_room_that_asks_itself_is_told_so(autojump_clock: MockClock) -> None:
    """At once, and the room goes on."""
    async with open_rooms([room]) as rooms:
        began = trio.current_time()
        assert await rooms.get("room", "a").ask("do", ["then", [["a", ["then", []]]]]) == "a"
        assert journal.circles == [("room/a", "room/a")]
        assert trio.current_time() == began


async def test_a_circle_of_rooms_is_named(autojump_clock: MockClock) -> None:
    """Whoever closes it is told of all rooms in it; who was asked before gets an answer."""
    script = ["then", [["b", ["together", [["c", ["then", [["a", ["then", []]]]]], ["d", ["then", []]]]]]]]
    async with open_rooms([room]) as rooms:
        assert await rooms.get("room", "a").ask("do", script) == "a"
        assert journal.circles == [("room/c", "room/a", "room/b", "room/c")]
        assert str(AskCircle(journal.circles[0])).startswith(
            "room room/c would wait for itself: room/c asks room/a asks room/b asks room/c, and"
        )


@pytest.mark.parametrize("how", ["ask", "destroy", "hibernate"])
async def test_a_handle_from_elsewhere_is_no_way_around(how: str, autojump_clock: MockClock) -> None:
    """It is the handler that waits, wherever it has the handle from."""
    async with open_rooms([room]) as rooms:
        ROOMS.append(rooms)
        with pytest.raises(HandlerFailed) as caught:
            await rooms.get("room", "a").ask("by global", how)
        assert isinstance(caught.value.__cause__, AskCircle)
        assert await rooms.get("room", "a").ask("do", ["then", []]) == "a"
        ROOMS.clear()


async def test_a_hook_waits_as_a_handler_does(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told at once, which crashes the room as whatever a hook raises; then all is well."""
    async with open_rooms([room]) as rooms:
        handle = rooms.get("room", "a")
        began = trio.current_time()
        journal.hook = "create"
        assert await handle.ask("do", ["then", []]) == "a"
        assert "room/a asks room/a" in caplog.text
        journal.hook = "hibernate"
        with pytest.raises(RoomFailed) as caught:
            await handle.hibernate()
        assert isinstance(caught.value.__cause__, AskCircle)
        assert await handle.ask("do", ["then", []]) == "a"
        assert trio.current_time() - began < 1
        assert rooms.statistics().supervisor.crashes == 2


async def test_a_background_task_waits_for_nobodys_handler(autojump_clock: MockClock) -> None:
    """It may ask its own room, and one whose handler asks that room."""
    script = ["behind", [["a", ["then", []]], ["b", ["then", [["a", ["then", []]]]]]]]
    async with open_rooms([room]) as rooms:
        assert await rooms.get("room", "a").ask("do", script) == "a"
        await trio.sleep(1)
        assert sorted(journal.begun) == ["a", "a", "a", "b"]
        assert journal.circles == []


async def test_what_waits_in_the_mailbox_closes_circles_too(autojump_clock: MockClock) -> None:
    """The room that is asked has other mail first, and it is that which asks back."""
    async with open_rooms([room]) as rooms, trio.open_nursery() as nursery:
        handle = rooms.get("room", "b")
        failed: list[BaseException | None] = []

        async def ask_b() -> None:
            try:
                await handle.ask("stick", "a")
            except HandlerFailed as error:
                failed.append(error.__cause__)

        nursery.start_soon(ask_b)
        await wait_all_tasks_blocked()
        nursery.start_soon(rooms.get("room", "a").ask, "do", ["then", [["b", ["then", []]]]])
        await wait_all_tasks_blocked()
        journal.gate.set()
        await wait_all_tasks_blocked()
        assert [error.rooms for error in failed if isinstance(error, AskCircle)] == [
            ("room/b", "room/a", "room/b")
        ]
        assert journal.asking == []


async def test_who_is_answered_waits_no_more(autojump_clock: MockClock) -> None:
    """Even before it got to run: then the room that answered may ask it."""
    async with open_rooms([room]) as rooms, trio.open_nursery() as nursery:
        nursery.start_soon(rooms.get("room", "b").ask, "stick", "c")
        await wait_all_tasks_blocked()
        nursery.start_soon(rooms.get("room", "a").ask, "do", ["then", [["b", ["then", []]]]])
        await wait_all_tasks_blocked()
        nursery.start_soon(rooms.get("room", "b").ask, "do", ["then", [["a", ["then", []]]]])
        await wait_all_tasks_blocked()
        journal.gate.set()
        await wait_all_tasks_blocked()
        assert journal.circles == []
        assert journal.begun == ["a", "c", "b", "b", "a"]
        assert rooms._supervisor._circles._asked == {}


def scripts(ids: str) -> st.SearchStrategy[Any]:
    """What a handler does: whom it asks how, and what these do."""
    hows = st.sampled_from(("then", "together", "behind"))
    leaf: st.SearchStrategy[Any] = st.just(["then", []])
    return st.recursive(
        leaf,
        lambda inner: st.tuples(
            hows, st.lists(st.tuples(st.sampled_from(ids), inner).map(list), min_size=1, max_size=3)
        ).map(list),
        max_leaves=8,
    )


@given(st.lists(st.tuples(st.sampled_from("abc"), scripts("abc")), min_size=1, max_size=4))
def test_no_rooms_wait_for_ever(asked: list[tuple[str, Any]]) -> None:
    """Whoever asks whom how: all ends at once, and each circle that is told of was one."""
    journal.__init__()  # type: ignore[misc]

    async def main() -> None:
        async with open_rooms([room]) as rooms, trio.open_nursery() as nursery:
            began = trio.current_time()
            async with trio.open_nursery() as asking:
                for id_, script in asked:
                    asking.start_soon(rooms.get("room", id_).ask, "do", script)
            await wait_all_tasks_blocked()
            assert trio.current_time() == began
            assert journal.asking == []
            assert rooms._supervisor._circles._asked == {}
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


@given(scripts("abcdefghijkl"))
def test_a_tree_of_rooms_is_no_circle(script: Any) -> None:
    """Where no room is asked twice on the way down, nobody is told of a circle."""
    journal.__init__()  # type: ignore[misc]
    ids = iter("bcdefghijklmnopqrstuvwxyzBCDEFGHIJKLMNOPQRSTUVWXYZ")

    def distinct(script: Any) -> Any:
        return [script[0], [[next(ids), distinct(inner)] for _, inner in script[1]]]

    async def main() -> None:
        async with open_rooms([room]) as rooms:
            assert await rooms.get("room", "a").ask("do", distinct(script)) == "a"
            await wait_all_tasks_blocked()
        assert journal.circles == []

    trio.run(main, clock=MockClock(autojump_threshold=0))


gated: Room[dict[str, int]] = Room("gated", state=dict, durability="commit")
loose: Room[dict[str, int]] = Room("loose", state=dict)


@gated.on("tell")
@loose.on("tell")
async def tell(ctx: Context[dict[str, int]], way: list[str]) -> str:
    """Emit durably to the last of some rooms, and have those before it ask each other to."""
    ctx.state["told"] = ctx.state.get("told", 0) + 1
    first, *rest = way
    handle = ctx.rooms.get(*first.split("/"))
    if rest:
        return str(await handle.ask("tell", rest))
    return str((await handle.emit_durably("told")).reached)


@loose.on("tell in one piece", durable=True)
async def tell_in_one_piece(ctx: Context[dict[str, int]]) -> None:
    """The same, to itself, where that is durable with all else."""
    await ctx.rooms.get("loose", ctx.room.id).emit_durably("told")


async def test_who_waits_for_what_goes_out_after_itself_is_told_so(autojump_clock: MockClock) -> None:
    """What is emitted to a room whose effects wait is written when its handler has ended."""
    async with open_rooms([gated, loose]) as rooms:
        one, other = rooms.get("gated", "1"), rooms.get("loose", "1")
        began = trio.current_time()
        for way in (["gated/1"], ["gated/2", "gated/1"], ["loose/2", "gated/1"]):
            with pytest.raises(HandlerFailed) as caught:
                await one.ask("tell", way)
            cause: BaseException | None = caught.value
            while isinstance(cause, HandlerFailed):
                cause = cause.__cause__
            assert isinstance(cause, AskCircle)
            assert "gated/1" in str(cause)
        with pytest.raises(HandlerFailed) as caught:
            await other.ask("tell in one piece")
        assert isinstance(caught.value.__cause__, AskCircle)
        # To others, and to a room that keeps nothing back, it is no circle.
        assert await one.ask("tell", ["gated/2"]) == "0"
        assert await one.ask("tell", ["loose/1"]) == "0"
        assert await other.ask("tell", ["loose/1"]) == "0"
        assert await other.ask("tell", ["loose/2", "loose/1"]) == "0"
        assert trio.current_time() - began < 5
