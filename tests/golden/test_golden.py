"""What former versions have written can be read, and what is written now has the same bytes."""

from __future__ import annotations

import datetime
import decimal
import shutil
import uuid
from pathlib import Path
from typing import Any

import attrs
import cbor2
import pytest

from trio_rooms._definition.room import Room
from trio_rooms._state.codec import Codec
from trio_rooms._state.persistent import Loaded, PersistentState
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._wire import envelope
from trio_rooms.errors import StaleWrite
from trio_rooms.stores import Commit, DiskStore, Store, StoredRoom

GOLDEN = Path(__file__).parent

chat: Room[Any] = Room("chat", state=dict)
chat.seal()


# Data directories.

ROOMS: dict[str, tuple[int, dict[int, dict[str, Any] | None], dict[str, Any]]] = {
    "chat/damaged": (3, {3: None, 2: {"n": 2}}, {}),
    "chat/gap": (7, {7: {"n": 7}, 4: {"n": 4}}, {}),
    "chat/grüße ☃😀/2": (1, {1: {"n": 1}}, {"": "empty"}),
    "chat/lobby": (
        3,
        {3: {"n": 3, "words": ["one", "zwölf"]}, 2: {"n": 2}},
        {"a": 1, "é\0": [None, b"\xff"]},
    ),
    "chat/stored": (0, {}, {"only": "this"}),
}
"""What is in store-1: by room, its number, its states by generation (None is a damaged one), its storage."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of a golden data directory, since opening it for writing changes it."""
    return Path(shutil.copytree(GOLDEN / "store-1", tmp_path / "data"))


async def check_rooms(store: Store) -> None:
    """All that is in the golden directory is in a store."""
    assert await store.keys() == sorted(ROOMS)
    for key, (number, states, storage) in ROOMS.items():
        stored = await store.load(key)
        assert stored.number == number
        assert [one.generation for one in stored.snapshots] == list(states)
        for one, state in zip(stored.snapshots, states.values(), strict=True):
            if state is not None:
                snapshot = Snapshot.unpack(key, one.document)
                assert (snapshot.version, snapshot.generation, snapshot.epoch) == (1, one.generation, 2)
                assert cbor2.loads(snapshot.state) == state
        assert {name: cbor2.loads(value) for name, value in await store.list(key)} == storage
        assert [cbor2.loads(await store.get(key, name) or b"") for name in storage] == list(storage.values())
    assert await store.load("chat/nobody") == StoredRoom(0, ())


async def test_a_directory_of_version_1_is_brought_up_to_date(directory: Path) -> None:
    """A data directory of version 1 has everything once it is opened for writing, and again after that."""
    for epoch in (3, 4):
        async with DiskStore(directory) as store:
            assert store.epoch == epoch
            await check_rooms(store)
    async with DiskStore(directory, read_only=True) as store:
        await check_rooms(store)


async def test_a_directory_of_version_1_is_read_as_it_is(directory: Path) -> None:
    """Opened read-only, a data directory of version 1 has everything, and not a byte of it changes."""
    file = directory / "rooms.sqlite3"
    before = file.read_bytes()
    async with DiskStore(directory, read_only=True) as store:
        assert store.epoch == 2
        await check_rooms(store)
    assert file.read_bytes() == before == (GOLDEN / "store-1" / "rooms.sqlite3").read_bytes()


async def test_rooms_of_version_1_go_on(directory: Path) -> None:
    """Commits follow on the newest generation that version 1 has written, also where it left numbers out."""
    async with DiskStore(directory) as store:
        for key, (number, states, _) in ROOMS.items():
            for wrong in (number - 1, number, number + 2):
                if wrong > 0:
                    with pytest.raises(StaleWrite):
                        await store.commit(Commit(key, wrong, store.epoch, b"stale"))
            await store.commit(Commit(key, number + 1, store.epoch, writes={"new": b"1"}))
            await store.commit(Commit(key, number + 2, store.epoch, b"new"))
            await store.commit(Commit(key, number + 2, store.epoch, b"new"))
            stored = await store.load(key)
            assert stored.number == number + 2
            assert [one.generation for one in stored.snapshots] == [number + 2, *list(states)[:1]]


async def test_states_of_version_1_are_loaded(directory: Path) -> None:
    """Rooms wake with the state that version 1 has saved; a damaged generation is passed over."""
    async with DiskStore(directory) as store:
        for key, (number, states, _) in ROOMS.items():
            persistent = PersistentState(key, chat.seal(), store)
            loaded = await persistent.load()
            usable = [state for state in states.values() if state is not None]
            if usable:
                assert loaded == Loaded(usable[0], restarted=True, fell_back=None in states.values())
            else:
                assert loaded is None
            await persistent.save(lambda: {"n": 100})
            assert persistent.number == (await store.load(key)).number == number + 1


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
        ("snapshot-1-typed", "game/zwölf/1", Codec(Game, 3, {}), GAME, 41, 5),
        ("snapshot-1-plain", "chat/lobby", Codec(None, 1, {}), PLAIN, 1, 1),
    ],
)
def test_snapshots(name: str, key: str, codec: Codec, state: Any, generation: int, epoch: int) -> None:
    """A document is read as it was meant, and the same state is written as the same bytes."""
    document = (GOLDEN / name).read_bytes()
    snapshot = Snapshot.unpack(key, document)
    room, _, id_ = key.partition("/")
    assert attrs.astuple(snapshot)[:-1] == (room, id_, codec.version, generation, epoch)
    assert codec.decode(key, snapshot) == state
    assert codec.encode(key, state) == codec.encode_large(key, state) == snapshot.state
    assert snapshot.pack() == document


# Envelopes.

DATA = {
    "text": 'é☃😀 "quoted"\n',
    "numbers": [0, -1, 1.5, 2**53],
    "yes": True,
    "none": None,
    "nested": {"empty": [], "map": {}},
}
SENT = {
    "event": envelope.event("said", DATA),
    "event-without-data": envelope.event("left", None),
    "ack": envelope.acknowledge(7, DATA),
    "ack-without-data": envelope.acknowledge(2**63 - 1, None),
    "error": envelope.refuse(7, "sold_out", "no seat is left in row é"),
    "error-without-id": envelope.refuse(None, "invalid_message", "an envelope is a map"),
    "welcome": envelope.welcome(0x123456789ABCDEF),
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


@pytest.mark.parametrize("name", RECEIVED)
def test_messages_of_clients(name: str) -> None:
    """What clients have always sent means what it has always meant, in both kinds."""
    folder = GOLDEN / "envelope-1" / "client"
    assert envelope.decode((folder / f"{name}.json").read_text(encoding="utf-8")) == RECEIVED[name]
    assert envelope.decode((folder / f"{name}.cbor").read_bytes()) == RECEIVED[name]


def test_every_golden_file_is_looked_at() -> None:
    """No file lies here that no test reads."""
    sent = {f"{name}.{ending}" for name in SENT for ending in ("json", "cbor")}
    received = {f"{name}.{ending}" for name in RECEIVED for ending in ("json", "cbor")}
    assert {path.name for path in (GOLDEN / "envelope-1").iterdir()} == {*sent, "client"}
    assert {path.name for path in (GOLDEN / "envelope-1" / "client").iterdir()} == received
