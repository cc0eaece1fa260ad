"""Which room a path is that of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from trio_rooms._definition.definition import Definition
from trio_rooms._keys import make_key
from trio_rooms.errors import UnknownRoom

__all__ = ["MalformedPath", "Paths"]

# Where a template has both in one part of a path, to find where one ends takes the product of the two.
_LONGEST_NAME: Final = 64 * len("%41")
"""Characters of a room's name in a path at most, percent-encoded."""
_LONGEST_ID: Final = 256 * len("%F0%9F%98%80")
"""The same of an id."""


class MalformedPath(UnknownRoom):
    """A path that leads to a room by its form, but with an id that no room may have."""


class Paths:
    """Reads the paths of rooms.

    Args:
        definitions: the rooms that clients may know of, by name.
        prefix: what paths begin with, such as ``"/rooms"``.
        template: the rest of a room's path, with ``{room}`` and ``{id}``.

    Raises:
        ValueError: no path could be that of a room.
    """

    __slots__ = ("_definitions", "_pattern", "form")

    def __init__(self, definitions: Mapping[str, Definition], prefix: str, template: str) -> None:
        self.form: str = prefix + template
        """What a room's path looks like, for people."""
        if not self.form.startswith("/"):
            raise ValueError(f"a room's path begins with '/', not {self.form!r}")
        if template.count("{room}") != 1 or template.count("{id}") != 1:
            msg = f"the template of a room's path has {{room}} and {{id}} once each, not {template!r}"
            raise ValueError(msg)
        escaped = re.escape(prefix.rstrip("/") + template)
        for name, longest in (("room", _LONGEST_NAME), ("id", _LONGEST_ID)):
            escaped = escaped.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>[^/]{{1,{longest}}})")
        self._definitions = definitions
        self._pattern = re.compile(escaped)

    def fits(self, path: str) -> bool:
        """Whether a path is that of a room by its form, whichever room that may be."""
        return self._pattern.fullmatch(path) is not None

    def room(self, path: str) -> tuple[Definition, str]:
        """The definition and the key of the room that a path names.

        Raises:
            UnknownRoom: it is not that of a room that is served here.
            MalformedPath: it is that of one, but for what stands in it.
        """
        match = self._pattern.fullmatch(path)
        if match is None:
            msg = f"there is nothing at {path[:200]!r}; a room is at {self.form}"
            raise UnknownRoom(msg)
        try:
            name, id_ = match.group("room", "id")
            if "%" in path:
                name, id_ = unquote_to_bytes(name).decode(), unquote_to_bytes(id_).decode()
        except UnicodeDecodeError as error:
            msg = "a room's path is percent-encoded UTF-8"
            raise MalformedPath(msg) from error
        definition = self._definitions.get(name)
        if definition is None:
            msg = f"there is no room named {name[:100]!r}"
            raise UnknownRoom(msg)
        try:
            return definition, make_key(name, id_)
        except UnknownRoom as error:
            raise MalformedPath(str(error)) from error
