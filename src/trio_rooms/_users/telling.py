"""What connections are told of who is in their room: the whole, or what has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any, Final, Protocol

from trio_rooms._sockets.fanout import Broadcast
from trio_rooms._sockets.flags import BINARY, UNGREETED
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._values.cbor import encode_plain
from trio_rooms._values.json_codec import encode as encode_json
from trio_rooms._wire.frames import encode_binary, encode_text

__all__ = ["Telling"]

_FEW: Final = 64
"""Users between two looks at the clock."""


class Users(Protocol):
    """Who is in a room, see `Presence`."""

    def entries(self, user: str) -> list[dict[str, Any]]:
        """What there is of a user now."""

    def present(self) -> Iterable[str]:
        """All users of whom there is something."""

    def waits(self, link: Link) -> bool:
        """Whether a connection has still to be told the whole, by the next of these."""


class Telling:
    """A piece of a room's output, see `FanOut.do`: what has changed, or the whole.

    Each is encoded once for each kind, whoever gets it, and a few users at a time.

    Args:
        users: who is in the room.
        roster: its connections.
        changed: the users of whom something may have changed.
        joined: who is to be told the whole.
        done: called at the end, with the seconds that it took, and to how many it went.
    """

    __slots__ = ("_done", "_roster", "_sent", "_steps", "_took", "_until", "_users")

    def __init__(
        self,
        users: Users,
        roster: Roster,
        changed: Mapping[str, None],
        joined: Mapping[Link, None],
        done: Callable[[float, int], None],
    ) -> None:
        self._users = users
        self._roster = roster
        self._done = done
        self._until = 0.0
        self._took = 0.0
        self._sent = 0
        self._steps = self._run(changed, joined)

    def __call__(self, until: float) -> bool:
        self._until = until
        began = perf_counter()
        over = False
        while not over and perf_counter() <= until:
            over = next(self._steps, True)
        self._took += perf_counter() - began
        if over:
            self._done(self._took, self._sent)
        return over

    def _run(self, changed: Mapping[str, None], joined: Mapping[Link, None]) -> Iterator[bool]:
        """Do all of it, a step at a time."""
        waits = self._users.waits
        if changed:
            others = [one for one in self._roster.members(None) if one not in joined and not waits(one)]
            if others:
                yield from self._send("changes", [*changed], others)
        if joined:
            yield from self._send("users", [*self._users.present()], [*joined])

    def _send(self, what: str, users: list[str], links: list[Link]) -> Iterator[bool]:
        """Tell some connections of some users."""
        whole = what == "users"
        parts: list[dict[str, Any]] = []
        for first in range(0, len(users), _FEW):
            part = {user: self._users.entries(user) for user in users[first : first + _FEW]}
            # Who has left since then is a change of its own; in the whole there is nobody who is not here.
            parts.append({user: entries for user, entries in part.items() if entries} if whole else part)
            yield False
        message = _Gathered(what, parts)
        for binary in {bool(link.flags & BINARY) for link in links}:
            yield from message.encode(binary=binary)
        inside = self._roster.links
        links = [one for one in links if inside.get(one.id) is one and not one.flags & UNGREETED]
        if not links:
            return
        self._sent += len(links)
        broadcast = Broadcast(links, message)
        while not broadcast(self._until):
            yield False


class _Gathered:
    """One such message, encoded a part at a time; a `Message`."""

    __slots__ = ("_frames", "_parts", "_what")

    def __init__(self, what: str, parts: list[dict[str, Any]]) -> None:
        self._what = what
        self._parts = [part for part in parts if part]
        self._frames: dict[bool, bytes] = {}

    def encode(self, *, binary: bool) -> Iterator[bool]:
        """Make its frame in one kind, a step at a time."""
        pieces: list[bytes] = []
        for part in self._parts:
            if binary:
                encoded = encode_plain(part)
                pieces.append(encoded[len(_map_head(len(part))) :])
            else:
                pieces.append(encode_json(part)[1:-1])
            yield False
        self._frames[binary] = self._whole(pieces, binary=binary)

    def _whole(self, pieces: list[bytes], *, binary: bool) -> bytes:
        if binary:
            head = _map_head(sum(map(len, self._parts)))
            return encode_binary(b"".join((_CBOR, _map_head(1), encode_plain(self._what), head, *pieces)))
        begin = b'{"event":"%b","data":{"%b":{' % (_EVENT.encode(), self._what.encode())
        return encode_text(b"%b%b}}}" % (begin, b",".join(pieces)))

    def frame(self, *, binary: bool) -> bytes:
        """See `Message`."""
        if binary not in self._frames:  # Somebody speaks another kind since a moment ago.
            for _ in self.encode(binary=binary):
                pass
        return self._frames[binary]


def _map_head(size: int) -> bytes:
    """What a map of so many begins with (RFC 8949, 3)."""
    if size < 24:
        return bytes((0xA0 | size,))
    for code, length in ((0xB8, 1), (0xB9, 2), (0xBA, 4)):
        if size < 1 << 8 * length:
            return bytes((code,)) + size.to_bytes(length)
    return b"\xbb" + size.to_bytes(8)


_EVENT: Final = "rooms.presence"
_CBOR: Final = b"\xa2" + encode_plain("event") + encode_plain(_EVENT) + encode_plain("data")
