from __future__ import annotations

import math
import weakref
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.room.parts import Parts, wired
from tests.sockets.bench import Line
from trio_rooms import AttachmentError, Context, Room, StaleContext, open_rooms
from trio_rooms._sockets.use import Use
from trio_rooms._state.codec import decode_value, encode_value
from trio_rooms.testing import connect

LIMIT = 100
TOO_MUCH = "x" * LIMIT


def small_room() -> Room[None]:
    """One that allows small attachments only."""
    return Room("small", attachment_limit=LIMIT)


def kept(line: Line) -> Any:
    """What the record of a connection has of its attachment."""
    return None if line.attachment is None else decode_value(line.attachment)


def with_attachment(parts: Parts, attachment: Any) -> Line:
    """A connection that has one."""
    return parts.line(encode_value("small/x", "attachment", attachment))


async def test_there_is_one_view_of_each_connection() -> None:
    """However a handler comes by it: as the one that spoke, or as one of all."""
    async with wired(small_room()) as parts:
        one, two = parts.line(), parts.line()
        view = parts.members.connection(one)
        assert parts.members.context_for(one) is parts.members.context_for(one)
        assert parts.members.context_for(one).connection is view
        assert parts.members.new_context(view).connection is view
        assert [*parts.live.connections] == [view, parts.members.connection(two)]
        assert parts.live.connections.get(view.id) is view
        assert parts.members.connection(two) is not view


async def test_a_context_that_is_made_for_once_leaves_the_kept_one_as_it_is() -> None:
    """What one message says of itself is not seen by the next."""
    async with wired(small_room()) as parts:
        line = parts.line()
        once = parts.members.new_context(parts.members.connection(line))
        once.channel = "red"
        assert parts.members.context_for(line).channel is None


async def test_an_edit_in_place_is_kept_when_it_is_settled() -> None:
    """Also one deep inside, and one of an attachment that came with the connection."""
    async with wired(small_room()) as parts:
        line = with_attachment(parts, {"deep": [1]})
        parts.members.connection(line).attachment["deep"].append(2)
        assert kept(line) == {"deep": [1]}
        parts.members.settle()
        assert kept(line) == {"deep": [1, 2]}
        parts.members.connection(line).attachment["deep"].append(3)
        parts.members.settle()
        assert kept(line) == {"deep": [1, 2, 3]}


async def test_an_edit_that_cannot_be_kept_is_undone() -> None:
    """Whoever settles is told, and handlers see the attachment as it was before the edit."""
    async with wired(small_room()) as parts:
        for spoil in (TOO_MUCH, object()):
            line = with_attachment(parts, ["as it was"])
            view = parts.members.connection(line)
            view.attachment.append(spoil)
            with pytest.raises(AttachmentError):
                parts.members.settle()
            assert view.attachment == ["as it was"]
            assert kept(line) == ["as it was"]
            parts.members.settle()


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=6))
def test_what_can_be_kept_is_kept_whatever_else_cannot(spoiled: list[bool]) -> None:
    """Settling quietly raises nothing, keeps the good edits and undoes the others; settling keeps all."""

    async def main() -> None:
        async with wired(small_room()) as parts:
            lines = [with_attachment(parts, [number]) for number in range(len(spoiled))]
            for line, bad in zip(lines, spoiled, strict=True):
                parts.members.connection(line).attachment.append(object() if bad else "edited")
            if any(spoiled):
                parts.members.settle_quietly()
            else:
                parts.members.settle()
            for number, (line, bad) in enumerate(zip(lines, spoiled, strict=True)):
                expected = [number] if bad else [number, "edited"]
                assert kept(line) == parts.members.connection(line).attachment == expected
            parts.members.clear()
            parts.members.settle()

    trio.run(main)


async def test_an_assignment_that_cannot_be_kept_is_refused_at_once() -> None:
    """Where it is written, and what was there stays."""
    async with wired(small_room()) as parts:
        line = with_attachment(parts, "good")
        view = parts.members.connection(line)
        with pytest.raises(AttachmentError, match="102 bytes"):
            view.attachment = TOO_MUCH
        assert view.attachment == kept(line) == "good"
        view.attachment = None
        assert line.attachment is None


async def test_views_and_edits_are_forgotten_together() -> None:
    """After a crash handlers begin with what was kept, and an edit that was not settled is no more."""
    async with wired(small_room()) as parts:
        line = with_attachment(parts, ["kept"])
        before = parts.members.connection(line)
        before.attachment.append("lost")
        parts.members.clear()
        parts.members.settle()
        with pytest.raises(StaleContext):
            before.attachment = ["lost"]
        parts.shared.over = False  # It is loaded again.
        after = parts.members.connection(line)
        assert after is not before
        assert after.attachment == kept(line) == ["kept"]


def in_use(line: Line) -> None:
    """A connection is not hibernated."""
    line.roster.active = {line: Use(0.0), **(line.roster.active or {})}


async def test_of_a_hibernated_connection_nothing_is_kept() -> None:
    """Its context, its view and its attachment go, and what was edited is kept first."""
    async with wired(small_room()) as parts:
        line = with_attachment(parts, ["kept"])
        in_use(line)
        view = parts.members.context_for(line).connection
        view.attachment.append("edited")
        seen = weakref.ref(view)
        del view
        parts.members.park(line, handling=False)
        assert seen() is None
        assert not parts.members.contexts
        assert not parts.members.edited
        assert kept(line) == parts.members.context_for(line).connection.attachment == ["kept", "edited"]
        parts.members.park(parts.line(), handling=False)


async def test_a_view_that_somebody_holds_is_found_again() -> None:
    """By whatever way, so that there are never two, and each edit through it is kept."""
    async with wired(small_room()) as parts:
        line = with_attachment(parts, [1])
        in_use(line)
        view = parts.members.connection(line)
        parts.members.settle()
        parts.members.park(line, handling=False)
        line.roster.active = None
        assert parts.members.connection(line) is view
        assert [*parts.live.connections] == [view]
        attachment = view.attachment
        parts.members.settle()
        attachment.append(2)
        await parts.members.settle_all()
        assert kept(line) == [1, 2]
        assert parts.members.context_for(line).connection is view
        parts.members.park(line, handling=False)
        context = parts.members.forget(line)
        assert context is not None
        assert context.connection is view
        assert parts.members.connection(line) is not view
        held = parts.members.connection(line)
        parts.members.clear()
        with pytest.raises(StaleContext):
            held.attachment = []


async def test_what_may_be_edited_still_is_not_parked() -> None:
    """The running handler settles it; a task may hold the attachment alone, and edit it later."""
    async with wired(small_room()) as parts:
        line, plain = with_attachment(parts, []), with_attachment(parts, "unchanging")
        attachment = parts.members.connection(line).attachment
        in_use(line)
        in_use(plain)
        parts.members.context_for(line)
        assert parts.members.context_for(plain).connection.attachment == "unchanging"
        attachment.append(1)
        parts.members.park(line, handling=True)
        parts.members.settle()
        assert kept(line) == [1]
        done = trio.Event()
        parts.background.start(done.wait, (), None, keep_awake=False)
        for one in (line, plain):
            parts.members.park(one, handling=False)
        assert line.id in parts.members.contexts
        assert plain.id not in parts.members.contexts
        attachment.append(2)
        await parts.members.settle_all()
        assert kept(line) == [1, 2]
        done.set()
        await trio.testing.wait_all_tasks_blocked()
        parts.members.park(line, handling=False)
        assert not parts.members.contexts


async def test_what_a_task_has_edited_is_kept_when_the_connection_is_parked() -> None:
    """Though nobody has settled it since, as it was settled before; also while a handler runs."""
    for handling in (False, True):
        async with wired(small_room()) as parts:
            line, done = with_attachment(parts, []), trio.Event()
            parts.background.start(done.wait, (), None, keep_awake=False)
            attachment = parts.members.context_for(line).connection.attachment
            parts.members.settle()
            attachment.append(1)
            done.set()
            await trio.testing.wait_all_tasks_blocked()
            parts.members.park(line, handling=handling)
            parts.members.settle()
            assert kept(line) == [1]


async def test_a_task_may_edit_what_is_parked() -> None:
    """Whatever a handler settles meanwhile, and though the task holds the attachment alone."""
    async with wired(small_room()) as parts:
        line, done = with_attachment(parts, []), trio.Event()
        view = parts.members.connection(line)
        parts.background.start(done.wait, (), None, keep_awake=False)
        parts.members.park(line, handling=False)
        attachment = view.attachment
        del view
        parts.members.settle()
        attachment.append(1)
        await parts.members.settle_all()
        assert kept(line) == [1]
        done.set()


async def test_whoever_goes_through_all_connections_keeps_none_that_is_hibernated() -> None:
    """Nor does it wake one: each is made anew, with what was edited."""
    async with wired(small_room()) as parts:
        lines = [with_attachment(parts, [number]) for number in range(3)]
        in_use(lines[0])
        for connection in parts.live.connections:
            connection.attachment.append("seen")
        del connection
        assert len(parts.members.edited) == 3
        parts.members.settle()
        assert {*parts.members.contexts} == {lines[0].id}
        assert not parts.members._held
        assert [connection.attachment[1:] for connection in parts.live.connections] == [["seen"]] * 3


room: Room[None] = Room("room", idle_timeout=math.inf, connection_idle_timeout=10)
HELD: list[Context[None]] = []


@room.on("join")
async def join(ctx: Context[None], data: list[str]) -> int:
    """Say who one is, and how many messages one has sent."""
    attachment = ctx.connection.attachment
    attachment.extend(data)
    if data == ["hold"]:
        HELD.append(ctx)
    return len(attachment)


@room.on("same")
async def same(ctx: Context[None]) -> bool:
    """Whether the view is the one that was held."""
    return ctx.connection is HELD[0].connection and next(iter(ctx.room.connections)) is ctx.connection


async def test_an_awake_room_keeps_nothing_of_who_is_quiet(autojump_clock: MockClock) -> None:
    """A connection is gone from its memory after the idle timeout, and goes on where it was."""
    async with open_rooms([room]) as rooms, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect(rooms, "room/x", attachment=[number]))
            for number in range(3)
        ]
        for client in clients:
            assert await client.ask("join", ["once"]) == 2
        actor = rooms._supervisor.actor("room/x")
        assert actor is not None
        assert len(actor.members.contexts) == 3
        await clients[0].ask("join", ["hold"])
        await trio.sleep(9)
        assert await clients[1].ask("join", ["twice"]) == 3
        await trio.sleep(9)
        assert len(actor.members.contexts) == 1
        await trio.sleep(9)
        assert not actor.members.contexts
        assert await clients[2].ask("join", ["twice"]) == 3
        assert await clients[0].ask("same")
        assert await clients[0].ask("join", ["last"]) == 4
        HELD.clear()


async def _edit_slowly(ctx: Context[None]) -> None:
    attachments = [connection.attachment for connection in ctx.room.connections]
    await trio.sleep(3)
    for attachment in attachments:
        attachment.append("parted")


async def test_what_a_hook_edits_is_kept_though_the_connection_hibernates(autojump_clock: MockClock) -> None:
    """It may hold the attachment alone, as a handler may."""
    parting: Room[None] = Room("room", connection_idle_timeout=1)
    parting.on("join")(join)
    parting.on_hibernate(_edit_slowly)
    async with open_rooms([parting]) as rooms, connect(rooms, "room/x", attachment=[]) as client:
        assert await client.ask("join", []) == 0
        assert await rooms.get("room", "x").hibernate()
        assert await client.ask("join", []) == 1
