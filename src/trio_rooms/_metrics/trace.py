"""What happened lately in rooms, in so much memory and no more: enough to have it happen once more."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, Protocol

import attrs

__all__ = ["APART", "Recorder", "Stretch", "Trace"]

APART: Final = 1.0
"""Seconds of silence that are noted at least: what comes sooner goes on with what was before."""
_MOST: Final = 1024
"""Entries that are kept. So many happen once more, under ten settings, within ten milliseconds."""
_SPAN: Final = 1800.0
"""Seconds that they are to reach back: what is older may go."""
_SHORT: Final = 300.0
"""Seconds that are too few to say anything; else connections are not halved, which begins anew."""
_SOMETIMES: Final = 128
"""Entries after which it is looked again whether there is something to halve."""
_MANY: Final = 64
"""Rooms, or connections, that are enough to stand for all."""
_HALVINGS: Final = 20
"""How often what is noted may be halved."""
_SHIFT: Final = 20
"""The lowest bits of a connection's number are its descriptor's, and new ones are low."""

HERE: Final = 0
"""A connection is there from now on, and its room sleeps."""
CAME: Final = 1
"""A connection is there from now on, and its room has something to do for it."""
USED: Final = 2
"""A connection, or a room, has something to do again."""
RESTED: Final = 3
"""It was used last then, and not since."""
GONE: Final = 4
"""A connection has left."""


class Recorder(Protocol):
    """Who is told all that is noted while it happens, whatever is kept of it."""

    def came(self, key: str, number: int, now: float, *, awake: bool) -> None:
        """See `Trace.came`."""

    def gone(self, key: str, number: int, now: float) -> None:
        """See `Trace.gone`."""

    def worked(self, key: str, when: float) -> None:
        """A room had something to do that no client sent, or was at work until then."""


@attrs.frozen
class Stretch:
    """What is known of the rooms of one definition, since a time."""

    begin: float
    """On Trio's clock. Rows before it say what was under way then."""
    share: float
    """The share of its rooms that this is about; rooms of which nothing was told are in it."""
    silent: int
    """Connections that were there all the time, and of which nothing was told."""
    rows: list[tuple[float, int, int, int]]
    """In order: when, what (`CAME`, `USED` or `GONE`, and `HERE` for those that were there at the beginning,
    or whose room sleeps), the room, and the connection, 0 for the room itself."""


class Trace:
    """Notes when rooms and their connections have something to do again after a silence.

    Where more happens than it has place for, it halves the rooms that it notes, and where these are few, the
    connections of each: so what it has reaches back for as long as before. Rooms are known by hashes of
    their keys alone.
    """

    __slots__ = (
        "_began",
        "_keys",
        "_links",
        "_names",
        "_next",
        "_numbers",
        "_of",
        "_open",
        "_rooms",
        "_silences",
        "_times",
        "_whats",
        "recorder",
    )  # fmt: skip

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        """Who is told of it, while somebody is."""
        self._rooms = 0
        """Bits that are 0 in the hash of a room that is noted."""
        self._links = 0
        """The same, of a connection's number."""
        self._names: dict[str, int] = {}
        """The definitions, by name."""
        self._open: dict[tuple[int, int, int], int] = {}
        """Connections that there are: of a definition, and by how often they would have to be halved."""
        self._began: float | None = None
        """Since when all is there that was to be noted."""
        self._times = array("d")
        self._silences = array("f")
        self._keys = array("q")
        self._numbers = array("q")
        self._of = array("H")
        self._whats = array("B")
        self._next = 0
        """Where the next entry goes, once there is no more place."""

    def __len__(self) -> int:
        return len(self._times)

    @property
    def thinned(self) -> bool:
        """Whether some connections of rooms are not noted: the rooms then have to say that they work."""
        return self._links > 0

    # What happens.

    def came(self, key: str, number: int, now: float, *, awake: bool) -> None:
        """A connection is in a room from now on.

        Args:
            key: the room's.
            number: the connection's.
            now: on Trio's clock.
            awake: whether the room has something to do for it.
        """
        self._count(key, number, 1)
        self._note(CAME if awake else HERE, key, number, now)
        if self.recorder is not None:
            self.recorder.came(key, number, now, awake=awake)

    def gone(self, key: str, number: int, now: float) -> None:
        """A connection has left its room."""
        self._count(key, number, -1)
        self._note(GONE, key, number, now)
        if self.recorder is not None:
            self.recorder.gone(key, number, now)

    def used(self, key: str, number: int, now: float, silence: float = 0.0) -> None:
        """A client has sent something to its room, after a silence.

        Args:
            key: the room's.
            number: the connection's.
            now: on Trio's clock.
            silence: seconds, where it is known since when nothing came.
        """
        self._note(USED, key, number, now, silence)

    def rested(self, key: str, number: int, last: float) -> None:
        """A connection was last used then."""
        self._note(RESTED, key, number, last)

    def worked(self, key: str, when: float) -> None:
        """A room had something to do that no client sent, or was at work until then."""
        self._note(USED, key, 0, when)
        if self.recorder is not None:
            self.recorder.worked(key, when)

    def notes(self, key: str) -> bool:
        """Whether anything of a room is noted."""
        return not hash(key) & self._rooms

    def _count(self, key: str, number: int, change: int) -> None:
        """One connection more is there, or less."""
        one = self._name(key), _halvings(hash(key)), _halvings(number >> _SHIFT)
        count = self._open.get(one, 0) + change
        if count:
            self._open[one] = count
        else:
            del self._open[one]

    def _name(self, key: str) -> int:
        """The number of a room's definition."""
        name = key.partition("/")[0]
        number = self._names.get(name)
        return self._names.setdefault(name, len(self._names)) if number is None else number

    def _note(self, what: int, key: str, number: int, when: float, silence: float = 0.0) -> None:
        """Keep an entry, if it is one of those."""
        room = hash(key)
        if room & self._rooms or (number >> _SHIFT) & self._links:
            return
        if self._began is None:
            self._began = when
        if len(self._times) < _MOST:
            self._times.append(when)
            self._silences.append(silence)
            self._keys.append(room)
            self._numbers.append(number)
            self._of.append(self._name(key))
            self._whats.append(what)
            return
        span = when - self._times[self._next]
        # To see that there is nothing to halve takes a while, so it is not looked at for each.
        if span < _SPAN and not self._next % _SOMETIMES and self._thin(links=span < _SHORT):
            self._note(what, key, number, when, silence)
            return
        at = self._next
        self._began = max(self._began, self._times[at])
        self._times[at], self._silences[at] = when, silence
        self._keys[at], self._numbers[at] = room, number
        self._of[at], self._whats[at] = self._name(key), what
        self._next = (at + 1) % _MOST

    def _thin(self, *, links: bool) -> bool:
        """Keep half of it, and note half as much from now on; False where too little would be left.

        Args:
            links: whether connections may be halved, where rooms are few.
        """
        rooms = len(set(self._keys))
        if rooms >= 2 * _MANY and self._rooms.bit_length() < _HALVINGS:
            self._rooms = self._rooms << 1 | 1
        elif links and len(set(self._numbers)) >= 2 * _MANY and self._links.bit_length() < _HALVINGS:
            first, self._links = not self._links, self._links << 1 | 1
            if first:
                # What rooms have had to do was known by their connections.
                self._keep([])
                return True
        else:
            return False
        order = [*range(self._next, len(self._times)), *range(self._next)]
        self._keep([
            at
            for at in order
            if not self._keys[at] & self._rooms and not (self._numbers[at] >> _SHIFT) & self._links
        ])  # fmt: skip
        return True

    def _keep(self, order: list[int]) -> None:
        """Keep some entries, in this order."""
        for name in ("_times", "_silences", "_keys", "_numbers", "_of", "_whats"):
            before = getattr(self, name)
            setattr(self, name, array(before.typecode, [before[at] for at in order]))
        self._next = 0
        if not order:
            self._began = None

    # What is known of it.

    @property
    def definitions(self) -> tuple[str, ...]:
        """The names of the definitions whose rooms have had connections, or something to do."""
        return tuple(self._names)

    def connections(self, name: str) -> int:
        """How many connections rooms of a definition have now."""
        of = self._names.get(name)
        return sum(count for (one, _, _), count in self._open.items() if one == of)

    def stretch(self, name: str, now: float) -> Stretch:
        """What is known of the rooms of a definition.

        Args:
            name: the definition's.
            now: on Trio's clock.
        """
        of, begin = self._names.get(name), now if self._began is None else self._began
        rows = [
            (when, what, key, number)
            for at in range(len(self._times))
            if self._of[at] == of
            for when, what, key, number in self._rows(at)
        ]
        rows.sort()
        noted = self._rooms.bit_length(), self._links.bit_length()
        here = sum(
            count
            for (one, rooms, links), count in self._open.items()
            if one == of and rooms >= noted[0] and links >= noted[1]
        )
        new: set[tuple[int, int]] = set()
        old: dict[tuple[int, int], None] = {}
        left: set[tuple[int, int]] = set()
        for _, what, key, number in rows:
            if not number:
                continue
            if what in (HERE, CAME):
                new.add((key, number))
            elif (key, number) not in new:
                old[key, number] = None
            if what == GONE:
                left.add((key, number))
        first = min(rows[0][0], begin) if rows else begin
        rows[:0] = [(first, HERE, key, number) for key, number in old]
        silent = max(here - len({*new, *old} - left), 0)
        # By chance more or fewer rooms than a half stay; those with connections can be counted.
        among = sum(count for (one, rooms, _), count in self._open.items() if one == of and rooms >= noted[0])
        share = among / self.connections(name) if among else 1 / (1 << noted[0])
        return Stretch(begin, share, silent, rows)

    def _rows(self, at: int) -> Iterator[tuple[float, int, int, int]]:
        """What an entry says, with the end of what was before a silence."""
        when, what, key, number = self._times[at], self._whats[at], self._keys[at], self._numbers[at]
        if self._silences[at]:
            yield when - self._silences[at], USED, key, number
        yield when, USED if what == RESTED else what, key, number


def _halvings(number: int) -> int:
    """How often one that has this number stays, when those that have some are halved."""
    halvings = (number & -number).bit_length() - 1  # Of zero it is less than none.
    return halvings if 0 <= halvings < _HALVINGS else _HALVINGS
