"""The places of a room's reliable messages, and which of them somebody may still want.

What was sent lies in the store. Here is only how far it goes, and for each session that has not
acknowledged all of it the first place that it may not have: a count for each place, and none for
each recipient of each message. An acknowledgement moves one session from one place to another. What
lies below all of them goes.

A *stand* is such a place: of a session whose connection was sent something, where that begins; of a
session without a connection, behind what it had.

Places are numbers that rise, without an end. A room whose effects wait until they are durable never
gives out one twice. Any other may lose the last of them, when its process dies: so it goes on in a new
*block*, at the next multiple of 2**32, and a client that has seen what is lost is known by it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import attrs

from trio_rooms._sockets.standing import Change, Unsettled

from .audience import Membership

__all__ = ["LONGER", "Head", "Journal"]

_serials: Final = itertools.count(1)

_BLOCK: Final = 32
"""Bits of a place within its block. 2 million blocks are as many as JSON's numbers have room for."""
_MOST: Final = 10_000
"""Entries that are kept for whoever does not acknowledge them."""
_MOST_BYTES: Final = 16 * 1024 * 1024
"""The same in bytes of their bodies and audiences."""
LONGER: Final = 60.0
"""Seconds that they are kept longer than a session outlives its connection."""
_PARTS: Final = 10
"""Parts of the journal, of which the oldest goes where it is too large."""
_NO_END: Final = 1 << 62
"""The last that a session is sent which is being sent what it was away for."""
_CHANGE: Final = 100
"""Bytes that a change of a channel counts with, while it is kept for what was sent before it."""


class Head(Protocol):
    """What of a room's head in the store is about its journal, see `stores.base.RoomHead`."""

    @property
    def seq(self) -> int:
        """The highest that was given out."""

    @property
    def before(self) -> int:
        """The highest of the block before."""

    @property
    def floor(self) -> int:
        """The highest that went although somebody wanted it."""

    @property
    def entries(self) -> int:
        """How many there are."""

    @property
    def entry_bytes(self) -> int:
        """Bytes of them."""


@attrs.define(eq=False)
class _Part:
    """A tenth of the journal, or less: neighbours, which go together."""

    first: int
    last: int
    began: float
    ended: float
    count: int = 0
    size: int = 0


class Journal:
    """The journal of one room, without its content.

    Args:
        head: what the store has of it.
        away: how many sessions without a connection stand where, as the store knows them.
        lost: whether something that was given out may be lost, with the process that did it: then a new
            block begins.
        patience: seconds that an entry is kept for whoever does not acknowledge it.
        now: the time, on any clock that goes on; the same for all calls.
    """

    __slots__ = (
        "_counts",
        "_parts",
        "_patience",
        "_places",
        "before",
        "count",
        "floor",
        "moved",
        "recent",
        "released",
        "seq",
        "serial",
        "size",
        "starts",
        "trimmed",
    )

    def __init__(
        self, head: Head, away: Mapping[int, int], *, lost: bool, patience: float, now: float
    ) -> None:
        self.seq: int = head.seq
        """The highest that was given out."""
        self.before: int = head.before
        """The highest of the block before."""
        if lost and head.seq:
            self.before = head.seq
            self.seq = (head.seq >> _BLOCK) + 1 << _BLOCK
        self.released: int = self.seq
        """The highest up to which all was sent to whoever is there."""
        self.floor: int = head.floor
        """The highest that went although somebody wanted it."""
        self.trimmed: int = 0
        """Up to here nothing is left, as far as is known."""
        self.recent: dict[int, list[Change]] = {}
        """Changes of settled sessions behind what is released."""
        self.moved: Callable[[], None] | None = None
        """Called when something was released or rewound."""
        self.starts: dict[int, int] = {}
        """Where settled sessions began, behind what is released: what was sent before is not theirs."""
        self.count: int = 0
        """Entries that there are, or a few more: a part that has begun to go counts as a whole."""
        self.size: int = 0
        """Bytes of them."""
        self.serial: int = next(_serials)
        """Another one for each that is made, see `Unsettled`."""
        self._patience = patience
        self._counts: dict[int, int] = {}
        """How many sessions stand at a place, by the place; 0 for one that is only among the places yet."""
        self._places: list[int] = []
        """A heap of the keys of these."""
        self._parts: list[_Part] = []
        """A few at most: a deque would be 700 bytes more for each room."""
        self._divide(head, now)
        for pos, count in away.items():
            self._enter(self._inside(pos), count)

    def _divide(self, head: Head, now: float) -> None:
        """Make parts of what is in the store, as if all of it were alike."""
        left, last = head.entries, head.seq
        while left > 0:
            count = min(left, _MOST // _PARTS)
            first = last - count + 1
            start = last >> _BLOCK << _BLOCK
            if self.before and first <= start:
                first = max(self.before - (count - (last - start)) + 1, 1) if last > start else 1
            size = head.entry_bytes * count // head.entries
            self._parts.insert(0, _Part(first, last, now, now, count, size))
            left, last = left - count, first - 1
        self.count, self.size = head.entries, head.entry_bytes

    # Out.

    def append(self, size: int, now: float) -> int:
        """Give out the next place, for an entry of so many bytes; it counts as sent once it is `release`d."""
        self.seq = seq = self.seq + 1
        parts = self._parts
        if not parts or self._is_full(parts[-1], size, now):
            parts.append(_Part(seq, seq, now, now))
        part = parts[-1]
        part.last, part.ended = seq, now
        part.count += 1
        part.size += size
        self.count += 1
        self.size += size
        return seq

    def _is_full(self, part: _Part, size: int, now: float) -> bool:
        """Whether an entry begins the next part."""
        return (
            part.count >= _MOST // _PARTS
            or part.size + size > _MOST_BYTES // _PARTS
            or now > part.began + self._patience / _PARTS
        )

    def release(self, seq: int) -> None:
        """All up to here was sent to whoever was there."""
        self.released = max(self.released, seq)
        if self.released == self.seq:
            self.recent.clear()
            self.starts.clear()
        if self.moved is not None:
            self.moved()

    def rewind(self, seq: int) -> None:
        """What was given out behind this place, and never sent, is given out anew."""
        self.seq = seq
        while self._parts and self._parts[-1].last > seq:
            part = self._parts[-1]
            if part.first > seq:
                self._parts.pop()
                self._take_off(part, part.count)
            else:
                self._take_off(part, part.count * (part.last - seq) // (part.last - part.first + 1))
                part.last = seq
        for sid, changes in [*self.recent.items()]:
            left = [change for change in changes if change[0] <= seq]
            if left:
                self.recent[sid] = left
            else:
                del self.recent[sid]
        self.starts = {sid: start for sid, start in self.starts.items() if start <= seq}
        if self.moved is not None:
            self.moved()

    # Who wants what.

    def stand(self, session: int | Unsettled, seq: int) -> Unsettled:
        """A session was sent the entry at ``seq``; what its connection keeps of it from then on."""
        if type(session) is Unsettled:
            session.last = max(session.last, seq)
            if session.counted != self.serial:
                self.count_in(session)
            return session
        assert isinstance(session, int)
        changes = self.recent.pop(session, None)
        counts = self._counts
        if seq in counts:
            counts[seq] += 1
        else:
            self._enter(seq, 1)
        if not changes:
            return Unsettled(session, seq, seq, (), self.serial)
        left = tuple(one for one in changes if one[0] >= seq)
        return Unsettled(session, seq, seq, left, self.serial)

    def count_in(self, session: Unsettled) -> None:
        """Count a session that stood somewhere before this was made, and that it may not know of."""
        if session.counted != self.serial:
            session.counted = self.serial
            self.enter(session.pos)

    def move(self, session: Unsettled, pos: int) -> None:
        """A session has acknowledged what it stood at, and stands at ``pos`` now."""
        if session.counted == self.serial:
            self.leave(session.pos)
        session.counted = self.serial
        session.pos = pos = self._inside(min(pos, self.released + 1))
        self._enter(pos, 1)

    def settle(self, session: Unsettled) -> int:
        """A session stands nowhere any more: it has all, or is over; what is kept of it from then on."""
        if session.counted == self.serial:
            self.leave(session.pos)
            session.counted = 0
        return session.sid

    def enter(self, pos: int) -> None:
        """A session stands here from now on: its connection has come, or is gone."""
        self._enter(self._inside(pos), 1)

    def leave(self, pos: int) -> None:
        """A session that stood here does not any more."""
        pos = self._inside(pos)
        if self._counts.get(pos):
            self._counts[pos] -= 1

    def begin(self, session: int) -> int:
        """Nothing that was given out until now is for a session; returns from where it counts."""
        if self.seq > self.released:
            self.starts[session] = self.seq
        return self.seq

    def depart(self, session: int | Unsettled) -> Unsettled:
        """The connection of a session is gone; what is kept of it until it comes back, or ends."""
        if type(session) is Unsettled:
            self.count_in(session)
            return session
        assert isinstance(session, int)
        pos = self.behind(session)
        self._enter(pos, 1)
        changes = tuple(one for one in self.recent.pop(session, ()) if one[0] >= pos)
        return Unsettled(session, pos, self.released, changes, self.serial)

    def back(self, session: Unsettled, since: int) -> Unsettled:
        """A session that was away comes back, and has all that was for it up to ``since``.

        What it was away for is read from the store until `caught_up`: not only what is released now, but
        also what was given out by now, since that will be sent to those alone who were there.
        """
        self.settle(session)
        self._enter(self._inside(since + 1), 1)
        changes = tuple(one for one in session.changes if one[0] > since)
        return Unsettled(session.sid, since + 1, _NO_END, changes, self.serial)

    def caught_up(self, session: int | Unsettled, sent: int) -> int | Unsettled:
        """A session was sent all that it was away for: the last of it at ``sent``; nothing, if that is 0."""
        if type(session) is not Unsettled:
            return session
        if sent >= session.pos:
            session.last = sent
            return session
        return self.settle(session)

    def behind(self, session: int | Unsettled) -> int:
        """The first place that a session may not have."""
        if type(session) is Unsettled:
            return session.pos
        assert isinstance(session, int)
        return max(self.released, self.starts.get(session, 0)) + 1

    def _inside(self, pos: int) -> int:
        """Where a session counts that stands at ``pos``: not where nothing is, or can be."""
        start = self.seq >> _BLOCK << _BLOCK
        if self.before and self.before < pos <= start:
            pos = start + 1
        return max(pos, self.floor + 1)

    def _enter(self, pos: int, count: int) -> None:
        counts = self._counts
        known = counts.get(pos)
        if known is None:
            counts[pos] = count
            heapq.heappush(self._places, pos)
        else:
            counts[pos] = known + count

    def _lowest(self) -> int | None:
        """Where the last of all stands; None where none does."""
        places, counts = self._places, self._counts
        while places and not counts[places[0]]:
            del counts[heapq.heappop(places)]
        return places[0] if places else None

    # What goes.

    def trim(self) -> int:
        """Up to where entries may go that nobody wants any more; 0 where there are none."""
        if not self.count:
            return 0
        lowest = self._lowest()
        bound = self.released if lowest is None else min(lowest - 1, self.released)
        return bound if bound > self.trimmed and bound >= self._parts[0].first else 0

    def trimmed_to(self, seq: int) -> None:
        """Entries up to here go with the next commit."""
        self.trimmed = max(self.trimmed, seq)
        while self._parts and self._parts[0].last <= seq:
            part = self._parts.pop(0)
            self.count -= part.count
            self.size -= part.size
        if self._parts and self._parts[0].first <= seq:
            self._parts[0].first = seq + 1

    def over_bound(self, now: float) -> int:
        """Up to where entries have to go although somebody wants them; 0 where none have to.

        Whoever stands there may have missed some: their connections are closed, and they are told when
        they come back. To be called until it says 0.
        """
        if not self._parts:
            return 0
        part = self._parts[0]
        if (
            self.count <= _MOST
            and self.size <= _MOST_BYTES
            and (now <= part.ended + self._patience or part.last > self.released)
        ):
            return 0
        floor = min(part.last, self.released)
        if floor < part.first:
            return 0  # It was not sent yet to anybody, and is worth its place.
        if (lowest := self._lowest()) is not None and lowest <= floor:
            self.floor = floor
            behind = 0
            while lowest is not None and lowest <= floor:
                behind += self._counts[lowest]
                self._counts[lowest] = 0
                lowest = self._lowest()
            self._enter(floor + 1, behind)  # They may have more than they have acknowledged.
        self.trimmed_to(floor)
        return floor

    # Channels.

    def changed(self, session: int | Unsettled, channel: str, *, joined: bool) -> None:
        """A session has entered or left a channel. Kept while there is something that it may not have."""
        change = (self.seq, channel, joined)
        if type(session) is Unsettled:
            if self.seq >= session.pos:
                kept = [one for one in session.changes if one[0] >= session.pos]
                self._change(kept, change)
                session.changes = tuple(kept)
            return
        assert isinstance(session, int)
        if self.seq > self.released:
            self._change(self.recent.setdefault(session, []), change)

    def _change(self, kept: list[Change], change: Change) -> None:
        """Keep a change, unless it undoes one since the last entry: for none was it ever so."""
        seq, channel, joined = change
        for at in range(len(kept) - 1, -1, -1):
            if kept[at][0] != seq:
                break
            if kept[at][1] == channel and kept[at][2] is not joined:
                del kept[at]
                self._count_change(-_CHANGE)
                return
        kept.append(change)
        self._count_change(_CHANGE)

    def changes(self, session: int | Unsettled) -> tuple[Change, ...]:
        """What is kept of a session's changes, for `restore`."""
        if type(session) is Unsettled:
            return session.changes
        assert isinstance(session, int)
        return tuple(self.recent.get(session, ()))

    def restore(self, session: int | Unsettled, changes: tuple[Change, ...]) -> None:
        """Take back what has changed since `changes` was asked; it may have been sent something meanwhile."""
        if type(session) is Unsettled:
            session.changes = tuple(one for one in changes if one[0] >= session.pos)
            return
        assert isinstance(session, int)
        self.recent.pop(session, None)
        left = [one for one in changes if one[0] > self.released]
        if left:
            self.recent[session] = left

    def membership(self, session: int | Unsettled, channels: tuple[str, ...]) -> Membership:
        """A session's channels, as its row has them."""
        since = self.behind(session) - 1
        return Membership(channels, since, tuple(one for one in self.changes(session) if one[0] > since))

    def _count_change(self, size: int) -> None:
        """A change takes memory, as an entry does that it is kept for."""
        if self._parts:
            part = self._parts[-1]
            size = max(size, -part.size)
            part.size += size
            self.size += size

    def _take_off(self, part: _Part, count: int) -> None:
        size = part.size * count // part.count if part.count else 0
        part.count -= count
        part.size -= size
        self.count -= count
        self.size -= size

    # Coming back.

    def refusal(self, seq: int, membership: Membership, pos: int) -> str:
        """Why a session cannot go on from where its client is; empty where it can.

        Args:
            seq: the highest that the client has.
            membership: the session's.
            pos: where it stands, as is known here.
        """
        if seq >= pos and not self._was_given(seq):
            return "unknown"
        return "too_far_behind" if self.since(seq, membership, pos) < self.floor else ""

    def since(self, seq: int, membership: Membership, pos: int) -> int:
        """Up to where a session has all that was for it; the arguments are those of `refusal`."""
        return max(seq, pos - 1, self.released if membership.since is None else membership.since)

    def _was_given(self, seq: int) -> bool:
        """Whether a client can have seen this, and it is not lost."""
        if not 0 <= seq <= self.released:
            return False
        if not self.before:
            return True
        block = seq >> _BLOCK
        return block == self.seq >> _BLOCK or (block == self.before >> _BLOCK and seq <= self.before)
