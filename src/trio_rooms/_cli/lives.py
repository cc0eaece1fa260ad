"""Recorded lives of rooms, of whatever system: CSV, or the CBOR that ``trio-rooms record`` writes."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import attrs
import cbor2

from trio_rooms._insight.replay import LADDER, Outcome, Replay, together
from trio_rooms._insight.rows import FORMAT, GONE, HERE
from trio_rooms._keys import split_key
from trio_rooms._policy.policy import OF_ROOMS, Policy

from .failures import CommandFailed
from .render import printable

__all__ = ["Findings", "replay_file"]

_HEADER: Final = ["time", "room", "connection", "bytes"]
_LONGEST: Final = 100
"""Characters that are shown of what is wrong."""
_FARTHEST: Final = 1e15
"""Seconds between which and their negative times are: beyond, a float has no tenths of a second."""
_MOST_ROWS: Final = 1e15
"""Bytes of a message, and rows that were lost, which nobody has more of."""
_LONGEST_LINE: Final = 1024 * 1024
"""Characters of a line that are read: what has none of its own is no trace, however large it is."""
_LONGEST_HEADER: Final = 16 * 1024 * 1024
"""Bytes of what a recording begins with: a policy takes some hundred."""
_LONGEST_ITEM: Final = 256 * 1024
"""Bytes of another item."""


@attrs.frozen
class Findings:
    """What a recorded life would come to."""

    settings: list[Outcome]
    """Under each idle timeout that was tried, in their order."""
    present: Outcome | None
    """Under the policies that the rooms had; None where nobody knows these."""
    seconds: float
    """How long it was."""
    rows: int
    lost: int
    """Rows that could not be recorded."""


class _Life:
    """Has rows happen once more, under each setting.

    Args:
        policies: those that rooms had, by the names of their definitions; None where nobody knows.
    """

    def __init__(self, policies: Mapping[str, Policy] | None) -> None:
        self.rows = 0
        self.lost = 0
        self._first = math.inf
        self._end = -math.inf
        self._known = policies is not None
        timeouts = sorted({*LADDER, *(one.idle_timeout for one in (policies or {}).values())})
        if policies is None:
            # Nobody said what connections are to do: each hibernates as soon as a room of its own would.
            ladder = [
                Policy(idle_timeout=one, connection_idle_timeout=one, activity_window=0) for one in timeouts
            ]
            self._replays: dict[str | None, Replay] = {None: Replay(ladder)}
        else:
            self._replays = {
                name: Replay([policy, *_with(policy, timeouts)], 0.0) for name, policy in policies.items()
            }

    def row(self, time: float, room: str, connection: Hashable | None, what: int | str) -> None:
        """The next row.

        Raises:
            ValueError: it cannot be; the text says why.
        """
        replay = self._replays.get(split_key(room)[0] if self._known else None)
        if replay is None:
            msg = f"room {_shown(room)} is none of those whose policies the file begins with"
            raise ValueError(msg)
        before = replay.latest(room)
        if time < before:
            if not self._known:
                msg = (
                    f"its time, {time:.15g}, is before {before:.15g}, that of an earlier row of room "
                    f"{_shown(room)}: the rows of a room are in the order of time"
                )
                raise ValueError(msg)
            time = before  # A server notes that a room had something to do a little later.
        self._first, self._end = min(self._first, time), max(self._end, time)
        self.rows += 1
        if what == HERE:
            replay.came(time, room, connection)
        elif what == GONE:
            replay.gone(time, room, connection)
        else:
            replay.message(time, room, connection)

    def ends(self, time: float) -> None:
        """It went on until then, at least."""
        self._end = max(self._end, time)

    def findings(self) -> Findings:
        """What it comes to."""
        if not self.rows:
            raise CommandFailed("there is nothing to advise on: the trace has no rows")
        begin = 0.0 if self._known else self._first
        told = [one.outcomes(self._end) for one in self._replays.values()]
        settings = [together(alike) for alike in zip(*told, strict=True)]
        present = settings.pop(0) if self._known else None
        return Findings(settings, present, self._end - begin, self.rows, self.lost)


def _with(policy: Policy, timeouts: list[float]) -> list[Policy]:
    """A policy with each of these idle timeouts."""
    return [policy.of_room(idle_timeout=one, connection_idle_timeout=None) for one in timeouts]


def replay_file(path: Path) -> Findings:
    """Have the life in a file happen once more, under each setting.

    Raises:
        CommandFailed: it cannot be read, or is no such file; the text names the line.
    """
    try:
        with path.open("rb") as file:
            begins = file.peek(3)[:3]
            if begins[:1] >= b"\x80" and begins != codecs.BOM_UTF8:
                return _read_cbor(path, file)
            return _read_csv(path, file)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise CommandFailed(msg) from error


def _read_csv(path: Path, file: BinaryIO) -> Findings:
    """The rows of a CSV file."""
    life = _Life(None)
    expected = f"a trace is CSV with the header {','.join(_HEADER)}, or what trio-rooms record writes"
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.reader(_lines(text), strict=True)
        try:
            header = next(reader, None)
            if header is None or [name.strip() for name in header] != _HEADER:
                begins = "it is empty" if header is None else f"it begins with {_shown(','.join(header))}"
                _complain(path, 1, f"{begins}; {expected}")
            for cells in reader:
                if cells:
                    life.row(*_parsed(cells))
        except UnicodeDecodeError as error:
            _complain(path, reader.line_num + 1, f"it is not UTF-8; {expected}", error)
        except _TooLong as error:
            why = f"it has more than {_LONGEST_LINE:,} characters; {expected}"
            _complain(path, reader.line_num + 1, why, error)
        except csv.Error as error:
            _complain(path, reader.line_num, f"it is no CSV: {error}", error)
        except ValueError as error:
            _complain(path, reader.line_num, str(error), error)
    return life.findings()


class _TooLong(Exception):
    """A line is longer than any of a trace."""


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a text, of which none is read that is too long."""
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise _TooLong
        yield line


def _parsed(cells: list[str]) -> tuple[float, str, str | None, int]:
    """The row that a line of CSV is."""
    if len(cells) != 4:
        msg = f"it has {len(cells)} fields, and not the 4 of {','.join(_HEADER)}"
        raise ValueError(msg)
    time, room, connection, size = cells
    if not room:
        msg = "'room' is empty: it names the room that the message was for"
        raise ValueError(msg)
    if size and not (size.isascii() and size.isdigit()):
        msg = f"'bytes' is a whole number from 0 on, or empty, not {_shown(size)}"
        raise ValueError(msg)
    return _seconds(time), room, connection or None, int(size[:18] or 0)


def _seconds(text: str) -> float:
    """A time of a row of CSV."""
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not -_FARTHEST <= time <= _FARTHEST:
        msg = f"'time' is a number of seconds, such as 12.5, of {_FARTHEST:g} at most, not {_shown(text)}"
        raise ValueError(msg)
    return time


def _read_cbor(path: Path, file: BinaryIO) -> Findings:
    """The rows of a recording."""
    life = None
    for number, item in enumerate(_items(path, file), 1):
        if life is None:
            life = _Life(None if isinstance(item, list) else _policies(path, item))
            if isinstance(item, Mapping):
                continue
        try:
            if isinstance(item, Mapping):
                life.lost += _whole(item.get("lost", 0))
                if "end" in item:
                    life.ends(_time(item["end"]))
            else:
                life.row(*_row(item))
        except ValueError as error:
            _complain(path, number, str(error), error, what="item")
    return (life or _Life(None)).findings()


def _items(path: Path, file: BinaryIO) -> Iterator[Any]:
    """The items of a file of CBOR; one that is cut off at the end, as of who was killed, is left out.

    An item that claims to be longer than any is, as damage has it, is none that was cut off.
    """
    left, number, longest = b"", 1, _LONGEST_HEADER
    while block := file.read(max(_LONGEST_ITEM, len(left))):
        # From memory, where an item that is not all there yet can be begun anew; and it takes half as long.
        memory = io.BytesIO(left + block)
        decoder, begin = cbor2.CBORDecoder(memory), 0
        with suppress(cbor2.CBORDecodeEOF):
            while True:
                try:
                    item = decoder.decode()
                except cbor2.CBORDecodeEOF:
                    raise
                except (cbor2.CBORDecodeError, RecursionError) as error:
                    _complain(path, number, f"it is no CBOR: {error}", error, what="item")
                yield item
                number, begin, longest = number + 1, memory.tell(), _LONGEST_ITEM
        left = memory.getbuffer()[begin:].tobytes()
        if len(left) > longest:
            _complain(path, number, f"it has more than {longest:,} bytes", what="item")


def _policies(path: Path, header: Any) -> dict[str, Policy]:
    """What a recording says of the policies that rooms had."""
    told = header.get("policies") if isinstance(header, Mapping) else None
    if not isinstance(told, Mapping) or header.get("format") != FORMAT:
        _complain(path, 1, f"it is no map with format {FORMAT!r}, as trio-rooms record writes", what="item")
    try:
        return {str(name): _policy(one) for name, one in told.items()}
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        _complain(path, 1, f"it has a policy that is none: {error}", error, what="item")


def _policy(told: Mapping[str, Any]) -> Policy:
    """One of them."""
    idle, threshold, window, of_connections = (told[key] for key in OF_ROOMS)
    # Of floats: CBOR has whole numbers of any length.
    for seconds in (idle, window, of_connections):
        if type(seconds) not in (int, float) or (math.isfinite(seconds) and seconds > _FARTHEST):
            raise ValueError(f"{_shown(seconds)} is no number of seconds")
    return Policy(
        idle_timeout=idle,
        message_threshold=_whole(threshold),
        activity_window=window,
        connection_idle_timeout=of_connections,
    )


def _row(item: Any) -> tuple[float, str, Hashable | None, int | str]:
    """The row that an item is."""
    if not isinstance(item, (list, tuple)) or len(item) != 4:
        msg = f"a row is a list of time, room, connection and bytes, not {_shown(item)}"
        raise ValueError(msg)
    time, room, connection, what = item
    if type(room) is not str or not room:
        msg = f"a room is a string such as 'chat/lobby', not {_shown(room)}"
        raise ValueError(msg)
    if not (connection is None or type(connection) in (int, str)):
        msg = f"a connection is a number, a string or null, not {_shown(connection)}"
        raise ValueError(msg)
    if what not in (HERE, GONE) or connection is None:
        what = _whole(what)
    return _time(time), room, connection, what


def _time(value: Any) -> float:
    """A time of an item."""
    if type(value) not in (int, float) or not -_FARTHEST <= value <= _FARTHEST:
        msg = f"a time is a number of seconds, of {_FARTHEST:g} at most, not {_shown(value)}"
        raise ValueError(msg)
    return float(value)


def _whole(value: Any) -> int:
    """A number of bytes, or of rows."""
    if type(value) is not int or not 0 <= value <= _MOST_ROWS:
        msg = f"it takes a whole number from 0 on, {HERE!r} or {GONE!r}, not {_shown(value)}"
        raise ValueError(msg)
    return value


def _complain(
    path: Path, number: int, why: str, cause: Exception | None = None, *, what: str = "line"
) -> NoReturn:
    """Say what is wrong with a file, and where."""
    raise CommandFailed(f"{path}, {what} {number}: {why}") from cause


def _shown(value: Any) -> str:
    """Some of a value, on one line."""
    try:
        text = printable(repr(value))
    except ValueError:  # Python writes no number of more than some thousand digits.
        return "a number that is too long"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
