"""The clients of the soak test: many sockets in many rooms that check every message that they get."""

from __future__ import annotations

import json
import random
import socket
import struct
from typing import Any, Final

import attrs
import cbor2
import trio

from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Client, close_frame, frame, request, soon

__all__ = ["Crowd", "Member", "SoakRoom", "open_client"]

IDLE_TIMEOUT: Final = 0.2
PATIENCE: Final = 20
"""Seconds without an answer after which one is lost."""
_LONG_GAP: Final = (0.35, 0.9)
"""Seconds between two bursts in which a room falls asleep."""
_SHORT_GAP: Final = (0.0, 0.1)
"""The same for one that stays awake."""
_OPENING: Final = 50
"""Handshakes at once."""


async def open_client(port: int, path: str) -> Client:
    """A WebSocket, opened by hand."""
    plain = trio.socket.socket()
    try:
        await plain.connect(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(trio.SocketStream(plain))
        await client.send(request(path))
        status, _, text = await client.answer(body=False)
        assert status == 101, (status, text)
    except BaseException:
        plain.close()
        raise
    return client


async def expect(event: trio.Event, what: str) -> None:
    """Wait for something that must come."""
    with trio.move_on_after(PATIENCE):
        await event.wait()
    assert event.is_set(), f"after {PATIENCE} s there is not {what}"


@attrs.define(eq=False)
class Member:
    """One connection of a room, under a name that no other ever has."""

    room: SoakRoom
    name: str
    client: Client
    cbor: bool
    sent: int = 0
    acked: int = 0
    at: int = -1
    """The number of the last message that it heard; what comes next has the next number."""
    hello: trio.Event = attrs.field(factory=trio.Event)
    settled: trio.Event = attrs.field(factory=trio.Event)
    """Set when everything that it said is acknowledged."""
    answered: trio.Event = attrs.field(factory=trio.Event)
    """Set by the answer to `ask`."""
    answer: Any = None
    pongs: int = 0
    leaving: bool = False

    async def listen(self) -> None:
        """Check what comes until the connection ends."""
        try:
            while True:
                opcode, payload = await self.client.frame()
                if opcode == TEXT:
                    self._hear(json.loads(payload))
                elif opcode == BINARY:
                    self._hear(cbor2.loads(payload))
                elif opcode == PONG:
                    self.pongs += 1
                else:
                    assert opcode == CLOSE
                    assert self.leaving, f"{self.name} was closed: {payload!r}"
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError):
            # A ValueError is the end of the stream, where two bytes of a frame were expected.
            assert self.leaving, f"the connection of {self.name} was lost"
        finally:
            self.stream.socket.close()

    @property
    def stream(self) -> trio.SocketStream:
        """The connection itself."""
        assert isinstance(self.client.stream, trio.SocketStream)
        return self.client.stream

    def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"event": "hello", "data": count}:
                assert not self.hello.is_set(), f"{self.name} was greeted twice"
                self.at = count
                self.hello.set()
            case {"event": "said", "data": [count, sender, n]}:
                assert self.hello.is_set(), f"{self.name} heard something before its greeting"
                assert count == self.at + 1, f"{self.name} heard {count} after {self.at}: {message}"
                self.at = count
                assert self.room.said.setdefault(count, (sender, n)) == (sender, n), f"{self.name}: {message}"
            case {"ack": 0, "data": answer}:
                self.answer = answer
                self.answered.set()
            case {"ack": n, "data": count}:
                assert n == self.acked + 1, f"{self.name}: {n} is acknowledged after {self.acked}"
                assert self.room.said.get(count) == (self.name, n), f"{self.name}: {message}"
                assert count <= self.at, f"{self.name}: {n} is acknowledged before it was heard"
                self.acked = n
                if n == self.sent:
                    self.settled.set()
            case _:
                raise AssertionError(f"{self.name}: {message}")

    def encode(self, event: str, data: Any, number: int) -> tuple[int, bytes]:
        """The opcode and payload of an event."""
        envelope = {"event": event, "data": data, "id": number}
        return (BINARY, cbor2.dumps(envelope)) if self.cbor else (TEXT, json.dumps(envelope).encode())

    def say(self, chance: random.Random) -> bytes:
        """The frames of the next message."""
        self.sent += 1
        self.settled = trio.Event()
        data: dict[str, Any] = {"sender": self.name, "n": self.sent}
        if chance.random() < 0.3:
            data["pause"] = chance.uniform(0, 0.005)
        opcode, payload = self.encode("say", data, self.sent)
        if chance.random() < 0.1:
            cut = chance.randrange(len(payload))
            return (
                frame(opcode, payload[:cut], final=False)
                + frame(PING, b"between")
                + frame(CONTINUATION, payload[cut:])
            )
        return frame(opcode, payload)

    async def write(self, data: bytes, chance: random.Random) -> None:
        """Send bytes at once or in pieces, now and then with the room asleep in between."""
        if chance.random() < 0.7:
            await self.client.send(data)
            return
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 4)))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if start < end:
                await self.client.send(data[start:end])
                await trio.sleep(chance.uniform(*_LONG_GAP) if chance.random() < 0.05 else 0.002)

    async def ask(self, event: str) -> Any:
        """The room's answer to an event."""
        self.answered = trio.Event()
        await self.client.send(frame(*self.encode(event, None, 0)))
        await expect(self.answered, f"an answer for {self.name}")
        return self.answer

    def cut(self, *, reset: bool) -> None:
        """End the connection without a word, by a FIN or an RST."""
        self.leaving = True
        if reset:
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


@attrs.define(eq=False)
class SoakRoom:
    """What all clients of a room together know of it."""

    id: str
    members: list[Member] = attrs.field(factory=list)
    gone: list[Member] = attrs.field(factory=list)
    said: dict[int, tuple[str, int]] = attrs.field(factory=dict)
    """Sender and number of each message, by the room's count."""
    naps: int = 0
    """Gaps in which it had time to fall asleep."""

    def check(self, census: dict[str, Any]) -> None:
        """Compare what the room says that it has handled with what was sent, heard and acknowledged."""
        assert sorted(self.said) == list(range(1, len(self.said) + 1))
        assert all(member.at == len(self.said) == census["count"] for member in self.members)
        heard: dict[str, int] = {}
        for _, (sender, n) in sorted(self.said.items()):
            assert n == heard.get(sender, 0) + 1, (
                f"soak/{self.id}: {sender} said {n} after {heard.get(sender)}"
            )
            heard[sender] = n
        assert heard == census["last"]
        for member in self.members:
            assert heard.get(member.name, 0) == member.sent == member.acked
        for member in self.gone:
            # Who left in the middle of something may not have been heard to the end.
            assert member.acked <= heard.get(member.name, 0) <= member.sent
        assert census["joined"] == len(self.members) + len(self.gone)
        assert census["left"] == len(self.gone)


@attrs.define(eq=False)
class Crowd:
    """All rooms and their clients."""

    port: int
    nursery: trio.Nursery
    seed: int
    rooms: list[SoakRoom] = attrs.field(factory=list)

    async def gather(self, rooms: int, members: int) -> None:
        """Open all connections, and return when each was greeted."""
        self.rooms = [SoakRoom(str(number)) for number in range(rooms)]
        limit = trio.CapacityLimiter(_OPENING)

        async def enter(room: SoakRoom, number: int) -> None:
            async with limit:
                await self.enter(room, f"{number}.0")

        async with trio.open_nursery() as nursery:
            for room in self.rooms:
                for number in range(members):
                    nursery.start_soon(enter, room, number)

    async def enter(self, room: SoakRoom, name: str) -> None:
        """Open one connection."""
        client = await open_client(self.port, f"/soak/{room.id}")
        member = Member(room, name, client, cbor=int(name.partition(".")[0]) % 2 == 1)
        self.nursery.start_soon(member.listen)
        await expect(member.hello, f"a greeting for {name} in {room.id}")
        room.members.append(member)

    async def talk(self, rounds: int) -> None:
        """Let all rooms talk at once, each with bursts and gaps of its own."""
        async with trio.open_nursery() as nursery:
            for room in self.rooms:
                nursery.start_soon(self._talk, room, rounds, random.Random(f"{self.seed}/{room.id}"))

    async def _talk(self, room: SoakRoom, rounds: int, chance: random.Random) -> None:
        for _ in range(rounds):
            gap = chance.choice((_LONG_GAP, _SHORT_GAP))
            room.naps += gap is _LONG_GAP
            await trio.sleep(chance.uniform(*gap))
            speakers = chance.sample(room.members, chance.randint(1, 3))
            leaver = chance.choice(room.members) if chance.random() < 0.15 else None
            async with trio.open_nursery() as nursery:
                for member in speakers:
                    nursery.start_soon(self._burst, member, chance, member is not leaver)
                if leaver is not None:
                    nursery.start_soon(self._replace, leaver, chance, leaver in speakers)

    async def _burst(self, member: Member, chance: random.Random, stays: bool) -> None:
        try:
            for _ in range(chance.randint(1, 4)):
                await self._say(member, chance)
                if chance.random() < 0.3:
                    await trio.sleep(chance.uniform(0, 0.01))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if not member.leaving:
                raise
        if stays:
            await expect(
                member.settled, f"an acknowledgement for {member.name}: {member.acked} of {member.sent}"
            )

    async def _say(self, member: Member, chance: random.Random) -> None:
        # A member that closes as it should says nothing more.
        if not member.leaving:
            await member.write(member.say(chance), chance)

    async def _replace(self, member: Member, chance: random.Random, speaks: bool) -> None:
        await trio.sleep(chance.uniform(0, 0.02))
        room = member.room
        if speaks or chance.random() < 0.5:
            # With a part of a message on the way, or several that wait for their acknowledgements.
            if not speaks:
                data = member.say(chance)
                await member.client.send(data[: chance.randrange(len(data))])
            member.cut(reset=chance.random() < 0.5)
        else:
            member.leaving = True
            await member.client.send(close_frame())
        room.members.remove(member)
        room.gone.append(member)
        number, _, epoch = member.name.partition(".")
        await self.enter(room, f"{number}.{int(epoch) + 1}")

    async def hear_all(self) -> None:
        """Wait until every member of every room has heard everything."""
        for room in self.rooms:
            await soon(lambda room=room: all(one.at == len(room.said) for one in room.members))  # type: ignore[misc]

    async def check(self) -> int:
        """Ask each room what it knows, check it, and return how often they woke in all."""
        wakes = 0
        for room in self.rooms:
            census = await room.members[0].ask("census")
            room.check(census)
            wakes += census["wakes"]
        return wakes

    async def ping_all(self) -> None:
        """Find every socket open."""
        members = [member for room in self.rooms for member in room.members]
        before = [member.pongs for member in members]
        for member in members:
            await member.client.send(frame(PING, b"there?"))
        for member, pongs in zip(members, before, strict=True):
            await soon(lambda member=member, pongs=pongs: member.pongs > pongs)  # type: ignore[misc]

    async def leave(self) -> None:
        """End all connections."""
        await trio.lowlevel.checkpoint()
        for room in self.rooms:
            for member in room.members:
                member.cut(reset=True)
