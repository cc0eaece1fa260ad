"""What former versions have written can be read, and what is written now has the same bytes."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import shutil
import uuid
from pathlib import Path
from typing import Any

import attrs
import cbor2
import pytest

from trio_rooms._definition.room import Room
from trio_rooms._sockets.fanout import Message
from trio_rooms._state.codec import Codec
from trio_rooms._state.occurrences import Cron, Every
from trio_rooms._state.record import Record
from trio_rooms._state.saved import Loaded
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._state.timers import Scheduled
from trio_rooms._wire import envelope
from trio_rooms.errors import StaleWrite
from trio_rooms.stores import (
    Commit,
    DiskStore,
    Due,
    Entry,
    InboxSize,
    LinkHalf,
    Offer,
    Opening,
    Post,
    RoomHalf,
    RoomHead,
    Store,
    StoredSession,
    StoredSnapshot,
    Timer,
    Verdict,
    Waiting,
)

GOLDEN = Path(__file__).parent

chat: Room[Any] = Room("chat", state=dict)
chat.seal()


# Data directories.


@attrs.frozen
class Kept:
    """What is in a golden data directory of one room."""

    number: int
    states: dict[int, dict[str, Any] | None]
    """By generation, newest first; None is a damaged one."""
    storage: dict[str, Any] = attrs.field(factory=dict)
    commit: Commit | None = None
    """What has written all that is beside state and storage."""


EVERYTHING = Commit(
    "chat/everything",
    1,
    3,
    None,
    {"a": cbor2.dumps(1)},
    entries=(Entry(5, b"all", b"one", 1e9), Entry(7, b"\x01", bytes(5000), 1e9 + 0.25)),
    seq=9,
    before=3,
    floor=2,
    sessions={
        1: RoomHalf(12, b"attachment", b"channels", Opening(b"0123456789abcdef", "zoë", 4, 120.0)),
        2**60 - 1: RoomHalf(0, None, b"", Opening(b"", None, 0, 0.5)),
        3: RoomHalf(1, b"", b"", Opening(b"", "", 0, 60.0)),
    },
    links={1: LinkHalf(0, 2e9, 7, b"gone"), 2**60 - 1: LinkHalf(77, None), 3: LinkHalf(0, None, ended=True)},
    verdicts=(Verdict(1, 11, b"yes"), Verdict(1, 12, b"")),
    timers={"é\0": Timer(1e9, b"due"), "never": Timer(None, b"")},
    nonce=2**62 + 1,
)

USERS = Commit(
    "chat/users",
    1,
    4,
    None,
    {"a": cbor2.dumps(1)},
    sessions={5: RoomHalf(0, None, b"", Opening(b"", "zoë", 0, 60.0))},
    links={5: LinkHalf(0, 3e9, 4, presence=b"\xa1aa\x01")},
    sends=(Post("zoë", 2**63 - 1, b"", 3e9 + 0.123456, 0), Post("", 7, bytes(5000), -1.0)),
    offers={7: Offer("zoë", "chat/users", 5, 2**60)},
    lapses=4e9 + 0.123456,
    nonce=2**62 + 2,
)
POSTED = (
    Waiting(1, Post("zoë", 7, b"body", 3e9, 2, "chat/users"), USERS.offers[7]),
    Waiting(2, Post("zoë", 8, b"another", 2e9)),
)
"""What was posted before that, to whom and where it is."""

STORES: dict[str, dict[str, Kept]] = {
    "store-1": {
        "chat/damaged": Kept(3, {3: None, 2: {"n": 2}}),
        "chat/gap": Kept(7, {7: {"n": 7}, 4: {"n": 4}}),  # A commit that failed had left numbers out.
        "chat/grüße ☃😀/2": Kept(1, {1: {"n": 1}}, {"": "empty"}),
        "chat/lobby": Kept(
            3, {3: {"n": 3, "words": ["one", "zwölf"]}, 2: {"n": 2}}, {"a": 1, "é\0": [None, b"\xff"]}
        ),
        "chat/stored": Kept(0, {}, {"only": "this"}),
    },
    "store-2": {
        "chat/again": Kept(3, {3: {"n": 3}}),
        "chat/damaged": Kept(3, {3: None, 2: {"n": 2}}),
        "chat/grüße ☃😀/2": Kept(1, {1: {"n": 1}}, {"": "empty"}),
        "chat/lobby": Kept(
            6,
            {4: {"n": 4, "words": ["one", "zwölf"]}, 2: {"n": 2}},
            {"a": 2, "b": 4, "é\0": [None, b"\xff"]},
        ),
        "chat/stored": Kept(2, {}, {"only": "this"}),
    },
    "store-3": {
        "chat/again": Kept(3, {3: {"n": 3}}),
        "chat/damaged": Kept(3, {3: None, 2: {"n": 2}}),
        "chat/everything": Kept(1, {}, {"a": 1}, EVERYTHING),
        "chat/grüße ☃😀/2": Kept(1, {1: {"n": 1}}, {"": "empty"}),
        "chat/large": Kept(2, {2: {"n": "large" * 5000}, 1: {"n": 1}}),
        "chat/lobby": Kept(
            7,
            {7: {"n": 7}, 4: {"n": 4, "words": ["one", "zwölf"]}},
            {"a": 2, "b": 4, "é\0": [None, b"\xff"]},
        ),
        "chat/stored": Kept(3, {}, {"only": "this", "new": "that"}),
    },
}
STORES["store-4"] = {**STORES["store-3"], "chat/users": Kept(1, {}, {"a": 1}, USERS)}
EPOCHS = {"store-1": 2, "store-2": 2, "store-3": 3, "store-4": 4}
"""How often it had been opened."""
ENDED = {"store-1": 0, "store-2": 2, "store-3": 2, "store-4": 2}
"""The number of the room chat/ended, of which nothing else is left."""
NONCES = {"chat/ended": 2**61, "chat/large": 2**62, "chat/lobby": 2**61 + 1, "chat/stored": 2**61 + 2}
"""Those of the commits of the third opening, and for what has ended of the last; before there were none."""


@pytest.fixture(params=STORES)
def name(request: pytest.FixtureRequest) -> str:
    """Each golden data directory, one after the other."""
    return str(request.param)


@pytest.fixture
def directory(name: str, tmp_path: Path) -> Path:
    """A copy of it, since opening it for writing changes it."""
    return Path(shutil.copytree(GOLDEN / name, tmp_path / "data"))


async def loaded(store: Store, key: str) -> tuple[int, tuple[StoredSnapshot, ...]]:
    """The number of a room's last commit, and its snapshots."""
    stored = await store.load(key)
    return stored.head.number, stored.snapshots


async def check_rooms(store: Store, rooms: dict[str, Kept]) -> None:
    """All that is in the golden directory is in a store."""
    assert await store.keys() == sorted(rooms)
    for key, kept in rooms.items():
        stored = await store.load(key)
        assert stored.head.number == kept.number
        assert [one.generation for one in stored.snapshots] == list(kept.states)
        for one, state in zip(stored.snapshots, kept.states.values(), strict=True):
            if state is not None:
                snapshot = Snapshot.unpack(key, one.document)
                assert (snapshot.version, snapshot.generation) == (1, one.generation)
                assert snapshot.epoch in {2, 3}
                assert cbor2.loads(snapshot.state) == state
        assert {name: cbor2.loads(value) for name, value in await store.list(key)} == kept.storage
        for name, value in kept.storage.items():
            assert cbor2.loads(await store.get(key, name) or b"") == value
        head = await store.head(key)
        if kept.commit is USERS:
            await check_users(store)
            continue
        if kept.commit is not None:
            await check_rest(store, kept.commit)
            continue
        nonce = NONCES.get(key, 0) if "chat/everything" in rooms else 0
        assert head == RoomHead(kept.number, nonce, 3 if nonce else 0)
        nothing: list[object] = [
            await store.journal(key, 0, 2**62, 2**62),
            await store.sessions(key),
            await store.sessions(key, ended=True),
            await store.session(key, 1),
            await store.positions(key),
            await store.verdicts(key, 1),
            await store.timers(key),
            await store.timer(key, "a"),
            await store.due_timers(key, math.inf, 9),
        ]
        assert not any(nothing)
    if "chat/everything" not in rooms:
        assert await store.due(math.inf, 9) == []
    if "chat/users" not in rooms:
        assert await store.inboxes() == []
        assert await store.inbox("zoë") == []
        assert await store.expired(math.inf, 9) == []
    assert await loaded(store, "chat/nobody") == (0, ())


async def check_rest(store: Store, commit: Commit) -> None:
    """What one commit has written is in a store; since then others may have given its connections up."""
    key = commit.key
    head = await store.head(key)
    size = sum(len(one.body) for one in commit.entries)
    expected = RoomHead(1, commit.nonce, 3, commit.seq, commit.before, commit.floor, 2, size, True, True)
    assert head == expected
    assert await store.journal(key, 0, 2**62, 2**62) == [*commit.entries]
    found = {one.sid: one for one in await store.sessions(key)}
    assert {sid: one.room for sid, one in found.items()} == commit.sessions
    for sid, link in commit.links.items():
        if link.until is not None or link.ended or found[sid].link.link:
            assert found[sid].link == link
        else:
            assert found[sid].link.pos == 1
    assert [one.sid for one in await store.sessions(key, ended=True)] == [3]
    assert (await store.positions(key))[7] == 1
    assert await store.verdicts(key, 1) == {one.id: one.content for one in commit.verdicts}
    assert dict(await store.timers(key)) == commit.timers
    assert await store.due_timers(key, 1e9, 9) == [("é\0", commit.timers["é\0"])]
    assert (await store.due(2e9, 9))[0] == Due(1e9, key, timer="é\0")
    assert Due(2e9, key, sid=1) in await store.due(2e9, 9)


async def check_users(store: Store) -> None:
    """What was written of users, their inboxes, and what comes with that."""
    key, far = USERS.key, USERS.lapses
    assert await store.head(key) == RoomHead(1, USERS.nonce, 4, has_sessions=True, lapses=far)
    assert await store.session(key, 5) == StoredSession(5, USERS.sessions[5], USERS.links[5])  # type: ignore[arg-type]
    sent = [Waiting(4, USERS.sends[0]), Waiting(5, USERS.sends[1])]
    assert await store.inbox("zoë") == [*POSTED, sent[0]]
    assert await store.inbox("") == sent[1:]
    assert await store.inboxes() == [("", InboxSize(1, 5050)), ("zoë", InboxSize(3, 161))]
    assert await store.expired(math.inf, 9) == [sent[1], POSTED[1], POSTED[0], sent[0]]
    assert (await store.due(math.inf, 99))[-1] == Due(4e9 + 0.123456, key, lapses=True)


async def test_a_directory_is_brought_up_to_date(name: str, directory: Path) -> None:
    """A data directory of any version has everything once it is opened for writing, and again after that."""
    for epoch in (EPOCHS[name] + 1, EPOCHS[name] + 2):
        async with DiskStore(directory) as store:
            assert store.epoch == epoch
            await check_rooms(store, STORES[name])
            assert await loaded(store, "chat/ended") == (0, ())
    async with DiskStore(directory, read_only=True) as store:
        await check_rooms(store, STORES[name])


async def test_a_directory_is_read_as_it_is(name: str, directory: Path) -> None:
    """Opened read-only, a data directory of any version has everything, and not a byte of it changes."""
    file = directory / "rooms.sqlite3"
    before = file.read_bytes()
    async with DiskStore(directory, read_only=True) as store:
        assert store.epoch == EPOCHS[name]
        await check_rooms(store, STORES[name])
        assert await loaded(store, "chat/ended") == (ENDED[name], ())
        nonce = NONCES["chat/ended"] if name in {"store-3", "store-4"} else 0
        assert (await store.head("chat/ended")).nonce == nonce
    assert file.read_bytes() == before == (GOLDEN / name / "rooms.sqlite3").read_bytes()


async def test_rooms_go_on(name: str, directory: Path) -> None:
    """Commits follow on the last one that a former version has written."""
    async with DiskStore(directory) as store:
        for key, kept in STORES[name].items():
            for wrong in (kept.number - 1, kept.number, kept.number + 2):
                if wrong > 0:
                    with pytest.raises(StaleWrite):
                        await store.commit(Commit(key, wrong, store.epoch, b"stale"))
            following = kept.number + 1
            await store.commit(Commit(key, following, store.epoch, writes={"new": b"1"}))
            new = Commit(key, following + 1, store.epoch, b"new")
            for _ in range(2):
                await store.commit(new)
            stored = await store.load(key)
            assert stored.head.number == following + 1
            assert [one.generation for one in stored.snapshots] == [following + 1, *list(kept.states)[:1]]


async def test_states_are_loaded(name: str, directory: Path) -> None:
    """Rooms wake with the state that a former version has saved; a damaged generation is passed over."""
    async with DiskStore(directory) as store:
        for key, kept in STORES[name].items():
            record = Record(key, chat.seal(), store)
            loaded = await record.load()
            usable = [state for state in kept.states.values() if state is not None]
            if usable:
                assert loaded == Loaded(usable[0], restarted=True, fell_back=None in kept.states.values())
            else:
                assert loaded is None
            await record.save(lambda: {"n": 100})
            assert record.number == (await store.head(key)).number == kept.number + 1


# What rooms have scheduled.

SCHEDULED = {
    "once": Scheduled(
        name="x", id="00112233aabbccdd", due=2e9, time=2e9, data=b"\xa1aaf", asked=("at", 2e9)
    ),
    "again": Scheduled(
        name="x", id="00112233aabbccdd", due=2e9 + 8.5, time=2e9, data=b"\xf6", rule=Every(60.5, 1e9),
        asked=("after", 5.0), missed="all", count=70_000, behind=17, failed=3, error="ValueError: no",
    ),
    "cron": Scheduled(
        name="x", id="00112233aabbccdd", due=2e9, time=2e9, data=b"\x07", missed="none",
        rule=Cron("30 6 * * MON-FRI", "Europe/Berlin"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULED)
def test_what_is_scheduled(name: str) -> None:
    """It is read as it was meant, and written with the same bytes."""
    content = (GOLDEN / f"schedule-1-{name}").read_bytes()
    one = SCHEDULED[name]
    assert Scheduled.of("x", Timer(one.due, content)) == one
    assert one.row().content == content


# Snapshots.


@attrs.define
class Player:
    name: str
    since: datetime.datetime
    tags: set[str] = attrs.field(factory=set)


@attrs.define
class Game:
    round: int
    players: dict[str, Player]
    stake: decimal.Decimal
    table: uuid.UUID
    log: list[tuple[int, str]]
    note: str | None = None


GAME = Game(
    7,
    {"zoë": Player("Zoë", datetime.datetime(2026, 11, 25, 12, 30, tzinfo=datetime.UTC), {"host"})},
    decimal.Decimal("12.50"),
    uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF),
    [(1, "begins"), (2, "😀")],
)
PLAIN = {
    "n": 1,
    "none": None,
    "yes": True,
    "half": 0.5,
    "big": 2**70,
    "bytes": b"\x00\xff",
    "nested": {"list": [1, [2, [3]]], "1": {}},
    "text": "é☃😀",
}


@pytest.mark.parametrize(
    ("name", "key", "codec", "state", "generation", "epoch"),
    [
        ("snapshot-1-typed-again", "game/zwölf/1", Codec(Game, 3, {}), GAME, 41, 5),
        ("snapshot-1-plain", "chat/lobby", Codec(None, 1, {}), PLAIN, 1, 1),
    ],
)
def test_snapshots(name: str, key: str, codec: Codec, state: Any, generation: int, epoch: int) -> None:
    """A document is read as it was meant, and the same state is written as the same bytes."""
    document = (GOLDEN / name).read_bytes()
    snapshot = Snapshot.unpack(key, document)
    room, _, id_ = key.partition("/")
    assert attrs.astuple(snapshot)[:-2] == (room, id_, codec.version, generation, epoch)
    assert codec.decode(key, snapshot).state == state
    assert codec.encode(key, state) == codec.encode_large(key, state) == snapshot.state
    assert snapshot.pack() == document


def test_snapshots_with_points_in_time_as_text() -> None:
    """They are read as those that have them as seconds, which is how they are written now."""
    key, codec = "game/zwölf/1", Codec(Game, 3, {})
    before, now = (
        Snapshot.unpack(key, (GOLDEN / name).read_bytes())
        for name in ("snapshot-1-typed", "snapshot-1-typed-again")
    )
    assert codec.decode(key, before).state == codec.decode(key, now).state == GAME
    assert b"2026-11-25T12:30:00Z" in before.state
    assert now.state == codec.encode(key, codec.decode(key, before).state)


# Envelopes.

DATA = {
    "text": 'é☃😀 "quoted"\n',
    "numbers": [0, -1, 1.5, 2**53],
    "yes": True,
    "none": None,
    "nested": {"empty": [], "map": {}},
}
SENT: dict[str, Message] = {
    "event": envelope.event("said", DATA),
    "event-without-data": envelope.event("left", None),
    "ack": envelope.acknowledge(7, DATA),
    "ack-without-data": envelope.acknowledge(2**63 - 1, None),
    "error": envelope.refuse(7, "sold_out", "no seat is left in row é"),
    "error-without-id": envelope.refuse(None, "invalid_message", "an envelope is a map"),
    "welcome-of-session": envelope.welcome(
        0x123456789ABCDEF, "EjRWeJq83vAAAQIDBAUGBwgJCgsMDQ4P", 12, durable=True, resumed=True
    ),
    "welcome-refused": envelope.welcome(1, "ASNFZ4mrze8AAAAA", 12, reason="too_far_behind"),
    "reliable": envelope.Reliable(envelope.Body.of("said", DATA), 2**32 + 7),
    "reliable-short": envelope.Reliable(envelope.Body.of("left", None), 5),
    "pong": envelope.pong(),
    "bare": envelope.bare(7),
}
RECEIVED = {
    "event": envelope.Envelope("say", DATA),
    "event-with-id": envelope.Envelope("say", {"text": "é"}, 12),
    "event-to-channel": envelope.Envelope("say", [1, 2], 0, "news/é"),
    "event-alone": envelope.Envelope("ready"),
    "with-more": envelope.Envelope("say", "x", 2**63 - 1),
    "ack": None,
}


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("ending", ["json", "cbor"])
def test_messages_to_clients(name: str, ending: str) -> None:
    """What a client gets has the bytes that it has always had."""
    message = (GOLDEN / "envelope-1" / f"{name}.{ending}").read_bytes()
    frame = SENT[name].frame(binary=ending == "cbor")
    head = 2 if len(message) < 126 else 4  # RFC 6455, section 5.2
    assert frame[head:] == message


@pytest.mark.parametrize("ending", ["json", "cbor"])
def test_a_welcome_says_what_it_has_always_said(ending: str) -> None:
    """There were no sessions once; a client of that time finds what it looks for, beside what is new."""
    message = (GOLDEN / "envelope-1" / f"welcome.{ending}").read_bytes()
    frame = envelope.welcome(0x123456789ABCDEF).frame(binary=ending == "cbor")
    head = 2 if frame[1] < 126 else 4
    decode: Any = cbor2.loads if ending == "cbor" else json.loads
    before, now = decode(message), decode(frame[head:])
    assert before["event"] == now["event"]
    assert before["data"].items() <= now["data"].items()


@pytest.mark.parametrize("name", RECEIVED)
def test_messages_of_clients(name: str) -> None:
    """What clients have always sent means what it has always meant, in both kinds."""
    folder = GOLDEN / "envelope-1" / "client"
    assert envelope.decode((folder / f"{name}.json").read_text(encoding="utf-8")) == RECEIVED[name]
    assert envelope.decode((folder / f"{name}.cbor").read_bytes()) == RECEIVED[name]


def test_every_golden_file_is_looked_at() -> None:
    """No file lies here that no test reads."""
    sent = {f"{name}.{ending}" for name in (*SENT, "welcome") for ending in ("json", "cbor")}
    received = {f"{name}.{ending}" for name in RECEIVED for ending in ("json", "cbor")}
    assert {path.name for path in (GOLDEN / "envelope-1").iterdir()} == {*sent, "client"}
    assert {path.name for path in (GOLDEN / "envelope-1" / "client").iterdir()} == received
