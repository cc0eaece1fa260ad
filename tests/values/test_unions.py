from __future__ import annotations

import pytest

from tests.values.samples import Point, Twin
from trio_rooms._values.lenient import document
from trio_rooms._values.strict import wire


def test_classes_that_cannot_be_told_apart_are_refused() -> None:
    """A union of classes with the same fields is an error where it is declared."""
    with pytest.raises(TypeError, match="have the same fields"):
        wire.get_structure_hook(Point | Twin)
    with pytest.raises(TypeError, match="have the same fields"):
        document.get_structure_hook(Point | Twin)
