"""How often Python's garbage collector looks at the objects of a server."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

__all__ = ["SERVER_THRESHOLDS", "thresholds"]

SERVER_THRESHOLDS: Final = (3000, 5, 1_000_000)
"""What the command ``trio-rooms serve`` runs with.

A room that sleeps leaves no cycles, so there is next to nothing for the collector to find. With
Python's own thresholds each storm of wakes brings several collections of all objects that there
are, during which nothing else happens; with these, young objects are looked at now and then,
and old ones hardly ever. The second number says how many of the young ones there are at most
when they are looked at once more, before they are old: some 20,000, which takes a few milliseconds.
"""


@contextlib.contextmanager
def thresholds(wanted: tuple[int, int, int] | None) -> Iterator[None]:
    """Run a block with other thresholds of `gc.set_threshold`; with None nothing is changed."""
    if wanted is None:
        yield
        return
    before = gc.get_threshold()
    gc.set_threshold(*wanted)
    try:
        yield
    finally:
        gc.set_threshold(*before)
