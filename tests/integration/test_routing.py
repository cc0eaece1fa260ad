"""What becomes of messages for users, over real sockets, and in how many writes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import pytest
import trio

from tests.raw import CLOSE, TEXT, Client, Served, close_frame, frame, request, serving, soon
from trio_rooms import Admitted, ConnectRequest, Context, DiskStore, MemoryStore, Refused, Room, Sent
from trio_rooms.stores import Store

pytestmark = pytest.mark.timeout(60)

TOTAL_RETRANS: Final = 100
DATA_SEGS_OUT: Final = 156
"""Where Linux says in its ``struct tcp_info`` how many segments with data a socket has sent, and how many
of all that it has sent were sent once more."""
A_LONG_TIME: Final = 86_400.0

Priority = Literal["high", "normal", "low"]
Sends = Callable[..., Sent]


# The rooms.


def room(
    name: str = "den", durability: Literal["snapshot", "commit"] = "snapshot", **options: Any
) -> Room[Any]:
    """A room that notes why it was woken, and sends for who asks it to."""
    made = Room(name, state=Woken, durability=durability, idle_timeout=A_LONG_TIME, **options)
    made.authenticate(let_in)
    made.on_create(note_creation)
    made.on_wake(note)
    made.on("hello")(nothing)
    made.on("tell")(tell)
    made.on("woken")(woken)
    return made


@attrs.define
class Woken:
    """Why a room was woken, each time."""

    causes: list[str] = attrs.field(factory=list)


async def let_in(request: ConnectRequest) -> Admitted:
    """Whoever says who it is."""
    if "user" not in request.query:
        raise Refused(401)
    return Admitted(user=request.query["user"])


async def note_creation(ctx: Context[Woken]) -> None:
    """Begin to note."""
    ctx.state.causes.append("created")


async def note(ctx: Context[Woken], report: Any) -> None:
    """Note why the room was woken."""
    ctx.state.causes.append(report.cause)


async def nothing(ctx: Context[Woken]) -> None:
    """Be spoken to."""


async def woken(ctx: Context[Woken]) -> list[str]:
    """Why the room was woken."""
    return ctx.state.causes


async def tell(ctx: Context[Woken], data: dict[str, Any]) -> dict[str, int]:
    """Send to a user, wherever she is or here alone, what comes with it."""
    here = data.pop("here", False)
    user, event = data.pop("user"), data.pop("event")
    who = ctx.room.user(user) if here else ctx.rooms.user(user)
    sent = await who.send(event, event, **data)
    return attrs.asdict(sent)


# The clients.


class Visitor(Client):
    """A client of bytes that speaks JSON, with or without a session, and counts what it was sent."""

    token = ""
    seq = 0
    asked = 0
    _server = -1

    @property
    def writes(self) -> int:
        """How often the server has written to this one, which is a segment each time, as nobody is slow."""
        assert isinstance(self.stream, trio.SocketStream)
        if self._server < 0:
            self._server = descriptor_of(self.stream.socket.getsockname())
        with socket.socket(fileno=os.dup(self._server)) as server:
            told = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (sent,), (again,) = (
            struct.unpack_from("I", told, DATA_SEGS_OUT),
            struct.unpack_from("I", told, TOTAL_RETRANS),
        )
        return int(sent - again)

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        message: dict[str, Any] = json.loads(payload)
        self.seq = message.get("seq", self.seq)
        return message

    async def events(self, count: int) -> list[str]:
        """The names of the next so many events."""
        return [(await self.hear())["event"] for _ in range(count)]

    async def say(self, **message: Any) -> None:
        """Send a message."""
        await self.send(frame(TEXT, json.dumps(message).encode()))

    async def speaks(self) -> list[str]:
        """Have the room handle a message; what came before the answer."""
        self.asked += 1
        await self.say(event="hello", id=self.asked)
        before = []
        while "ack" not in (message := await self.hear()):
            before.append(message["event"])
        return before

    async def acknowledge(self) -> None:
        """Have all that was received; what came before the server has read that."""
        await self.say(ack=self.seq)
        await self.send(frame(0x9))
        assert (await self.frame())[0] == 0xA

    async def leave(self) -> None:
        """Close for good."""
        await self.send(close_frame())
        while (await self.frame())[0] != CLOSE:
            pass


def descriptor_of(client: Any) -> int:
    """The descriptor of the server's socket, which is in this process, for a client with this address."""
    found = [int(one.name) for one in Path("/proc/self/fd").iterdir() if one.is_socket()]
    for descriptor in found:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if one.getpeername() == client:
                return descriptor
    raise AssertionError(f"nobody is connected to {client}")


@attrs.define
class Den:
    """A room that is served, and who comes into it."""

    served: Served
    nursery: trio.Nursery
    visitors: list[Visitor] = attrs.field(factory=list)

    @property
    def rooms(self) -> Any:
        return self.served.rooms

    @property
    def room(self) -> Any:
        """The room, as the program has it."""
        return self.rooms.get("den", "a")

    def user(self, name: str = "ana") -> Any:
        """A user, as the program has her."""
        return self.rooms.user(name)

    async def come(
        self,
        user: str = "ana",
        *,
        session: bool = True,
        resume: Visitor | None = None,
        path: str = "/den/a",
    ) -> Visitor:
        """Somebody comes in, and is there when this returns."""
        address = self.served.address
        visitor = Visitor(await trio.open_tcp_stream(address.host, address.port))
        self.visitors.append(visitor)
        query = f"{path}?user={user}"
        if resume is not None:
            query += f"&resume={resume.token}&seq={resume.seq}"
        headers = {"Sec-WebSocket-Protocol": "trio-rooms.v1.json"} if session else {}
        await visitor.send(request(query, **headers))
        assert (await visitor.answer(body=False))[0] == 101
        if session:
            welcome = (await visitor.hear())["data"]
            visitor.token, visitor.seq = welcome["resume"], welcome["seq"]
            assert welcome["resumed"] is (resume is not None)
            if resume is not None:
                visitor.asked = resume.asked
        return visitor

    async def drop(self, visitor: Visitor) -> None:
        """Somebody breaks off, and the server has noticed when this returns."""
        before = self.room.info().connections
        await trio.aclose_forcefully(visitor.stream)
        await soon(lambda: self.room.info().connections < before)

    async def sleep(self) -> None:
        """The room falls asleep, and with it all who are in it hibernate."""
        assert await self.room.hibernate()

    async def hibernate_in_an_awake_room(self) -> None:
        """All who are in the room hibernate, and it is awake."""
        await self.sleep()
        await self.room.ask("hello")

    async def woken(self) -> list[str]:
        """Why the room was woken so far; wakes it."""
        causes: list[str] = await self.room.ask("woken")
        return causes


@contextlib.asynccontextmanager
async def opened(*rooms: Room[Any], store: Store | None = None, awake: bool = True) -> AsyncIterator[Den]:
    """The room den, served, and others; awake, so that who comes in is active."""
    rooms = rooms or (room(),)
    async with (
        serving(*rooms, store=store or MemoryStore(), close_timeout=0.1) as served,
        trio.open_nursery() as nursery,
    ):
        den = Den(served, nursery)
        for one in rooms if awake else ():
            await den.rooms.get(one.name, "a").ask("hello")
        try:
            yield den
        finally:
            for visitor in den.visitors:
                await trio.aclose_forcefully(visitor.stream)


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each of the stores."""
    return MemoryStore() if request.param == "memory" else DiskStore(tmp_path / "data")


# The table: who it is for, the priority, and what becomes of it.

Place = Literal["active", "hibernated", "asleep"]
TABLE: Final[dict[tuple[Place, Priority], Sent]] = {
    ("active", "high"): Sent(active=1),
    ("active", "normal"): Sent(active=1),
    ("active", "low"): Sent(active=1),
    ("hibernated", "high"): Sent(parked=1),
    ("hibernated", "normal"): Sent(parked=1),
    ("hibernated", "low"): Sent(queued=1),
    ("asleep", "high"): Sent(parked=1),
    ("asleep", "normal"): Sent(parked=1),
    ("asleep", "low"): Sent(queued=1),
}


@pytest.mark.parametrize("session", [True, False], ids=["session", "no session"])
@pytest.mark.parametrize(("place", "priority"), TABLE, ids=lambda value: value)
async def test_a_message_for_who_is_connected(
    place: Place, priority: Priority, session: bool, store: Store
) -> None:
    """Each cell: the counts, what arrives and when, and who is woken."""
    async with opened(store=store) as den:
        ana = await den.come(session=session)
        await ana.speaks()
        if place == "hibernated":
            await den.hibernate_in_an_awake_room()
        elif place == "asleep":
            await den.sleep()
        before = ana.writes
        sent = await den.user().send("news", {"n": 1}, priority=priority)
        assert sent == TABLE[place, priority]
        stage = "asleep" if place == "asleep" else "awake"
        assert den.room.info().stage.value == stage
        if sent.queued:
            assert ana.writes == before
            assert await ana.speaks() == ["news"]
        else:
            message = await ana.hear()
            assert message.pop("seq", None) is None or session
            assert message == {"event": "news", "data": {"n": 1}}
            assert ana.writes == before + 1
        if session:
            assert await den.user().waiting() == 1
            await ana.acknowledge()
        await soon_none_waits(den)
        if place == "asleep" and not sent.queued:
            assert den.room.info().stage.value == "asleep"  # Nor does what is acknowledged.


async def soon_none_waits(den: Den, user: str = "ana") -> None:
    """Wait until nothing waits for somebody."""
    while await den.user(user).waiting():
        await trio.sleep(0.001)


@pytest.mark.parametrize("volatile", [False, True], ids=["kept", "volatile"])
@pytest.mark.parametrize("priority", ["high", "normal", "low"])
@pytest.mark.parametrize("away", [True, False], ids=["away", "never here"])
async def test_a_message_for_who_is_not_connected(
    away: bool, priority: Priority, volatile: bool, store: Store
) -> None:
    """It waits in her inbox, whether a session of hers is away or not; a volatile one is dropped.

    Whoever connects next gets it at once, of whatever priority, also where the room is not woken by that.
    """
    async with opened(store=store, awake=False) as den:
        ana = None
        if away:
            ana = await den.come()
            await den.drop(ana)
        sent = await den.user().send("news", {"n": 1}, priority=priority, volatile=volatile)
        assert sent == (Sent(dropped=1) if volatile else Sent(stored=1))
        assert await den.user().waiting() == (not volatile)
        again = await den.come(resume=ana)
        if not volatile:
            assert (await again.hear())["data"] == {"n": 1}
            await again.acknowledge()
            await soon_none_waits(den)
        assert den.room.info().stage.value == "asleep"
        assert await again.speaks() == []


@pytest.mark.parametrize("wakes", [True, False], ids=["wakes", "does not wake"])
async def test_one_of_high_priority_wakes_a_room_that_wants_it(wakes: bool) -> None:
    """And tells it why."""
    async with opened(room(wakes=wakes)) as den:
        ana = await den.come()
        await den.sleep()
        await den.user().send("news", priority="low")
        await den.user().send("news")
        assert await den.user().send("news", priority="high") == Sent(parked=1)
        await soon(lambda: not wakes or den.room.info().stage.value == "awake")
        assert await ana.events(3) == ["news"] * 3
        assert (await den.woken()) == ["created", "priority" if wakes else "ask"]


async def test_one_of_high_priority_makes_active() -> None:
    """Who got it hibernates no more, and the next one of low priority comes at once."""
    async with opened() as den:
        ana = await den.come()
        await den.hibernate_in_an_awake_room()
        assert await den.user().send("one", priority="low") == Sent(queued=1)
        assert await den.user().send("two", priority="high") == Sent(parked=1)
        assert await den.user().send("three", priority="low") == Sent(active=1)
        assert await ana.events(3) == ["one", "two", "three"]


# Order, and writes.


@pytest.mark.parametrize("session", [True, False], ids=["session", "no session"])
@pytest.mark.parametrize("last", ["normal", "high", "broadcast", "answer"])
@pytest.mark.parametrize("asleep", [True, False], ids=["asleep", "awake"])
async def test_what_is_queued_goes_first_and_in_one_write(last: str, asleep: bool, session: bool) -> None:
    """With whatever is written next: order holds whatever the priorities."""
    store = MemoryStore()
    async with opened(store=store) as den:
        ana = await den.come(session=session)
        await (den.sleep() if asleep else den.hibernate_in_an_awake_room())
        before = ana.writes
        for name in ("one", "two", "three"):
            assert await den.user().send(name, priority="low") == Sent(queued=1)
        while session and asleep and (await store.head("den/a")).seq < 3:
            await trio.sleep(0.001)  # It waits for her behind the journal.
        assert ana.writes == before
        if last == "broadcast":
            den.room.emit("last")
        elif last == "answer":
            assert await ana.speaks() == ["one", "two", "three"]
            return
        else:
            await den.user().send("last", priority=last)
        assert await ana.events(4) == ["one", "two", "three", "last"]
        # It becomes active, which writes what is queued, and the last one has to be in the journal first.
        alone = session and asleep and last == "high"
        assert ana.writes == before + 1 + alone


@pytest.mark.parametrize("asleep", [True, False], ids=["asleep", "awake"])
async def test_what_is_queued_goes_after_a_while_in_one_write(asleep: bool) -> None:
    """And wakes nobody."""
    async with opened(room(flush_after=0.05)) as den:
        ana, bob = await den.come(), await den.come("bob", session=False)
        await (den.sleep() if asleep else den.hibernate_in_an_awake_room())
        before = ana.writes, bob.writes
        for name in ("one", "two", "three"):
            await den.user().send(name, priority="low")
            await den.user("bob").send(name, priority="low")
        for visitor in (ana, bob):
            assert await visitor.events(3) == ["one", "two", "three"]
        assert (ana.writes, bob.writes) == (before[0] + 1, before[1] + 1)
        assert den.room.info().stage.value == ("asleep" if asleep else "awake")
        assert await den.user().send("four", priority="low") == Sent(queued=1)  # Nobody has become active.


async def test_what_is_queued_goes_before_the_close() -> None:
    """Nothing of it is lost where the server closes."""
    async with opened() as den:
        ana = await den.come(session=False)
        await den.sleep()
        await den.user().send("one", priority="low")
        await den.room.destroy()
        assert await ana.events(1) == ["one"]
        assert (await ana.closed())[0] == 1000
        await soon_none_waits(den)


# Inboxes.


async def test_an_inbox_is_delivered_in_order_whatever_the_priorities(store: Store) -> None:
    """To who comes next; what is sent meanwhile stands behind it."""
    names = [f"m{number}" for number in range(30)]
    async with opened(store=store) as den:
        for number, name in enumerate(names):
            await den.user().send(name, priority=("low", "high", "normal")[number % 3])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(den.come)
            for number, priority in enumerate(("high", "low", "normal") * 3):
                await den.user().send(f"n{number}", priority=priority)
        ana = den.visitors[-1]
        assert await ana.events(39) == [*names, *(f"n{number}" for number in range(9))]
        await ana.acknowledge()
        await soon_none_waits(den)


async def test_an_inbox_goes_to_one_of_her_sessions(store: Store) -> None:
    """And to another only when that one has ended without having acknowledged."""
    async with opened(store=store) as den:
        assert await den.user().send("one") == Sent(stored=1)
        first = await den.come()
        assert await first.events(1) == ["one"]
        second = await den.come()
        assert await second.speaks() == []
        assert await den.user().send("two") == Sent(active=2)
        assert await second.events(1) == ["two"]
        await second.acknowledge()
        await first.leave()
        assert await second.events(1) == ["one"]  # It has "two".
        await second.acknowledge()
        await soon_none_waits(den)


async def test_what_a_dropped_session_had_is_resumed_by_it(store: Store) -> None:
    """From the room's journal, once, although it is in her inbox, too."""
    async with opened(store=store) as den:
        ana = await den.come()
        assert await den.user().send("one") == Sent(active=1)
        await den.drop(ana)
        assert await den.user().send("two") == Sent(stored=1)
        again = await den.come(resume=ana)
        assert await again.events(2) == ["one", "two"]
        assert await again.speaks() == []
        await again.acknowledge()
        await soon_none_waits(den)


async def test_what_the_client_does_not_acknowledge_is_removed_when_it_is_written(store: Store) -> None:
    """A connection without a session."""
    async with opened(store=store) as den:
        await den.user().send("one")
        await den.user().send("two", priority="low")
        ana = await den.come(session=False)
        assert await ana.events(2) == ["one", "two"]
        await soon_none_waits(den)
        again = await den.come(session=False)
        assert await again.speaks() == []


async def test_what_a_connection_without_a_session_did_not_get_is_given_back(store: Store) -> None:
    """What was queued at it as it went."""
    async with opened(store=store) as den:
        ana = await den.come(session=False)
        await den.sleep()
        assert await den.user().send("one", priority="low") == Sent(queued=1)
        await den.drop(ana)
        again = await den.come()
        assert await again.events(1) == ["one"]


async def test_every_device_gets_it_and_the_first_to_acknowledge_is_enough() -> None:
    """In whatever rooms they are."""
    async with opened(room(), room("attic")) as den:
        first, second, third = await den.come(), await den.come(path="/attic/a"), await den.come()
        await den.sleep()
        assert await den.user().send("one") == Sent(active=1, parked=2)
        assert await den.user().waiting() == 1
        for one in (first, second, third):
            assert await one.events(1) == ["one"]
        await second.acknowledge()
        await soon_none_waits(den)
        await den.drop(first)
        again = await den.come(resume=first)
        assert await again.speaks() == []


async def test_only_her_connections_in_one_room() -> None:
    """`RoomHandle.user`; what finds none there waits until there is one."""
    async with opened(room(), room("attic")) as den:
        here = await den.come()
        attic = den.rooms.get("attic", "a").user("ana")
        assert await attic.send("up here") == Sent(stored=1)
        assert await den.room.user("ana").send("down there") == Sent(active=1)
        assert await here.events(1) == ["down there"]
        there = await den.come(path="/attic/a")
        assert await there.events(1) == ["up here"]
        assert await here.speaks() == []


# From inside of handlers.


@pytest.mark.parametrize("here", [True, False], ids=["room.user", "rooms.user"])
async def test_a_handler_sends_and_knows_what_became_of_it(here: bool) -> None:
    """Where nothing waits at a gate."""
    async with opened(room(), room("attic")) as den:
        ana = await den.come()
        ask = den.room.ask
        for priority in ("high", "normal", "low"):
            sent = await ask("tell", {"user": "ana", "event": priority, "priority": priority, "here": here})
            assert Sent(**sent) == Sent(active=1)
        assert Sent(**await ask("tell", {"user": "bob", "event": "x", "here": here})) == Sent(stored=1)
        assert await ana.events(3) == ["high", "normal", "low"]


@pytest.mark.parametrize("here", [True, False], ids=["room.user", "rooms.user"])
@pytest.mark.parametrize("volatile", [True, False], ids=["volatile", "kept"])
async def test_a_handler_behind_the_gate_knows_that_it_is_in_the_outbox(
    volatile: bool, here: bool, store: Store
) -> None:
    """The rest is known when what it changed is durable; and so is what it sent then."""
    async with opened(room(durability="commit"), store=store) as den:
        ana = await den.come()
        what = {"user": "ana", "volatile": volatile, "here": here}
        sent = await den.room.ask("tell", {**what, "event": "one"})
        assert Sent(**sent) == Sent(outbox=1)
        sent = await den.room.ask("tell", {**what, "event": "two", "priority": "high"})
        assert Sent(**sent) == Sent(outbox=1)
        assert await ana.events(2) == ["one", "two"]
        await den.room.ask("tell", {**what, "user": "bob", "event": "three"})
        assert await den.user("bob").waiting() == (not volatile)
