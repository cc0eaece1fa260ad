"""Which connections are active, at any moment, and which are hibernated."""

from __future__ import annotations

import socket
from typing import ClassVar

import attrs
import trio
from trio.testing import MockClock

from tests.raw import TEXT, frame
from tests.sockets.bench import Bench, Line, bench, ready, soon
from trio_rooms import Policy
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.flags import REPLAYING, UNGREETED
from trio_rooms._sockets.links import SocketLink
from trio_rooms._sockets.roster import Link, Roster, SocketEvent

IDLE = 10.0
WINDOW = 40.0
MOST = 3


LIMITS = Policy(connection_idle_timeout=IDLE, message_threshold=MOST, activity_window=WINDOW)


@attrs.define(eq=False)
class Box:
    """The mailbox of a room that is awake."""

    elsewhere: ClassVar[bool] = False
    busy: Link | None = None
    count: int = 0
    eager: ClassVar[None] = None

    def post(self, mail: SocketEvent) -> bool:
        """Count it."""
        self.count += 1
        return True

    def busy_with(self, link: Link) -> bool:
        """Not asked here."""
        raise NotImplementedError

    def weigh(self, size: int) -> None:
        """Nothing is large."""

    def has_mail_of(self, link: Link) -> bool:
        """Whether it is the one that is being handled."""
        return link is self.busy


class Scene:
    """A hub, and a room with one connection that does what it is told."""

    def __init__(self, made: Bench, clock: MockClock, *, awake: bool = False) -> None:
        self.hub, self.clock, self.made = made.hub, clock, made
        made.hub.activity.policy = lambda _: LIMITS
        self.parked: list[Link] = []
        made.hub.activity.on_hibernated = self.parked.append
        self.box = Box()
        self.roster = made.hub.roster("a/b", None, greets=False)
        if awake:
            self.roster.inbox = self.box
        self.client, self.link = made.client()

    def come(self) -> tuple[socket.socket, SocketLink]:
        """One more."""
        return self.made.client()

    async def say(self, count: int = 1) -> None:
        """The client sends something, so many times."""
        for _ in range(count):
            before = self.hub.statistics().received
            self.client.send(frame(TEXT, b"x"))
            await soon(lambda before=before: self.hub.statistics().received > before)  # type: ignore[misc]

    async def wait(self, seconds: float) -> None:
        """Time passes, and what is due is done."""
        self.clock.jump(seconds)
        for _ in range(50):
            await trio.lowlevel.checkpoint()

    def active(self) -> bool:
        """Whether the connection is."""
        return self.hub.activity.is_active(self.link)


async def test_a_connection_is_active_from_its_first_message_for_the_idle_timeout(
    mock_clock: MockClock,
) -> None:
    """One that only came to a room that sleeps is not; and it is exact at every moment."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock)
        assert not scene.active()
        await scene.say()
        assert scene.active()
        mock_clock.jump(IDLE - 0.01)
        assert scene.active()
        await scene.say()
        mock_clock.jump(IDLE - 0.01)
        assert scene.active()
        mock_clock.jump(0.02)
        assert not scene.active()  # Whether or not somebody has looked.
        await scene.wait(0)
        assert scene.roster.active is None
        assert scene.parked == []  # Nothing of it is in memory: its room sleeps.


async def test_who_comes_to_an_awake_room_is_active(mock_clock: MockClock) -> None:
    """And its room is told when it is not any more, once."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock, awake=True)
        assert scene.active()
        await scene.wait(IDLE - 1)
        _, later = scene.come()
        await scene.wait(2)
        assert scene.parked == [scene.link]
        assert not scene.active()
        assert made.hub.activity.is_active(later)
        await scene.wait(IDLE)
        assert scene.parked == [scene.link, later]
        assert scene.roster.active is None
        await scene.say()
        assert scene.active()


async def test_one_that_moves_many_messages_is_active(mock_clock: MockClock) -> None:
    """Until they are a window ago, whether it sent them or got them; not if they were no more than it may."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock)
        await scene.say(2)
        made.hub.send(scene.link, PlainMessage("x"))
        for _ in range(9):
            made.hub.broadcast(scene.roster, PlainMessage("to all"))  # It is not its own.
        await scene.wait(IDLE)
        assert not scene.active()
        await scene.say(2)
        for _ in range(18):
            made.hub.send(scene.link, PlainMessage("x"))
        await scene.wait(IDLE)
        assert scene.active()
        await scene.wait(WINDOW - IDLE - 10)
        assert scene.active()
        await scene.wait(IDLE + 10)
        assert not scene.active()
        assert scene.roster.active is None


async def test_one_that_goes_on_at_a_rate_is_active_for_as_long_as_it_does(mock_clock: MockClock) -> None:
    """Five a window are more than it may, and two are not, however long it goes on."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock)
        await scene.say(5)
        for _ in range(60):
            await scene.wait(WINDOW / 5)
            made.hub.send(scene.link, PlainMessage("x"))
        assert scene.active()
        for _ in range(8):
            await scene.wait(WINDOW / 2)
            made.hub.send(scene.link, PlainMessage("x"))
        assert not scene.active()


async def test_what_is_under_way_keeps_a_connection_active(mock_clock: MockClock) -> None:
    """A message that came in part, one that waits or is handled, output that has not gone, a replay."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock, awake=True)
        whole = frame(TEXT, b"x" * 100)
        scene.client.send(whole[:50])
        await scene.wait(2 * IDLE)
        assert scene.active()
        scene.client.send(whole[50:])
        await soon(lambda: scene.box.count == 2)
        scene.box.busy = scene.link
        await scene.wait(2 * IDLE)
        assert scene.active()
        scene.box.busy = None
        scene.link.flags |= REPLAYING
        await scene.wait(IDLE)
        assert scene.active()
        scene.link.flags &= ~REPLAYING
        large = PlainMessage(bytes(1 << 20))
        made.hub.broadcast(scene.roster, large)
        await scene.wait(IDLE)
        assert scene.active()
        assert scene.parked == []
        while scene.link.unfinished is not None:
            ready(scene.client)
            await trio.lowlevel.checkpoint()
        await scene.wait(IDLE)
        assert not scene.active()
        assert scene.parked == [scene.link]


async def test_one_that_is_sent_something_urgent_is_active(mock_clock: MockClock) -> None:
    """Also in a room that sleeps; one that has left its room is not."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock)
        made.hub.activity.use(scene.link)
        assert scene.active()
        made.hub.close(scene.link, 1000, "")
        made.hub.activity.use(scene.link)
        assert not scene.active()
        await scene.wait(IDLE)
        assert scene.roster.active is None


async def test_all_are_hibernated_when_their_room_falls_asleep(mock_clock: MockClock) -> None:
    """And nothing waits for their time any more."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock, awake=True)
        scene.come()
        before = len(made.deadlines)
        assert made.hub.activity.total == 2
        made.hub.activity.all_quiet(scene.roster)
        assert made.hub.activity.total == 0
        assert not scene.active()
        await scene.wait(IDLE)
        assert scene.parked == []
        assert len(made.deadlines) < before


async def test_a_room_that_is_forgotten_leaves_nothing(mock_clock: MockClock) -> None:
    """With its last connection goes what was known of their use."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock)
        await scene.say()
        scene.client.close()
        await soon(lambda: not made.hub.statistics().sockets)
        made.hub.forget(scene.roster)
        scene.roster.departed = None
        made.hub.forget(scene.roster)
        assert scene.roster.active is None
        assert not made.hub.activity._watches


async def test_active_ones_are_counted(mock_clock: MockClock) -> None:
    """Of a room or a channel, whether many or few of those are active; not one that was not greeted yet."""
    async with bench(patience=1e6) as made:
        scene = Scene(made, mock_clock)
        links = [scene.link, *(scene.come()[1] for _ in range(5))]
        count, use, roster = made.hub.activity.count, made.hub.activity.use, scene.roster
        assert count(roster.members(None), None) == 0
        assert count([], None) == 0
        for link in links[:3]:
            use(link)
        for link in links[2:4]:
            roster.join(link, "red")
        assert count(roster.members(None), None) == 3
        assert count(roster.members("red"), "red") == 1
        links[0].flags |= UNGREETED
        roster.ungreeted += 1
        assert count(roster.members(None), None) == 2
        mock_clock.jump(IDLE)
        assert count(roster.members(None), None) == 0


async def test_a_look_at_many_takes_few_at_a_time(mock_clock: MockClock) -> None:
    """A thousand that become quiet at as many times cost some looks, each at some of them."""
    async with bench(patience=1e6) as made:
        hub, roster = made.hub, Roster(made.hub, "a/b", None, greets=False)
        hub.activity.policy = lambda _: LIMITS
        lines = [Line(number + 1, roster, None, 0) for number in range(1000)]
        for line in lines:
            roster.links[line.id] = line
            hub.activity.use(line)
            mock_clock.jump(0.005)
        asked = 0
        roster.inbox = Box()
        parted: list[int] = []
        before = 0
        while roster.active:
            mock_clock.jump(0.01)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
                left = 1000 - len(roster.active or ())
                parted.append(left - before)
                before = left
            asked += 1
            assert asked < 2000
        assert max(parted) <= 256
        assert sum(1 for some in parted if some) < 40
