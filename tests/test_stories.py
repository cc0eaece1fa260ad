"""Ten stories in which something could be lost, done twice, or told wrongly, each as clients see it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.raw import CLOSE, TEXT, Client, frame, request
from trio_rooms import (
    Context,
    Disconnect,
    DiskStore,
    MemoryStore,
    Room,
    RoomInfo,
    Rooms,
    Stage,
    StaleWrite,
    Store,
    StoreError,
    StoreFull,
    open_rooms,
)
from trio_rooms.stores import Commit
from trio_rooms.testing import FaultyStore

SUBPROTOCOL = "trio-rooms.v1.json"
KEY = "ledger/x"
PATH = "/ledger/x"


class Unreported(DiskStore):
    """A store whose commits are done, and their reports held back while somebody wants it so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path
        self.done = trio.Event()
        """Set when a commit was done whose report is held back."""
        self._reports: trio.Event | None = None

    def hold_reports(self) -> None:
        self._reports = trio.Event()

    def release_reports(self) -> None:
        assert self._reports is not None
        self._reports.set()
        self._reports = None

    async def commit(self, commit: Commit) -> None:
        reports = self._reports
        await super().commit(commit)
        if reports is not None:
            self.done.set()
            await reports.wait()

    def left(self, path: Path) -> DiskStore:
        """What is on the disk at this moment, as a kill would leave it to the next process."""
        shutil.copytree(self._path, path)
        return DiskStore(path)


@attrs.define
class Ledger:
    balance: int = 0
    count: int = 0


@attrs.define(eq=False)
class House:
    """What is noticed in a ledger, by whoever watches it from within."""

    handled: list[int] = attrs.field(factory=list)
    """Each amount, as often as a handler began with it."""
    ended: list[str] = attrs.field(factory=list)
    """Connections whose end the room was told."""
    waiting: trio.Event = attrs.field(factory=trio.Event)
    """Set when a handler waits that will not end by itself."""


room = Room("ledger", state=Ledger, durability="commit", idle_timeout=600)


@room.on("add")
async def add(ctx: Context[Ledger], amount: int) -> int:
    """Add, and tell everybody."""
    ctx.app.handled.append(amount)
    ctx.state.balance += amount
    ctx.state.count += 1
    ctx.room.emit("balance", [ctx.state.count, ctx.state.balance], reliable=True)
    return ctx.state.balance


@room.on("get")
async def get(ctx: Context[Ledger]) -> int:
    """Change nothing."""
    return ctx.state.balance


@room.on("stubborn")
async def stubborn(ctx: Context[Ledger]) -> None:
    """Wait, and tidy up when that is cancelled."""
    ctx.app.waiting.set()
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        ctx.state.balance += 1000
        ctx.room.storage.put("junk", "written by who was cancelled")
        ctx.room.emit("junk", None, reliable=True)
        ctx.connection.emit("junk", None)


@room.on("rest")
async def rest(ctx: Context[Ledger]) -> str:
    """Change something when a moment has passed."""
    ctx.app.waiting.set()
    await trio.sleep(0.2)
    ctx.state.balance += 100
    return "rested"


@room.on("passing")
async def passing(ctx: Context[Ledger], amount: int) -> None:
    """Be in a channel for a moment."""
    ctx.connection.join("hall")
    ctx.state.balance += amount
    ctx.room.emit("heard", amount, channel="hall", reliable=True)
    ctx.connection.leave("hall")


@room.on("flood")
async def flood(ctx: Context[Ledger], count: int) -> None:
    """Say much that must not be lost."""
    for number in range(count):
        ctx.room.emit("drop", number, reliable=True)


@room.on_disconnect
async def gone(ctx: Context[Ledger], left: Disconnect) -> None:
    """Remember who left."""
    ctx.app.ended.append(left.id)


@attrs.define(eq=False)
class Guest:
    """A client with a session, byte for byte what it sends."""

    client: Client
    welcome: dict[str, Any]

    @classmethod
    async def of(cls, client: Client) -> Guest:
        """Who has asked to come in."""
        with trio.fail_after(10):
            status, *_ = await client.answer(body=False)
            assert status == 101
            opcode, payload = await client.frame()
        assert opcode == TEXT
        welcome = json.loads(payload)
        assert welcome["event"] == "rooms.welcome"
        return cls(client, welcome["data"])

    @property
    def token(self) -> str:
        return str(self.welcome["resume"])

    async def say(self, event: str, data: Any = None, id: int | None = None) -> None:  # noqa: A002
        message = {"event": event, "data": data} | ({} if id is None else {"id": id})
        await self.client.send(frame(TEXT, json.dumps(message).encode()))

    async def say_all(self, *messages: tuple[str, Any, int]) -> None:
        """Send some in one piece: the event, the data and the id of each."""
        frames = [
            frame(TEXT, json.dumps({"event": event, "data": data, "id": number}).encode())
            for event, data, number in messages
        ]
        await self.client.send(b"".join(frames))

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        with trio.fail_after(10):
            opcode, payload = await self.client.frame()
        assert opcode == TEXT, (opcode, payload)
        message: dict[str, Any] = json.loads(payload)
        return message

    async def verdict(self, id: int) -> Any:  # noqa: A002
        """What a message is answered, the data or the code of the error; what comes before is passed over."""
        while True:
            message = await self.hear()
            if message.get("ack") == id:
                return message["error"]["code"] if "error" in message else message.get("data")

    async def closed(self) -> int:
        """The code that it is closed with, after whatever comes before."""
        with trio.fail_after(10):
            while True:
                opcode, payload = await self.client.frame()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2])

    async def hears_nothing(self) -> None:
        """Nothing has come that was not heard, nor comes in a moment."""
        with trio.move_on_after(0.05) as scope:
            pytest.fail(f"it heard {await self.client.frame()}")
        assert scope.cancelled_caught

    async def drop(self) -> None:
        """Be gone without a word."""
        await trio.aclose_forcefully(self.client.stream)


@attrs.define(eq=False)
class Place:
    """Rooms that are served."""

    rooms: Rooms
    port: int
    clients: list[Client] = attrs.field(factory=list)

    async def connection(self) -> Client:
        """A connection, closed with the place."""
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def guest(self, token: str | None = None, seq: int = 0) -> Guest:
        """Connect; with a token, to resume."""
        query = "" if token is None else f"?resume={token}&seq={seq}"
        client = await self.connection()
        await client.send(request(PATH + query, Sec_WebSocket_Protocol=SUBPROTOCOL))
        return await Guest.of(client)

    def info(self) -> RoomInfo:
        return self.rooms.get("ledger", "x").info()


@contextlib.asynccontextmanager
async def place(house: House, store: Store) -> AsyncIterator[Place]:
    """Serve the ledger."""
    async with (
        open_rooms([room], store=store, app=house, stop_timeout=1) as rooms,
        trio.open_nursery() as nursery,
    ):
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        served = Place(rooms, address.port)
        try:
            yield served
        finally:
            for client in served.clients:
                await trio.aclose_forcefully(client.stream)
        nursery.cancel_scope.cancel()


@pytest.fixture
def house() -> House:
    """What the rooms of a test are made of."""
    return House()


@pytest.fixture
def store() -> FaultyStore:
    """A store that fails when a test wants it."""
    return FaultyStore(MemoryStore())


async def handled(house: House, count: int) -> None:
    """Wait until handlers have begun with so many amounts."""
    with trio.fail_after(10):
        while len(house.handled) < count:
            await trio.sleep(0.001)


async def test_story_1_what_was_refused_unheard_is_refused_again(house: House, store: FaultyStore) -> None:
    """Message 1 is refused while its client is away, 2 is done: sent again, 1 is refused, also later."""
    async with place(house, store) as served:
        guest = await served.guest()
        gate = store.hold_commits(KEY)
        store.fail_commits(StoreFull("no room"))
        await guest.say("add", 5, 1)
        await gate.wait_arrived()
        await guest.drop()
        gate.release()
        again = await served.guest(guest.token)
        assert again.welcome["resumed"]
        await again.say("add", 7, 2)
        assert await again.verdict(2) == 7
        await again.drop()
        third = await served.guest(guest.token)
        await third.say("add", 5, 1)
        await third.say("add", 7, 2)
        assert await third.verdict(1) == "not_saved"
        assert await third.verdict(2) == 7
        await third.drop()
    async with place(House(), store) as served:
        fourth = await served.guest(guest.token)
        assert fourth.welcome["resumed"]
        assert (await fourth.hear())["data"] == [1, 7]
        await fourth.say("add", 5, 1)
        assert await fourth.verdict(1) == "not_saved"


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "succeeds"])
async def test_story_2_a_copy_of_what_is_being_saved_shares_its_verdict(
    house: House, store: FaultyStore, fails: bool
) -> None:
    """The commit of message 1 is on its way when it comes again on another connection."""
    async with place(house, store) as served:
        guest = await served.guest()
        gate = store.hold_commits(KEY)
        if fails:
            store.fail_commits(StoreFull("no room"))
        await guest.say("add", 5, 1)
        await gate.wait_arrived()
        again = await served.guest(guest.token)
        await again.say("add", 5, 1)
        await again.hears_nothing()
        gate.release()
        assert await again.verdict(1) == ("not_saved" if fails else 5)
        await again.say("add", 1, 2)
        assert await again.verdict(2) == (1 if fails else 6)
        assert house.handled == [5, 1]


async def test_story_3_refusals_outlive_reloads(house: House, store: FaultyStore) -> None:
    """Two commits fail, one after the other; what the first refused is refused behind both."""
    async with place(house, store) as served:
        guest = await served.guest()
        store.fail_commits(StoreFull("no room"), times=2)
        for number in (1, 2):
            await guest.say("add", number, number)
            assert await guest.verdict(number) == "not_saved"
        await guest.say("add", 3, 3)
        assert await guest.verdict(3) == 3
        await guest.drop()
        again = await served.guest(guest.token)
        for number in (1, 2, 3):
            await again.say("add", number, number)
        assert [await again.verdict(number) for number in (1, 2, 3)] == ["not_saved", "not_saved", 3]
        await again.say("get", None, 4)
        assert await again.verdict(4) == 3


async def test_story_4_what_was_saved_before_a_kill_is_told_after_it(house: House, tmp_path: Path) -> None:
    """Durable, and killed before anybody was told: what was sent is replayed, and no handler runs."""
    store = Unreported(tmp_path / "first")
    async with place(house, store) as served:
        guest = await served.guest()
        store.hold_reports()
        await guest.say("add", 5, 1)
        await store.done.wait()
        left = store.left(tmp_path / "second")
        await guest.hears_nothing()
        store.release_reports()
    other = House()
    async with place(other, left) as served:
        again = await served.guest(guest.token, guest.welcome["seq"])
        assert again.welcome["resumed"]
        await again.say("add", 5, 1)
        told = [await again.hear(), await again.hear()]
        assert told[0]["event"] == "balance"
        assert told[0]["data"] == [1, 5]
        assert told[1] == {"ack": 1, "data": 5}
        await again.hears_nothing()
    assert other.handled == []


async def test_story_4_what_had_only_begun_at_a_kill_is_handled_after_it(
    house: House, tmp_path: Path
) -> None:
    """What was handled before a handler that waits is saved before that, without a word of what waits."""
    store = Unreported(tmp_path / "first")
    async with place(house, store) as served:
        guest = await served.guest()
        # The room learns that this handler waits: something is behind it as a commit comes to its end.
        store.hold_reports()
        await guest.say("add", 5, 1)
        await store.done.wait()
        await guest.say_all(("add", 1, 2), ("rest", None, 3))
        await house.waiting.wait()
        store.release_reports()
        assert await guest.verdict(3) == "rested"
        store.done = trio.Event()
        store.hold_reports()
        await guest.say_all(("add", 1, 4), ("rest", None, 5))
        await store.done.wait()
        left = store.left(tmp_path / "second")
        store.release_reports()
    async with place(House(), left) as served:
        again = await served.guest(guest.token)
        await again.say_all(("add", 1, 4), ("rest", None, 5), ("get", None, 6))
        assert await again.verdict(4) == 107
        assert await again.verdict(5) == "rested"
        assert await again.verdict(6) == 207


async def test_story_5_what_is_saved_and_not_told_comes_once_to_who_resumes(
    house: House, tmp_path: Path
) -> None:
    """A client resumes between the commit and its report: it hears what was told already, then the rest."""
    store = Unreported(tmp_path / "data")
    async with place(house, store) as served:
        guest, other = await served.guest(), await served.guest()
        await guest.drop()
        await other.say("add", 1, 1)
        assert await other.verdict(1) == 1
        store.hold_reports()
        await other.say("add", 2, 2)
        await store.done.wait()
        again = await served.guest(guest.token, guest.welcome["seq"])
        assert again.welcome["resumed"]
        assert (await again.hear())["data"] == [1, 1]
        await again.hears_nothing()
        store.release_reports()
        assert (await again.hear())["data"] == [2, 3]
        await again.hears_nothing()


async def test_story_6_who_tidies_up_writes_into_nothing(house: House, store: FaultyStore) -> None:
    """A commit fails while a handler waits, which changes, writes and sends as it is cancelled."""
    async with place(house, store) as served:
        guest = await served.guest()
        gate = store.hold_commits(KEY)
        store.fail_commits(StoreFull("no room"))
        await guest.say("add", 5, 1)
        await gate.wait_arrived()
        await guest.say("stubborn", None, 2)
        await house.waiting.wait()
        gate.release()
        assert [await guest.hear(), await guest.hear()] == [
            {"ack": number, "error": {"code": "not_saved", "message": mock.ANY}} for number in (1, 2)
        ]
        await guest.say("add", 3, 3)
        assert [await guest.hear(), await guest.hear()] == [
            {"event": "balance", "data": [1, 3], "seq": mock.ANY},
            {"ack": 3, "data": 3},
        ]
    assert await junk(store) is None


async def junk(store: FaultyStore) -> bytes | None:
    """What the store has of what was written by who was cancelled."""
    async with store:
        return await store.get(KEY, "junk")


async def test_story_7_what_was_sent_from_outside_keeps_its_place(house: House, store: FaultyStore) -> None:
    """It joins what fails to be saved, the room cannot be loaded for a while, and it is told once."""
    outcomes: list[str] = []

    async with place(house, store) as served, trio.open_nursery() as nursery:
        handle = served.rooms.get("ledger", "x")

        async def send() -> None:
            try:
                await handle.emit_durably("note", "from outside")
                outcomes.append("sent")
            except Exception as error:
                outcomes.append(repr(error))

        guest = await served.guest()
        await guest.say("add", 1, 1)
        assert await guest.verdict(1) == 1
        gate = store.hold_commits(KEY)
        store.fail_commits(StoreFull("no room"))
        await guest.say("add", 5, 2)
        await gate.wait_arrived()
        nursery.start_soon(send)
        await guest.hears_nothing()
        store.fail_loads(StoreError("not now"), times=3, key=KEY)
        gate.release()
        assert await guest.verdict(2) == "not_saved"
        note = await guest.hear()
        assert (note["event"], note["data"]) == ("note", "from outside")
        await guest.hears_nothing()
        assert outcomes == ["sent"]
        await guest.say("add", 2, 3)
        balance = await guest.hear()
        assert balance["data"] == [2, 3]
        assert balance["seq"] > note["seq"]


@pytest.mark.parametrize("after", [100, 120, 140])
async def test_story_8_a_session_that_is_resumed_as_it_expires(
    house: House, tmp_path: Path, mock_clock: MockClock, after: float
) -> None:
    """Sent to while its room slept and its client was away, then killed: it is resumed, or it ends, once.

    The window begins anew with the next process. At its very end either may be first.
    """
    mock_clock.rate = 1
    store = Unreported(tmp_path / "first")
    async with place(house, store) as served:
        guest = await served.guest()
        await guest.say("add", 1, 1)
        assert await guest.verdict(1) == 1
        handle = served.rooms.get("ledger", "x")
        await handle.hibernate()
        mock_clock.jump(60)
        await guest.drop()
        await handle.emit_durably("note", "to nobody")
        assert served.info().stage is Stage.ASLEEP
        left = store.left(tmp_path / "second")
    other = House()
    async with place(other, left) as served:
        if after == 120:
            # Its request is on its way when the time is over.
            client = await served.connection()
            query = f"?resume={guest.token}&seq=0"
            mock_clock.jump(after - 0.01)
            await client.send(request(PATH + query, Sec_WebSocket_Protocol=SUBPROTOCOL))
            mock_clock.jump(0.01)
            again = await Guest.of(client)
        else:
            mock_clock.jump(after)
            again = await served.guest(guest.token)
        if again.welcome["resumed"]:
            assert after <= 120
            assert again.welcome["connection"] == guest.welcome["connection"]
            assert (await again.hear())["data"] == [1, 1]
            assert (await again.hear())["data"] == "to nobody"
            await again.hears_nothing()
            mock_clock.jump(300)
            await again.hears_nothing()
            assert other.ended == []
        else:
            assert after >= 120
            assert again.welcome["reason"] in {"expired", "unknown"}
            await again.say("get", None, 1)
            assert await again.verdict(1) == 1
            await again.hears_nothing()
            assert other.ended == [guest.welcome["connection"]]


async def test_story_9_a_room_that_was_taken_away_says_nothing(house: House, store: FaultyStore) -> None:
    """Somebody else has written it: nobody gets a verdict for what was not saved here."""
    async with place(house, store) as served:
        guest = await served.guest()
        store.fail_commits(StaleWrite("somebody else"), key=KEY)
        await guest.say("add", 5, 1)
        with trio.fail_after(10):
            opcode, payload = await guest.client.frame()
        assert opcode == CLOSE  # The next thing that it hears, and no answer.
        assert int.from_bytes(payload[:2]) in {1011, 1012, 1013}


@pytest.mark.parametrize("applied", [True, False], ids=["it was", "it was not"])
async def test_story_10_an_outcome_that_is_not_known_is_found_out(
    house: House, store: FaultyStore, applied: bool
) -> None:
    """The report of a commit is lost, whether or not it was done: nothing leaves until that is known."""
    async with place(house, store) as served:
        guest = await served.guest()
        store.fail_commits(StoreError("the line broke"), applied=applied)
        await guest.say("add", 5, 1)
        assert [await guest.hear(), await guest.hear()] == [
            {"event": "balance", "data": [1, 5], "seq": mock.ANY},
            {"ack": 1, "data": 5},
        ]
        commits = [one.commit for one in store.calls if one.commit is not None and one.commit.document]
        assert commits[-1] == commits[-2]
        await guest.say("get", None, 2)
        assert await guest.verdict(2) == 5
        assert house.handled == [5]


async def test_story_11_who_was_in_a_channel_of_a_moment_that_was_not(
    house: House, store: FaultyStore
) -> None:
    """Joined, sent to and left within what is not saved: nothing was sent, and nobody is in it."""
    async with place(house, store) as served:
        guest = await served.guest()
        store.fail_commits(StoreFull("no room"))
        await guest.say("passing", 4, 1)
        assert (await guest.hear())["error"]["code"] == "not_saved"
        await guest.say("passing", 4, 2)
        assert [await guest.hear(), await guest.hear()] == [
            {"event": "heard", "data": 4, "seq": mock.ANY},
            {"ack": 2, "data": None},
        ]


async def test_story_12_a_room_is_destroyed_behind_what_it_was_saving(
    house: House, store: FaultyStore
) -> None:
    """What was on its way to the store is told first; then nothing is left."""
    async with place(house, store) as served, trio.open_nursery() as nursery:
        guest = await served.guest()
        gate = store.hold_commits(KEY)
        await guest.say("add", 5, 1)
        await gate.wait_arrived()
        nursery.start_soon(served.rooms.get("ledger", "x").destroy)
        await guest.hears_nothing()
        gate.release()
        assert await guest.verdict(1) == 5
        assert await guest.closed() == 1000
        await guest.drop()  # It would not answer the close.
    async with store:
        assert await store.keys() == []


async def test_story_13_who_is_too_far_behind_is_told_so(house: House, store: FaultyStore) -> None:
    """Away or silent, with more unheard than the room keeps: neither gets a part as if it were the whole."""
    async with place(house, store) as served:
        away, silent, prompt = [await served.guest() for _ in range(3)]
        await away.drop()
        last = 0
        for number in range(1, 12):
            await prompt.say("flood", 1000, number)
            heard = []
            while "ack" not in (message := await prompt.hear()):
                heard.append(message["data"])
                last = message["seq"]
            assert heard == list(range(1000))
            await prompt.client.send(frame(TEXT, json.dumps({"ack": last}).encode()))
        assert await silent.closed() == 1013
        for guest in (away, silent):
            again = await served.guest(guest.token)
            assert again.welcome["resumed"] is False
            assert again.welcome["reason"] == "too_far_behind"
            await again.hears_nothing()
        # Who has acknowledged everything has lost nothing.
        await prompt.drop()
        again = await served.guest(prompt.token, last)
        assert again.welcome["resumed"] is True
        await again.hears_nothing()
