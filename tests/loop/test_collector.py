from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from trio_rooms import Room, open_rooms
from trio_rooms._loop.collector import thresholds


@pytest.fixture(autouse=True)
def before() -> Iterator[tuple[int, int, int]]:
    """Thresholds that nobody else would set, for the time of a test."""
    saved = gc.get_threshold()
    gc.set_threshold(701, 11, 13)
    try:
        yield gc.get_threshold()
    finally:
        gc.set_threshold(*saved)


WANTED = (3001, 7, 9)


def test_they_hold_in_the_block_and_no_longer(before: tuple[int, int, int]) -> None:
    """Afterwards they are what they were, however the block ended."""
    with thresholds(WANTED):
        # What the third one means has changed with Python 3.14, where it is not always kept.
        assert gc.get_threshold()[:2] == WANTED[:2]
    assert gc.get_threshold() == before
    with pytest.raises(KeyError), thresholds(WANTED):
        raise KeyError
    assert gc.get_threshold() == before


def test_without_any_nothing_is_changed(before: tuple[int, int, int]) -> None:
    """Not even back, where the block has changed them itself."""
    with thresholds(None):
        assert gc.get_threshold() == before
        gc.set_threshold(705, 11, 13)
    assert gc.get_threshold()[0] == 705


async def test_rooms_run_with_those_that_they_are_opened_with(before: tuple[int, int, int]) -> None:
    """As long as they are open; without the option they leave the program's alone."""
    room: Room[None] = Room("room")
    async with open_rooms([room]):
        assert gc.get_threshold() == before
    with pytest.raises(KeyError):  # noqa: PT012 (the block is what is tested)
        async with open_rooms([room], gc_thresholds=WANTED):
            assert gc.get_threshold()[:2] == WANTED[:2]
            raise KeyError
    assert gc.get_threshold() == before
