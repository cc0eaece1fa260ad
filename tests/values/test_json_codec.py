"""What strangers send as JSON, and what is sent to them. What is the same in JSON and CBOR: test_envelope."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_rooms._values import json_codec
from trio_rooms._values.json_codec import decode, encode


@pytest.fixture(autouse=True, scope="module", params=["orjson", "json"])
def encoder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything is the same with the faster encoder and without it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "json":
            patch.setattr(json_codec, "orjson", None)
        else:
            assert vars(json_codec)["orjson"] is not None, "the tests need orjson: it is in the extra `test`"
        yield


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("nope", "not JSON"),
        ("{", "not JSON"),
        ('{"event": "a"} x', "not JSON"),
        ('{"event": "a"}{}', "not JSON"),
        ("{'event': 'a'}", "not JSON"),
        ('\ufeff{"event": "a"}', "not JSON"),
        ('{"event": "a", "data": NaN}', "NaN is not a JSON number"),
        ('{"event": "a", "data": -Infinity}', "-Infinity is not a JSON number"),
        ('{"event": "a", "data": %s}' % ("1" * 5000), "not JSON"),
        ('{"event": "a", "data": "\\ud800"}', "surrogate"),
        ('{"event": "a", "data": {"\\udfff": 1}}', "surrogate"),
        ('{"event": "\\udfff\\ud800"}', "surrogate"),
        ("[" * 100_000, "nested"),
        ('{"a":' * 100_000, "nested"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
    ],
)
def test_wrong_json_is_refused(text: str, why: str) -> None:
    """JSON that is cut short, that is none, or that Python alone can hold is refused."""
    with pytest.raises(ValueError) as caught:
        decode(text)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_escaped_pair_is_a_character() -> None:
    """Two halves that belong together are what they stand for."""
    assert decode('["\\ud83d\\ude00"]') == ["😀"]


def test_odd_keys_are_strings_in_json() -> None:
    """Keys that JSON lacks are written as strings."""
    data = {1: 1, None: 2, b"\0": 3, (1, 2): 4, math.nan: 5, Colour.RED: 6, 1.5: 7}
    keys = list(json.loads(encode(data)))
    assert keys == ["1", "null", "AA==", "(1, 2)", "nan", "red", "1.5"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
NUMBERS = st.from_regex(r"[ \[]?-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?[\] ]?", fullmatch=True)
PIECES = st.sampled_from(
    [*'{}[]:,"\\ 0-.e', "\\ud83d", "\\ude00", "\\u00", "NaN", "Infinity", "\n", "\0", "\ufeff", "é", "9" * 19]
)
SMALL_CHANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), PIECES), max_size=3)


@st.composite
def changed_messages(draw: st.DrawFn) -> str:
    """Messages as they come, with small mistakes in them, or none."""
    message = {
        "event": draw(st.text(max_size=5)),
        "data": draw(VALUES),
        "id": draw(st.none() | st.integers()),
    }
    text = json.dumps(message, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    for at, without, piece in draw(SMALL_CHANGES):
        text = text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) + without :]
    return text


def outcome(text: str) -> str:
    """What becomes of a text: the value, by its exact types, or the error."""
    try:
        return repr(decode(text))
    except ValueError as error:
        told_twice = error.__context__ is not None and not error.__suppress_context__
        return f"refused{' twice' * told_twice}: {error}"


@given(st.text() | NUMBERS | changed_messages())
@example("1" + "0" * 19)
@example("[-9223372036854775809]")
@example('{"a": 18446744073709551616}')
@example('{"a": "%s", "b": 18446744073709551616}' % ("x" * 200))
@example('{"a": "%s", "b": 1.0, "b": true}' % ("9" * 200))
@example("[" * 65 + "]" * 65)
@example("[" * 66 + "]" * 66)
@example('{"a":' * 66 + "1" + "}" * 66)
@example('["\\ud800"]')
@example("[1e400]")
def test_both_decoders_say_the_same(text: str) -> None:
    """Whether the faster decoder is installed shows in no value, and in no word of an error."""
    with pytest.MonkeyPatch.context() as patch:
        faster = outcome(text)
        patch.setattr(json_codec, "orjson", None)
        assert outcome(text) == faster
