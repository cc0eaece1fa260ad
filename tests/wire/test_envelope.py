from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_rooms._values import json_codec
from trio_rooms._wire.envelope import (
    Envelope,
    Outgoing,
    acknowledge,
    decode,
    event,
    event_frame,
    refuse,
    welcome,
)
from trio_rooms._wire.frames import encode_binary, encode_text
from trio_rooms.errors import EventError


@pytest.fixture(autouse=True, scope="module", params=["orjson", "json"])
def encoder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything is the same with the faster encoder and without it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "json":
            patch.setattr(json_codec, "orjson", None)
        else:
            assert vars(json_codec)["orjson"] is not None, "the tests need orjson: it is in the extra `test`"
        yield


@attrs.define
class Point:
    x: int
    inner: Any = None


class Colour(enum.Enum):
    RED = "red"


def nested(levels: int) -> Any:
    """So many lists in one another."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def spoken(message: Outgoing, *, binary: bool) -> Any:
    """What a client of a kind reads."""
    frame = message.frame(binary=binary)
    payload = frame[{126: 4, 127: 10}.get(frame[1], 2) :]
    whole = encode_binary(payload) if binary else encode_text(payload)
    assert whole == frame
    return cbor2.loads(payload) if binary else json.loads(payload)


def refusal(message: str | bytes) -> str:
    """What a message is refused with."""
    with pytest.raises(EventError) as caught:
        decode(message)
    assert caught.value.code == "invalid_message"
    assert 0 < len(caught.value.message) < 500
    return caught.value.message


def both(content: Any) -> list[str | bytes]:
    """The same message in both kinds."""
    return [json.dumps(content), cbor2.dumps(content)]


@pytest.mark.parametrize(
    ("content", "envelope"),
    [
        ({"event": "say"}, Envelope("say")),
        ({"event": "say", "data": [1, None, "é"]}, Envelope("say", [1, None, "é"])),
        ({"event": "say", "data": {"a": {}}, "id": 7}, Envelope("say", {"a": {}}, 7)),
        ({"event": "say", "id": 0, "channel": "x"}, Envelope("say", None, 0, "x")),
        ({"event": "say", "id": 2**63 - 1}, Envelope("say", None, 2**63 - 1)),
        ({"event": "say", "id": None, "channel": None}, Envelope("say")),
        ({"event": "rooms.x", "later": {"a": 1}, "seq": 4}, Envelope("rooms.x")),
        ({"event": "say", "ack": 4}, Envelope("say")),
        ({"event": "x" * 256, "channel": "y" * 256}, Envelope("x" * 256, channel="y" * 256)),
        ({"ack": 12}, None),
        ({"ack": 12, "event": None}, None),
        ({"ack": 12, "other": []}, None),
    ],
)
def test_an_envelope_is_decoded(content: Any, envelope: Envelope | None) -> None:
    """An envelope says the same in both kinds; keys that nobody knows are left alone."""
    for message in both(content):
        assert decode(message) == envelope


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], "not a list"),
        ("say", "not a string"),
        (5, "not a number"),
        (1.5, "not a number"),
        (True, "not a boolean"),
        (None, "not a null"),
        ({}, "'event'"),
        ({"event": ""}, "'event'"),
        ({"event": 5}, "'event'"),
        ({"event": ["say"]}, "'event'"),
        ({"event": None}, "'event'"),
        ({"data": 1}, "'event'"),
        ({"ack": "12"}, "'event'"),
        ({"ack": True}, "'event'"),
        ({"ack": None}, "'event'"),
        ({"event": 5, "ack": 1}, "'event'"),
        ({"event": "say", "id": "7"}, "'id'"),
        ({"event": "say", "id": -1}, "'id'"),
        ({"event": "say", "id": True}, "'id'"),
        ({"event": "say", "id": 1.0}, "'id'"),
        ({"event": "say", "id": 2**63}, "'id'"),
        ({"event": "say", "id": []}, "'id'"),
        ({"event": "say", "channel": 5}, "'channel'"),
        ({"event": "say", "channel": {}}, "'channel'"),
        ({"event": "x" * 257}, "'event'"),
        ({"event": "say", "channel": "x" * 257}, "'channel'"),
    ],
)
def test_a_wrong_envelope_is_refused(content: Any, why: str) -> None:
    """What is not an envelope is refused, saying which part of it is wrong."""
    for message in both(content):
        assert why in refusal(message)


def test_the_last_of_two_equal_keys_counts() -> None:
    """A key given twice has its last value, in both kinds."""
    assert decode('{"event": "a", "event": "b"}') == Envelope("b")
    twice = b"\xa2\x65event\x61a\x65event\x61b"
    assert decode(twice) == Envelope("b")


def test_the_depth_is_limited() -> None:
    """Data may have 64 containers in one another, and not 65."""
    for message in both({"event": "a", "data": nested(64)}):
        decoded = decode(message)
        assert decoded is not None
        assert decoded.data == nested(64)
    for depth in (65, 66, 300):
        for message in both({"event": "a", "data": nested(depth)}):
            assert "64 levels" in refusal(message)
    wide: Any = {"event": "a", "data": [[]] * 1000 + [{}] * 1000}
    for message in both(wide):
        assert decode(message) == Envelope("a", wide["data"])
    brackets = {"event": "a", "data": "[" * 1000}
    for message in both(brackets):
        assert decode(message) == Envelope("a", "[" * 1000)


def test_a_large_bad_message_takes_no_longer_than_reading_it() -> None:
    """A megabyte of what is refused last costs no more than some passes over it."""
    began = time.process_time()
    many = 1_000_000
    for message in (
        "[" * many,
        '{"event": "a", "data": [' + "[],{}," * (many // 6) + "x",
        '{"event": "a", "data": "' + "\\u0061" * (many // 6) + "\\ud800" + '"}',
        b"\x9f" * many,
        b"\x9f" + b"\x80" * many,
        b"\xbf" + b"\x01\x01" * (many // 2),
        b"\x5f" + b"\x40" * many,
        b"\x7a\x00\x0f\x42\x40" + b"a" * (many - 1) + b"\xff",
    ):
        refusal(message)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "message",
    [
        '{"event":"a","data":[' + "[]," * 30_000 + "0]}",
        '{"event":"a","data":[' + "{}," * 30_000 + "0]}",
        '{"event":"a","data":[' + '{"":0},' * 20_000 + "0]}",
        *(
            b"\xa2\x65event\x61a\x64data\x9f" + item * 30_000 + b"\xff"
            for item in (
                b"\x80",
                b"\xa0",
                b"\xe0",
                b"\xf7",
                b"\x81\x01",
                b"\xa1\x60\x01",
                b"\xf9\x00\x01",
                b"\x41x",
            )
        ),
    ],
)
def test_a_message_takes_75_times_its_bytes_at_most(message: str | bytes) -> None:
    """As the docs say, since whoever chooses the largest message has to know it."""
    tracemalloc.start()
    try:
        decoded = decode(message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoded is not None
    assert peak < 75 * len(message)


@given(st.text() | st.binary())
@example("[" * 2000)
@example(b"\x81" * 2000)
@example(b"\xa1" + b"\x81" * 80)
@example(b"\xa1\x80\x01")
@example(b"\xa1\xa1\x01\x02\x01")
@example(b"\xa1\x9f\xa0\xff\x01")
def test_nothing_but_an_event_error_is_raised(message: str | bytes) -> None:
    """Whatever strangers send is an envelope, an acknowledgement, or refused."""
    try:
        decoded = decode(message)
    except EventError as error:
        code = error.code
    else:
        code = "invalid_message"
        assert decoded is None or isinstance(decoded, Envelope)
    assert code == "invalid_message"


KEYS = st.text() | st.binary() | st.integers(-(2**63), 2**64 - 1)
ODD_KEYS = (
    st.floats()
    | st.none()
    | st.booleans()
    | st.tuples(st.integers(-5, 5), st.text())
    | st.just(cbor2.undefined)
    | st.just(cbor2.CBORSimpleValue(99))
    | st.dictionaries(st.text(), st.booleans(), max_size=2).map(lambda made: tuple(made.items()))
)


def data_with(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """All that CBOR can hold, with keys of some kind."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text()
        | st.binary()
        | st.just(cbor2.undefined)
        | st.integers(32, 255).map(cbor2.CBORSimpleValue),
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
        max_leaves=15,
    )


@given(data_with(KEYS))
@example({1: [float("-inf")]})
@example({b"": cbor2.undefined})
def test_what_a_cbor_client_sends_can_be_sent_to_all(data: Any) -> None:
    """NaN, bytes, odd keys and undefined reach JSON clients in some form, CBOR clients as they were."""
    decoded = decode(cbor2.dumps({"event": "a", "data": data}))
    assert decoded is not None
    answer = event("a", decoded.data)
    spoken(answer, binary=False)
    spoken(answer, binary=True)


@given(ODD_KEYS)
@example(cbor2.frozendict({1: 2}))
def test_a_key_is_a_string_or_an_integer(key: Any) -> None:
    """Any other key is refused, wherever its map is: JSON has none, and its hash may have been chosen."""
    inside = cbor2.dumps({key: 1})
    for message in (inside, b"\x82\x01" + inside, b"\xa1\x61a" + inside, b"\xa1\x01\xa1\x02" + inside):
        assert "keys of a map are strings or integers" in refusal(b"\xa2\x65event\x61a\x64data" + message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_both_kinds_say_the_same(data: Any) -> None:
    """What JSON can hold arrives alike in JSON and in CBOR."""
    message = event("said", data)
    expected = {"event": "said", "data": data}
    assert spoken(message, binary=False) == spoken(message, binary=True) == expected


def test_typed_values_are_sent_in_plain_forms() -> None:
    """Classes are maps, and what JSON has no form for is in CBOR what it is in JSON, bytes excepted."""
    moment = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    data = {
        "point": Point(1, [Point(2)]),
        "moments": [moment, moment.replace(tzinfo=None), moment.date()],
        "set": {5},
        "decimal": decimal.Decimal("1.50"),
        "uuid": uuid.UUID(int=1),
        "enum": Colour.RED,
        "tuple": (1, 2),
        "bytes": b"\0\1",
    }
    expected = {
        "point": {"x": 1, "inner": [{"x": 2, "inner": None}]},
        "moments": ["2026-02-03T04:05:06+00:00", "2026-02-03T04:05:06", "2026-02-03"],
        "set": [5],
        "decimal": "1.50",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "enum": "red",
        "tuple": [1, 2],
        "bytes": "AAE=",
    }
    message = event("a", data)
    assert spoken(message, binary=False)["data"] == expected
    assert spoken(message, binary=True)["data"] == {**expected, "bytes": b"\0\1"}


def test_numbers_that_json_lacks_are_null() -> None:
    """NaN and infinities become null for JSON clients and stay what they are for CBOR clients."""
    message = event("a", [math.nan, math.inf, -math.inf, 1.5])
    assert spoken(message, binary=False)["data"] == [None, None, None, 1.5]
    assert str(spoken(message, binary=True)["data"]) == "[nan, inf, -inf, 1.5]"


@given(data_with(KEYS | ODD_KEYS))
def test_both_encoders_say_the_same(data: Any) -> None:
    """Whether the faster encoder is installed shows in nothing that a client can read."""
    with pytest.MonkeyPatch.context() as patch:
        faster = spoken(event("a", data), binary=False)
        patch.setattr(json_codec, "orjson", None)
        assert spoken(event("a", data), binary=False) == faster


def test_a_message_is_encoded_once_in_each_kind() -> None:
    """However many get it, each kind is the same bytes object, and later changes are not seen."""
    data = {"a": 1}
    message = event("a", data)
    frames = message.frame(binary=False), message.frame(binary=True)
    data["a"] = 2
    assert message.frame(binary=False) is frames[0]
    assert message.frame(binary=True) is frames[1]


@given(
    st.text(max_size=8) | st.just("rooms.x"), data_with(KEYS | ODD_KEYS) | st.builds(object), st.booleans()
)
def test_what_one_client_gets_is_what_many_get(name: str, data: Any, binary: bool) -> None:
    """The frame of an event for one is that for many; or it is the same error."""

    def frame(make: Callable[[], bytes]) -> str | bytes:
        try:
            return make()
        except (TypeError, ValueError) as error:
            return repr(error)

    many = frame(lambda: event(name, data).frame(binary=binary))
    assert frame(lambda: event_frame(name, data, binary=binary)) == many


def cyclic() -> Any:
    """A list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "data",
    [object(), {"a": [print]}, "\ud800", {"\ud800": 1}, cyclic(), nested(100_000), {"a": Point(1, cyclic())}],
)
def test_what_has_no_form_is_the_senders_error(data: Any, binary: bool) -> None:
    """A value that cannot be sent, however deep or cyclic, is a TypeError or ValueError of `emit`."""
    with pytest.raises((TypeError, ValueError)):
        event("a", data).frame(binary=binary)


def test_what_the_library_says() -> None:
    """Acknowledgements, refusals and the welcome have the form that version 1 fixes."""
    for binary in (False, True):
        assert spoken(acknowledge(7, [1]), binary=binary) == {"ack": 7, "data": [1]}
        error = {"code": "no", "message": "why"}
        assert spoken(refuse(7, "no", "why"), binary=binary) == {"ack": 7, "error": error}
        assert spoken(refuse(0, "no", "why"), binary=binary) == {"ack": 0, "error": error}
        assert spoken(refuse(None, "no", "why"), binary=binary) == {"error": error}
        greeting = spoken(welcome(255), binary=binary)
        assert greeting["event"] == "rooms.welcome"
        assert greeting["data"]["connection"] == "ff"
        assert greeting["data"]["resumed"] is False


@pytest.mark.parametrize("name", ["", "rooms.welcome", "rooms."])
def test_the_librarys_own_events_are_not_for_applications(name: str) -> None:
    """An application cannot send an event without a name, or one that the library keeps."""
    with pytest.raises(ValueError, match="needs a name"):
        event(name, None)
