"""What of one room is to be written beside its state, from one commit to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from trio_rooms._sockets.roster import Link
from trio_rooms._sockets.standing import Change
from trio_rooms.errors import RoomsError
from trio_rooms.stores.base import Entry, LinkHalf, Offer, Post, RoomHalf, Timer

__all__ = ["Before", "Cut", "Delta", "Half"]

Half = Callable[[], RoomHalf | None]
"""Encodes the room's half of a session as it is when a commit is cut; None deletes the session."""

Before = tuple[bytes | None, tuple[str, ...], tuple[Change, ...]]
"""The attachment, the channels and what is kept of their changes, of a connection as they were."""


@attrs.define(eq=False, weakref_slot=False)
class Delta:
    """Rows of one room that are not known to be in the store.

    To write again what may be there already changes nothing, so a delta that was not written, or of
    which nobody knows, goes with the next one (`behind`).
    """

    writes: dict[str, bytes | None] = attrs.field(factory=dict)
    """To the storage; None deletes a name."""
    size: int = 0
    """Bytes of the values in ``writes``, those counted in that were replaced there."""
    entries: list[Entry] = attrs.field(factory=list)
    """What is added to the journal, ascending."""
    seq: int = 0
    """The highest that was given out; 0 where none was, and then ``before`` and ``floor`` say nothing."""
    before: int = 0
    floor: int = 0
    trim: int = 0
    """Entries up to here may go."""
    trims: bool = False
    """Whether that is written even if there is nothing else."""
    sessions: dict[int, Half] = attrs.field(factory=dict)
    """By session, what its room has of it, where an attachment, a channel or the session itself changed."""
    handled: dict[int, Half] = attrs.field(factory=dict)
    """The same where nothing changed but the id that was handled last."""
    rows: dict[int, RoomHalf | None] = attrs.field(factory=dict, kw_only=True)
    """What both of them were when this was cut."""
    links: dict[int, LinkHalf] = attrs.field(factory=dict)
    verdicts: dict[tuple[int, int], bytes] = attrs.field(factory=dict)
    """By session and id, what its message was answered."""
    refused: dict[tuple[int, int], str] = attrs.field(factory=dict)
    """Those of the verdicts that were told before they are written, see `Sessions.refused`."""
    answered: dict[int, int] = attrs.field(factory=dict)
    """By session, up to which id its client has all answers."""
    timers: dict[str, Timer | None] = attrs.field(factory=dict)
    sends: list[Post] = attrs.field(factory=list)
    """Messages for users, in order."""
    offers: dict[int, Offer] = attrs.field(factory=dict)
    """By its id, to which session of the room a message for a user is on its way."""
    lapses: float | None = None
    """When it is looked at whether the room may go; 0 for never, None for what was written before."""
    before_edits: dict[Link, Before] = attrs.field(factory=dict)
    """Where there is a gate, what the connections were that were edited; see `undo`. It is not written."""
    after: list[Callable[[], None]] = attrs.field(factory=list)
    """What is called when all of this is durable, in a room without a gate."""
    failed: list[Callable[[RoomsError], None]] = attrs.field(factory=list)
    """Who is told when that fails; see `Record.durable`."""

    @property
    def substantial(self) -> bool:
        """Whether there is something that must be written.

        What a message was answered that changed nothing is no such thing: handled again it changes
        nothing again.
        """
        return bool(
            self.writes
            or self.entries
            or self.sessions
            or self.links
            or self.timers
            or self.sends
            or self.lapses is not None
            or self.after
            or self.trims
        )

    def behind(self, earlier: Delta) -> Delta:
        """All of an earlier delta that was not written, and of this one, which counts where both have it."""
        return Delta(
            writes={**earlier.writes, **self.writes},
            size=earlier.size + self.size,
            entries=[*earlier.entries, *self.entries],
            seq=max(earlier.seq, self.seq),
            before=max(earlier.before, self.before),
            floor=max(earlier.floor, self.floor),
            trim=max(earlier.trim, self.trim),
            trims=earlier.trims or self.trims,
            sessions={**earlier.sessions, **self.sessions},
            handled={**earlier.handled, **self.handled},
            links={**earlier.links, **self.links},
            verdicts={**earlier.verdicts, **self.verdicts},
            refused={**earlier.refused, **self.refused},
            answered=_highest(earlier.answered, self.answered),
            timers={**earlier.timers, **self.timers},
            sends=[*earlier.sends, *self.sends],
            offers={**earlier.offers, **self.offers},
            lapses=earlier.lapses if self.lapses is None else self.lapses,
            before_edits={**self.before_edits, **earlier.before_edits},
            after=[*earlier.after, *self.after],
            failed=[*earlier.failed, *self.failed],
        )

    def encode(self) -> None:
        """This is cut: what changes later is of the next one."""
        if self.handled or self.sessions:
            self.rows = {sid: half() for sid, half in (self.handled | self.sessions).items()}

    def undo(self) -> None:
        """Make connections again what they were before they were edited."""
        for link, before in self.before_edits.items():
            link.roster.restore(link, *before)
        self.before_edits.clear()


def _highest(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    """Of two mappings to numbers the higher number each."""
    return {**first, **{sid: max(number, first.get(sid, 0)) for sid, number in second.items()}}


@attrs.define(eq=False, weakref_slot=False)
class Cut:
    """All that one commit writes, taken between two messages."""

    encoded: bytes | None
    """The state; None where it did not change."""
    delta: Delta
