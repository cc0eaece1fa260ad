"""Rooms that cannot keep up: whose mail comes next, who is held back, and how much is kept."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raw import PING, PONG, TEXT, frame, serving, soon
from tests.sockets.bench import Line
from trio_rooms import Context, Room
from trio_rooms._room.mail import Mail, SaveFailed, link_of
from trio_rooms._room.mailbox import Mailbox
from trio_rooms._room.turns import MOST, MOST_BYTES
from trio_rooms._sockets.flags import PAUSED
from trio_rooms._sockets.roster import Connected, Disconnected, Roster


class Speaker(Line):
    """A connection that a room hears, and that can be held back."""

    def pause_reading(self) -> None:
        """Note it."""
        self.flags |= PAUSED

    def resume_reading(self) -> None:
        """Note it."""
        self.flags &= ~PAUSED

    @property
    def held(self) -> bool:
        """Whether it is not read."""
        return bool(self.flags & PAUSED)


@attrs.define(eq=False)
class Slow:
    """The mailbox of a room with a handler that waits, and some who speak to it."""

    box: Mailbox = attrs.field(factory=Mailbox)
    roster: Roster = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.roster = Roster(None, "a/b", None, greets=False)  # type: ignore[arg-type]
        self.box.current = SaveFailed(ValueError("something slow"))

    def speakers(self, count: int) -> list[Speaker]:
        """So many who speak."""
        return [Speaker(number, self.roster, None, 0) for number in range(1, count + 1)]

    def say(self, link: Speaker, message: str | bytes, *, large: bool = False) -> None:
        """What the hub does with a message."""
        if large:
            self.box.weigh(sys.getsizeof(message))
        if not self.box.post((link, message)) and not link.held:
            self.roster.paused = (self.roster.paused or {}) | {link: None}
            link.pause_reading()

    def take(self) -> Mail | None:
        """What an actor does for its next mail."""
        if not self.box.mail and not self.box.refill():
            self.roster.resume_reading()
            return None
        return self.box.mail.popleft()


def test_while_a_room_keeps_up_its_mail_is_in_the_order_in_which_it_came() -> None:
    """Whoever sends it; none is held back for less than a thousand."""
    slow = Slow()
    slow.box.current = None
    one, other = slow.speakers(2)
    for number in range(MOST - 1):
        slow.say(one if number % 3 else other, str(number))
    taken = [slow.take() for _ in range(MOST - 1)]
    assert [mail[1] for mail in taken if isinstance(mail, tuple)] == [
        str(number) for number in range(MOST - 1)
    ]
    assert slow.take() is None
    assert not one.held
    assert not other.held


def test_only_who_floods_a_slow_room_is_held_back() -> None:
    """The others are read, their mail comes next, and the flooder is read again before its line is empty."""
    slow = Slow()
    flooder, other = slow.speakers(2)
    for number in range(2 * MOST):
        slow.say(flooder, str(number))
        if flooder.held:
            break
    assert flooder.held
    assert slow.box.waiting <= MOST + 1
    slow.take()
    slow.say(other, "and I?")
    assert not other.held
    assert [slow.take() for _ in range(2)].count((other, "and I?")) == 1
    while flooder.held:
        slow.take()
    assert MOST / 8 < slow.box.waiting < MOST
    count = 0
    while slow.take() is not None:
        count += 1
    assert count > MOST / 8
    # And then the room is like any other again.
    for number in range(20):
        slow.say(flooder, str(number))
    slow.say(other, "last")
    taken = [slow.take() for _ in range(21)]
    assert taken[-1] == (other, "last")


@pytest.mark.parametrize("message", [b"x" * 100_000, "x" * 100_000, "\U0001f600" + "x" * 100_000])
def test_large_messages_are_counted_as_what_they_take(message: str | bytes) -> None:
    """A text takes up to four bytes for each character."""
    slow = Slow()
    slow.box.current = None
    (flooder,) = slow.speakers(1)
    size = sys.getsizeof(message)
    while not flooder.held:
        slow.say(flooder, message, large=True)
    # What comes next is not in line any more.
    assert MOST_BYTES - size < slow.box.waiting * size <= MOST_BYTES + 2 * size
    assert not slow.box.full


async def test_a_room_that_is_just_woken_finds_its_mail_whatever_is_weighed(nursery: trio.Nursery) -> None:
    """Where turns begin between the wakeup and the look, too."""
    slow = Slow()
    slow.box.current = None
    one, other = slow.speakers(2)
    taken: list[Mail | None] = []

    async def reader() -> None:
        await slow.box.wait(trio.lowlevel.current_task())
        taken.extend(slow.box.mail)

    nursery.start_soon(reader)
    await soon(lambda: slow.box.waiter is not None)
    for number in range(3):
        slow.say(one, str(number))
    slow.say(other, "I")
    slow.box.weigh(MOST_BYTES + 1)
    await soon(lambda: slow.box.waiter is None)
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [(one, "0"), (other, "I")]
    assert slow.box.waiting == 4


def test_whose_only_message_comes_next_is_not_held_back() -> None:
    """However large it is, and though a room that others keep busy never catches up."""
    slow = Slow()
    flooder, one = slow.speakers(2)
    for number in range(100):
        slow.say(flooder, str(number))
    while slow.box.mail:  # The last of a turn is handled.
        slow.take()
    large = b"x" * MOST_BYTES
    slow.say(one, large, large=True)
    assert (one, large) in slow.box.mail
    assert not one.held


def test_a_room_that_keeps_up_with_large_messages_holds_nobody_back() -> None:
    """However many there were, they are not there any more."""
    slow = Slow()
    slow.box.current = None
    (one,) = slow.speakers(1)
    for _ in range(100):
        slow.say(one, b"x" * 1_000_000, large=True)
        assert not one.held
        assert slow.take() is not None


def test_a_room_is_full_whose_clients_come_and_go() -> None:
    """None of them has more than a little in line, and all of them together too much."""
    slow = Slow()
    for speaker in slow.speakers(5 * MOST):
        slow.say(speaker, "x")
        slow.box.post(Disconnected(speaker, 1006, "", clean=False))
        if slow.box.full:
            break
    assert 4 * MOST <= slow.box.waiting <= 5 * MOST
    while slow.box.full:
        slow.take()
    assert len(slow.box.drain()) > 3 * MOST
    assert not slow.box.waiting


def test_a_room_is_not_full_however_many_are_there_and_flood_it() -> None:
    """They are held back, and keep nobody out; what they leave when they go counts."""
    slow = Slow()
    flooders = slow.speakers(20)
    for flooder in flooders:
        for number in range(2 * MOST):  # What one read brings is handed on though it is held back meanwhile.
            slow.say(flooder, str(number))
    assert all(flooder.held for flooder in flooders)
    assert slow.box.waiting == 40 * MOST
    assert not slow.box.full
    for flooder in flooders[:3]:
        slow.box.post(Disconnected(flooder, 1006, "", clean=False))
    assert slow.box.full
    while slow.box.full:
        slow.take()
    assert slow.box.waiting > 20 * MOST
    assert len(slow.box.drain()) > 20 * MOST
    assert not slow.box.full


events = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 4), st.integers(1, 40)),
        st.tuples(st.just("large"), st.integers(0, 4), st.integers(1, 6)),
        st.tuples(st.just("come"), st.integers(0, 4)),
        st.just(("program",)),
        st.tuples(st.just("take"), st.integers(1, 80)),
        st.just(("drain",)),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(events)
def test_in_any_order_each_connection_has_its_own(steps: list[Any]) -> None:
    """Nothing is lost or doubled, and what one sends stays in order."""
    slow = Slow()
    speakers = slow.speakers(5)
    posted: dict[Speaker | None, deque[Mail]] = {speaker: deque() for speaker in (*speakers, None)}

    def check(mail: Mail) -> None:
        link = link_of(mail)
        assert link is None or isinstance(link, Speaker)
        assert posted[link].popleft() is mail

    for step in steps:
        match step:
            case ("say", who, count):
                for _ in range(count):
                    mail: Mail = (speakers[who], "x")
                    posted[speakers[who]].append(mail)
                    slow.box.post(mail)
            case ("large", who, count):
                for _ in range(count):
                    large = (speakers[who], "x" * (1 << 20))
                    posted[speakers[who]].append(large)
                    slow.box.weigh(sys.getsizeof(large[1]))
                    slow.box.post(large)
            case ("come", who):
                event = Connected(speakers[who])
                posted[speakers[who]].append(event)
                slow.box.post(event)
            case ("program",):
                wish = SaveFailed(ValueError())
                posted[None].append(wish)
                slow.box.post(wish)
            case ("take", count):
                for _ in range(count):
                    taken = slow.take()
                    if taken is None:
                        assert not any(posted.values())
                        break
                    check(taken)
            case ("drain",):
                for mail in slow.box.drain():
                    check(mail)
                assert not any(posted.values())
        assert slow.box.waiting == sum(map(len, posted.values()))
    while (taken := slow.take()) is not None:
        check(taken)
    assert not any(posted.values())
    assert not any(speaker.held for speaker in speakers)


GATE = trio.Semaphore(0)
HEARD: list[str] = []
slow_room: Room[None] = Room("slow", auto_respond={"there?": "here"})


@slow_room.on_message
async def on_message(ctx: Context[None], message: str | bytes) -> None:
    """Wait until the test lets it go on."""
    await GATE.acquire()
    assert isinstance(message, str)
    HEARD.append(message)
    ctx.connection.send(message)


async def test_who_floods_a_slow_room_keeps_nobody_waiting() -> None:
    """The others are answered without the room as ever, and their messages come up in their turn."""
    HEARD.clear()
    async with (
        serving(slow_room) as served,
        served.client("/slow/x") as flooder,
        served.client("/slow/x") as other,
        trio.open_nursery() as nursery,
    ):
        handle = served.rooms.get("slow", "x")
        await flooder.send(frame(TEXT, b"flood") * 3000)
        nursery.start_soon(flooder.stream.send_all, frame(TEXT, b"flood") * 200_000)
        await soon(lambda: handle.info().mailbox > 900)
        await other.send(frame(PING, b"?") + frame(TEXT, b"there?"))
        assert await other.frame() == (PONG, b"?")
        assert await other.frame() == (TEXT, b"here")
        received = served.rooms.statistics().hub.received
        await other.send(frame(TEXT, b"mine") * 20)
        await soon(lambda: served.rooms.statistics().hub.received >= received + 20)
        for _ in range(100):
            GATE.release()
        for _ in range(20):
            assert await other.frame() == (TEXT, b"mine")
        await soon(lambda: len(HEARD) == 100)
        assert HEARD.count("mine") == 20
        assert handle.info().mailbox < 4000
        nursery.cancel_scope.cancel()
        for _ in range(300_000):
            GATE.release()
