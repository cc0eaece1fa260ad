"""Messages under way: how much of them there may be, whose is read on, and who waits too long for one."""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.raw import CLOSE, TEXT, close_frame, frame
from tests.sockets.bench import Line, bench, ready
from trio_rooms._sockets import intake
from trio_rooms._sockets.flags import GONE, PAUSED
from trio_rooms._sockets.intake import SMALL, Intake
from trio_rooms._sockets.roster import Disconnected, Link, Roster

LARGEST = 1 << 20
MOST = 64 << 20


class Sender(Line):
    """A connection that can be held back."""

    def pause_reading(self) -> None:
        """Note it."""
        self.flags |= PAUSED

    def resume_reading(self) -> None:
        """Note it."""
        self.flags &= ~PAUSED


def senders(count: int) -> list[Sender]:
    """So many who send."""
    roster = Roster(None, "a/b", None, greets=False)  # type: ignore[arg-type]
    return [Sender(number, roster, None, 0) for number in range(1, count + 1)]


class Counted:
    """An intake whose time is said by hand."""

    def __init__(self) -> None:
        self.due: list[object] = []
        self.given_up: list[Link] = []
        self.intake = Intake(LARGEST, lambda _, call: self.due.append(call), self._give_up)

    def _give_up(self, link: Link) -> None:
        self.given_up.append(link)
        link.flags |= GONE
        self.intake.gone(link)

    def look(self) -> None:
        """Its time has come."""
        call = self.due.pop()
        assert callable(call)
        call()


async def test_however_many_send_large_messages_all_become_whole() -> None:
    """In any order of what comes; and what is under way is never more than there is room for."""
    counted = Counted()
    rng = random.Random(5)
    sending = dict.fromkeys(senders(500), 0)
    most = 0
    whole = 0
    while sending:
        link = rng.choice([link for link in sending if not link.flags & PAUSED])
        sending[link] = min(sending[link] + 65536, LARGEST)
        if sending[link] == LARGEST:
            del sending[link]
            counted.intake.gone(link)
            whole += 1
        elif sending[link] > SMALL:
            counted.intake.grown(link, sending[link], new=False)
        most = max(most, counted.intake.size)
    assert whole == 500
    assert (len(counted.intake), counted.intake.size) == (0, 0)
    assert MOST / 2 < most <= MOST + 500 * 65536


async def test_who_sends_half_a_message_does_not_keep_the_others_waiting(mock_clock: MockClock) -> None:
    """It has ten seconds while somebody waits, and as long as it likes while nobody does."""
    counted = Counted()
    links = senders(600)
    for link in links:
        counted.intake.grown(link, 100_000, new=False)
    held = [link for link in links if link.flags & PAUSED]
    assert 200 < len(held) < 300
    assert len(counted.due) == 1
    mock_clock.jump(10)
    counted.look()
    assert set(counted.given_up) == set(links) - set(held)
    assert not any(link.flags & PAUSED for link in held)
    for _ in range(10):
        for link in held:
            counted.intake.gone(link)
    assert (len(counted.intake), counted.intake.size) == (0, 0)


async def test_a_message_that_follows_another_is_a_new_one(mock_clock: MockClock) -> None:
    """Whoever sends message after message is not who has been at it longest."""
    counted = Counted()
    busy, *others = senders(600)
    counted.intake.grown(busy, 100_000, new=False)
    mock_clock.jump(9)
    counted.intake.grown(busy, 100_000, new=True)
    for link in others:
        counted.intake.grown(link, 100_000, new=False)
    mock_clock.jump(1)
    counted.look()
    assert counted.given_up == []


async def test_a_room_that_holds_a_connection_back_still_does() -> None:
    """There is room for its message again, but not for it in its room."""
    counted = Counted()
    links = senders(600)
    for link in links:
        counted.intake.grown(link, 100_000, new=False)
    *_, last = links
    assert last.flags & PAUSED
    last.roster.paused = {last: None}
    for link in links[:-1]:
        counted.intake.gone(link)
    assert last.flags & PAUSED
    last.roster.resume_reading()
    assert not last.flags & PAUSED


@pytest.mark.parametrize("silent", [0, 40])
async def test_half_messages_of_many_take_a_bounded_part_of_memory(
    silent: int, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are sent to their end arrive, and who stops in the middle is closed when others wait."""
    monkeypatch.setattr(intake, "_MOST", 4 << 20)
    async with bench(patience=1e6) as made, trio.open_nursery() as nursery:
        half = [made.client(f"half/{number}")[0] for number in range(silent)]
        for client in half:
            client.send(frame(TEXT, b"x" * 50_000)[:40_000])
        whole = [made.client(f"whole/{number}")[0] for number in range(80)]
        for client in whole:
            client.setblocking(True)
            nursery.start_soon(
                partial(trio.to_thread.run_sync, client.sendall, frame(TEXT, b"x" * (1 << 19)))
            )
        most = arrived = quiet = 0
        while arrived < len(whole):
            await trio.lowlevel.checkpoint()
            links = [link for roster in made.hub.rosters.values() for link in roster.links.values()]
            most = max(most, sum(len(one.partial.payload) for one in links if one.partial is not None))
            arrived = sum(isinstance(mail, tuple) for _, mail in made.mail)
            quiet = 0 if made.hub.poller.poll() else quiet + 1
            if quiet > 1000 and len(links) > len(whole):
                mock_clock.jump(10)
        assert most <= (4 << 20) + len(whole) * 2 * SMALL + 2 * 65536
        left = [event for _, event in made.mail if isinstance(event, Disconnected)]
        assert [event.code for event in left] == [1013] * len(left)
        # For the last of them nobody may wait any more.
        assert silent / 2 <= len(left) <= silent
        assert [ready(client)[:1] for client in half].count(bytes((0x80 | CLOSE,))) == len(left)


@pytest.mark.parametrize("before", [False, True], ids=["begun as it closes", "begun before"])
async def test_a_message_of_who_is_closed_is_not_kept(before: bool, mock_clock: MockClock) -> None:
    """Its closing may take long, where it reads slowly, and nobody else waits for its message meanwhile."""
    async with bench(backlog=1 << 30, patience=1e6) as made:
        half = frame(TEXT, "\N{SNOWMAN}".encode() * (LARGEST // 3))[: 16 + 3 * 300_001 - 1]
        closed = []
        for number in range(100):
            client, link = made.client(f"closed/{number}")
            client.setblocking(True)
            link.send(bytes(1 << 20))  # More than it takes at once.
            if before:
                made.hub.data_received(link, half)
            made.hub.close(link, 4000, "")
            if not before:
                made.hub.data_received(link, half)
            closed.append((client, link))
        assert sum(link.partial.size for _, link in closed if link.partial is not None) < 100 * SMALL
        whole, _ = made.client("whole")
        whole.setblocking(True)
        await trio.to_thread.run_sync(whole.sendall, frame(TEXT, b"x" * LARGEST))
        with trio.fail_after(1e5):
            while not any(isinstance(mail, tuple) for _, mail in made.mail):
                await trio.lowlevel.checkpoint()
        # It is still read as what it is: its end, and the close frame behind it, are found.
        client, link = closed[0]
        rest = frame(TEXT, "\N{SNOWMAN}".encode() * (LARGEST // 3))[len(half) :]
        made.hub.data_received(link, rest + close_frame(4001, "mine"))
        assert [event.code for _, event in made.mail if isinstance(event, Disconnected)] == [4001]
