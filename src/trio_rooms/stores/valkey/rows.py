"""What is in the server, as bytes: how values are packed, and read again.

What a function of the server has to know of one stands before it in digits; `store.lua` says how.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from trio_rooms.errors import StoreError
from trio_rooms.stores.base import (
    Entry,
    LinkHalf,
    Offer,
    Opening,
    Post,
    RoomHalf,
    RoomHead,
    StoredSession,
    Timer,
    Waiting,
)
from trio_rooms.stores.checks import encode

__all__ = [
    "above",
    "eight",
    "number",
    "pack_entry",
    "pack_link",
    "pack_offer",
    "pack_opening",
    "pack_post",
    "pack_room",
    "pack_timer",
    "timer_member",
    "unpack_entry",
    "unpack_head",
    "unpack_message",
    "unpack_session",
    "unpack_timer",
]

_SIZED: Final = struct.Struct(">BI")
_ENTRY: Final = struct.Struct(">dI")
_OFFER: Final = struct.Struct(">QQ")


def eight(value: int) -> bytes:
    """A whole number, ordered as text as it is as a number."""
    return value.to_bytes(8, "big")


def above(value: int) -> bytes:
    """The one behind it."""
    return (value + 1).to_bytes(8, "big")


def number(value: float) -> bytes:
    """A time, with all its digits."""
    return repr(float(value)).encode()


def pack_entry(entry: Entry) -> bytes:
    """An entry of a journal."""
    return b"%d:%d:%b%b%b" % (
        entry.seq,
        len(entry.body),
        _ENTRY.pack(entry.time, len(entry.audience)),
        entry.audience,
        entry.body,
    )


def unpack_entry(packed: bytes) -> Entry:
    """The inverse of `pack_entry`."""
    seq, _, rest = packed.split(b":", 2)
    time, size = _ENTRY.unpack_from(rest)
    start = _ENTRY.size + size
    return Entry(int(seq), rest[_ENTRY.size : start], rest[start:], time)


def pack_opening(opening: Opening) -> bytes:
    """What of a session never changes."""
    user = b"" if opening.user is None else encode(opening.user)
    sized = _SIZED.pack(opening.user is not None, len(opening.token))
    return b"%d:%b:%b%b%b" % (opening.start + 1, number(opening.window), sized, opening.token, user)


def pack_room(half: RoomHalf) -> bytes:
    """What the room writes of a session, but for its opening and the last id."""
    attachment = half.attachment or b""
    return _SIZED.pack(half.attachment is not None, len(attachment)) + attachment + half.channels


def pack_link(half: LinkHalf) -> bytes:
    """What the connection writes of a session."""
    state = b"e" if half.ended else b"a" if half.until is None else b"w"
    until = b"" if half.until is None else number(half.until)
    sized = _SIZED.pack(0, len(half.left))
    return b"%b%d:%d:%b:%b%b%b" % (state, half.pos, half.link, until, sized, half.left, half.presence)


def unpack_session(sid: int, opening: bytes, room: bytes, link: bytes) -> StoredSession:
    """A session, from its three parts; an empty link where none was written."""
    first, window, rest = opening.split(b":", 2)
    named, token, user = _unpack_sized(rest)
    opened = Opening(token, user.decode() if named else None, int(first) - 1, float(window))
    last, _, rest = room.partition(b":")
    attached, attachment, channels = _unpack_sized(rest)
    half = RoomHalf(int(last), attachment if attached else None, channels, opened)
    return StoredSession(sid, half, _unpack_link(link) if link else LinkHalf(0, None))


def _unpack_link(packed: bytes) -> LinkHalf:
    pos, link, until, rest = packed[1:].split(b":", 3)
    _, left, presence = _unpack_sized(rest)
    ended = packed.startswith(b"e")
    return LinkHalf(int(link), float(until) if until else None, int(pos), left, ended, presence)


def _unpack_sized(packed: bytes) -> tuple[int, bytes, bytes]:
    """A flag, what has a size, and what comes behind it."""
    if not packed:
        return 0, b"", b""
    flag, size = _SIZED.unpack_from(packed)
    start = _SIZED.size + size
    return flag, packed[_SIZED.size : start], packed[start:]


def pack_timer(timer: Timer) -> tuple[bytes, bytes]:
    """When it is due, empty for never, and what for."""
    return b"" if timer.due is None else number(timer.due), timer.content


def unpack_timer(packed: bytes) -> Timer:
    """What is stored of one."""
    due, _, content = packed.partition(b":")
    return Timer(float(due) if due else None, content)


def timer_member(key: bytes, name: bytes) -> bytes:
    """What stands for a timer among all that is due."""
    return b"2%d:%b%b" % (len(key), key, name)


def pack_post(post: Post) -> tuple[bytes | int, ...]:
    """User, id, size, when it expires, and the rest of a message."""
    room = encode(post.room)
    rest = _SIZED.pack(post.priority, len(room)) + room + post.body
    return encode(post.user), eight(post.id), len(post.body), number(post.expires), rest


def pack_offer(offer: Offer) -> bytes:
    """To which session a message is on its way."""
    return _OFFER.pack(offer.sid, offer.seq) + encode(offer.key)


def unpack_message(user: bytes, id_: bytes, packed: bytes, offer: bytes) -> Waiting:
    """A message in an inbox, with its offer if that is not empty."""
    position, _, expires, rest = packed.split(b":", 3)
    priority, room, body = _unpack_sized(rest)
    name = user.decode()
    post = Post(name, int.from_bytes(id_, "big"), body, float(expires), priority, room.decode())
    if not offer:
        return Waiting(int(position), post)
    sid, seq = _OFFER.unpack_from(offer)
    return Waiting(int(position), post, Offer(name, offer[_OFFER.size :].decode(), sid, seq))


def unpack_head(found: Sequence[bytes | int]) -> RoomHead:
    """What the server says of a room, in the order of its function.

    Raises:
        StoreError: it is something else.
    """
    try:
        *numbers, lapses, sessions, timers = found
        number_, nonce, epoch, seq, before, floor, entries, size = (int(one or 0) for one in numbers)
        when = float(lapses) if lapses else None
        has = bool(sessions), bool(timers)
        return RoomHead(number_, nonce, epoch, seq, before, floor, entries, size, *has, when)
    except ValueError as error:
        raise StoreError(f"what the engine has of a room is damaged: {found!r:.200}") from error
