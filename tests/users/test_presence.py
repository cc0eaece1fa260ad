"""Who is in a room, as its connections are told."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any

import attrs
import cbor2
import pytest
import trio
from trio.testing import MockClock

from tests.raw import TEXT
from trio_rooms import Admitted, ConnectRequest, Context, MemoryStore, Room, Rooms, WakeReport, open_rooms
from trio_rooms._room.shared import roster_of
from trio_rooms._sockets.flags import BINARY, RELEASED
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._users import telling
from trio_rooms._users.presence import presence_of
from trio_rooms._users.telling import Telling
from trio_rooms._wire.frames import encode_binary, encode_text
from trio_rooms.client.users import PRESENCE, attend
from trio_rooms.errors import StoreError, StoreFull
from trio_rooms.testing import FaultyStore, MemoryClient, connect

JSON = ["trio-rooms.v1.json"]
CBOR = ["trio-rooms.v1.cbor"]


async def _admit(request: ConnectRequest) -> Admitted:
    device = request.query.get("device")
    return Admitted(user=request.query.get("user"), presence=None if device is None else {"device": device})


async def _set(ctx: Context[Any], data: Any) -> Any:
    ctx.connection.presence = data
    return ctx.connection.presence


async def _tried(ctx: Context[Any]) -> str:
    try:
        ctx.connection.presence = ctx.app
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


async def _people(ctx: Context[Any]) -> list[str]:
    return [*ctx.room.users]


def lobby(**options: Any) -> Room[Any]:
    """A room that tells who is there."""
    options.setdefault("presence", True)
    room: Room[Any] = Room("lobby", **options)
    room.authenticate(_admit)
    room.on("set")(_set)
    room.on("tried")(_tried)
    room.on("people")(_people)
    return room


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To tell something takes no time, so that what is told next waits for no longer than a window."""
    monkeypatch.setattr(telling, "perf_counter", lambda: 0.0)


class People:
    """What one client is told."""

    def __init__(self, client: MemoryClient) -> None:
        self.client = client
        self.users: dict[str, list[dict[str, Any]]] = {}
        self.told: list[dict[str, Any]] = []

    async def hear(self) -> dict[str, Any]:
        """The next that it is told of who is here."""
        while (message := await self.client.receive()).get("event") != PRESENCE:
            pass
        data: dict[str, Any] = message["data"]
        self.told.append(data)
        attend(self.users, data)
        return data

    async def quiet(self) -> bool:
        """Whether it is told nothing for a second."""
        with trio.move_on_after(1):
            await self.hear()
            return False
        return True


ONLINE = {"status": "online"}


async def test_the_whole_comes_first_and_then_what_changes(autojump_clock: MockClock) -> None:
    """Who comes is told who is here, the others are told of her, and of her end."""
    async with open_rooms([lobby()]) as rooms, connect(rooms, "lobby/a", query="user=ana") as first:
        ana = People(first)
        assert await ana.hear() == {"users": {"ana": [ONLINE]}}
        async with connect(rooms, "lobby/a", query="user=bob&device=d1") as second:
            bob = People(second)
            here = {"ana": [ONLINE], "bob": [{"status": "online", "device": "d1"}]}
            assert await bob.hear() == {"users": here}
            assert await ana.hear() == {"changes": {"bob": here["bob"]}}
            assert ana.users == bob.users == here
            assert await ana.quiet()
            assert await bob.quiet()
        assert await ana.hear() == {"changes": {"bob": []}}
        assert ana.users == {"ana": [ONLINE]}


async def test_several_devices_are_one_user(autojump_clock: MockClock) -> None:
    """Each connection is an entry of its user, in the order in which they came; what is set is in it."""
    async with (
        open_rooms([lobby()]) as rooms,
        connect(rooms, "lobby/a", query="user=bob") as other,
        connect(rooms, "lobby/a", query="user=ana&device=d1") as first,
        connect(rooms, "lobby/a", query="user=ana&device=d2") as second,
    ):
        bob = People(other)
        await bob.hear()
        assert bob.users["ana"] == [{"status": "online", "device": one} for one in ("d1", "d2")]
        assert await second.ask("set", {"status": "busy", "at": [1, 2]}) == {"status": "busy", "at": [1, 2]}
        assert await bob.hear() == {
            "changes": {"ana": [{"status": "online", "device": "d1"}, {"status": "busy", "at": [1, 2]}]}
        }
        assert await first.ask("set", None) is None
        await bob.hear()
        assert bob.users["ana"] == [ONLINE, {"status": "busy", "at": [1, 2]}]
        await first.drop()
        await bob.hear()
        assert bob.users["ana"] == [{"status": "busy", "at": [1, 2]}]


async def test_who_has_no_name_is_told_and_not_shown(autojump_clock: MockClock) -> None:
    """Connections without a user see who is here; alike in JSON and in CBOR."""
    async with (
        open_rooms([lobby()]) as rooms,
        connect(rooms, "lobby/a", subprotocols=CBOR) as nobody,
        connect(rooms, "lobby/a", query="user=ana", subprotocols=JSON),
    ):
        people = People(nobody)
        await people.hear()
        assert people.users == {"ana": [ONLINE]}
        assert await nobody.ask("set", {"a": 1}) == {"a": 1}
        assert await people.quiet()


async def test_a_room_that_did_not_ask_tells_nobody(autojump_clock: MockClock) -> None:
    """Without presence=True there is none, and what sets one is told so."""
    async with (
        open_rooms([lobby(presence=False)], app={"a": 1}) as rooms,
        connect(rooms, "lobby/a", query="user=ana") as ana,
    ):
        assert await People(ana).quiet()
        assert "presence=True" in await ana.ask("tried")
        with pytest.raises(TypeError, match="presence=True"):
            async with connect(rooms, "lobby/a", query="user=ana&device=d1"):
                pass


@pytest.mark.parametrize("value", [["a"], {1: 2}, {"a": "x" * 1030}, {"a": object}])
async def test_what_cannot_be_shown_is_refused(value: Any, autojump_clock: MockClock) -> None:
    """A presence is a small dict, with strings as keys, that has a form for clients."""
    async with (
        open_rooms([lobby()], app=value) as rooms,
        connect(rooms, "lobby/a", query="user=ana") as ana,
    ):
        assert await ana.ask("tried")
        await People(ana).hear()


async def test_a_dropped_session_is_away_until_its_window_ends(autojump_clock: MockClock) -> None:
    """It keeps what it has set; who comes back has it, and who does not is gone. Nobody is woken."""
    async with (
        open_rooms([lobby(resume_window=30, idle_timeout=5)]) as rooms,
        connect(rooms, "lobby/a", query="user=bob") as other,
    ):
        bob = People(other)
        await bob.hear()
        async with connect(rooms, "lobby/a", query="user=ana&device=d1", subprotocols=JSON) as ana:
            await People(ana).hear()
            await bob.hear()
            await trio.sleep(10)
            wakes = rooms.statistics().supervisor.wakes
            await ana.drop()
            assert await bob.hear() == {"changes": {"ana": [{"device": "d1", "status": "away"}]}}
            async with connect(rooms, "lobby/a", query="user=ana&device=d2", resume=ana) as again:
                back = People(again)
                here = {"bob": [ONLINE], "ana": [{"status": "online", "device": "d1"}]}
                assert await back.hear() == {"users": here}
                assert await bob.hear() == {"changes": {"ana": here["ana"]}}
                await again.drop()
            await bob.hear()
            began = trio.current_time()
            assert await bob.hear() == {"changes": {"ana": []}}
            assert 29 < trio.current_time() - began < 32
            assert rooms.statistics().supervisor.wakes == wakes


async def test_who_left_a_sleeping_room_is_in_its_report(autojump_clock: MockClock) -> None:
    """The others are told at once, from the lot; the room when it wakes, of sessions that are over, too."""
    room = lobby(resume_window=30, idle_timeout=5, state=list)
    room.on_wake(_report)
    room.on("reports")(_reports)
    async with open_rooms([room]) as rooms, connect(rooms, "lobby/a", query="user=ana") as first:
        ana = People(first)
        await ana.hear()
        assert await first.ask("reports") == []
        async with (
            connect(rooms, "lobby/a", query="user=bob", subprotocols=JSON) as bob,
            connect(rooms, "lobby/a", query="user=cid", subprotocols=JSON) as cid,
            connect(rooms, "lobby/a", query="user=dan", subprotocols=JSON) as dan,
            connect(rooms, "lobby/a", query="user=eva") as eva,
        ):
            for client in (bob, cid, dan, eva):
                await People(client).hear()
            await ana.hear()
            await trio.sleep(10)
            await bob.hang_up()
            await eva.drop()
            await cid.drop()
            await ana.hear()
            assert [*ana.users] == ["ana", "cid", "dan"]
            assert await rooms.get("lobby", "a").users() == ("ana", "cid", "dan")
            assert ana.users["cid"] == [{"status": "away"}]
            await trio.sleep(40)
            await ana.hear()
            assert [*ana.users] == ["ana", "dan"]
            assert await first.ask("reports") == [["bob", "eva", "cid"]]


async def _report(ctx: Context[list[Any]], report: WakeReport) -> None:
    ctx.state.append([one.user for one in report.disconnects])


async def _reports(ctx: Context[list[Any]]) -> list[Any]:
    return ctx.state


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_it_is_right_after_a_restart(durability: str, autojump_clock: MockClock) -> None:
    """Who was there when the process ended is away, with what she had set, until her time is over."""
    store = MemoryStore()
    room = lobby(resume_window=30, durability=durability)
    async with trio.open_nursery() as nursery:
        async with open_rooms([room], store=store) as rooms:
            clients = []
            for user in ("ana", "bob", "cid"):
                client = await enter(nursery, rooms, f"user={user}&device={user[0]}")
                await People(client).hear()
                clients.append(client)
            ana, bob, cid = clients
            await bob.ask("set", {"status": "busy"})
            await cid.drop()
            await trio.sleep(5)
        nursery.cancel_scope.cancel()
    async with open_rooms([room], store=store) as rooms:
        assert await rooms.get("lobby", "a").users() == ("ana", "bob", "cid")
        assert rooms.statistics().supervisor.awake == 0
        async with connect(rooms, "lobby/a", resume=ana, query="user=ana&device=other") as again:
            people = People(again)
            assert await people.hear() == {
                "users": {
                    "ana": [{"status": "online", "device": "a"}],
                    "bob": [{"status": "away"}],
                    "cid": [{"status": "away", "device": "c"}],
                }
            }
            assert await again.ask("people") == ["ana", "bob", "cid"]
            async with connect(rooms, "lobby/a", resume=bob, query="user=bob") as back:
                assert await people.hear() == {"changes": {"bob": [{"status": "busy"}]}}
                await People(back).hear()
            assert await people.hear() == {"changes": {"bob": []}}
            assert await people.hear() == {"changes": {"cid": []}}


async def enter(nursery: trio.Nursery, rooms: Rooms, query: str) -> MemoryClient:
    """A client in the room with a session, until its connection ends."""

    async def stay(task_status: trio.TaskStatus[MemoryClient]) -> None:
        async with connect(rooms, "lobby/a", query=query, subprotocols=JSON) as client:
            task_status.started(client)
            await trio.sleep_forever()

    client: MemoryClient = await nursery.start(stay)
    return client


# Connections that have not been greeted, and those whose greeting is taken back.


async def _slowly(ctx: Context[Any]) -> None:
    await ctx.app.greeting(ctx.connection.user)


class Doorman:
    """Says how long on_connect takes."""

    def __init__(self) -> None:
        self.waits: set[str | None] = set()
        self.greeted: list[str | None] = []
        self.go_on = trio.Event()

    async def greeting(self, user: str | None) -> None:
        """Greet somebody."""
        if user in self.waits:
            await self.go_on.wait()
        self.greeted.append(user)


def greeting_lobby(**options: Any) -> Room[Any]:
    """A room whose on_connect does what a `Doorman` says."""
    room = lobby(state=list, **options)
    room.on_connect(_slowly)
    return room


async def test_a_greeting_that_is_taken_back_is_told(autojump_clock: MockClock) -> None:
    """What is not durable is no secret here; if it is undone, she is gone, until she is greeted again."""
    store = FaultyStore(MemoryStore())
    room: Room[Any] = lobby(state=list, durability="commit")
    room.on_connect(_count)
    async with open_rooms([room], store=store) as rooms, connect(rooms, "lobby/a", query="user=ana") as first:
        ana = People(first)
        await ana.hear()
        await first.ask("people")
        store.fail_commits(StoreFull("no room"))
        gate = store.hold_commits()
        async with connect(rooms, "lobby/a", query="user=bob&device=d1") as second:
            assert await ana.hear() == {"changes": {"bob": [{"status": "online", "device": "d1"}]}}
            bob = People(second)
            await bob.hear()
            gate.release()
            assert await ana.hear() == {"changes": {"bob": []}}
            assert await ana.hear() == {"changes": {"bob": [{"status": "online", "device": "d1"}]}}
            assert "users" in await bob.hear()
            assert bob.users == ana.users


async def _count(ctx: Context[list[Any]]) -> None:
    ctx.state.append(ctx.connection.user)


async def test_who_drops_before_she_is_greeted_was_not_here(autojump_clock: MockClock) -> None:
    """A session that is away is shown from when its on_connect begins, and to nobody before."""
    app = Doorman()
    app.waits = {"bob"}
    async with (
        open_rooms([greeting_lobby()], app=app) as rooms,
        connect(rooms, "lobby/a", query="user=ana") as first,
    ):
        ana = People(first)
        await ana.hear()
        async with (
            connect(rooms, "lobby/a", query="user=bob", subprotocols=JSON) as bob,
            connect(rooms, "lobby/a", query="user=cid", subprotocols=JSON) as cid,
        ):
            await ana.hear()
            assert [*ana.users] == ["ana", "bob"]
            await cid.drop()
            assert await ana.quiet()
            app.go_on.set()
            assert await ana.hear() == {"changes": {"cid": [{"status": "away"}]}}
            await bob.drop()
            await ana.hear()
            assert ana.users["bob"] == ana.users["cid"] == [{"status": "away"}]


async def test_who_closes_is_away_meanwhile(autojump_clock: MockClock) -> None:
    """A session whose connection is closed for a while is not gone, also where nobody answers the close."""
    room = lobby()
    room.on("part")(_part)
    async with (
        open_rooms([room], close_timeout=100) as rooms,
        connect(rooms, "lobby/a", query="user=ana") as first,
    ):
        ana = People(first)
        await ana.hear()
        async with connect(rooms, "lobby/a", query="user=bob", subprotocols=JSON) as bob:
            await People(bob).hear()
            await ana.hear()
            await bob.emit("part", 1012)
            assert await ana.hear() == {"changes": {"bob": [{"status": "away"}]}}
            assert rooms.statistics().hub.closing == 1
            assert await ana.quiet()


async def _part(ctx: Context[Any], code: int) -> None:
    ctx.connection.close(code)


async def test_a_room_that_destroys_itself_has_nobody_who_is_away(autojump_clock: MockClock) -> None:
    """Its sessions are over; who comes, and is in the new one, sees nothing of them."""
    room = greeting_lobby(idle_timeout=5)
    room.on_wake(_destroy)
    async with open_rooms([room], app=Doorman()) as rooms:
        async with connect(rooms, "lobby/a", query="user=bob", subprotocols=JSON) as bob:
            await People(bob).hear()
            await bob.drop()
        await trio.sleep(10)
        assert await rooms.get("lobby", "a").users() == ("bob",)
        async with connect(rooms, "lobby/a", query="user=ana&device=d1") as first:
            ana = People(first)
            assert await ana.hear() == {"users": {"ana": [{"status": "online", "device": "d1"}]}}
            assert await ana.quiet()


async def _destroy(ctx: Context[Any]) -> None:
    assert ctx.room.users == ("bob",)
    ctx.room.destroy()


class Slow(MemoryStore):
    """A store that fails to read sessions once, and then takes long to give them."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = 0
        self.given = trio.Event()
        self.given.set()

    async def sessions(self, *asked: Any, **options: Any) -> list[Any]:
        """As they are when they are asked for."""
        if self.faults:
            self.faults -= 1
            raise StoreError("not now")
        rows = await super().sessions(*asked, **options)
        await self.given.wait()
        return rows


async def test_what_happens_while_it_is_read_who_is_away(autojump_clock: MockClock) -> None:
    """Who comes back, or has ended, in that time is not taken for away; who comes waits for the whole."""
    store = Slow()
    room = lobby(resume_window=30)
    async with trio.open_nursery() as nursery:
        async with open_rooms([room], store=store) as rooms:
            clients = [await enter(nursery, rooms, f"user={user}") for user in ("ana", "bob", "cid")]
            for client in clients:
                await People(client).hear()
            await trio.sleep(5)
        nursery.cancel_scope.cancel()
    store.faults, store.given = 2, trio.Event()
    async with trio.open_nursery() as nursery:
        async with open_rooms([room], store=store) as rooms:
            handle = rooms.get("lobby", "a")
            with pytest.raises(StoreError):
                await handle.users()
            dan = People(await enter(nursery, rooms, "user=dan"))
            assert await dan.quiet()
            await trio.sleep(10)
            nursery.start_soon(_come_back, rooms, "ana", clients[0])
            nursery.start_soon(_come_back, rooms, "bob", clients[1])
            await trio.sleep(1)
            assert await dan.quiet()
            store.given.set()
            await dan.hear()
            assert dan.users == {
                "ana": [ONLINE],
                "bob": [ONLINE],
                "cid": [{"status": "away"}],
                "dan": [ONLINE],
            }
            assert await handle.users() == ("ana", "bob", "cid", "dan")
        nursery.cancel_scope.cancel()


async def _come_back(rooms: Rooms, user: str, client: MemoryClient) -> None:
    async with connect(rooms, "lobby/a", query={"user": user}, resume=client):
        await trio.sleep_forever()


async def test_who_was_never_greeted_is_not_away(autojump_clock: MockClock) -> None:
    """A session of a process that was killed before its on_connect began has never been here."""
    store, app = MemoryStore(), Doorman()
    app.waits = {"bob"}
    room = greeting_lobby(resume_window=30)
    async with trio.open_nursery() as nursery:
        async with open_rooms([room], store=store, app=app) as rooms:
            for user in ("ana", "bob", "cid"):
                await enter(nursery, rooms, f"user={user}")
                await trio.sleep(2)
            left = copy.deepcopy(store)
            await left.aclose()
            app.go_on.set()
        nursery.cancel_scope.cancel()
    async with open_rooms([room], store=left, app=app) as rooms:
        assert len(await left.sessions("lobby/a")) == 3
        assert await rooms.get("lobby", "a").users() == ("ana", "bob")


async def test_what_was_set_is_written_although_a_commit_failed(autojump_clock: MockClock) -> None:
    """It is no effect of its handler: where that is undone, it is told and kept all the same."""
    store = FaultyStore(MemoryStore())
    room = lobby(state=list, durability="commit")
    room.on("note")(_note)
    async with trio.open_nursery() as nursery:
        async with open_rooms([room], store=store) as rooms:
            ana = await enter(nursery, rooms, "user=ana&device=d1")
            bob = People(await enter(nursery, rooms, "user=bob"))
            await People(ana).hear()
            await bob.hear()
            await ana.drop()
            await bob.hear()
            store.fail_commits(StoreFull("no room"))
            gate = store.hold_commits()
            await bob.client.emit("note")
            await gate.wait_arrived()
            async with connect(rooms, "lobby/a", query="user=ana", resume=ana) as again:
                await again.emit("set", {"status": "busy"})
                while bob.users["ana"] != [{"status": "busy"}]:
                    await bob.hear()
                gate.release()
                await trio.sleep(5)
                rows = {
                    row.room.opening.user: row for row in await store.sessions("lobby/a") if row.room.opening
                }
                assert cbor2.loads(rows["ana"].link.presence) == {"status": "busy"}
        nursery.cancel_scope.cancel()


async def _note(ctx: Context[list[Any]]) -> None:
    ctx.state.append(1)


async def test_what_is_damaged_in_the_store_is_shown_to_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no presence any more is none, and everything else goes on."""
    store = MemoryStore()
    room = lobby(resume_window=30)
    async with trio.open_nursery() as nursery:
        async with open_rooms([room], store=store) as rooms:
            ana = await enter(nursery, rooms, "user=ana&device=d1")
            await enter(nursery, rooms, "user=bob&device=d1")
            await People(ana).hear()
            await trio.sleep(5)
        nursery.cancel_scope.cancel()
    stored = store._kept.rooms["lobby/a"].sessions
    for damaged, sid in zip([b"\xff", cbor2.dumps([1])], stored, strict=True):
        stored[sid] = attrs.evolve(stored[sid], link=attrs.evolve(stored[sid].link, presence=damaged))
    async with (
        open_rooms([room], store=store) as rooms,
        connect(rooms, "lobby/a", query="user=ana", resume=ana) as again,
    ):
        assert await People(again).hear() == {"users": {"ana": [ONLINE], "bob": [{"status": "away"}]}}
    assert "damaged" in caplog.text


# Many at once.


class Ear(Link):
    """A connection that keeps what it is sent."""

    __slots__ = ("heard",)

    def __init__(self, hub: SocketHub, roster: Roster, user: str | None, flags: int = 0) -> None:
        super().__init__(hub.new_id(), roster, None, flags)
        self.user = user
        self.heard: list[bytes] = []

    def send(self, frame: bytes) -> None:
        """Keep it."""
        self.heard.append(frame)

    def send_control(self, frame: bytes) -> None:
        """It is closed, and gone at once."""
        self.roster.hub.connection_lost(self)

    def send_eof(self) -> None:
        """There is nobody."""

    def abort(self) -> None:
        """It is over."""
        if not self.flags & RELEASED:
            self.roster.hub.release(self)

    def attend(self) -> None:
        """There is nothing to write."""

    def pause_reading(self) -> None:
        """There is nothing to read."""

    def resume_reading(self) -> None:
        """There is nothing to read."""


@attrs.define(eq=False)
class Crowd:
    """Many connections of one room, without sockets."""

    rooms: Rooms
    roster: Roster = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.roster = roster_of(self.rooms._hub, self.rooms._definitions["lobby"], "lobby/a")

    def come(self, users: Iterable[str | None], flags: int = 0) -> list[Ear]:
        """So many connections at once."""
        ears = [Ear(self.rooms._hub, self.roster, user, flags) for user in users]
        for ear in ears:
            self.rooms._hub.enter(ear)
        return ears


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each frame is that was encoded to tell of presence."""
    sizes: list[int] = []

    def count(encode: Callable[[bytes], bytes], content: bytes) -> bytes:
        sizes.append(len(content))
        return encode(content)

    monkeypatch.setattr(telling, "encode_text", partial(count, encode_text))
    monkeypatch.setattr(telling, "encode_binary", partial(count, encode_binary))
    return sizes


def said(frame: bytes) -> dict[str, Any]:
    """What a frame of the server says."""
    payload = frame[2:] if frame[1] < 126 else frame[4:] if frame[1] == 126 else frame[10:]
    message = json.loads(payload) if frame[0] & 15 == TEXT else cbor2.loads(payload)
    assert message["event"] == PRESENCE
    data: dict[str, Any] = message["data"]
    return data


async def test_ten_thousand_who_come_cost_one_encoding(autojump_clock: MockClock, encoded: list[int]) -> None:
    """The whole is encoded once for each kind, however many come at once, a few users at a time."""
    names = [f"user {number}" for number in range(10_000)]
    async with open_rooms([lobby()]) as rooms:
        crowd = Crowd(rooms)
        held: list[float] = []
        work = Telling.__call__

        def watched(self: Telling, until: float) -> bool:
            began = perf_counter()
            try:
                return work(self, until)
            finally:
                held.append(perf_counter() - began)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Telling, "__call__", watched)
            patch.setattr(telling, "perf_counter", perf_counter)
            ears = crowd.come(names[:5_000]) + crowd.come(names[5_000:], BINARY)
            await trio.sleep(0.2)
        assert len(encoded) == 2
        assert len(held) > 2, "it was not done in slices"
        frames = {id(ear.heard[0]): ear.heard[0] for ear in ears}
        assert all(len(ear.heard) == 1 for ear in ears)
        assert len(frames) == 2
        for frame in frames.values():
            assert said(frame) == {"users": {name: [ONLINE] for name in names}}
        await trio.sleep(20)
        encoded.clear()
        (more,) = crowd.come(["ana"])
        await trio.sleep(0.2)
        assert len(said(more.heard[0])["users"]) == 10_001
        assert all(said(ear.heard[-1]) == {"changes": {"ana": [ONLINE]}} for ear in (ears[0], ears[-1]))
        assert len(encoded) == 3


async def test_a_storm_takes_a_tenth_of_the_time(
    autojump_clock: MockClock, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long is told less often; who comes and goes in between is told once, or never."""
    ticks = itertools.count()
    monkeypatch.setattr(telling, "perf_counter", lambda: next(ticks) * 0.01)
    async with open_rooms([lobby()]) as rooms:
        crowd = Crowd(rooms)
        (ear,) = crowd.come(["ana"])
        for _ in range(1000):
            await trio.sleep(0.01)
            for gone in crowd.come(["bob"]):
                rooms._hub.connection_lost(gone)
        await trio.sleep(10)
        took = next(ticks) * 0.01
        assert 0.01 < took < 0.15 * 20
        assert len(ear.heard) < 60
        assert said(ear.heard[-1]) == {"changes": {"bob": []}}
        assert crowd.roster.presence is not None


async def test_who_comes_while_others_are_told_is_told_the_whole_first(
    autojump_clock: MockClock, encoded: list[int]
) -> None:
    """What waits behind other output of the room does not reach those who come meanwhile."""
    async with open_rooms([lobby()]) as rooms:
        crowd = Crowd(rooms)
        (ana,) = crowd.come(["ana"])
        await trio.sleep(1)
        came: list[Ear] = []
        dan: list[Ear] = []
        calls = itertools.count()

        def long(_: float) -> bool:
            called = next(calls)
            if called == 10:
                came.extend(crowd.come(["cid"]))
                crowd.roster.ungreeted_again(dan[0])
            return called == 20

        # At the moment at which bob is told of, and before him.
        rooms._runtime.deadlines.set(trio.current_time() + 0.05, partial(rooms._hub.work, crowd.roster, long))
        crowd.come(["bob"])
        dan += crowd.come(["dan"])
        await trio.sleep(1)
        assert next(calls) == 21
        assert [*said(came[0].heard[0])["users"]] == ["ana", "bob", "cid"]
        assert [[*said(frame)["changes"]] for frame in ana.heard[1:]] == [["bob", "dan"], ["cid", "dan"]]
        assert said(ana.heard[-1])["changes"]["dan"] == []
        assert not dan[0].heard, "who is not greeted was told"
        crowd.roster.greeted(dan[0])
        await trio.sleep(1)
        assert [*said(dan[0].heard[0])["users"]] == ["ana", "bob", "dan", "cid"]


async def test_a_storm_of_clients_that_come_back_ends_as_it_began(autojump_clock: MockClock) -> None:
    """Who comes back again and again is one entry, and nothing is left of the connections before."""
    async with (
        open_rooms([lobby(resume_window=5)]) as rooms,
        connect(rooms, "lobby/a", query="user=ana") as first,
    ):
        ana = People(first)
        await ana.hear()
        async with trio.open_nursery() as nursery:
            clients = [await enter(nursery, rooms, f"user={number}&device=d") for number in range(15)]
            for client in clients:
                await People(client).hear()
            for _ in range(3):
                clients = [await _again(nursery, rooms, str(n), one) for n, one in enumerate(clients)]
                await trio.sleep(0.02)
            while len(ana.users) < 16:
                await ana.hear()
            while not await ana.quiet():
                pass
            assert all(
                ana.users[str(number)] == [{"status": "online", "device": "d"}] for number in range(15)
            )
            assert len(ana.users) == 16
            nursery.cancel_scope.cancel()
        await trio.sleep(10)
        while not await ana.quiet():
            pass
        assert ana.users == {"ana": [ONLINE]}
        presence = presence_of(rooms._hub.rosters["lobby/a"])
        assert presence is not None
        assert not any((presence._away, presence._values, presence._changed, presence._joined))


async def _again(nursery: trio.Nursery, rooms: Rooms, user: str, before: MemoryClient) -> MemoryClient:
    """Another connection of a client that has been told its session."""

    async def stay(task_status: trio.TaskStatus[MemoryClient]) -> None:
        async with connect(rooms, "lobby/a", query={"user": user}, resume=before) as client:
            task_status.started(client)
            await trio.sleep_forever()

    client: MemoryClient = await nursery.start(stay)
    while client.welcome is None:
        await client.receive()
    return client


async def _without_a_session(rooms: Rooms, task_status: trio.TaskStatus[MemoryClient]) -> None:
    async with connect(rooms, "lobby/a", query="user=bob") as client:
        task_status.started(client)
        await trio.sleep_forever()


async def _send_off(ctx: Context[Any]) -> None:
    ctx.connection.close(4000, "enough")


async def _hear_of(ctx: Context[Any]) -> None:
    pass


async def test_a_connection_that_closes_slowly_brings_back_nobody(autojump_clock: MockClock) -> None:
    """Its room is asleep and forgotten meanwhile, and somebody's time is over who was away before that."""
    room = lobby(resume_window=2, idle_timeout=0.5)
    room.on("send_off")(_send_off)
    room.on_disconnect(_hear_of)
    async with trio.open_nursery() as nursery, open_rooms([room], close_timeout=20) as rooms:
        ana = await enter(nursery, rooms, "user=ana")
        bob = await nursery.start(_without_a_session, rooms)
        await People(bob).hear()
        await ana.drop()
        await trio.sleep(0.2)
        await bob.emit("send_off")
        await trio.sleep(5)
        assert "lobby/a" not in rooms._hub.rosters
        await bob.drop()
        while rooms._hub.closing.count:
            await trio.lowlevel.checkpoint()
        assert "lobby/a" in rooms._hub.rosters
        cid = People(await enter(nursery, rooms, "user=cid"))
        await cid.hear()
        assert cid.users == {"cid": [ONLINE]}
        nursery.cancel_scope.cancel()


class Leisurely(MemoryStore):
    """Takes its time for each page of sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = 0

    async def sessions(self, *asked: Any, **options: Any) -> list[Any]:
        self.pages += 1
        await trio.sleep(0.1)
        return await super().sessions(*asked, **options)


async def test_it_is_not_read_who_is_away_for_those_who_have_left(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes and goes alone, again and again, has no more read than one who stays."""
    monkeypatch.setattr("trio_rooms._users.presence._PAGE", 1)
    store = Leisurely()
    async with trio.open_nursery() as nursery, open_rooms([lobby()], store=store) as rooms:
        away = [await enter(nursery, rooms, f"user={number}") for number in range(20)]
        for client in away:
            await client.drop()
        await trio.sleep(10)
        before = store.pages
        for _ in range(5):
            client = await enter(nursery, rooms, "user=ana")
            await trio.sleep(0.05)
            await client.drop()
            await trio.sleep(0.2)
        assert store.pages - before < 20
        dan = People(await enter(nursery, rooms, "user=dan"))
        await dan.hear()
        assert {*dan.users} == {"ana", "dan", *map(str, range(20))}
        nursery.cancel_scope.cancel()
