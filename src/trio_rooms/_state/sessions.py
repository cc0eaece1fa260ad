"""What is known of a room's sessions while its record lives: their last ids, and what these were answered."""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._values.cbor import encode_plain
from trio_rooms.stores.base import Opening

__all__ = ["MOST_UNANSWERED", "WHY", "Answered", "Session", "Sessions", "Token"]

MOST_UNANSWERED: Final = 1000
"""Ids from the oldest unanswered to the newest, and verdicts that are kept of a session."""
_MOST_BYTES: Final = 64 * 1024
"""Bytes of data in the verdicts that are kept of a session."""
_LONGEST: Final = 1000
"""Characters of the text of an error that are kept."""
_SECRET: Final = 16
_SID: Final = 8


@attrs.frozen
class Token:
    """What a client resumes its session with: which one it is, and that it is the client's own."""

    sid: int
    secret: bytes

    @classmethod
    def new(cls, sid: int) -> Token:
        """That of a session that begins."""
        return cls(sid, secrets.token_bytes(_SECRET))

    @classmethod
    def parse(cls, token: str) -> Token | None:
        """The inverse of ``str()``; None for what is none."""
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        sid = int.from_bytes(raw[:_SID], "big")
        # No session has a number that a store could not hold, and none is asked for it.
        return cls(sid, raw[_SID:]) if len(raw) == _SID + _SECRET and 0 < sid < 1 << 63 else None

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(self._raw()).rstrip(b"=").decode()

    @property
    def digest(self) -> bytes:
        """What the store keeps of it; it does not tell the token."""
        return hashlib.blake2b(self._raw(), digest_size=16).digest()

    def _raw(self) -> bytes:
        return self.sid.to_bytes(_SID, "big") + self.secret


@attrs.frozen
class Answered:
    """What a message with an id was answered."""

    code: str = ""
    """Of the error; empty where it was handled."""
    message: str = ""
    data: Any = None
    bare: bool = False
    """Whether the data was forgotten, since there was too much of it."""

    def encode(self) -> bytes:
        """As the store has it; without its data where that is more than a session may keep."""
        if self.code:
            return cbor2.dumps(["error", self.code, self.message[:_LONGEST]])
        if self.bare:
            return _BARE
        encoded: bytes = encode_plain(["ok", self.data])
        return encoded if len(encoded) <= _MOST_BYTES else _BARE

    def short(self) -> bytes:
        """As the store has it once its data, or its text, was forgotten."""
        return cbor2.dumps(["error", self.code, ""]) if self.code else _BARE

    @classmethod
    def decode(cls, encoded: bytes) -> Answered:
        """The inverse of `encode`."""
        match cbor2.loads(encoded):
            case ["ok", data]:
                return cls(data=data)
            case ["error", code, message]:
                return cls(code, message)
        return cls(bare=True)


_BARE: Final = cbor2.dumps(["ok"])


class Session:
    """The ids of one session that were handled, and what they were answered.

    Args:
        last: the highest of them.
        verdicts: those that are kept, by id, ascending; see `Answered.encode`.
        opening: what is written of it with its first row.
    """

    __slots__ = ("_large", "_size", "held", "last", "opening", "verdicts")

    def __init__(
        self, last: int = 0, verdicts: Mapping[int, bytes] | None = None, opening: Opening | None = None
    ) -> None:
        self.last: int = last
        self.held: int = 0
        """How many of its messages were handled and are not answered yet, since that waits for a commit."""
        self.opening: Opening | None = opening
        """Until that is durable; None then."""
        self.verdicts: dict[int, bytes] = {}
        self._size = 0
        self._large: deque[int] = deque()
        """Those with something that may be forgotten, the oldest first."""
        for id_, verdict in (verdicts or {}).items():
            self.keep(id_, verdict)

    def keep(self, id: int, verdict: bytes) -> dict[int, bytes | None]:  # noqa: A002 (what the protocol calls it)
        """Keep a verdict. Returns those that it leaves no room for: shorter than they were, or None.

        The 1,000 newest are never forgotten; of the oldest of them the data is, where it has become too much.
        """
        verdicts, large = self.verdicts, self._large
        self._size += len(verdict) - len(verdicts.get(id, b""))
        verdicts[id] = verdict
        if len(verdict) > len(_BARE):
            large.append(id)
        changed: dict[int, bytes | None] = {}
        while len(verdicts) > MOST_UNANSWERED:
            oldest = next(iter(verdicts))
            self._size -= len(verdicts.pop(oldest))
            changed[oldest] = None
        while self._size > _MOST_BYTES and large:
            oldest = large.popleft()
            kept = verdicts.get(oldest)
            if kept is not None:
                verdicts[oldest] = changed[oldest] = shorter = Answered.decode(kept).short()
                self._size += len(shorter) - len(kept)
        while large and large[0] not in verdicts:
            large.popleft()
        return changed

    def let_go(self) -> None:
        """One more of its messages is answered."""
        self.held -= 1

    def answered(self, up_to: int) -> bool:
        """The client has all answers up to this id; whether any was kept."""
        gone = [*itertools.takewhile(lambda id_: id_ <= up_to, self.verdicts)]
        for id_ in gone:
            self._size -= len(self.verdicts.pop(id_))
        return bool(gone)


class Sessions:
    """Those sessions of a room of which more is known than that they exist, by their numbers."""

    __slots__ = ("_known", "_refused", "stalled")

    def __init__(self) -> None:
        self._known: dict[int, Session] = {}
        self._refused: dict[int, dict[int, str]] | None = None
        """See `refused`; by session, since there may be many sessions, and each is looked for its own."""
        self.stalled: dict[int, int] = {}
        """By session, the id of the first message that could not be handled, and is to come again."""

    @property
    def refused(self) -> dict[tuple[int, int], str]:
        """By session and id: messages that were told a code, and whose telling no commit has yet; a copy."""
        return {
            (sid, id_): code for sid, codes in (self._refused or {}).items() for id_, code in codes.items()
        }

    def get(self, sid: int) -> Session | None:
        """What is known of a session, or None where that has to be read."""
        return self._known.get(sid)

    def is_stalled(self, sid: int, id: int) -> bool:  # noqa: A002
        """Whether a message has to wait for one before it to come again: else that would count as handled."""
        first = self.stalled.get(sid)
        if first is None or id > first:
            return first is not None
        if id == first:
            del self.stalled[sid]
        return False

    def stall(self, sid: int, id: int) -> None:  # noqa: A002
        """A message could not be handled now, and is to come again before all that its client sent later."""
        self.stalled[sid] = min(id, self.stalled.get(sid, id))

    def know(self, sid: int, session: Session) -> Session:
        """Take what the store has, or what a session begins with; what was refused meanwhile is added."""
        self._known[sid] = session
        for id_, code in [*self._codes(sid).items()]:
            self._use_up(sid, session, id_, code)
        return session

    def refuse(self, sid: int, id: int, code: str) -> None:  # noqa: A002
        """An id is used up by a refusal, for good: whatever the store says when it is read again."""
        if self._refused is None:
            self._refused = {}
        self._refused.setdefault(sid, {})[id] = code
        session = self._known.get(sid)
        if session is not None:
            self._use_up(sid, session, id, code)

    def recorded(self, refused: Mapping[tuple[int, int], str]) -> None:
        """A commit has these refusals."""
        for (sid, id_), code in refused.items():
            codes = self._codes(sid)
            if self._refused is not None and codes.get(id_) == code:
                del codes[id_]
                if not codes:
                    del self._refused[sid]

    def forget(self, sid: int) -> None:
        """A session is over, or need not be known here any more."""
        self._known.pop(sid, None)
        self.stalled.pop(sid, None)
        if self._refused is not None:
            self._refused.pop(sid, None)

    def _codes(self, sid: int) -> dict[int, str]:
        """The refusals of a session, by id."""
        return {} if self._refused is None else self._refused.get(sid, {})

    def clear(self) -> None:
        """What is known may be more than the store has: it is read again. Refusals were told and stay."""
        self._known.clear()

    def _use_up(self, sid: int, session: Session, id_: int, code: str) -> None:
        session.last = max(session.last, id_)
        for other, shorter in session.keep(id_, Answered(code, WHY.get(code, "")).encode()).items():
            if shorter is None:
                # No client asks for it any more, and a disk may be full for long.
                self._codes(sid).pop(other, None)


WHY: Final = {
    "not_saved": "the room could not save this, and nothing of it was done; a new message may succeed",
    "internal_error": "the room failed",
    "handler_timeout": "the room took too long for this",
}
"""What a client is told beside the code of a refusal."""
