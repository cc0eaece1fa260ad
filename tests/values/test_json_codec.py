"""What strangers send as JSON, and what is sent to them. What is the same in JSON and CBOR: test_envelope."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator

import pytest

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
