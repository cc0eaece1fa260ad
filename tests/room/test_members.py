from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.room.parts import Parts, wired
from tests.sockets.bench import Line
from trio_rooms import AttachmentError, Room, StaleContext
from trio_rooms._state.codec import decode_value, encode_value

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
