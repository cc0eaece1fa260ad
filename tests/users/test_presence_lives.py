"""Random histories of a room, after which everybody has been told what its connections and sessions say."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Awaitable
from typing import Any

import attrs
import cbor2
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_rooms import Admitted, ConnectRequest, Context, MemoryStore, Room, Rooms, open_rooms
from trio_rooms._sockets.flags import UNGREETED
from trio_rooms._state.audience import Membership
from trio_rooms.client.users import PRESENCE, attend
from trio_rooms.errors import RoomsError, StoreFull
from trio_rooms.testing import FaultyStore, MemoryClient, connect

KEY = "lobby/a"
WINDOW = 30.0
USERS = ("ana", "bob", "cid", "", "out")
KINDS = ("", "trio-rooms.v1.json", "trio-rooms.v1.cbor")

guest = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("come"), st.sampled_from(USERS), st.sampled_from(KINDS)),
    st.tuples(st.just("come"), st.sampled_from(USERS[:2]), st.sampled_from(KINDS[1:])),
    st.tuples(st.just("drop"), guest),
    st.tuples(st.just("leave"), guest),
    st.tuples(st.just("back"), guest),
    st.tuples(st.just("set"), guest, st.sampled_from([None, {"status": "busy"}, {"at": 1}])),
    st.tuples(st.just("close"), guest, st.sampled_from([1000, 1012, 4000])),
    st.tuples(st.just("wait"), st.sampled_from([0.02, 1.0, 1.0, WINDOW + 1])),
    st.sampled_from([("sleep",), ("crash",), ("fail",), ("destroy",), ("stop",), ("kill",), ("check",)]),
)


# The room.


async def _admit(request: ConnectRequest) -> Admitted:
    number = int(request.query["number"])
    return Admitted(number, user=request.query.get("user") or None, presence={"device": number})


async def _come(ctx: Context[Any]) -> None:
    ctx.state["came"] = ctx.state.get("came", 0) + 1
    if ctx.connection.user == "out":
        raise RuntimeError("out")


async def _set(ctx: Context[Any], data: Any) -> None:
    ctx.state["sets"] = ctx.state.get("sets", 0) + 1
    ctx.connection.presence = data


async def _close(ctx: Context[Any], code: int) -> None:
    ctx.connection.close(code)


async def _crash(ctx: Context[Any]) -> None:
    raise GeneratorExit


def lobby(durability: Any, *, greets: bool) -> Room[Any]:
    """A room that tells who is there."""
    room: Room[Any] = Room(
        "lobby",
        state=dict,
        presence=True,
        resume_window=WINDOW,
        durability=durability,
        snapshot_interval=0.2,
        idle_timeout=5,
    )
    room.authenticate(_admit)
    room.on("set")(_set)
    room.on("close")(_close)
    room.on("crash", internal=True)(_crash)
    if greets:
        room.on_connect(_come)
    return room


# The lives.


@attrs.define(eq=False)
class Guest:
    """One connection."""

    number: int
    user: str
    kind: str
    shown: list[Any]
    """What it has set, or may have; shared by the connections of one session."""
    before: Guest | None = None
    client: MemoryClient | None = None
    users: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    here: bool = True
    told: bool = False
    listening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """When it ends, it hangs up."""

    def hear(self, message: Any) -> None:
        """It is told something."""
        if message.get("event") == "rooms.welcome" and message["data"]["resumed"]:
            assert self.before is not None
            self.shown = self.before.shown
        if message.get("event") == PRESENCE:
            assert self.told or "users" in message["data"], "changes before the whole"
            self.told = True
            attend(self.users, message["data"])


@attrs.define(eq=False)
class Life:
    """A room, with those who were ever in it."""

    room: Room[Any]
    history: list[str]
    store: FaultyStore = attrs.field(factory=lambda: FaultyStore(MemoryStore()))
    guests: list[Guest] = attrs.field(factory=list)
    nursery: trio.Nursery = attrs.field(init=False)
    rooms: Rooms = attrs.field(init=False)
    ending: str = ""

    async def live(self, steps: list[tuple[Any, ...]]) -> None:
        """Take all steps, in as many processes as they want."""
        left = [*steps, ("check",)]
        step: tuple[Any, ...] = ()
        while left:
            async with trio.open_nursery() as self.nursery:
                async with open_rooms([self.room], store=self.store, close_timeout=1) as self.rooms:
                    while left:
                        step = left.pop(0)
                        self.history.append(f"{trio.current_time():9.2f} {step}")
                        if step[0] in ("stop", "kill"):
                            break
                        await getattr(self, step[0])(*step[1:])
                        await trio.testing.wait_all_tasks_blocked()
                    kept = self.store.store
                    if left and step[0] == "kill":
                        kept = copy.deepcopy(kept)
                        await kept.aclose()
                self.nursery.cancel_scope.cancel()
            self.store = FaultyStore(kept)
            for one in self.guests:
                one.here = False
                one.shown.append(...)

    async def come(self, user: str, kind: str, before: Guest | None = None) -> None:
        number = len(self.guests)
        new = Guest(number, user, kind, [{"device": number}], before)
        self.guests.append(new)
        await self.nursery.start(self._stay, new, before)

    async def _stay(self, one: Guest, before: Guest | None, task_status: trio.TaskStatus[None]) -> None:
        query = {"user": one.user, "number": str(one.number)}
        resume = None if before is None else before.client
        offered = [one.kind] if one.kind else []
        try:
            async with connect(self.rooms, KEY, query=query, subprotocols=offered, resume=resume) as client:
                one.client = client
                task_status.started()
                with one.listening:
                    async for message in client:
                        one.hear(message)
        finally:
            one.here = False

    def _one(self, index: int, *, here: bool = True) -> Guest | None:
        there = [one for one in self.guests if one.here or not here]
        return there[index % len(there)] if there else None

    async def drop(self, index: int) -> None:
        one = self._one(index)
        if one is not None and one.client is not None:
            one.here = False
            await one.client.drop()

    async def leave(self, index: int) -> None:
        one = self._one(index)
        if one is not None and one.client is not None:
            one.here = False
            one.listening.cancel()

    async def back(self, index: int) -> None:
        with_one = [one for one in self.guests if one.client is not None and one.client.session is not None]
        if with_one:
            before = with_one[index % len(with_one)]
            await self.come(before.user, before.kind, before)

    async def set(self, index: int, value: Any) -> None:
        one = self._one(index)
        if one is not None and one.client is not None:
            one.shown.append(value)
            await one.client.emit("set", value)

    async def close(self, index: int, code: int) -> None:
        one = self._one(index)
        if one is not None and one.client is not None:
            await one.client.emit("close", code)

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def sleep(self) -> None:
        await self.rooms.get("lobby", "a").hibernate()

    async def crash(self) -> None:
        await self._quietly(self.rooms.get("lobby", "a").ask("crash"))

    async def destroy(self) -> None:
        await self._quietly(self.rooms.get("lobby", "a").destroy())

    async def fail(self) -> None:
        self.store.fail_commits(StoreFull("no room"))

    async def _quietly(self, asked: Awaitable[Any]) -> None:
        with contextlib.suppress(RoomsError):
            await asked

    async def check(self) -> None:
        """Once all has come to rest, each has been told what there is."""
        tries = 6
        while True:
            await trio.sleep(1)
            here, told = await self.so(), self.told()
            if all(users == here for users in told.values()):
                return
            tries -= 1
            assert tries, f"there is {here}, and they were told {told}"

    def told(self) -> dict[int, dict[str, Any]]:
        """What those who are in the room have been told."""
        roster = self.rooms._hub.rosters.get(KEY)
        links = [] if roster is None else [*roster.links.values()]
        numbers = [self._number(link.attachment) for link in links if not link.flags & UNGREETED]
        return {number: sorted_of(self._latest(number).users) for number in numbers}

    def _latest(self, number: int) -> Guest:
        """The one who has the session that began with this one."""
        same = [one for one in self.guests if one.shown is self.guests[number].shown and one.here]
        return same[-1] if same else self.guests[number]

    def _number(self, attachment: bytes | None) -> int:
        number: int = cbor2.loads(attachment or b"\x00")
        return number

    async def so(self) -> dict[str, Any]:
        """What the connections and the rows of the sessions say."""
        roster = self.rooms._hub.rosters.get(KEY)
        rows = {row.sid: row for row in await self.store.sessions(KEY)}
        here: dict[str, list[dict[str, Any]]] = {}
        for link in [] if roster is None else roster.links.values():
            if link.user is not None and not link.flags & UNGREETED:
                shown = self.guests[self._number(link.attachment)].shown
                value = shown[-1]
                if link.session is not None:
                    row = rows[link.sid].link
                    value = cbor2.loads(row.presence) if row.presence else None
                    assert value in shown
                here.setdefault(link.user, []).append({"status": "online"} | (value or {}))
        greets = roster is not None and roster.greets
        for one in rows.values():
            opening, half = one.room.opening, one.link
            met = not greets or Membership.decode(one.room.channels).since is not None
            if opening is not None and opening.user and half.until is not None and met:
                value = cbor2.loads(half.presence) if half.presence else None
                assert value in self.guests[self._number(one.room.attachment)].shown
                here.setdefault(opening.user, []).append({**(value or {}), "status": "away"})
        return sorted_of(here)


def sorted_of(users: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    """Who is here, in an order of its own."""
    return {
        user: sorted(json.dumps(one, sort_keys=True) for one in entries) for user, entries in users.items()
    }


histories = st.tuples(st.lists(steps, max_size=25), st.sampled_from(["snapshot", "commit"]), st.booleans())


def live(steps: list[tuple[Any, ...]], durability: str, *, greets: bool) -> None:
    """Live it; what goes wrong has all that happened with it."""
    logger = logging.getLogger("trio_rooms")
    logger.disabled = True  # It has much to say about what happens here, on purpose.
    life = Life(lobby(durability, greets=greets), [])
    try:
        trio.run(life.live, steps, clock=MockClock(autojump_threshold=0))
    except BaseException as error:
        first = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        first.add_note("\n".join(["This was the life:", *life.history]))
        raise first from None
    finally:
        logger.disabled = False


@settings(max_examples=40)
@given(histories)
def test_everybody_is_told_what_is_so(history: tuple[list[tuple[Any, ...]], str, bool]) -> None:
    """After any history, whoever applies the whole and the changes has what connections and sessions say."""
    live(history[0], history[1], greets=history[2])


@pytest.mark.long
@pytest.mark.timeout(1200)
@settings(max_examples=5000)
@given(histories)
def test_everybody_is_told_what_is_so_for_long(history: tuple[list[tuple[Any, ...]], str, bool]) -> None:
    """The same with many more histories."""
    live(history[0], history[1], greets=history[2])
