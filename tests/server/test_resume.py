"""Clients that lose their connection and come back to their session, from outside."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Admitted,
    ConnectRequest,
    Context,
    Disconnect,
    EventError,
    MemoryStore,
    Room,
    Rooms,
    Stage,
    open_rooms,
)
from trio_rooms.stores.base import Entry
from trio_rooms.testing import Closed, MemoryClient, connect

JSON = "trio-rooms.v1.json"
CBOR = "trio-rooms.v1.cbor"
Durability = Literal["snapshot", "commit"]


@attrs.define(eq=False)
class House:
    """A room, and what its handlers were told."""

    room: Room[dict[str, Any]]
    told: list[tuple[str, str]] = attrs.field(factory=list)
    """What happened to connections, by kind and id."""
    left: list[Disconnect] = attrs.field(factory=list)

    def of(self, id_: str | None) -> list[str]:
        """What was told of one."""
        return [what for what, whom in self.told if whom == id_]


State = dict[str, Any]
HOUSES: list[House] = []
"""The one that the handlers are of."""
KNOWN: dict[str, list[Any]] = {}
"""Connections that somebody holds on to."""


async def _admit(request: ConnectRequest) -> Admitted:
    user = request.query.get("user")
    return Admitted({"user": user}, user=user)


async def _connected(ctx: Context[State]) -> None:
    HOUSES[-1].told.append(("connect", ctx.connection.id))


async def _dropped(ctx: Context[State], left: Disconnect) -> None:
    assert left.id == ctx.connection.id
    assert ctx.connection.closed
    HOUSES[-1].told.append(("drop", ctx.connection.id))


async def _resumed(ctx: Context[State]) -> None:
    assert not ctx.connection.closed
    HOUSES[-1].told.append(("resume", ctx.connection.id))


async def _gone(ctx: Context[State], left: Disconnect) -> None:
    HOUSES[-1].told.append(("disconnect", left.id))
    HOUSES[-1].left.append(left)


async def _say(ctx: Context[State], text: str) -> int:
    ctx.state["count"] = count = ctx.state.get("count", 0) + 1
    ctx.room.emit("said", text, channel=ctx.channel, reliable=True)
    return int(count)


async def _tell_others(ctx: Context[State], text: str) -> None:
    others = (one for one in ctx.room.connections if one.id == ctx.connection.id)
    ctx.room.emit("told", text, exclude=others, reliable=True)


async def _hum(ctx: Context[State], text: str) -> None:
    ctx.room.emit("hummed", text)


async def _whisper(ctx: Context[State], data: dict[str, str]) -> None:
    for connection in KNOWN[data["to"]]:
        connection.emit("whispered", data["text"], reliable=True)


async def _know(ctx: Context[State]) -> str:
    KNOWN[ctx.connection.id] = [ctx.connection]
    return ctx.connection.id


async def _join(ctx: Context[State], channel: str) -> None:
    ctx.connection.join(channel)


async def _leave(ctx: Context[State], channel: str) -> None:
    ctx.connection.leave(channel)


async def _wear(ctx: Context[State], what: str) -> None:
    ctx.connection.attachment["wears"] = what


async def _who(ctx: Context[State]) -> list[Any]:
    return [ctx.connection.id, ctx.connection.attachment, list(ctx.connection.channels)]


async def _fail(ctx: Context[State]) -> None:
    ctx.state["count"] = ctx.state.get("count", 0) + 1
    code = "mine"
    raise EventError(code, "as it should")


async def _close(ctx: Context[State], code: int) -> None:
    ctx.connection.close(code)


async def _raise() -> None:
    msg = "this is what the test is about"
    raise RuntimeError(msg)


async def _crash(ctx: Context[State]) -> None:
    ctx.room.start_soon(_raise)
    await trio.sleep_forever()


EVENTS: dict[str, Any] = {
    "say": _say, "hum": _hum, "whisper": _whisper, "know": _know, "join": _join, "leave": _leave,
    "tell others": _tell_others, "wear": _wear, "who": _who, "fail": _fail, "close": _close, "crash": _crash,
}  # fmt: skip


def house(durability: Durability, *, listens: bool = True, **options: Any) -> House:
    """A room in which one can say and keep things."""
    settings = {"idle_timeout": math.inf, **options}
    room: Room[State] = Room("house", state=dict, durability=durability, **settings)
    room.authenticate(_admit)
    if room.resume_window:
        room.on_drop(_dropped)
        room.on_resume(_resumed)
    if listens:
        room.on_connect(_connected)
        room.on_disconnect(_gone)
    for event, function in EVENTS.items():
        room.on(event)(function)
    made = House(room)
    HOUSES[:] = [made]
    KNOWN.clear()
    return made


@pytest.fixture(params=["snapshot", "commit"])
def durability(request: pytest.FixtureRequest) -> Durability:
    """Both kinds of rooms."""
    kind: Durability = request.param
    return kind


@asynccontextmanager
async def inside(rooms: Rooms, protocol: str = JSON, **options: Any) -> AsyncIterator[MemoryClient]:
    """A client that has had its welcome."""
    async with connect(rooms, "house/x", subprotocols=[protocol], **options) as client:
        welcome = await client.receive()
        assert welcome["event"] == "rooms.welcome"
        yield client


@asynccontextmanager
async def back(rooms: Rooms, client: MemoryClient, **options: Any) -> AsyncIterator[MemoryClient]:
    """The same client, come back."""
    async with connect(rooms, "house/x", resume=client, **options) as again:
        welcome = await again.receive()
        assert welcome["event"] == "rooms.welcome"
        yield again


def resumed(client: MemoryClient, before: MemoryClient) -> bool:
    """Whether it went on with its session."""
    assert client.welcome is not None
    assert before.welcome is not None
    if not client.welcome["resumed"]:
        return False
    assert client.welcome["resume"] == before.welcome["resume"]
    assert client.session == before.session == client.welcome["connection"]
    return True


async def lose(client: MemoryClient) -> None:
    """Its connection breaks."""
    await client.drop()
    await wait_all_tasks_blocked()


async def test_a_session_begins_with_the_welcome(autojump_clock: MockClock, durability: Durability) -> None:
    """It has a token, and says from where it counts, and whether it is safe already."""
    async with open_rooms([house(durability).room]) as rooms:
        async with inside(rooms) as client:
            assert client.welcome is not None
            token = client.welcome.pop("resume")
            assert client.welcome == {
                "connection": client.session,
                "session": client.session,
                "resumed": False,
                "seq": 0,
                "durable": durability == "commit",
            }
            assert len(token) == 32
            await client.ask("say", "hello")
        async with inside(rooms, CBOR) as client:
            assert client.welcome is not None
            assert client.welcome["seq"] == 1


async def test_who_comes_back_gets_what_it_missed_once_and_in_order(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """And then what comes; its id, its attachment and its channels are as they were."""
    made = house(durability)
    async with (
        open_rooms([made.room]) as rooms,
        inside(rooms) as other,
        inside(rooms, CBOR, query="user=ada") as ada,
    ):
        await ada.ask("join", "red")
        await ada.ask("wear", "a hat")
        before = await ada.ask("who")
        await other.ask("say", "one")
        assert await ada.receive() == {"event": "said", "data": "one", "seq": 1}
        await lose(ada)
        assert made.of(ada.session) == ["connect", "drop"]
        await other.ask("say", "two")
        await other.ask("hum", "nothing to keep")
        await other.ask("say", "three", channel="red")
        await trio.sleep(100)
        async with back(rooms, ada, query="user=ada") as again:
            assert resumed(again, ada)
            assert await again.receive() == {"event": "said", "data": "two", "seq": 2}
            assert await again.receive() == {"event": "said", "data": "three", "seq": 3}
            assert (
                await again.ask("who") == before == [ada.session, {"user": "ada", "wears": "a hat"}, ["red"]]
            )
            await other.ask("say", "four")
            assert await again.receive() == {"event": "said", "data": "four", "seq": 4}
            assert made.of(ada.session) == ["connect", "drop", "resume"]
        await wait_all_tasks_blocked()
        assert made.of(ada.session) == ["connect", "drop", "resume", "disconnect"]


@pytest.mark.parametrize(
    "data",
    [
        2**70,
        -(2**64) - 1,
        {1.5: 1, None: 2, True: 3, (1, 2): 4, 2**70: 5},
        dict.fromkeys(range(2000), "x" * 20),
        {"bytes": b"\xff", "day": datetime.date(2026, 1, 2), "no": math.nan, "all": {3}},
        json.loads("[" * 60 + "]" * 60),
    ],
    ids=["large", "low", "keys", "integers", "forms", "deep"],
)
async def test_what_comes_again_is_what_came(
    data: Any, autojump_clock: MockClock, durability: Durability
) -> None:
    """Also where it is more than a client may send itself."""
    made = house(durability)
    async with open_rooms([made.room]) as rooms:
        for protocol in (JSON, CBOR):
            async with inside(rooms, protocol) as client:
                await client.ask("who")
                await rooms.get("house", "x").emit_durably("said", data)
                first = await client.receive()
                await lose(client)
                await rooms.get("house", "x").emit_durably("said", data)
                async with back(rooms, client) as again:
                    with trio.fail_after(5):
                        assert repr((await again.receive())["data"]) == repr(first["data"])


async def test_a_journal_that_is_damaged_costs_a_session_and_no_more(
    autojump_clock: MockClock, durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    """Who would get what nobody can read any more begins anew; the room and all others go on."""

    class Damaged(MemoryStore):
        async def journal(self, key: str, after: int, until: int, most_bytes: int) -> list[Entry]:
            found = await super().journal(key, after, until, most_bytes)
            return [attrs.evolve(entry, body=b"\xff") for entry in found]

    made = house(durability)
    async with open_rooms([made.room], store=Damaged()) as rooms, inside(rooms) as client:
        await client.ask("say", "one")
        await lose(client)
        await rooms.get("house", "x").emit_durably("said", "two")
        async with back(rooms, client) as again:
            with pytest.raises(trio.EndOfChannel), trio.fail_after(5):
                await again.receive()
            assert again.closed == Closed(1011, "what was missed is damaged")
        async with back(rooms, client) as anew:
            assert not resumed(anew, client)
            assert await anew.ask("say", "two") == 2
    assert "what a session has missed is damaged" in caplog.text


async def test_a_session_that_is_over_is_not_gone_on_with(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """on_disconnect comes once, when its time is over; who comes later is told, and begins anew."""
    made = house(durability, resume_window=30)
    async with open_rooms([made.room]) as rooms, inside(rooms):
        async with inside(rooms, query="user=ada") as ada:
            await lose(ada)
            await trio.sleep(29)
            assert made.left == []
            await trio.sleep(2)
            assert [(left.id, left.attachment, left.code, left.clean) for left in made.left] == [
                (ada.session, {"user": "ada"}, 1006, False)
            ]
            async with back(rooms, ada, query="user=ada") as again:
                assert not resumed(again, ada)
                assert again.welcome is not None
                assert again.welcome["reason"] in {"unknown", "expired"}
                assert again.session != ada.session
                assert await again.ask("say", "hello") == 1
        await trio.sleep(100)
        assert len(made.left) == 2


@pytest.mark.parametrize(("code", "ends"), [(1000, True), (1001, False), (3000, False), (4999, False)])
async def test_which_close_of_a_client_ends_its_session(
    autojump_clock: MockClock, durability: Durability, code: int, ends: bool
) -> None:
    """1000 does, at once; what a browser sends as a page goes away does not, nor does anything else."""
    made = house(durability)
    async with open_rooms([made.room]) as rooms, inside(rooms) as client:
        await client.hang_up(code)
        await wait_all_tasks_blocked()
        assert made.of(client.session) == ["connect", "disconnect" if ends else "drop"]
        async with back(rooms, client) as again:
            assert resumed(again, client) is not ends


@pytest.mark.parametrize(
    ("code", "ends"), [(1000, True), (1001, False), (1008, True), (1013, False), (4001, True)]
)
async def test_which_close_of_the_room_ends_a_session(
    autojump_clock: MockClock, durability: Durability, code: int, ends: bool
) -> None:
    """Any but those that mean no client in particular."""
    made = house(durability)
    async with open_rooms([made.room]) as rooms, inside(rooms) as client:
        await client.emit("close", code)
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed == Closed(code, "")
        await wait_all_tasks_blocked()
        assert made.of(client.session) == ["connect", "disconnect" if ends else "drop"]
        async with back(rooms, client) as again:
            assert resumed(again, client) is not ends


async def test_who_comes_back_before_its_loss_was_noticed_takes_the_session(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """The other connection is closed with 4001, and nobody has left the room."""
    made = house(durability)
    async with open_rooms([made.room]) as rooms, inside(rooms) as first:
        async with back(rooms, first) as second:
            assert resumed(second, first)
            with pytest.raises(trio.EndOfChannel):
                await first.receive()
            assert first.closed == Closed(4001, "another connection took the session")
            assert rooms.get("house", "x").info().connections == 1
            assert await second.ask("who") == [first.session, {"user": None}, []]
            async with back(rooms, first) as third:
                assert resumed(third, first)
                assert await third.ask("who") == [first.session, {"user": None}, []]
                assert made.of(first.session) == ["connect", "resume", "resume"]
        await wait_all_tasks_blocked()
        assert made.of(first.session)[3:] == ["disconnect"]


async def test_of_two_that_come_back_at_once_one_has_the_session(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """The other one is told that it was taken."""
    made = house(durability)
    async with open_rooms([made.room]) as rooms, inside(rooms) as client:
        await client.ask("say", "one")
        await lose(client)
        ends: list[Any] = []

        async def come() -> None:
            async with connect(rooms, "house/x", resume=client) as again:
                assert (await again.receive())["data"]["resumed"]
                with trio.move_on_after(10):
                    async for _ in again:
                        pass
                ends.append(again.closed)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(come)
        assert ends.count(None) == 1
        assert [end.code for end in ends if end is not None] == [4001, 4001]


async def test_a_token_is_worthless_without_the_user_the_room_and_the_whole_of_it(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Who has the wrong one begins anew, and the session is none the worse for it."""
    made = house(durability)
    async with open_rooms([made.room]) as rooms, inside(rooms, query="user=ada") as ada:
        assert ada.welcome is not None
        token = ada.welcome["resume"]
        await lose(ada)
        wrong = [
            token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"),
            "",
            "x",
            "A" * 32,
            "é" * 32,
            token * 40,
        ]
        for query in [{"user": "bob", "resume": token}, *({"user": "ada", "resume": one} for one in wrong)]:
            async with connect(rooms, "house/x", subprotocols=[JSON], query=query) as client:
                welcome = (await client.receive())["data"]
                assert (welcome["resumed"], welcome["reason"]) == (False, "unknown")
                assert welcome["session"] != ada.session
        async with connect(
            rooms, "house/other", subprotocols=[JSON], query={"user": "ada", "resume": token}
        ) as client:
            assert (await client.receive())["data"]["reason"] == "unknown"
        async with back(rooms, ada, query="user=ada") as again:
            assert resumed(again, ada)


@pytest.mark.parametrize("seq", ["", "x", "-1", "1e3", "٣", "9" * 16, "9" * 400, "2"])
async def test_a_seq_that_nobody_was_given_is_no_way_back(
    autojump_clock: MockClock, durability: Durability, seq: str
) -> None:
    """What is no number is none that the client has; what is beyond all that was sent is not known."""
    async with open_rooms([house(durability).room]) as rooms, inside(rooms) as client:
        await client.ask("say", "one")
        await lose(client)
        assert client.welcome is not None
        query = {"resume": client.welcome["resume"], "seq": seq}
        async with connect(rooms, "house/x", subprotocols=[JSON], query=query) as again:
            welcome = (await again.receive())["data"]
            if seq in {"9" * 16, "2"}:
                assert welcome["reason"] == "unknown"
            else:
                assert welcome["resumed"]
                assert await again.receive() == {"event": "said", "data": "one", "seq": 1}


async def test_what_was_acknowledged_does_not_come_again(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Not even to who asks for it; and it is gone from the store a little later, with no more ado."""
    store = MemoryStore()
    async with open_rooms([house(durability).room], store=store) as rooms, inside(rooms) as client:
        for text in ("one", "two", "three"):
            await client.ask("say", text)
        await client.receive_many(3)
        await client.acknowledge(2)
        await trio.sleep(3)
        assert [entry.seq for entry in await store.journal("house/x", 0, 1 << 53, 1 << 20)] == [3]
        client.seq = 0
        await lose(client)
        async with back(rooms, client) as again:
            assert resumed(again, client)
            assert await again.receive() == {"event": "said", "data": "three", "seq": 3}


async def test_an_acknowledgement_wakes_nobody(autojump_clock: MockClock, durability: Durability) -> None:
    """Nor does one that asks whether the connection works; the hub answers that, in the client's kind."""
    for protocol in (JSON, CBOR):
        async with (
            open_rooms([house(durability, listens=False).room]) as rooms,
            inside(rooms, protocol) as client,
        ):
            await client.ask("say", "one")
            await client.receive()
            await wait_all_tasks_blocked()
            assert await rooms.get("house", "x").hibernate()
            await client.acknowledge()
            await client.acknowledge(id=1)
            await client.send('{ "ping" : true, "ack": 1 }')
            assert await client.receive() == {"event": "rooms.pong", "data": None}
            assert rooms.get("house", "x").info().stage is Stage.ASLEEP


@pytest.mark.parametrize("message", ['{"ack": "x"}', '{"ack": 1.5}', '{"ack": true}', '["ack"]'])
async def test_what_is_no_acknowledgement_is_refused(autojump_clock: MockClock, message: str) -> None:
    """As any other message that is none."""
    async with open_rooms([house("snapshot").room]) as rooms, inside(rooms) as client:
        await client.send(message)
        assert (await client.receive())["error"]["code"] == "invalid_message"


async def test_an_event_with_an_ack_in_it_is_an_event(autojump_clock: MockClock) -> None:
    """Whatever else is in the map of an event."""
    async with open_rooms([house("snapshot").room]) as rooms, inside(rooms) as client:
        await client.send('{"ack": 5, "event": "say", "data": "hello", "id": 1}')
        assert (await client.receive())["event"] == "said"
        assert await client.receive() == {"ack": 1, "data": 1}


async def test_while_a_room_sleeps_its_sessions_come_and_go(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Nobody is woken, and nothing is told of what was over before it woke."""
    made = house(durability)
    async with open_rooms([made.room]) as rooms, inside(rooms), inside(rooms) as client:
        handle = rooms.get("house", "x")
        await client.ask("say", "one")
        await wait_all_tasks_blocked()
        assert await handle.hibernate()
        client.seq = 0  # As if it had not arrived.
        await lose(client)
        await trio.sleep(5)
        assert handle.emit("said", "outside", reliable=True).reached == 1
        assert (await handle.emit_durably("said", "durably")).reached == 1
        async with back(rooms, client) as again:
            assert resumed(again, client)
            texts = [(message["data"], message["seq"]) for message in await again.receive_many(3)]
            assert texts == [("one", 1), ("outside", 2), ("durably", 3)]
            assert handle.info().stage is Stage.ASLEEP
            handle.emit("said", "to who is there", reliable=True)
            assert (await again.receive())["data"] == "to who is there"
            await again.acknowledge()
            assert handle.info().stage is Stage.ASLEEP
            assert await again.ask("who") == [client.session, {"user": None}, []]
            assert made.of(client.session) == ["connect"]


@pytest.mark.parametrize(
    "order", ["sleep drop", "sleep emit drop", "drop sleep emit", "sleep drop wake emit"]
)
async def test_what_is_not_acknowledged_is_there_however_the_room_sleeps(
    autojump_clock: MockClock, durability: Durability, order: str
) -> None:
    """Whether a connection is lost before, after, or while nothing of the room is in memory."""
    async with open_rooms([house(durability, listens=False).room]) as rooms:
        handle = rooms.get("house", "x")
        async with inside(rooms) as client:
            await client.ask("say", "one")
            await trio.sleep(2)
            for step in order.split():
                if step == "sleep":
                    assert await handle.hibernate()
                elif step == "emit":
                    await handle.emit_durably("said", "two")
                elif step == "wake":
                    await handle.ask("hum", "a tune")
                else:
                    await lose(client)
                await trio.sleep(2)
            client.seq = 0
            async with back(rooms, client) as again:
                assert resumed(again, client)
                assert await again.receive() == {"event": "said", "data": "one", "seq": 1}


async def test_sessions_of_a_sleeping_room_leave_nothing_in_memory(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Neither those that are away, nor their room."""
    async with open_rooms([house(durability).room]) as rooms, inside(rooms) as client:
        await client.ask("say", "one")
        await wait_all_tasks_blocked()
        await rooms.get("house", "x").hibernate()
        await lose(client)
        await trio.sleep(5)
        assert rooms._supervisor._records == {}
        assert rooms._hub.rosters == {}
        assert rooms.statistics().supervisor.awake == 0


@pytest.mark.parametrize("listens", [False, True])
async def test_sessions_that_end_while_their_room_sleeps(
    autojump_clock: MockClock, durability: Durability, listens: bool
) -> None:
    """The last one wakes it to hear of all of them, if it listens; nothing is left of any."""
    store = MemoryStore()
    made = house(durability, listens=listens)
    async with (
        open_rooms([made.room], store=store) as rooms,
        inside(rooms, query="user=ada") as ada,
        inside(rooms, query="user=bob") as bob,
    ):
        await ada.ask("wear", "a hat")
        await wait_all_tasks_blocked()
        await rooms.get("house", "x").hibernate()
        wakes = rooms.statistics().supervisor.wakes
        await lose(ada)
        await trio.sleep(60)
        await lose(bob)
        await trio.sleep(61)
        assert made.left == []
        assert rooms.statistics().supervisor.wakes == wakes
        await trio.sleep(60)
        expected = [(ada.session, {"user": "ada", "wears": "a hat"}), (bob.session, {"user": "bob"})]
        assert [(left.id, left.attachment) for left in made.left] == (expected if listens else [])
        assert rooms.statistics().supervisor.wakes == wakes + listens
        await trio.sleep(5)
        assert await store.sessions("house/x") == []


async def test_a_room_that_wants_it_is_woken_for_each_session_that_ends(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """With wake_on_disconnect."""
    made = house(durability, wake_on_disconnect=True)
    async with open_rooms([made.room]) as rooms, inside(rooms), inside(rooms) as client:
        await rooms.get("house", "x").hibernate()
        await lose(client)
        await trio.sleep(100)
        assert made.of(client.session) == ["connect"]
        await trio.sleep(21)
        assert made.of(client.session) == ["connect", "disconnect"]


async def test_sessions_outlive_the_process(autojump_clock: MockClock, durability: Durability) -> None:
    """Of a server that was stopped in order: the token works, nothing is missing, time begins anew."""
    store, made = MemoryStore(), house(durability)
    async with (
        open_rooms([made.room], store=store) as rooms,
        inside(rooms, query="user=ada") as ada,
        inside(rooms) as bob,
        inside(rooms) as carl,
    ):
        await ada.ask("join", "red")
        await ada.ask("wear", "a hat")
        await carl.ask("say", "one")
        await lose(bob)
        await ada.receive()
        await trio.sleep(100)
        await carl.ask("say", "two")
        await trio.sleep(2)
        ada.seq = 1
        await rooms.aclose()
    made.told.clear()
    await trio.sleep(1000)
    async with open_rooms([made.room], store=store) as rooms:
        await trio.sleep(10)
        async with back(rooms, ada, query="user=ada") as again:
            assert resumed(again, ada)
            assert (await again.receive())["data"] == "two"
            assert await again.ask("who") == [ada.session, {"user": "ada", "wears": "a hat"}, ["red"]]
            assert await again.ask("say", "three") == 3
            assert (await again.receive())["data"] == "three"
        async with back(rooms, bob) as again:
            assert not resumed(again, bob)  # Its time was over before.
        assert rooms.metrics().resumes["resumed"] == 1
        assert sum(rooms.metrics().resumes.values()) == 2
        await trio.sleep(100)
        assert made.of(bob.session) == ["disconnect"]
        assert made.of(carl.session) == []
        await trio.sleep(20)
        assert made.of(carl.session) == ["disconnect"]


async def test_who_is_too_far_behind_learns_it(
    autojump_clock: MockClock, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not acknowledge is closed with 1013; it and one that was away begin anew."""
    monkeypatch.setattr("trio_rooms._state.journal._MOST", 20)
    made = house(durability)
    async with (
        open_rooms([made.room]) as rooms,
        inside(rooms) as away,
        inside(rooms) as lazy,
        inside(rooms) as busy,
    ):
        await lose(away)
        for number in range(30):
            await busy.ask("say", str(number))
            await busy.receive()
            await busy.acknowledge()
        async for _ in lazy:
            pass
        assert lazy.closed == Closed(1013, "too far behind: what was sent is not acknowledged")
        for client in (away, lazy):
            client.seq = 0
            async with back(rooms, client) as again:
                assert not resumed(again, client)
                assert again.welcome is not None
                assert again.welcome["reason"] == "too_far_behind"
            await wait_all_tasks_blocked()
            assert made.of(client.session) == ["connect", "drop", "disconnect"]
        assert rooms.metrics().resumes == {"resumed": 0, "unknown": 0, "expired": 0, "too_far_behind": 2}


async def test_who_was_in_a_channel_when_something_was_sent_to_it_gets_it(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Whatever it joined or left before or after; live, and when it comes back."""
    async with open_rooms([house(durability).room]) as rooms, inside(rooms) as other, inside(rooms) as client:
        await other.ask("say", "1", channel="red")
        await client.ask("join", "red")
        await other.ask("say", "2", channel="red")
        await client.ask("leave", "red")
        await client.ask("join", "blue")
        await other.ask("say", "3", channel="red")
        await other.ask("say", "4", channel="blue")
        client.seq = 0
        await lose(client)
        await other.ask("say", "5", channel="blue")
        await other.ask("say", "6", channel="red")
        async with back(rooms, client) as again:
            assert [message["data"] for message in await again.receive_many(3)] == ["2", "4", "5"]
            assert await again.ask("who") == [client.session, {"user": None}, ["blue"]]


async def test_who_was_left_out_is_so_also_when_it_comes_back(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """However those were named that do not get something: here by what can be gone through once."""
    async with open_rooms([house(durability).room]) as rooms, inside(rooms) as other, inside(rooms) as client:
        await client.ask("say", "1")
        await client.ask("tell others", "2")
        await client.ask("say", "3")
        assert [message["data"] for message in await other.receive_many(3)] == ["1", "2", "3"]
        client.seq = 0
        await lose(client)
        async with back(rooms, client) as again:
            assert [message["data"] for message in await again.receive_many(2)] == ["1", "3"]


async def test_what_was_sent_before_somebody_was_greeted_is_not_for_it(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Also where that was not released yet, and where it comes back with all that it can ask for."""
    room: Room[State] = Room("house", state=dict, durability=durability)
    room.on_connect(_announce)
    room.on("who")(_who)
    store = MemoryStore()
    async with open_rooms([room], store=store) as rooms, trio.open_nursery() as nursery:
        clients: list[MemoryClient] = []

        async def come() -> None:
            async with connect(rooms, "house/x", subprotocols=[JSON]) as client:
                clients.append(client)
                await client.receive_many(2)
                await trio.sleep(10)

        for _ in range(3):
            nursery.start_soon(come)
        await trio.sleep(5)
        await rooms.aclose()
    async with open_rooms([room], store=store) as rooms:
        for client in clients:
            client.seq = 0
            async with connect(rooms, "house/x", resume=client) as again:
                assert (await again.receive())["data"]["resumed"]
                first = await again.receive()
                assert first["data"] == client.session


async def _announce(ctx: Context[State]) -> None:
    ctx.room.emit("came", ctx.connection.id, reliable=True)


async def test_what_is_sent_to_one_that_is_away_waits_for_it(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """A connection can be spoken to reliably while it has none; and only it gets that."""
    async with open_rooms([house(durability).room]) as rooms, inside(rooms) as other, inside(rooms) as client:
        id_ = await client.ask("know")
        await lose(client)
        await other.ask("whisper", {"to": id_, "text": "psst"})
        async with back(rooms, client) as again:
            assert await again.receive() == {"event": "whispered", "data": "psst", "seq": 1}
            await other.ask("whisper", {"to": id_, "text": "still you"})
            assert await again.receive() == {"event": "whispered", "data": "still you", "seq": 2}
        assert await other.ask("who") == [other.session, {"user": None}, []]
        assert other._kept == type(other._kept)()


async def test_a_message_that_was_handled_is_not_handled_again(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Its id is told what it was told before: over the same connection, the next, and after a restart."""
    store, made = MemoryStore(), house(durability)
    async with open_rooms([made.room], store=store) as rooms, inside(rooms) as client:
        answers = []
        for id_, (event, data) in enumerate(
            [("say", "one"), ("fail", None), ("nothing", 1), ("say", "two")], 1
        ):
            await client.emit(event, data, id=id_)
            answers.append(await client._until(lambda message: "ack" in message))
        assert [answer.get("data", answer.get("error", {}).get("code")) for answer in answers] == [
            1, "mine", "unknown_event", 3,
        ]  # fmt: skip

        async def ask_again(client: MemoryClient) -> None:
            for id_, answer in enumerate(answers, 1):
                await client.emit("say", "again", id=id_)
                assert await client._until(lambda message: "ack" in message) == answer

        await ask_again(client)
        await lose(client)
        async with back(rooms, client) as again:
            await ask_again(again)
            await wait_all_tasks_blocked()
            await rooms.get("house", "x").hibernate()
            await ask_again(again)
            await lose(again)
        await trio.sleep(5)
    async with open_rooms([made.room], store=store) as rooms, back(rooms, again) as later:
        await ask_again(later)
        assert await rooms.get("house", "x").peek() == {"count": 3}


async def test_what_is_sent_while_somebody_catches_up_comes_behind_it(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """Answers and what is not kept wait in the connection; what is kept comes once."""
    async with open_rooms([house(durability).room]) as rooms, inside(rooms) as other, inside(rooms) as client:
        await lose(client)
        for number in range(2000):
            await other.emit("say", f"{number:0300}")
        await other.ask("say", "last")
        async with connect(rooms, "house/x", resume=client) as again:
            await other.ask("hum", "a tune")
            await other.ask("say", "live")
            messages = await again.receive_many(2004)
            assert messages[0]["data"]["resumed"]
            kept = [message["seq"] for message in messages if "seq" in message]
            assert kept == list(range(1, 2003))
            assert [message["data"] for message in messages if message["event"] == "hummed"] == ["a tune"]
            assert messages.index({"event": "hummed", "data": "a tune"}) > 2000


async def test_what_is_sent_as_a_room_wakes_comes_before_what_it_sends_then(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """In order, and as soon: also what nobody had begun to write when the room woke."""
    made = house(durability, snapshot_interval=10.0)
    async with open_rooms([made.room]) as rooms, inside(rooms) as client:
        room = rooms.get("house", "x")
        for number in range(10):  # Of the tasks that wake and write another one is first each time.
            assert await room.hibernate()
            room.emit("before", number, reliable=True)
            began = trio.current_time()
            await room.ask("say", "after")
            heard = await client.receive_many(2)
            assert [message["event"] for message in heard] == ["before", "said"]
            assert trio.current_time() - began < 1


async def _greet(ctx: Context[State]) -> None:
    ctx.connection.emit("hello", unconfirmed=True)
    ctx.connection.emit("later")


async def test_nothing_comes_before_the_welcome(autojump_clock: MockClock) -> None:
    """In a room whose welcome waits for a commit, also not what waits for none."""
    room: Room[State] = Room("house", durability="commit")
    room.on_connect(_greet)
    room.on("who")(_who)
    async with open_rooms([room]) as rooms, connect(rooms, "house/x", subprotocols=[JSON]) as client:
        assert [message["event"] for message in await client.receive_many(3)] == [
            "rooms.welcome",
            "hello",
            "later",
        ]


async def _refuse(ctx: Context[State]) -> None:
    code = "no"
    raise EventError(code, "not today")


async def _break(ctx: Context[State]) -> None:
    msg = "this is what the test is about"
    raise RuntimeError(msg)


@pytest.mark.parametrize("refuse", [_refuse, _break])
async def test_who_is_refused_as_it_connects_has_no_session(
    autojump_clock: MockClock, durability: Durability, refuse: Any
) -> None:
    """It is closed, and cannot come back to it."""
    room: Room[State] = Room("house", durability=durability)
    room.on_connect(refuse)
    room.on("who")(_who)
    async with open_rooms([room]) as rooms:
        for _ in range(2):
            async with connect(rooms, "house/x", subprotocols=[JSON]) as client:
                async for _ in client:
                    pass
            if client.welcome is not None:
                async with connect(rooms, "house/x", resume=client) as again:
                    assert not (await again.receive())["data"]["resumed"]


async def test_a_room_without_a_window_has_no_sessions(
    autojump_clock: MockClock, durability: Durability
) -> None:
    """A drop is the end, and nothing can be sent reliably."""
    made = house(durability, resume_window=0)
    async with open_rooms([made.room]) as rooms, inside(rooms) as client:
        assert client.welcome is not None
        assert (client.welcome["session"], client.welcome["resume"]) == (None, None)
        with pytest.raises(EventError, match="could not handle"):
            await client.ask("say", "reliably")
        with pytest.raises(ValueError, match="resume_window=0"):
            rooms.get("house", "x").emit("said", reliable=True)
        await lose(client)
        assert [what for what, _ in made.told] == ["connect", "disconnect"]


async def test_of_too_many_that_are_away_the_oldest_end_early(
    autojump_clock: MockClock, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever connects and drops for ever leaves no more than that."""
    monkeypatch.setattr("trio_rooms._runtime.registrar._MOST_AWAY", 10)
    monkeypatch.setattr("trio_rooms._runtime.registrar._AT_ONCE", 4)
    store, made = MemoryStore(), house(durability)
    async with open_rooms([made.room], store=store) as rooms:
        clients = []
        for _ in range(30):
            async with inside(rooms) as client:
                await lose(client)
                clients.append(client)
            await trio.sleep(1.5)
        assert len(await store.sessions("house/x")) <= 11
        assert made.of(clients[0].session)[-1] == "disconnect"
        async with back(rooms, clients[-1]) as again:
            assert resumed(again, clients[-1])


async def test_a_session_goes_on_where_its_room_crashes(
    autojump_clock: MockClock, durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections stay, what was sent reliably is there, and ids that were answered are used up."""
    made = house(durability)

    async with open_rooms([made.room]) as rooms, inside(rooms) as client:
        await client.ask("say", "one")
        await trio.sleep(2)
        await client.emit("crash", id=7)
        told = await client._until(lambda message: "ack" in message)
        assert told["error"]["code"] in {"internal_error", "not_saved"}
        await client.emit("say", "seven again", id=7)
        assert await client._until(lambda message: "ack" in message) == told
        await lose(client)
        async with back(rooms, client) as again:
            assert resumed(again, client)
            await again.emit("say", "two", id=8)
            assert (await again._until(lambda message: "ack" in message))["data"] == 2


async def test_an_older_state_ends_all_sessions(
    autojump_clock: MockClock, durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the newest snapshot is damaged, what was told since the one before is not true any more."""
    store, made = MemoryStore(), house(durability)
    async with open_rooms([made.room], store=store) as rooms, inside(rooms) as client:
        for text in ("one", "two"):
            await client.ask("say", text)
            await trio.sleep(2)
        client.seq = 0
        await rooms.aclose()
    stored = store._kept.rooms["house/x"]
    newest, older = stored.snapshots
    stored.snapshots = (attrs.evolve(newest, document=newest.document[:-1] + b"?"), older)
    made.told.clear()
    async with open_rooms([made.room], store=store) as rooms:
        assert (await rooms.get("house", "x").ask("say", "three")) == 2
        async with back(rooms, client) as again:
            assert not resumed(again, client)
            assert again.welcome is not None
            assert again.welcome["reason"] == "unknown"
            assert await again.ask("say", "four") == 3
        await trio.sleep(200)
        assert made.of(client.session) == []
        assert "its sessions end" in caplog.text
    assert await _rows(store) == []


async def _rows(store: MemoryStore) -> list[Any]:
    async with store:
        return await store.sessions("house/x")
