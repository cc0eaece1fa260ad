"""Who is in a room, as its connections are told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Admitted, ConnectRequest, Context, MemoryStore, Room, Rooms, WakeReport, open_rooms
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
