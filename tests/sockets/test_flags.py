from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.raw import BINARY as BINARY_FRAME
from tests.raw import CONTINUATION, PING, TEXT, close_frame, frame
from tests.sockets.bench import Bench, bench, ready, soon
from trio_rooms._sockets import flags as module
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.flags import (
    BINARY,
    CLOSING,
    GONE,
    PAUSED,
    RELEASED,
    REPLAYING,
    RULES,
    SESSION,
    UNGREETED,
    UNREPORTED,
    UNWELCOMED,
    opening_flags,
    subprotocol_of,
)
from trio_rooms._sockets.links import SocketLink
from trio_rooms._sockets.roster import Disconnected
from trio_rooms._wire.handshake import MOST_SUBPROTOCOLS

NAMES = {getattr(module, name): name for name in module.__all__ if isinstance(getattr(module, name), int)}
SUBPROTOCOLS = tuple(f"v{number}" for number in range(MOST_SUBPROTOCOLS))
STEPS = 60
BACKLOG = 50_000


def named(flags: int) -> str:
    """Flags, for people."""
    return " ".join(name for flag, name in NAMES.items() if flags & flag) or "none"


def test_each_flag_has_a_bit_and_a_rule() -> None:
    """No two share a bit, and a rule names only flags that there are."""
    assert set(RULES) == set(NAMES)
    assert sum(RULES).bit_count() == len(RULES)
    for flag, rule in RULES.items():
        assert not (rule.needs | rule.excludes) & ~sum(RULES)
        assert not (rule.needs | rule.excludes) & flag


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("chosen", [None, *SUBPROTOCOLS])
def test_the_flags_have_the_subprotocol(chosen: str | None, binary: bool) -> None:
    """Beside all flags, and a parked record's are an integer that Python keeps anyway."""
    flags = opening_flags(SUBPROTOCOLS, chosen, binary=binary)
    assert flags & sum(RULES) == (BINARY if binary else 0)
    assert flags | PAUSED | UNGREETED <= 256
    assert subprotocol_of(flags | sum(RULES), SUBPROTOCOLS) == chosen
    assert subprotocol_of(flags & ~sum(RULES), SUBPROTOCOLS) == chosen


@attrs.define(eq=False)
class Life:
    """Sockets of two rooms to which anything happens, one of which greets; all that ever were are kept."""

    made: Bench
    clock: MockClock
    chance: random.Random
    trace: list[str]
    """What has happened, for people."""
    links: list[SocketLink] = attrs.field(factory=list)
    chosen: list[str | None] = attrs.field(factory=list)
    """The subprotocol of each."""
    clients: list[socket.socket] = attrs.field(factory=list)
    seen: int = 0
    at_the_stop: list[SocketLink] = attrs.field(factory=list)
    """Those that were there still: what is cut off then is announced to nobody."""

    # What can happen.

    def connect(self) -> None:
        """A client comes."""
        greets = self.chance.random() < 0.5
        key = "greeting/x" if greets else "room/x"
        chosen = self.chance.choice((None, *SUBPROTOCOLS))
        flags = opening_flags(SUBPROTOCOLS, chosen, binary=self.chance.random() < 0.5)
        self.chosen.append(chosen)
        client, link = self.made.client(key, flags, greets=greets, buffer=4096)
        self.clients.append(client)
        self.links.append(link)
        if self.chance.random() < 0.5:
            link.session = link.id
            link.flags |= SESSION | UNWELCOMED

    def _say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.chance.choice(self.clients).send(data)

    def message(self) -> None:
        """A client sends messages."""
        opcode = self.chance.choice((TEXT, BINARY_FRAME))
        self._say(frame(opcode, b"x" * self.chance.choice((0, 10, 3000))) * self.chance.randrange(1, 4))

    def part_of_a_message(self) -> None:
        """A client begins or goes on with a message in pieces, right or wrong."""
        self._say(frame(self.chance.choice((TEXT, CONTINUATION)), b"x", final=self.chance.random() < 0.3))

    def ping(self) -> None:
        """A client pings."""
        self._say(frame(PING, b"x" * 100) * self.chance.randrange(1, 100))

    def is_pinged(self) -> None:
        """Its turn has come to be asked for a sign of life, soon after the last time."""
        link = self._link()
        if not link.flags & RELEASED:
            self.made.hub.keepalive.ping(link)

    def client_closes(self) -> None:
        """A client begins or answers a closing handshake, and may go on talking."""
        self._say(
            close_frame(self.chance.choice((1000, 4000)))
            + self.chance.choice((b"", frame(TEXT, b"still here")))
        )

    def violation(self) -> None:
        """A client breaks the protocol."""
        self._say(frame(TEXT, b"x", masked=False))

    def client_vanishes(self) -> None:
        """A client is gone without a word."""
        self.chance.choice(self.clients).close()

    def client_reads(self) -> None:
        """A client reads all that there is."""
        with contextlib.suppress(OSError):
            ready(self.chance.choice(self.clients))

    def room_closes(self) -> None:
        """A room closes a connection, and wants to hear of the end or not."""
        self.made.hub.close(self._link(), 4001, "", report=self.chance.random() < 0.5)

    def room_is_no_more(self) -> None:
        """A room is destroyed, or given up, also while a connection that it closed is not gone yet."""
        if self.chance.random() < 0.1:
            self.made.hub.close_room(self._link().roster, 1000, "", ended=self.chance.random() < 0.5)

    def session_is_resumed(self) -> None:
        """A connection is sent what its session was away for, which may take a while."""
        link = self._link()
        if link.flags & SESSION and not link.flags & (CLOSING | GONE | REPLAYING):
            self.made.hub.hold(link).feed(frame(TEXT, b"missed"))
            link.flags |= REPLAYING

    def session_has_caught_up(self) -> None:
        """It has all of it."""
        link = self._link()
        link.flags &= ~UNWELCOMED
        self.made.hub.let_go(link)

    def room_greets(self) -> None:
        """An on_connect begins."""
        link = self._link()
        link.roster.greeted(link)

    def room_speaks(self) -> None:
        """Something is sent to one, which may not read it."""
        self.made.hub.send(self._link(), PlainMessage("x" * self.chance.choice((5, 10_000, BACKLOG + 1))))

    def room_speaks_to_all(self) -> None:
        """Something is sent to all of a room."""
        text = "x" * self.chance.choice((5, 10_000))
        self.made.hub.broadcast(self._link().roster, PlainMessage(text))

    def room_is_slow(self) -> None:
        """From now on mail is too much for the rooms."""
        self.made.goes_on = False

    def room_has_caught_up(self) -> None:
        """From now on it is not."""
        self.made.goes_on = True
        for roster in [*self.made.hub.rosters.values()]:
            roster.resume_reading()

    def time_passes(self) -> None:
        """Closing handshakes may be overdue."""
        self.clock.jump(2)

    def _link(self) -> SocketLink:
        return self.chance.choice(self.links)

    # What is true of it.

    def check(self) -> None:
        """Each record obeys the rules, and is where its flags say that it is."""
        hub = self.made.hub
        for link, chosen in zip(self.links, self.chosen, strict=True):
            flags = link.flags
            self.seen |= flags
            assert subprotocol_of(flags, SUBPROTOCOLS) == chosen
            for flag, rule in RULES.items():
                if flags & flag:
                    assert not flags & rule.excludes, named(flags)
                    assert not rule.needs or flags & rule.needs, named(flags)
            assert (link.id in link.roster.links) is not bool(flags & (CLOSING | GONE)), named(flags)
            if not flags & RELEASED:
                assert hub._sockets[link.fd] is link, named(flags)
            else:
                assert link not in hub._sockets
        rosters = {link.roster for link in self.links}
        for roster in rosters:
            ungreeted = sum(link.flags & UNGREETED != 0 for link in roster.links.values())
            assert roster.ungreeted == ungreeted
        inside = sum(len(roster.links) for roster in rosters)
        assert hub.statistics().sockets == inside
        assert hub.statistics().closing == sum(not link.flags & RELEASED for link in self.links) - inside

    async def step(self, what: Callable[[], None]) -> None:
        """Let one thing happen, and what comes of it."""
        self.trace.append(what.__name__)
        what()
        self.check()
        for _ in range(self.chance.randrange(4)):
            await trio.lowlevel.checkpoint()
            self.check()

    async def run(self) -> None:
        """Live, and stop as the rooms do."""
        events = [
            self.connect, self.message, self.message, self.part_of_a_message, self.ping, self.client_closes,
            self.violation, self.client_vanishes, self.client_reads, self.room_closes, self.room_is_no_more,
            self.room_greets, self.room_speaks, self.room_speaks, self.room_speaks_to_all, self.room_is_slow,
            self.room_has_caught_up, self.time_passes, self.session_is_resumed, self.session_has_caught_up,
            self.is_pinged,
        ]  # fmt: skip
        for _ in range(3):
            await self.step(self.connect)
        for _ in range(self.chance.randrange(STEPS)):
            await self.step(self.chance.choice(events))
        await self.step(self.made.hub.stop_reading)
        self.at_the_stop = [link for link in self.links if not link.flags & RELEASED]
        for _ in range(5):
            await self.step(self.chance.choice((self.message, self.client_closes, self.room_speaks)))
        if self.chance.random() < 0.2:
            return  # What is left is cut off by the end of the hub.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.made.hub.close_all, 1001, "")
            for _ in range(10):
                await self.step(self.chance.choice((self.client_reads, self.client_closes, self.message)))
            # What is still open is cut off; the deadlines of what closed late come after that.
            for _ in range(15):
                self.clock.jump(1)
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
        self.check()

    def check_the_end(self) -> None:
        """All are gone, and each was announced once, but those that were not to be."""
        assert all(link.flags & RELEASED for link in self.links)
        ended = [mail.link for _, mail in self.made.mail if isinstance(mail, Disconnected)]
        assert len(ended) == len(set(ended))
        assert not self.made.hub.closing._leaving
        for link in self.links:
            assert link in ended or link.flags & UNREPORTED or link in self.at_the_stop, named(link.flags)


async def test_every_record_obeys_the_rules_whatever_happens(mock_clock: MockClock) -> None:
    """After each step of a life of sockets, and each turn of the loop; all flags come up in it."""
    seen = 0
    for seed in range(200):
        trace: list[str] = []
        try:
            async with bench(backlog=BACKLOG, patience=1e6) as made:
                life = Life(made, mock_clock, random.Random(seed), trace)
                await life.run()
            life.check()
            life.check_the_end()
        except BaseException:
            print(f"seed {seed}: {', '.join(trace)}")
            raise
        seen |= life.seen
    assert named(seen) == named(sum(RULES))


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("end", ["answered", "vanished", "overdue"])
async def test_the_end_of_a_connection_that_its_room_closed_is_told_or_not(
    end: str, report: bool, mock_clock: MockClock
) -> None:
    """As the room wished, however the connection ends then."""
    async with bench() as made:
        client, link = made.client()
        made.hub.close(link, 4001, "", report=report)
        if end == "answered":
            client.send(close_frame(4001))
        elif end == "vanished":
            client.close()
        else:
            for _ in range(6):
                mock_clock.jump(1)
                await wait_all_tasks_blocked()
        await soon(lambda: link.flags & RELEASED)
        told = [mail for _, mail in made.mail if isinstance(mail, Disconnected)]
        assert len(told) == report
        assert all(mail.clean is (end == "answered") for mail in told)
