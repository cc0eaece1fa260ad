"""A room's key, ``name/id``: making one, taking it apart, and what an id may be."""

from __future__ import annotations

import re
from typing import Final

from .errors import UnknownRoom

__all__ = ["check_id", "make_key", "split_key"]

_LONGEST_ID: Final = 256
"""Characters of an id at most."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""C0, DEL and C1, and surrogates, which are no characters and have no form in UTF-8."""


def check_id(id: str) -> str:  # noqa: A002 (what rooms call it)
    """Return a room's id if it is one.

    Raises:
        UnknownRoom: it is empty, longer than 256 characters, has control characters, or is ``.`` or
            ``..``, which browsers and proxies take out of a path, however they are encoded.
    """
    text = isinstance(id, str)  # Whatever it is annotated as, it may come from anywhere.
    if text and id in {".", ".."}:
        msg = f"a room's id is not {id!r}: browsers would take it out of the room's address"
        raise UnknownRoom(msg)
    if not text or not 1 <= len(id) <= _LONGEST_ID or _CONTROL.search(id):
        msg = f"a room's id has 1 to {_LONGEST_ID} characters and no control characters, not {id!r:.300}"
        raise UnknownRoom(msg)
    return id


def make_key(name: str, id: str) -> str:  # noqa: A002 (what rooms call it)
    """The key of a room by its name, which a definition has checked, and its id, which is checked here.

    Raises:
        UnknownRoom: as `check_id`.
    """
    return f"{name}/{check_id(id)}"


def split_key(key: str) -> tuple[str, str]:
    """Name and id of the room with a key. A name has no slash; an id may have some."""
    name, _, id_ = key.partition("/")
    return name, id_
