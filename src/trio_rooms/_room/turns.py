"""The mail of a room that cannot keep up: its connections take turns, and are held back one by one.

A room whose box is short handles mail in the order in which it came. One whose box grows while
a handler takes its time would so be at the service of whoever sends most. From then on each
connection has its own line, one piece of mail is taken of each in turn, and who has more than
its share in line is not read until half of that is gone.
"""

from __future__ import annotations

import sys
from collections import deque
from itertools import islice
from typing import Final

from trio_rooms._sockets.roster import Disconnected, Dropped, Link, PassOn

from .mail import Mail

__all__ = ["MOST", "MOST_BYTES", "Turns"]

MOST: Final = 1000
"""Mail that the connections of a room have in line before those that go on sending are not read."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""The same in bytes, as the process holds them: a str may have four for each character."""
_AT_ONCE: Final = 128
"""Lines that are gone through in one go."""
_PIECE: Final = 100
"""Bytes that a piece of mail takes beside its message."""


class _Line:
    """What one connection has in line."""

    __slots__ = ("held", "left", "mail", "size")

    def __init__(self) -> None:
        self.mail: deque[Mail] = deque()
        self.size = 0
        self.held = False
        """Whether it was asked to be spared more."""
        self.left = False
        """Whether it is gone, and this is the rest."""


class Turns:
    """Lines of mail, one for each connection that has some in it."""

    __slots__ = ("_lines", "count", "left", "left_size", "size")

    def __init__(self) -> None:
        self._lines: dict[Link, _Line] = {}
        self.count: int = 0
        self.size: int = 0
        """Bytes that all of it takes."""
        self.left: int = 0
        """How much of it is of connections that are gone."""
        self.left_size: int = 0

    def put(self, link: Link, mail: Mail) -> None:
        """Put mail in at the end of its connection's line; see `holds`."""
        line = self._lines.get(link)
        if line is None:
            line = self._lines[link] = _Line()
        size = _size(mail)
        line.mail.append(mail)
        line.size += size
        self.count += 1
        self.size += size
        sharers = len(self._lines)
        if len(line.mail) * sharers >= MOST or line.size * sharers >= MOST_BYTES:
            line.held = True
        if type(mail) is Disconnected or type(mail) is Dropped:  # The last of its connection.
            line.left = True
            self.left += len(line.mail)
            self.left_size += line.size

    def has(self, link: Link) -> bool:
        """Whether something of a connection is in line."""
        return link in self._lines

    def holds(self, link: Link) -> bool:
        """Whether a connection is to be held back; `take` has it read again."""
        line = self._lines.get(link)
        return line is not None and line.held

    def take(self) -> list[Mail]:
        """Take out the first of each line; who was held back and has little left in line is read again."""
        lines = self._lines
        sharers = len(lines)
        taken: list[Mail] = []
        for link, line in [*islice(lines.items(), _AT_ONCE)]:
            mail = line.mail.popleft()
            size = _size(mail)
            line.size -= size
            self.size -= size
            if line.left:
                self.left -= 1
                self.left_size -= size
            taken.append(mail)
            del lines[link]
            if line.mail:
                lines[link] = line  # Behind the others.
            if line.held and 2 * len(line.mail) * sharers < MOST and 2 * line.size * sharers < MOST_BYTES:
                line.held = False
                link.roster.resume_reading(link)
        self.count -= len(taken)
        return taken


def _size(mail: Mail) -> int:
    """Bytes that a piece of mail takes."""
    if isinstance(mail, tuple):
        return sys.getsizeof(mail[1]) + _PIECE
    return sys.getsizeof(mail.message) + _PIECE if isinstance(mail, PassOn) else _PIECE
