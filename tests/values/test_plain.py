from __future__ import annotations

import decimal

import cbor2
import pytest

from tests.values.samples import IDENTITY, MOMENT, Colour, Move, Path, Point
from trio_rooms._values.plain import plain


def test_plain_takes_one_level() -> None:
    """An instance becomes a map of its fields as they are, whatever was declared; so with the rest."""
    path = Path("p", [Point(1)])
    assert plain(path) == {"name": "p", "points": [Point(1)], "end": None, "weights": {}}
    assert plain(Move(1)) == {"x": 1, "where": None}
    assert plain(Colour.RED) == "red"
    assert plain(MOMENT) == "2026-02-03T04:05:06.000789+00:00"
    assert plain(MOMENT.date()) == "2026-02-03"
    assert plain(decimal.Decimal("1.50")) == "1.50"
    assert plain(IDENTITY) == str(IDENTITY)
    assert plain({1}) == [1]
    assert plain(b"\0\1") == "AAE="
    assert plain(cbor2.undefined) is None
    assert plain(cbor2.CBORSimpleValue(40)) == 40
    with pytest.raises(TypeError, match="a function cannot be sent"):
        plain(test_plain_takes_one_level)
