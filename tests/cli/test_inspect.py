"""``trio-rooms inspect``: what it shows of a store, and rooms as files."""

from __future__ import annotations

import collections
import datetime
import decimal
import math
import re
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio

from tests.valkey import Valkey
from trio_rooms import Context, DiskStore, Room, open_rooms
from trio_rooms._cli.main import main
from trio_rooms._state.codec import decode_value
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._state.timers import Scheduled
from trio_rooms.stores import Commit, Entry, LinkHalf, Opening, Post, RoomHalf, Timer

RICH: dict[Any, Any] = {
    "text": 'quoted "Ä" \x1b[31m \x9b \u202e',
    "number": -3,
    "ratio": 0.5,
    "yes": True,
    "none": None,
    "bytes": b"\x00\xff",
    "long": bytes(100),
    "when": datetime.datetime(2031, 5, 4, 3, 2, 1, tzinfo=datetime.UTC),
    "day": datetime.date(2031, 5, 4),
    "price": decimal.Decimal("1.50"),
    "uuid": uuid.UUID("12345678123456781234567812345678"),
    "set": {1},
    "tuple": (1, (2, [3]), frozenset({4})),
    "queue": collections.deque([1, 2], maxlen=3),
    "list": [1, [2, 3], {}],
    "empty": [],
    7: "a number as a key",
}


def make_rich() -> dict[Any, Any]:
    """A state with something of every type."""
    return dict(RICH)


rich = Room("rich", state=make_rich)
dull: Room[list[int]] = Room("dull", state=list)


@rich.on("store")
async def store(ctx: Context[dict[Any, Any]], names: list[str]) -> None:
    """Write to the storage."""
    for name in names:
        ctx.room.storage.put(name, [name, b"\x01"])


@dull.on("grow")
async def grow(ctx: Context[list[int]]) -> None:
    """Change the state, so that there is a new generation."""
    ctx.state.append(len(ctx.state))


def fill(directory: Path, name: str, id_: str, event: str, data: Any = None, times: int = 1) -> None:
    """Have a room handle an event, and save it after each time."""

    async def run() -> None:
        async with open_rooms([rich, dull], store=DiskStore(directory)) as rooms:
            for _ in range(times):
                await rooms.get(name, id_).ask(event, data)
                await rooms.get(name, id_).hibernate()

    trio.run(run)


def write(directory: Path, *commits: Commit) -> None:
    """Write to a store."""

    async def run() -> None:
        async with DiskStore(directory) as opened:
            for commit in commits:
                await opened.commit(commit)

    trio.run(run)


def load(directory: Path, key: str) -> tuple[Snapshot, dict[str, Any]]:
    """The newest snapshot of a room, and its storage."""

    async def run() -> tuple[Snapshot, dict[str, Any]]:
        async with DiskStore(directory, read_only=True) as opened:
            snapshot = Snapshot.unpack(key, (await opened.load(key)).snapshots[0].document)
            return snapshot, {name: cbor2.loads(value) for name, value in await opened.list(key)}

    return trio.run(run)


def damage(directory: Path, generation: int) -> None:
    """Cut a generation short, in a store that has one room."""
    connection = sqlite3.connect(directory / "rooms.sqlite3")
    connection.execute(
        "UPDATE snapshots SET document = substr(document, 1, length(document) - 1) WHERE generation = ?",
        (generation,),
    )
    connection.commit()
    connection.close()


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``inspect(directory, ...)``: what it prints; with ``fails=True`` its complaint."""

    def inspect(*arguments: str | Path, fails: bool = False) -> str:
        status = main(["inspect", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert status == int(fails), err
        assert out == "" if fails else err == ""
        if fails:
            assert err.count("\n") == 1
            assert err.startswith("trio-rooms: ")
        return err if fails else out

    return inspect


Inspect = Callable[..., str]


def test_table(inspect: Inspect, tmp_path: Path) -> None:
    """Without a key, each room is a line: version, generation, bytes, names in its storage, key."""
    fill(tmp_path, "rich", "a", "store", ["x", "y"])
    fill(tmp_path, "dull", "b c", "grow", times=3)
    heading, dull_line, rich_line, footer = inspect(tmp_path).splitlines()
    assert heading.split() == ["VERSION", "GENERATION", "BYTES", "STORAGE", "KEY"]
    assert dull_line.split()[:2] == ["1", "3"]
    assert dull_line.split()[3:] == ["0", "dull/b", "c"]
    assert rich_line.split()[0] == "1"
    assert rich_line.split()[3:] == ["2", "rich/a"]
    assert footer == "2 rooms"


def test_table_of_many(inspect: Inspect, tmp_path: Path) -> None:
    """All rooms are in the table, in the order of their keys, however many there are."""
    keys = [f"many/{number:04}" for number in range(500)]
    write(
        tmp_path,
        *(Commit(key, 1, 1, Snapshot("many", key[5:], 1, 1, 1, cbor2.dumps(None)).pack()) for key in keys),
    )
    lines = inspect(tmp_path).splitlines()
    assert [line.split()[-1] for line in lines[1:-1]] == keys
    assert lines[-1] == "500 rooms"


def test_what_waits_for_users(inspect: Inspect, tmp_path: Path) -> None:
    """Below the table: how many messages for how many users; nothing where none waits."""
    posts = tuple(Post(f"user {number % 1200}", number + 1, b"", 1e10) for number in range(2345))
    write(tmp_path, Commit("many/1", 1, 1, writes={"a": b"\xf6"}, sends=posts[:1]))
    assert inspect(tmp_path).splitlines()[-2:] == ["1 room", "1 message waiting for 1 user"]
    write(tmp_path, Commit("many/2", 1, 2, sends=posts[1:]))
    assert inspect(tmp_path).splitlines()[-2:] == ["1 room", "2,345 messages waiting for 1,200 users"]


def test_empty_store(inspect: Inspect, tmp_path: Path) -> None:
    """A store without rooms is no error."""
    write(tmp_path)
    assert inspect(tmp_path).splitlines()[-1] == "0 rooms"


def test_no_store(inspect: Inspect, tmp_path: Path) -> None:
    """A folder that is no store is said to be none, and stays as it was."""
    assert "there is no store in" in inspect(tmp_path / "x", fails=True)
    assert list(tmp_path.iterdir()) == []


def test_room(inspect: Inspect, tmp_path: Path) -> None:
    """One room: its versions, generations, storage, and its state as people read it."""
    fill(tmp_path, "rich", "a", "store", ["x", "long name"])
    text = inspect(tmp_path, "rich/a")
    words = [line.split() for line in text.splitlines()]
    assert ["room", "rich/a"] in words
    assert ["version", "1"] in words
    assert ["epoch", "1"] in words
    assert ["storage", "2", "names"] in words
    assert "intact" in text
    assert '"long name"  ' in text
    for line in (
        r'"text": "quoted \"Ä\" \u001b[31m \u009b \u202e"',
        '"number": -3',
        '"ratio": 0.5',
        '"yes": true',
        '"none": null',
        "\"bytes\": h'00ff'",
        f"\"long\": h'{'00' * 32}...' (100 bytes)",
        '"when": 2031-05-04 03:02:01+00:00',
        '"day": 2031-05-04',
        '"price": 1.50',
        '"uuid": 12345678-1234-5678-1234-567812345678',
        '"set": set(1)',
        '"list": [',
        "[2, 3]",
        '"empty": []',
        '7: "a number as a key"',
    ):
        assert line in [shown.strip().removesuffix(",") for shown in text.splitlines()]


def test_damaged_room(inspect: Inspect, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a damaged generation it is said what is wrong; the one before it is shown, as a server takes it."""
    fill(tmp_path, "dull", "a", "grow", times=3)
    damage(tmp_path, 3)
    text = inspect(tmp_path, "dull/a")
    assert "3: " in text
    assert "DAMAGED" in text
    assert "of generation 2" in text
    assert "[0, 1]\n" in text
    assert "damaged" in inspect(tmp_path)
    assert main(["inspect", str(tmp_path), "dull/a", "--export", str(tmp_path / "f")]) == 0
    assert "generation 3 is damaged" in capsys.readouterr().err
    assert cbor2.loads((tmp_path / "f").read_bytes())["state"] == [0, 1]
    damage(tmp_path, 2)
    assert main(["inspect", str(tmp_path), "dull/a"]) == 1
    assert capsys.readouterr().out.count("DAMAGED") == 2
    assert "no intact snapshot" in inspect(tmp_path, "dull/a", "--export", tmp_path / "g", fails=True)
    assert not (tmp_path / "g").exists()


def test_a_generation_that_somebody_else_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the newest is intact and cannot be read, no older one is shown or exported for it."""
    documents = [Snapshot("dull", "a", 1, n, 1, state).pack() for n, state in ((1, b"\x80"), (2, b"\xff"))]
    write(tmp_path, *(Commit("dull/a", n, 1, document) for n, document in enumerate(documents, 1)))
    assert main(["inspect", str(tmp_path), "dull/a"]) == 1
    text = capsys.readouterr().out
    assert "UNREADABLE" in text
    assert "none that can be read" in text
    assert main(["inspect", str(tmp_path), "dull/a", "--export", str(tmp_path / "f")]) == 1
    assert not (tmp_path / "f").exists()


def test_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a room has scheduled is shown, also where it has nothing else."""
    room: Room[None] = Room("r")

    @room.on_schedule("x")
    async def x(ctx: Context[None]) -> None:
        pass

    async def run() -> None:
        async with open_rooms([room], store=DiskStore(tmp_path)) as rooms:
            handle = rooms.get("r", "1")
            at = datetime.datetime(2131, 5, 4, 3, 2, 1, tzinfo=datetime.UTC)
            await handle.schedule_durably("x", 1, at=at)
            await handle.schedule_durably("x:every", at=at, every=3600)
            await handle.schedule_durably("x:\x1b", cron="0 6 * * MON", tz="Europe/Berlin")
        async with DiskStore(tmp_path) as store:
            head = await store.head("r/1")
            dead = Scheduled(
                name="x:0", id="", due=None, time=0, data=b"", failed=3, error="ValueError: \x1b"
            )
            rows = {"x:0": dead.row(), "x:1": Timer(None, b"")}
            await store.commit(Commit("r/1", head.number + 1, store.epoch, timers=rows))

    trio.run(run)
    assert main(["inspect", str(tmp_path), "r/1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    begin = lines.index("schedules    5 schedules")
    once, cron, given_up, unreadable, every = lines[begin + 1 : begin + 6]
    assert once == '    "x"  2131-05-04 03:02:01 UTC'
    assert re.fullmatch(
        r'    "x:\\u001b"  20\d\d-\d\d-\d\d 0[45]:00:00 UTC, cron "0 6 \* \* MON" in Europe/Berlin', cron
    )
    assert given_up == '    "x:0"  given up, 3 failed: ValueError: \\u001b'
    assert unreadable.startswith('    "x:1"  given up, cannot be read')
    assert every == '    "x:every"  2131-05-04 03:02:01 UTC, every 3,600 s'


def test_unknown_room(inspect: Inspect, tmp_path: Path) -> None:
    """A room that the store does not have is an error, and no file is written for it."""
    write(tmp_path)
    assert "no room dull/x" in inspect(tmp_path, "dull/x", fails=True)
    assert "no room dull/x" in inspect(tmp_path, "dull/x", "--export", tmp_path / "f", fails=True)
    assert not (tmp_path / "f").exists()


def test_round_trip(inspect: Inspect, tmp_path: Path) -> None:
    """What is exported and imported elsewhere is the same: state, version, generation and storage."""
    fill(tmp_path / "from", "rich", "a", "store", [f"{number:03}" for number in range(200)])
    file = tmp_path / "room.cbor"
    assert "rich/a" in inspect(tmp_path / "from", "rich/a", "--export", file)
    exported = decode_value(file.read_bytes())
    assert {name: exported[name] for name in ("format", "room", "id", "version", "generation", "state")} == {
        "format": "trio-rooms.room.1",
        "room": "rich",
        "id": "a",
        "version": 1,
        "generation": 1,
        "state": RICH,
    }
    assert exported["storage"]["007"] == ["007", b"\x01"]
    inspect(tmp_path / "to", "--import", file)
    inspect(tmp_path / "to", "other/b", "--import", file)
    before, storage = load(tmp_path / "from", "rich/a")
    after, storage_after = load(tmp_path / "to", "rich/a")
    assert (after.state, after.version, after.generation) == (before.state, before.version, before.generation)
    assert storage == storage_after
    assert len(storage) == 200
    renamed, storage_renamed = load(tmp_path / "to", "other/b")
    assert (renamed.state, storage_renamed) == (before.state, storage)


def test_replace(inspect: Inspect, tmp_path: Path) -> None:
    """A room that exists is replaced only when that is asked for, and then all of it."""
    fill(tmp_path, "rich", "a", "store", ["kept"])
    inspect(tmp_path, "rich/a", "--export", tmp_path / "f")
    fill(tmp_path, "rich", "a", "store", ["later"])
    fill(tmp_path, "dull", "a", "grow", times=5)
    assert "--replace" in inspect(tmp_path, "--import", tmp_path / "f", fails=True)
    assert set(load(tmp_path, "rich/a")[1]) == {"kept", "later"}
    inspect(tmp_path, "--import", tmp_path / "f", "--replace")
    assert set(load(tmp_path, "rich/a")[1]) == {"kept"}
    inspect(tmp_path, "dull/a", "--import", tmp_path / "f", "--replace")
    snapshot, storage = load(tmp_path, "dull/a")
    assert snapshot.generation == 6
    assert decode_value(snapshot.state) == RICH
    assert set(storage) == {"kept"}


OPENED = RoomHalf(0, None, b"", Opening(b"", None, 0, 60.0))


def going_on(key: str, number: int = 1, epoch: int = 1, document: bytes | None = None) -> Commit:
    """Something that clients and the clock come back to."""
    entries = tuple(Entry(seq, b"", bytes(1000), 1.0) for seq in (1, 2, 3))
    links = {1: LinkHalf(0, 1e9), 2: LinkHalf(0, None, ended=True)}
    return Commit(
        key,
        number,
        epoch,
        document,
        entries=entries,
        seq=3,
        sessions={1: OPENED, 2: OPENED, **dict.fromkeys(range(10, 110), OPENED)},
        links=links,
        timers={str(number): Timer(None, b"") for number in range(100)} | {"due": Timer(1.0, b"")},
    )


def test_what_a_room_goes_on_with(
    inspect: Inspect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Journal, sessions and schedules, where there are any."""
    fill(tmp_path, "dull", "a", "grow")
    said = inspect(tmp_path, "dull/a")
    for word in ("journal", "sessions", "schedules"):
        assert word not in said
    write(tmp_path, going_on("dull/a", 2, 2), going_on("dull/b", 1, 2))
    for key in ("dull/a", "dull/b"):
        # One without a state can be looked at too.
        assert main(["inspect", str(tmp_path), key]) == (key == "dull/b")
        said = capsys.readouterr().out
        assert "journal      3 messages, 3,000 bytes\n" in said
        assert "sessions     102 sessions: 100 connected, 1 away, 1 over\n" in said
        assert "schedules    101 schedules\n" in said
    assert "no intact snapshot" in inspect(tmp_path, "dull/b", "--export", tmp_path / "f", fails=True)


def test_an_import_ends_what_was_of_the_state_before(inspect: Inspect, tmp_path: Path) -> None:
    """Sessions, journal and timers are in no export, and go with the state that is replaced."""
    fill(tmp_path, "dull", "a", "grow")
    write(tmp_path, going_on("dull/a", 2, 2), going_on("dull/b", 1, 2))
    inspect(tmp_path, "dull/a", "--export", tmp_path / "f")
    assert "sessions" not in inspect(tmp_path / "new", "--import", tmp_path / "f")
    assert "sessions" not in inspect(tmp_path / "new", "dull/a")
    for key in ("dull/a", "dull/b"):
        assert "--replace" in inspect(tmp_path, key, "--import", tmp_path / "f", fails=True)
        said = inspect(tmp_path, key, "--import", tmp_path / "f", "--replace")
        assert "gone with the state before it: sessions 102, journal 3, timers 101" in said

    async def look() -> None:
        async with DiskStore(tmp_path) as store:
            for key, number in (("dull/a", 3), ("dull/b", 2)):
                head = await store.head(key)
                assert (head.number, head.seq, head.entries) == (number, 3, 0)
                assert not head.has_sessions
                assert not head.has_timers
            assert await store.due(math.inf, 10) == []

    trio.run(look)


GOOD = {
    "format": "trio-rooms.room.1",
    "room": "dull",
    "id": "a",
    "version": 1,
    "generation": 1,
    "state": [1],
    "storage": {"n": 1},
}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not CBOR"),
        (b"\xff", "not CBOR"),
        (cbor2.dumps(GOOD)[:-1], "not CBOR"),
        (cbor2.dumps(GOOD) + b"\n", "1 bytes after the end"),
        (b"plain text, which begins like CBOR", "not an export"),
        (cbor2.dumps([GOOD]), "not an export"),
        (cbor2.dumps({}), "not an export"),
        (cbor2.dumps({**GOOD, "format": "trio-rooms.room.2"}), "trio-rooms.room.2"),
        (cbor2.dumps({"format": "trio-rooms.room.1", "room": "x"}), "no 'id' and no 'version'"),
        (cbor2.dumps({**GOOD, "room": "no/name"}), "name"),
        (cbor2.dumps({**GOOD, "room": 5}), "name"),
        (cbor2.dumps({**GOOD, "id": ""}), "id"),
        (cbor2.dumps({**GOOD, "id": 5}), "id"),
        (cbor2.dumps({**GOOD, "version": 0}), "'version'"),
        (cbor2.dumps({**GOOD, "version": True}), "'version'"),
        (cbor2.dumps({**GOOD, "generation": 2**63}), "'generation'"),
        (cbor2.dumps({**GOOD, "storage": []}), "'storage'"),
        (cbor2.dumps({**GOOD, "storage": {1: 1}}), "'storage'"),
    ],
    ids=range(18),
)
def test_bad_import(inspect: Inspect, tmp_path: Path, content: bytes, told: str) -> None:
    """A file that is no export is refused with what is wrong with it, and nothing is made or written."""
    file = tmp_path / "f"
    file.write_bytes(content)
    complaint = inspect(tmp_path / "data", "--import", file, fails=True)
    assert str(file) in complaint
    assert told in complaint
    assert not (tmp_path / "data").exists()


def test_files_that_are_not_there(inspect: Inspect, tmp_path: Path) -> None:
    """A file that cannot be read or written is named."""
    fill(tmp_path / "data", "dull", "a", "grow")
    assert "nothing.cbor" in inspect(tmp_path / "data", "--import", tmp_path / "nothing.cbor", fails=True)
    where = tmp_path / "no folder" / "f.cbor"
    assert "no folder" in inspect(tmp_path / "data", "dull/a", "--export", where, fails=True)


def test_deep_values(inspect: Inspect, tmp_path: Path) -> None:
    """What is nested as deeply as a state may be survives; what is nested deeper is refused."""
    file = tmp_path / "f"
    deep: list[Any] = []
    for _ in range(199):
        deep = [deep]
    file.write_bytes(cbor2.dumps({**GOOD, "state": deep, "storage": {"n": deep}}))
    inspect(tmp_path / "data", "--import", file)
    inspect(tmp_path / "data", "dull/a")
    inspect(tmp_path / "data", "dull/a", "--export", tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == file.read_bytes()
    for _ in range(201):
        deep = [deep]
    file.write_bytes(cbor2.dumps({**GOOD, "id": "b", "state": deep}))
    inspect(tmp_path / "data", "--import", file)
    file.write_bytes(cbor2.dumps({**GOOD, "id": "c", "state": [deep]}))
    assert "cannot be kept" in inspect(tmp_path / "data", "--import", file, fails=True)
    file.write_bytes(b"\xa1fformat" + b"\x81" * 5000 + b"\x80")
    assert "not CBOR" in inspect(tmp_path / "data", "--import", file, fails=True)


def test_unknown_tags_survive(inspect: Inspect, tmp_path: Path) -> None:
    """A value that only its application understands is kept as it is."""
    file = tmp_path / "f"
    file.write_bytes(cbor2.dumps({**GOOD, "state": cbor2.CBORTag(4711, [1, {"a": 2}])}))
    inspect(tmp_path / "data", "--import", file)
    assert load(tmp_path / "data", "dull/a")[0].state == cbor2.dumps(cbor2.CBORTag(4711, [1, {"a": 2}]))
    assert "tag 4711(" in inspect(tmp_path / "data", "dull/a")


def test_an_engine(inspect: Inspect, tmp_path: Path, valkey: Valkey) -> None:
    """What is at a URL is shown, exported and imported as what is in a folder."""
    assert inspect(valkey.url).splitlines()[-1] == "0 rooms"
    fill(tmp_path, "rich", "a", "store", ["x", "y"])
    exported, again = tmp_path / "a.cbor", tmp_path / "b.cbor"
    inspect(tmp_path, "rich/a", "--export", exported)
    told = inspect(valkey.url, "--import", exported)
    assert told == f"wrote {exported} into room rich/a: version 1, generation 1\n"
    assert inspect(valkey.url).splitlines()[1].split()[-1] == "rich/a"
    inspect(valkey.url, "rich/a", "--export", again)
    assert again.read_bytes() == exported.read_bytes()
    assert "in the store already" in inspect(valkey.url, "--import", exported, fails=True)


def test_what_is_no_engine(
    inspect: Inspect, tmp_path: Path, valkey: Valkey, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is none, or where nodes have the rooms, that is said."""
    assert main(["inspect", "http://127.0.0.1:1"]) == 2
    assert "the URL of an engine begins with" in capsys.readouterr().err
    fill(tmp_path, "rich", "a", "store", [])
    exported = tmp_path / "a.cbor"
    inspect(tmp_path, "rich/a", "--export", exported)
    valkey.ask("ZADD", "{rooms}:nodes", "9e9", "ana#1")
    assert "nodes have the rooms" in inspect(valkey.url, "--import", exported, fails=True)
    assert inspect(valkey.url).splitlines()[-1] == "0 rooms"
