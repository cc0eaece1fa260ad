"""For whom an entry of a journal is, and who was in which channel when it was sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._sockets.standing import Change

__all__ = ["EVERYBODY", "Audience", "Membership"]


@attrs.frozen
class Audience:
    """For whom an entry is: a few bytes, however many they are."""

    sid: int | None = None
    """One session alone."""
    channel: str | None = None
    """Those in a channel."""
    excluded: frozenset[int] = frozenset()
    """Sessions that it is not for in any case."""

    def encode(self) -> bytes:
        """As the store has it."""
        whom = self.channel if self.sid is None else self.sid
        if self.excluded:
            return cbor2.dumps([whom, *sorted(self.excluded)])
        return _EVERYBODY if whom is None else cbor2.dumps(whom)

    @classmethod
    def decode(cls, encoded: bytes) -> Audience:
        """The inverse of `encode`.

        Raises:
            ValueError: it is none.
        """
        if encoded == _EVERYBODY:
            return EVERYBODY
        try:
            whom: Any = cbor2.loads(encoded)
        except cbor2.CBORDecodeError:
            whom = ()
        excluded: Iterable[int] = ()
        if isinstance(whom, list) and whom:
            whom, *excluded = whom
        if isinstance(whom, str):
            return cls(None, whom, frozenset(excluded))
        if whom is not None and not isinstance(whom, int):
            msg = f"no audience: {encoded!r:.100}"
            raise ValueError(msg)
        return cls(whom, None, frozenset(excluded))

    def includes(self, sid: int, membership: Membership, seq: int) -> bool:
        """Whether an entry with this audience is for a session that was in the room.

        Args:
            sid: the session's.
            membership: its channels.
            seq: the entry's.
        """
        if self.sid is not None:
            return self.sid == sid
        if sid in self.excluded:
            return False
        return self.channel is None or membership.was_in(self.channel, seq)


EVERYBODY: Final = Audience()
_EVERYBODY: Final = cbor2.dumps(None)


@attrs.frozen
class Membership:
    """The channels of one session, now and since an entry that it may not have."""

    channels: tuple[str, ...] = ()
    """Those that it is in."""
    since: int | None = None
    """It has all that was for it up to this seq; None for one that was not let in yet: nothing was for it."""
    changes: tuple[Change, ...] = ()
    """What it entered and left behind ``since``, in order."""

    def was_in(self, channel: str, seq: int) -> bool:
        """Whether it was in a channel when the entry with this seq, behind ``since``, was sent."""
        inside = channel in self.channels
        for position, name, joined in reversed(self.changes):
            if position < seq:
                break
            if name == channel:
                inside = not joined
        return inside

    def encode(self) -> bytes:
        """As the store has it."""
        return cbor2.dumps([self.channels, self.since, self.changes])

    @classmethod
    def decode(cls, encoded: bytes) -> Membership:
        """The inverse of `encode`."""
        if not encoded:
            return cls()
        channels, since, changes = cbor2.loads(encoded)
        return cls(tuple(channels), since, tuple((pos, name, joined) for pos, name, joined in changes))
