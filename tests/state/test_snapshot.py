from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import struct
import threading
import uuid
from typing import Any

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rooms._state.codec import LARGE, Codec, decode_value, encode_value
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._values import cbor
from trio_rooms.errors import MigrationError, SnapshotCorrupt, SnapshotError, SnapshotTooNew, StateError

KEY = "chat/lobby"


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


@attrs.define
class Line:
    user: str
    text: str
    when: datetime.datetime | None = None


@attrs.frozen
class Mark:
    x: int


@dataclasses.dataclass
class Score:
    points: int
    by: dict[str, int]


@attrs.define
class Chat:
    log: list[Line] = attrs.field(factory=list)
    users: dict[str, Line] = attrs.field(factory=dict)
    pinned: Line | None = None
    scores: list[Score] = attrs.field(factory=list)
    colours: dict[Colour, list[Colour]] = attrs.field(factory=dict)
    marks: set[Mark] = attrs.field(factory=set)
    moments: list[datetime.datetime] = attrs.field(factory=list)
    dates: list[datetime.date] = attrs.field(factory=list)
    prices: dict[int, decimal.Decimal] = attrs.field(factory=dict)
    ids: set[uuid.UUID] = attrs.field(factory=set)
    blob: bytes = b""
    number: int = 0
    pair: tuple[int, str] = (0, "")
    run: tuple[float, ...] = ()
    anything: Any = None
    either: int | str | None = None
    queue: collections.deque[int] = attrs.field(factory=collections.deque)
    inside: int = attrs.field(init=False, default=0)


@attrs.define
class Link:
    next: Link | None = None
    children: list[Link] = attrs.field(factory=list)


def codec(kind: Any = None, version: int = 1, **migrations: Any) -> Codec:
    """A codec with migrations given as ``m1_3=function``."""
    steps = {}
    for name, function in migrations.items():
        before, after = name.removeprefix("m").split("_")
        steps[int(before)] = (int(after), function)
    return Codec(kind, version, steps)


def snapshot(state: bytes, version: int = 1) -> Snapshot:
    """A snapshot of the room of these tests."""
    return Snapshot("chat", "lobby", version, 3, 2, state)


def around(made: Codec, state: Any) -> Any:
    """A state after a sleep."""
    return made.decode(KEY, snapshot(made.encode(KEY, state), made.version)).state


def nested(levels: int) -> Any:
    """So many lists in one another."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


# The document.


def test_a_document_is_unpacked_as_it_was_packed() -> None:
    """What `pack` wrote, `unpack` reads, whatever characters are in the id."""
    for made in (
        snapshot(b""),
        snapshot(b"\0" * 1000),
        Snapshot("a", "b/c \U0001f600", 9, 2**63 - 1, 0, b"x"),
    ):
        assert Snapshot.unpack(f"{made.room}/{made.id}", made.pack()) == made


@given(st.data(), st.binary(max_size=40))
def test_any_changed_byte_is_noticed(data: st.DataObject, state: bytes) -> None:
    """A document with one bit of one byte flipped is corrupt."""
    packed = bytearray(snapshot(state).pack())
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotCorrupt):
        Snapshot.unpack(KEY, bytes(packed))


def test_any_cut_is_noticed() -> None:
    """A document of which any number of bytes is missing, or to which some were added, is corrupt."""
    packed = snapshot(b"state").pack()
    for length in range(len(packed)):
        with pytest.raises(SnapshotCorrupt):
            Snapshot.unpack(KEY, packed[:length])
    for more in (b"\0", packed):
        with pytest.raises(SnapshotCorrupt):
            Snapshot.unpack(KEY, packed + more)


@given(st.binary())
def test_anything_else_is_corrupt(packed: bytes) -> None:
    """Bytes that are no document are corrupt, and raise nothing else."""
    with pytest.raises(SnapshotCorrupt):
        Snapshot.unpack(KEY, packed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        cbor2.dumps([1]),
        cbor2.dumps(5),
        cbor2.dumps({}),
        cbor2.dumps({1: 2}),
        cbor2.dumps({**attrs.asdict(snapshot(b"")), "more": 1}),
        cbor2.dumps({**attrs.asdict(snapshot(b"")), "state": "text"}),
        cbor2.dumps({**attrs.asdict(snapshot(b"")), "version": "1"}),
        cbor2.dumps({**attrs.asdict(snapshot(b"")), "generation": None}),
        b"\x81" * 5000 + b"\0",
    ],
)
def test_a_body_that_checks_but_is_no_snapshot_is_left_as_it_is(body: bytes) -> None:
    """What another version of the library wrote is not understood, and not damaged: no older one is taken."""
    packed = snapshot(b"").pack()
    valid = packed[:9] + struct.pack(">Q", len(body)) + checksum(body) + body
    with pytest.raises(SnapshotError, match="intact") as caught:
        Snapshot.unpack(KEY, valid)
    assert not isinstance(caught.value, SnapshotCorrupt)


def checksum(body: bytes) -> bytes:
    """The checksum as a document has it."""
    import hashlib  # noqa: PLC0415 (a fact of the format, told apart from the code)

    return hashlib.blake2b(body, digest_size=16).digest()


def test_another_rooms_document_is_refused() -> None:
    """A snapshot is read only for the room that wrote it; the message names both."""
    with pytest.raises(SnapshotCorrupt, match="that of chat/lobby") as caught:
        Snapshot.unpack("chat/other", snapshot(b"").pack())
    assert caught.value.key == "chat/other"


# Versions.


def test_a_newer_snapshot_is_refused() -> None:
    """A snapshot of a newer version is an error of its own that says both versions."""
    with pytest.raises(SnapshotTooNew) as caught:
        codec(version=2).decode(KEY, snapshot(cbor2.dumps(1), 3))
    assert (caught.value.stored, caught.value.running) == (3, 2)


def add(name: str) -> Any:
    """A migration that leaves its mark."""
    return lambda state: [*state, name]


def test_migrations_are_a_chain() -> None:
    """Each old version is brought up step by step; a migration may jump over versions."""
    made = codec(None, 6, m1_2=add("1-2"), m2_5=add("2-5"), m3_4=add("3-4"), m4_6=add("4-6"), m5_6=add("5-6"))
    steps = {1: ["1-2", "2-5", "5-6"], 2: ["2-5", "5-6"], 3: ["3-4", "4-6"], 4: ["4-6"], 5: ["5-6"], 6: []}
    for version, expected in steps.items():
        assert made.decode(KEY, snapshot(cbor2.dumps([]), version)).state == expected


def test_a_missing_migration_says_which() -> None:
    """A version that nothing leads on from is named, with what to add."""
    with pytest.raises(MigrationError, match=r"@room.migrate\(2, 3\)"):
        codec(None, 4, m1_2=add("a"), m3_4=add("b")).decode(KEY, snapshot(cbor2.dumps([]), 1))


def test_a_migration_that_raises_is_the_cause() -> None:
    """The error of a migration is chained and its step named."""

    def fails(state: Any) -> Any:
        return state["missing"]

    with pytest.raises(MigrationError, match="from version 1 to 2 raised: KeyError") as caught:
        codec(None, 2, m1_2=fails).decode(KEY, snapshot(cbor2.dumps({}), 1))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_migrated_state_becomes_the_class() -> None:
    """Migrations see plain values; the class is built from what the last one returns."""

    def up(state: Any) -> Any:
        assert state == {"from": "a", "text": "b"}
        state["user"] = state.pop("from")
        return state

    state = cbor2.dumps({"from": "a", "text": "b"})
    assert codec(Line, 2, m1_2=up).decode(KEY, snapshot(state)).state == Line("a", "b")


def test_a_state_that_does_not_fit_its_class_names_the_field() -> None:
    """A class that has changed without a migration says where, and what to do."""
    made = codec(Chat)
    with pytest.raises(MigrationError, match=r"log\[1\]\.text: required field missing.*add a migration"):
        made.decode(KEY, snapshot(cbor2.dumps({"log": [{"user": "a", "text": "b"}, {"user": "c"}]})))


def test_a_state_that_does_not_decode_is_left_as_it_is() -> None:
    """What is as it was written and cannot be read here is not damage: no older one is taken for it."""
    for broken in (b"", b"\xff", b"\x82\x01", b"\xc0\x61x", b"\x81" * 5000):
        with pytest.raises(SnapshotError, match="intact") as caught:
            codec(Chat).decode(KEY, snapshot(broken))
        assert not isinstance(caught.value, SnapshotCorrupt)


# What a state may hold.

MOMENTS = st.datetimes(
    datetime.datetime(1, 1, 3),  # noqa: DTZ001 (hypothesis adds the zone)
    datetime.datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.timezones() | st.just(datetime.UTC),
    # Where a clock was put back, Python calls no two moments of different zones equal.
).filter(lambda moment: moment.replace(fold=0).utcoffset() == moment.replace(fold=1).utcoffset())
NUMBERS = st.integers() | st.integers(-(2**200), 2**200)
TEXT = st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=8)
    | MOMENTS
    | st.dates()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
)
KEYS = (
    TEXT | st.integers() | st.booleans() | st.binary(max_size=4) | st.none() | st.tuples(TEXT, st.integers())
)
PLAIN = st.recursive(
    SCALARS | st.sets(KEYS, max_size=4) | st.frozensets(st.integers(), max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
LINES = st.builds(Line, TEXT, TEXT, st.none() | MOMENTS)
COLOURS = st.sampled_from(Colour)


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    """States of every type that a field may have."""
    chat = draw(
        st.builds(
            Chat,
            log=st.lists(LINES, max_size=4),
            users=st.dictionaries(TEXT, LINES, max_size=4),
            pinned=st.none() | LINES,
            scores=st.lists(
                st.builds(Score, NUMBERS, st.dictionaries(TEXT, NUMBERS, max_size=3)), max_size=3
            ),
            colours=st.dictionaries(COLOURS, st.lists(COLOURS, max_size=3)),
            marks=st.sets(st.builds(Mark, NUMBERS), max_size=3),
            moments=st.lists(MOMENTS, max_size=3),
            dates=st.lists(st.dates(), max_size=3),
            prices=st.dictionaries(NUMBERS, st.decimals(allow_nan=False), max_size=3),
            ids=st.sets(st.uuids(), max_size=3),
            blob=st.binary(),
            number=NUMBERS,
            pair=st.tuples(NUMBERS, TEXT),
            run=st.lists(st.floats(allow_nan=False)).map(tuple),
            anything=PLAIN,
            either=st.none() | NUMBERS | TEXT,
            queue=st.lists(NUMBERS, max_size=3).map(collections.deque),
        )
    )
    chat.inside = draw(NUMBERS)
    return chat


@given(PLAIN)
def test_plain_states_come_back_equal(state: Any) -> None:
    """A state of lists, maps and what CBOR knows is after a sleep what it was."""
    assert around(codec(), state) == state
    assert decode_value(encode_value(KEY, "storage['a']", state)) == state


@settings(deadline=None)
@given(chats())
def test_typed_states_come_back_equal(chat: Chat) -> None:
    """A state of classes is after a sleep what it was, in all its depth."""
    back = around(codec(Chat), chat)
    assert back == chat
    assert [type(line) for line in back.log] == [Line] * len(chat.log)
    assert back.inside == chat.inside


@settings(deadline=None)
@given(st.tuples(st.none(), PLAIN) | st.tuples(st.just(Chat), chats()))
def test_large_states_are_encoded_alike(drawn: tuple[Any, Any]) -> None:
    """In a thread, a state becomes the same bytes as at once."""
    kind, state = drawn
    made = codec(kind)
    assert made.encode_large(KEY, state) == made.encode(KEY, state)


class Growing:
    """A field of a line: who reads it the first time makes the list longer that the line is in."""

    def __init__(self, field: Any, lines: list[Any]) -> None:
        self.field = field
        self.lines = lines

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if len(self.lines) == 100:
            self.lines += self.lines
        return self.field.__get__(instance, owner)


def test_a_list_that_grows_as_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its elements are as many as its head says, and what follows is not taken for one of them."""
    lines = [Line("a", "b")] * 100
    made = codec(dict[str, list[Line]])
    monkeypatch.setattr(Line, "user", Growing(vars(Line)["user"], lines))
    encoded = made.encode_large(KEY, {"before": [], "lines": lines, "after": []})
    monkeypatch.undo()
    assert len(lines) == 200
    plain = decode_value(encoded)
    assert list(plain) == ["before", "lines", "after"]
    assert len(plain["lines"]) == 100


@pytest.mark.parametrize("count", [0, 1, 23, 24, 63, 64, 65, 128, 129, 255, 256, 1000, 65_536])
def test_large_containers_are_encoded_and_decoded_alike(count: int) -> None:
    """The pieces of large lists and maps make up the same bytes, and come back."""
    line = Line("a", "b")
    lines = min(count // 8, 200)  # Whose own lengths are those of smaller counts.
    for kind, state in (
        (None, list(range(count))),
        (None, (*range(count),)),
        (dict[str, dict[int, str]], {"map": dict.fromkeys(range(count), "x")}),
        (list[Line], [line] * lines),
        (Chat, Chat([line] * lines, dict.fromkeys(map(str, range(lines)), line))),
        (None, [[["x"] * count]]),
        (None, [{"a": {"b": [None] * count}}]),
    ):
        made = codec(kind)
        encoded = made.encode(KEY, state)
        assert made.encode_large(KEY, state) == encoded
        assert around(made, state) == state
        padded = codec().encode_large(KEY, [decode_value(encoded), b"x" * LARGE])
        assert decode_value(padded) == [decode_value(encoded), b"x" * LARGE]


@settings(deadline=None, max_examples=30)
@given(PLAIN)
def test_large_states_are_decoded_alike(state: Any) -> None:
    """A state of more than LARGE bytes comes back as a small one does."""
    for whole in ([b"x" * LARGE, state], {"a": state, "b": ["x" * LARGE]}, [[[[[state]]]], "x" * LARGE]):
        assert around(codec(), whole) == whole


def test_what_was_set_aside_is_encoded_alike() -> None:
    """In a thread too, an instance is written with what its class did not understand."""
    old = attrs.make_class("Line", {"user": attrs.field(type=str), "more": attrs.field(type=list[int])})
    stored = codec(list[old]).encode(KEY, [old("a", [1]), old("b", [])])  # type: ignore[valid-type]
    new = attrs.make_class("Line", {"user": attrs.field(type=str), "text": attrs.field(type=str, default="")})
    made = codec(list[new])  # type: ignore[valid-type]
    decoded = made.decode(KEY, snapshot(stored))
    assert decoded.state == [new("a"), new("b")]
    encoded = made.encode(KEY, decoded.state, decoded.aside)
    assert made.encode_large(KEY, decoded.state, decoded.aside) == encoded
    assert decode_value(encoded)[0] == {"user": "a", "text": "", "more": [1]}


def test_a_large_state_that_is_cut_short_is_noticed() -> None:
    """Large values are decoded in pieces, and checked like small ones."""
    state = codec().encode(KEY, {"a": [1, 2, {"b": "c" * LARGE}], "d": list(range(100))})
    made = codec()
    for length in (*range(len(state) - 30, len(state)), LARGE):
        with pytest.raises(SnapshotError):
            made.decode(KEY, snapshot(state[:length]))


def test_types_that_cbor_would_change_come_back_where_declared() -> None:
    """A subclass's value, NaN and infinity of decimals are as a declared field can have them."""
    assert around(codec(Line), Line("a", "b")) == Line("a", "b")
    chat = Chat(prices={1: decimal.Decimal("NaN"), 2: decimal.Decimal("-Infinity")})
    back = around(codec(Chat), chat)
    assert str(back.prices) == str(chat.prices)


@pytest.mark.parametrize("seconds", [0, 1, -1, 30, 3599, 3600, -45_296, 86_399, -86_399])
def test_any_offset_from_utc_is_kept_as_a_moment(seconds: int) -> None:
    """An offset of odd seconds, which CBOR's text form lacks, does not make a snapshot unreadable."""
    zone = datetime.timezone(datetime.timedelta(seconds=seconds))
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, zone)
    assert around(codec(), [moment]) == [moment]
    assert around(codec(Line), Line("a", "b", moment)) == Line("a", "b", moment)


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("log", "abc", "state.log"),
        ("log", (Line("a", "b"),), "state.log"),
        ("log", [{"user": "a", "text": "b"}], "state.log[0]"),
        ("users", {5: Line("a", "b")}, "state.users (the key 5)"),
        ("pinned", 5, "state.pinned"),
        ("marks", None, "state.marks"),
        ("marks", frozenset([Mark(1)]), "state.marks"),
        ("pair", [1, "a"], "state.pair"),
        ("pair", (1,), "state.pair"),
        ("number", "seven", "state.number"),
        ("blob", bytearray(b"a"), "state.blob"),
        ("colours", {"red": []}, "state.colours (the key 'red')"),
        ("queue", [1], "state.queue"),
        ("anything", {"a": [Line("a", "b")]}, "state.anything['a'][0]"),
        ("anything", [Colour.RED], "state.anything[0]"),
        ("anything", collections.Counter("a"), "state.anything"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(field: str, value: Any, path: str) -> None:
    """A value that is not of its declared type is refused when it is saved, with where it is."""
    chat = Chat()
    setattr(chat, field, value)
    for encode in (codec(Chat).encode, codec(Chat).encode_large):
        with pytest.raises(StateError) as caught:
            encode(KEY, chat)
        assert caught.value.path == path


# What a state may not hold.


class Socket:
    """Something that CBOR has no form for."""


def cyclic() -> Any:
    """A map that contains itself."""
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


@pytest.mark.parametrize(
    ("state", "path", "why"),
    [
        (Socket(), "state", "CBOR has no form for"),
        ([1, Socket()], "state[1]", "test_snapshot.Socket"),
        ({"a": [{"b": Socket()}]}, "state['a'][0]['b']", "Socket"),
        (Chat(anything={"x": Socket()}), "state.anything['x']", "Socket"),
        (Chat(log=[Line("a", "b"), Line("c", Socket())]), "state.log[1].text", "Socket"),  # type: ignore[arg-type]
        (Chat(scores=[Score(1, {"a": Socket()})]), "state.scores[0].by['a']", "Socket"),  # type: ignore[dict-item]
        ({1: {2: print}}, "state[1][2]", "builtin_function_or_method"),
        ({"a": lambda: 1}, "state['a']", "function"),
        ({"a": {"b", "\ud800"}}, "state['a'] (the member '\\ud800')", "lone surrogate"),
        ({"\ud800": 1}, "state (the key '\\ud800')", "lone surrogate"),
        ({"a": {(1, Colour): 1}}, "state['a'] (the key (1, <enum 'Colour'>))[1]", "no form for"),
        (["ok", "\ud800"], "state[1]", "lone surrogate"),
        (
            {"when": [datetime.datetime(2026, 1, 1)]},  # noqa: DTZ001 (it is what is refused)
            "state['when'][0]",
            "a datetime without a time zone",
        ),
        (collections.deque([Socket()]), "state[0]", "Socket"),
        (cyclic(), "state", "contains itself"),
        ({"a": 1, "b": cyclic()}, "state", "contains itself"),
        (nested(1000), "state", "nested more than"),
        (nested(100_000), "state", "nested more than"),
        (Chat(anything=nested(100_000)), "state", "nested more than"),
    ],
)
def test_what_cannot_be_saved_is_named(state: Any, path: str, why: str) -> None:
    """The error says where in the state it is and why, however it is encoded."""
    kind = Chat if isinstance(state, Chat) else None
    for encode in (codec(kind).encode, codec(kind).encode_large):
        with pytest.raises(StateError) as caught:
            encode(KEY, state)
        assert caught.value.path == path
        assert why in caught.value.why
        assert caught.value.key == KEY
    with pytest.raises(StateError, match="cannot save storage") as caught:
        encode_value(KEY, "storage['x']", state)
    assert caught.value.path == path.replace("state", "storage['x']", 1)


@pytest.mark.parametrize(
    "make", [lambda v: [v], lambda v: {"a": v}, lambda v: (1, v), Link, lambda v: Link(None, [v])]
)
def test_what_encodes_decodes(make: Any) -> None:
    """A state is refused while it is there, or can be read again: also where it is nested deeply."""
    kind = Link if make(None).__class__ is Link else None
    made = codec(kind)
    refused = 0
    state = None
    for depth in range(cbor.DEPTH + 20):
        state = make(state)
        if depth % 10 and all(abs(levels * depth - cbor.DEPTH) > 20 for levels in (1, 2)):
            continue  # Nothing is decided there.
        for encode in (made.encode, made.encode_large):
            try:
                encoded = encode(KEY, state)
            except StateError:
                refused += 1
                continue
            assert refused <= 1
            back = made.decode(KEY, snapshot(encoded)).state
            assert made.encode(KEY, back) == encoded
    assert refused > 0


def test_a_refused_state_does_not_harm_the_next() -> None:
    """What was too deep leaves no trace, in this thread or another."""
    for _ in range(3):
        with pytest.raises(StateError):
            codec().encode(KEY, nested(1000))
    deep = nested(cbor.DEPTH)
    results = [codec().encode(KEY, deep)]
    threads = [threading.Thread(target=lambda: results.append(codec().encode(KEY, deep))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert len(results) == 5


def test_other_containers_are_as_deep_as_lists() -> None:
    """Every container of the standard library is counted, so that none can overrun the stack."""
    for make in (
        lambda v: (v,),
        lambda v: collections.deque([v]),
        lambda v: collections.OrderedDict(a=v),
        lambda v: collections.defaultdict(int, a=v),
        lambda v: collections.Counter({"a": v}),
        lambda v: collections.UserDict({"a": v}),
        lambda v: collections.UserList([v]),
        lambda v: frozenset([v]),
        lambda v: cbor2.CBORTag(4000, v),
    ):
        state: Any = None
        for _ in range(20_000 if make(None).__class__ is not frozenset else 400):
            state = make(state)
        with pytest.raises(StateError, match="nested more than"):
            encode_value(KEY, "state", state)
        with pytest.raises(StateError):
            codec().encode(KEY, state)
