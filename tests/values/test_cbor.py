"""CBOR is written as cbor2 writes it by itself, and read without tags where strangers wrote it."""

from __future__ import annotations

import collections
import datetime
import enum
import subprocess
import sys
import threading
import tracemalloc
import uuid
from collections.abc import Sequence
from typing import Any
from unittest import mock

import attrs
import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_rooms._values import cbor

_zones = st.sampled_from([datetime.timezone(datetime.timedelta(minutes=n)) for n in (60, -90, 1)])
_keys = st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.integers(), st.text(max_size=2)))
_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5),
    st.binary(max_size=5), st.datetimes(timezones=_zones), st.decimals(allow_nan=False), st.uuids(),
    st.frozensets(st.integers()),
)  # fmt: skip
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(_keys, inner, max_size=4),
        st.lists(inner, max_size=3).map(collections.deque),
        st.dictionaries(st.text(max_size=2), inner, max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=12,
)


@given(_values)
def test_states_are_written_as_cbor2_writes_them(value: Any) -> None:
    """Values are made plain before they are written, and that shows nowhere in the bytes."""
    assert cbor.encode(value) == cbor2.dumps(value)


_EDGES = st.builds(
    lambda edge, microseconds: edge + datetime.timedelta(microseconds=microseconds),
    st.sampled_from([cbor.EARLIEST, cbor.LATEST, datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)]),
    st.integers(-(10**7), 10**7),
)


@settings(max_examples=400)
@given(st.datetimes(timezones=st.just(datetime.UTC)) | _EDGES)
def test_seconds_hold_a_point_in_time_to_the_microsecond(moment: datetime.datetime) -> None:
    """What is in UTC is written as a number, where a double tells its microseconds apart; else as text."""
    encoded = cbor.encode(moment)
    assert encoded[0] == (0xC1 if cbor.EARLIEST < moment < cbor.LATEST else 0xC0)
    back = cbor2.loads(encoded)
    assert (back, back.tzinfo) == (moment, datetime.UTC)
    assert cbor2.loads(cbor2.dumps(moment)) == moment  # As it was written once, and is read still.


def test_a_double_tells_microseconds_apart_up_to_there() -> None:
    """And beyond it does not: the limit is where it has to be, on both sides."""
    step = datetime.timedelta(microseconds=1)
    for moment in (cbor.EARLIEST + step, cbor.LATEST - step):
        assert datetime.datetime.fromtimestamp(moment.timestamp(), datetime.UTC) == moment
    spoilt = [cbor.LATEST + n * step for n in range(4)] + [cbor.EARLIEST - n * step for n in range(4)]
    assert any(datetime.datetime.fromtimestamp(one.timestamp(), datetime.UTC) != one for one in spoilt)


class Color(enum.Enum):
    """Not a string, but its value is one."""

    RED = "red"


@attrs.frozen
class Point:
    """A class that can be a key and in a set."""

    x: int
    y: Any = None


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (Point(1, Point(2)), {"x": 1, "y": {"x": 2, "y": None}}),
        ([Color.RED, {Color.RED: Color.RED}], ["red", {"red": "red"}]),
        ({(1, Color.RED): 1}, {(1, "red"): 1}),
        ({"a": collections.UserList([Point(1)])}, {"a": [{"x": 1, "y": None}]}),
        (cbor2.CBORTag(4000, Point(1)), cbor2.CBORTag(4000, {"x": 1, "y": None})),
        ({Point(1)}, cbor2.CBORTag(258, [{"x": 1, "y": None}])),
    ],
)
def test_classes_and_enums_are_what_they_hold(value: Any, same: Any) -> None:
    """Classes are maps of their fields and enums their values, wherever they stand, keys included."""
    assert cbor.encode(value) == cbor2.dumps(same)


def test_a_class_can_be_a_key() -> None:
    """As a key it is the map that it is elsewhere."""
    key = cbor2.dumps({"x": 1, "y": [2]})
    assert cbor.encode({Point(1, (2,)): 3}) == b"\xa1" + key + b"\x03"


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ({1: {2}}, {1: [2]}),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00+00:00"),
        ([Point(1, Color.RED)], [{"x": 1, "y": "red"}]),
        (collections.deque([b"x", bytearray(b"y")]), [b"x", b"y"]),
    ],
)
def test_clients_get_no_tags(value: Any, same: Any) -> None:
    """What is sent has the forms that JSON has, and bytes."""
    assert cbor.encode_plain(value) == cbor2.dumps(same)


def test_keys_that_are_containers_are_written_like_values() -> None:
    """A set or a tuple as a key is kept with its tags, and sent without any."""
    assert cbor.encode({frozenset({1}): 1}).hex() == "a1d90102810101"
    assert cbor.encode_plain({frozenset({1}): 1}).hex() == "a1810101"
    key = uuid.UUID(int=5)
    assert cbor.as_sent({(key, (key,)): 1}) == {(str(key), (str(key),)): 1}


class Own(Sequence[Any]):
    """A sequence of an application's own, which holds itself."""

    def __getitem__(self, _: Any) -> Any:
        return self

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("value", [collections.UserString("x"), Own(), [Own()]])
@pytest.mark.parametrize("encode", [cbor.encode, cbor.encode_plain])
def test_what_cbor2_would_follow_without_end_is_refused(encode: Any, value: Any) -> None:
    """No sequence is written whose levels were not counted: cbor2 would overrun the stack."""
    with pytest.raises((TypeError, ValueError)):
        encode(value)


def test_a_deep_stack_is_no_other_error() -> None:
    """Where Python's own limit comes before ours, it is the same kind of error."""
    deep: Any = None
    for _ in range(cbor.DEPTH - 1):
        deep = [deep]

    def descend(levels: int) -> bytes:
        return descend(levels - 1) if levels else cbor.encode(deep)

    assert descend(0)
    for levels in range(0, 950, 50):
        try:
            descend(levels)
        except ValueError:
            return
        except RecursionError:
            pytest.fail("a RecursionError came through")
    pytest.fail("the stack was never too deep")


@attrs.define
class Shape:
    """A class whose field has a type that no value is held to."""

    name: str
    points: list[int] = attrs.field(factory=list)
    end: Point | None = None


@attrs.frozen
class Far(Point):
    """A subclass with one field more."""

    z: int = 3


def test_what_is_sent_goes_by_what_a_value_is() -> None:
    """A subclass keeps its fields, and a string in a list's place stays one."""
    shape: Any = Shape("s", end=Far(1))
    shape.points = "abc"
    assert cbor.as_sent(shape) == {"name": "s", "points": "abc", "end": {"x": 1, "y": None, "z": 3}}


@pytest.mark.parametrize(
    "content",
    ["f6", "00", "6161", "80", "a0", "a16161f6", "820102", "43010203", "fb3ff0000000000000"],
)
def test_no_tag_is_allowed(content: str) -> None:
    """A tag of any number, around any content, is refused: what it would make is up to the sender."""
    for number in [*range(301), 1004, 22098, 43000, 55799, 65535, 2**16, 2**32 - 1, 2**32, 2**64 - 1]:
        for start in (b"", b"\x81", b"\xa1\x61a"):
            with pytest.raises(ValueError, match="no tags"):
                cbor.decode_plain(start + head(6, number) + bytes.fromhex(content))
    assert cbor.decode_plain(b"\x81" + bytes.fromhex(content)) == [cbor2.loads(bytes.fromhex(content))]


def head(major: int, count: int) -> bytes:
    """The head of a CBOR item (RFC 8949, section 3)."""
    if count < 24:
        return bytes([major << 5 | count])
    size = next(size for size in range(4) if count < 1 << (8 << size))
    return bytes([major << 5 | 24 + size]) + count.to_bytes(1 << size, "big")


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize("length", [5, 2**16, 2**31 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**64 - 1])
def test_a_length_is_not_believed(major: int, length: int) -> None:
    """A length far beyond the data is refused without taking memory for it."""
    for start in (b"", b"\x81", b"\xa1\x61a"):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="not CBOR"):
                cbor.decode_plain(start + head(major, length) + b"\x01")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1_000_000


def test_no_memory_is_taken_outside_python() -> None:
    """The same in a process that may not take much more than it has, whoever allocates."""
    program = """
import resource
from trio_rooms._values import cbor
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 64 * 2**20,) * 2)
for major in (2, 3, 4, 5):
    for size in (4, 8):
        for length in (2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1):
            if length < 1 << 8 * size:
                head = bytes([major << 5 | (26 if size == 4 else 27)]) + length.to_bytes(size, "big")
                for message in (head, head * 60, b"\\x81" + head + b"x" * 1000):
                    try:
                        cbor.decode_plain(message)
                    except ValueError:
                        continue
                    raise SystemExit("it was taken")
print("refused")
"""
    if sys.platform != "linux":
        pytest.skip("asks /proc how much a process has")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "not CBOR"),
        (b"\xff", "not CBOR"),
        (b"\xa1\x65event", "not CBOR"),
        (b"\xa1\x65event\x62\xc3\x28", "not CBOR"),
        (b"\xa1\x65event\x63\xed\xa0\x80", "not CBOR"),
        (b"\x1c", "not CBOR"),
        (b"\xfc", "not CBOR"),
        (b"\xf8\x01", "not CBOR"),
        (b"\x5f\x61a\xff", "not CBOR"),
        (b"\xa1\x65event\x61a\x00", "1 bytes after the end"),
        (b"\xa1\x65event\x61a" * 3, "18 bytes after the end"),
        (b"\xa0" + b"\0" * 100_000, "100000 bytes after the end"),
    ],
)
def test_wrong_cbor_is_refused(message: bytes, why: str) -> None:
    """CBOR that is cut short, malformed, or followed by more is refused."""
    with pytest.raises(ValueError) as caught:
        cbor.decode_plain(message)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 500


def test_lengths_may_be_left_open() -> None:
    """Maps, lists and strings of indefinite length are read like others (RFC 8949, 3.2)."""
    message = b"\xbf\x65event\x7f\x61a\x61b\xff\x64data\x9f\x01\x5f\x41\x01\x41\x02\xff\xff\xff"
    assert cbor.decode_plain(message) == {"event": "ab", "data": [1, b"\1\2"]}


def test_keys_of_a_short_message_may_be_integers() -> None:
    """As long as it is short: many integers can be chosen that a hash table has in one place."""
    value = [{-1: {2**64 - 1: b""}, "a": 1, b"b": 2}, None]
    assert cbor.decode_plain(cbor2.dumps(value)) == value
    longest: dict[Any, Any] = {1: b"x" * (16 * 1024 - 5)}
    assert cbor.decode_plain(cbor2.dumps(longest)) == longest
    longest[1] += b"x"
    with pytest.raises(ValueError, match="must be a text string or byte string"):
        cbor.decode_plain(cbor2.dumps(longest))


@pytest.mark.parametrize("key", ["01", "1b1fffffffffffffff", "8101", "f5", "f97e00", "a0"])
def test_no_hash_table_is_made_of_what_a_stranger_chose(key: str) -> None:
    """In a long message the first key that is no string ends it: what follows is not even read."""
    rest = b"x" * 20_000  # Which is no CBOR, and would be the error otherwise.
    with pytest.raises(ValueError, match="must be a text string or byte string"):
        cbor.decode_plain(b"\xb9\xff\xff" + bytes.fromhex(key) + b"\x00" + rest)


_sent = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.text(max_size=30)
    | st.binary(max_size=30) | st.just(cbor2.undefined) | st.datetimes(timezones=_zones),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@st.composite
def _changed_messages(draw: st.DrawFn) -> bytes:
    """Messages as they come, with small mistakes in them, or none."""
    content = cbor2.dumps({"event": "say", "data": draw(_sent)})
    for at, without, piece in draw(
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.binary(max_size=2)), max_size=2)
    ):
        content = content[: at % (len(content) + 1)] + piece + content[at % (len(content) + 1) + without :]
    return content


def _outcome(content: bytes) -> str:
    """What becomes of a message: the value, by its exact types, or the error."""
    try:
        return repr(cbor.decode_plain(content))
    except ValueError as error:
        told_twice = error.__context__ is not None and not error.__suppress_context__
        return f"refused{' twice' * told_twice}: {error}"


def _refused(*_: object, **__: object) -> None:
    raise ValueError("refused")


@given(st.binary(max_size=30) | _changed_messages())
@example(b"")
@example(b"\xff")
@example(b"\x01\x02")
@example(b"\x01\xff")
@example(b"\x82\x01")
@example(b"\x58\x11")
@example(b"\x9f\x01")
@example(b"\x81" * 65 + b"\x01")
@example(b"\x81" * 64 + b"\x80")
@example(b"\x81" * 65 + b"\x80")
def test_both_ways_to_decode_say_the_same(content: bytes) -> None:
    """What is read in one go has the value, or the error, that it has read from a stream."""
    quick = _outcome(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cbor2, "loads", _refused)
        assert _outcome(content) == quick


def test_bytes_behind_the_end_are_refused_whatever_they_are() -> None:
    """Also another whole value, also the end of something."""
    for behind in (b"\x00", b"\xf6", b"\x50" + b"x" * 16, b"\xff", b"\x82"):
        with pytest.raises(ValueError, match=f"{len(behind)} bytes after the end"):
            cbor.decode_plain(b"\xa1\x61a\x01" + behind)


def test_a_wrong_message_leaves_nothing_to_the_next() -> None:
    """Whether it is decoded once or twice."""
    for wrong in (b"\xa1\xf5\x01", b"\xa1\x01\x01\x01", b"\xa1\x01" + b"x" * 20_000, b"\xff"):
        with pytest.raises(ValueError):
            cbor.decode_plain(wrong)
        assert cbor.decode_plain(b"\xa1\x61a\x01") == {"a": 1}


@given(st.lists(_sent | st.builds(object), max_size=4))
def test_what_cannot_be_sent_leaves_nothing_to_the_next(values: list[Any]) -> None:
    """However much of it was written by then; also not to another place of what it contains."""
    for value in [*values, values]:
        for content in ([value], {"": value}):
            try:
                written = cbor.encode_plain(content)
            except TypeError:
                assert "object object" in repr(value)
            else:
                assert written == cbor2.dumps(_as_json_would(content))


def _as_json_would(value: Any) -> Any:
    """What is sent of a value: no tags."""
    match value:
        case datetime.datetime():
            return value.isoformat()
        case cbor2.undefined:
            return None
        case list() | tuple():
            return [_as_json_would(one) for one in value]
        case dict():
            return {key: _as_json_would(one) for key, one in value.items()}
    return value


class _Slow(collections.UserDict[str, Any]):
    """A map that does something while it is written."""

    do: Any

    def items(self) -> Any:
        self.do()
        return super().items()


class _Telling(list[int]):
    """A list that has something to say whenever its length is asked for."""

    def __len__(self) -> int:
        assert cbor.encode_plain({"asked": 1}) == cbor2.dumps({"asked": 1})
        return super().__len__()


def test_what_the_encoder_calls_may_encode_as_well() -> None:
    """cbor2 asks a subclass of a list for its length while it writes."""
    for _ in range(3):
        assert cbor.encode_plain({"a": _Telling((1, 2))}) == cbor2.dumps({"a": [1, 2]})
        with pytest.raises(TypeError):
            cbor.encode_plain([_Telling((1, 2)), object])


def test_a_long_message_that_is_wrong_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends such cannot have the work done twice."""
    loads = mock.Mock(side_effect=cbor2.loads)
    monkeypatch.setattr(cbor2, "loads", loads)
    with pytest.raises(ValueError, match="not CBOR"):
        cbor.decode_plain(b"\x9f" + b"\x80" * 20_000)
    assert not loads.called
    assert cbor.decode_plain(b"\x80") == []
    assert loads.called


def test_what_is_written_meanwhile_is_another_thing() -> None:
    """By a map that is being written, and by another thread, whichever ends first."""
    begun, over = threading.Event(), threading.Event()
    inner, outer, other = _Slow(a=1), _Slow(b=2), _Slow(c=3)
    written: list[bytes] = []
    thread = threading.Thread(target=lambda: written.append(cbor.encode_plain([4, other, 5])))

    def start_thread() -> None:
        thread.start()
        begun.wait(10)

    def be_in_thread() -> None:
        begun.set()
        over.wait(10)

    inner.do = lambda: written.append(cbor.encode_plain(["within"]))
    outer.do, other.do = start_thread, be_in_thread
    assert cbor.encode_plain([0, inner, 1]) == cbor2.dumps([0, {"a": 1}, 1])
    assert cbor.encode_plain([2, outer, 3]) == cbor2.dumps([2, {"b": 2}, 3])
    over.set()
    thread.join(10)
    assert written == [cbor2.dumps(["within"]), cbor2.dumps([4, {"c": 3}, 5])]
