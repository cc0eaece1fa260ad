"""What a handler sees: the room it runs in, and the connection that spoke."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

import attrs

from trio_rooms._sockets.links import CLOSING, FRESH, GONE
from trio_rooms._state.codec import decode_value, encode_value
from trio_rooms._wire.frames import encode_message
from trio_rooms.errors import AttachmentError, NoConnection, RoomsError

if TYPE_CHECKING:
    from trio_rooms._sockets.links import Link

    from .actor import Actor

__all__ = [
    "ConnectRequest",
    "Connection",
    "Connections",
    "Context",
    "Departure",
    "LiveRoom",
    "Storage",
    "WakeReport",
]

S = TypeVar("S")
D = TypeVar("D")
_UNREAD: Final = object()
_UNCHANGING: Final = (str, bytes, int, float, type(None))
"""What cannot be edited in place, so that nobody need look whether it was."""


@attrs.frozen
class ConnectRequest:
    """The request of a client that wants to connect, as `Room.authenticate` sees it."""

    room: str
    """The name of the room's definition."""
    id: str
    """Which room of that name."""
    path: str
    """The path as it was sent, without the query."""
    query: Mapping[str, str]
    """The query's parameters, decoded; of one given twice, the last."""
    headers: Mapping[str, str]
    """The headers by lower-case name; of one given twice, all joined by ``", "``."""
    remote: str
    """The address of the other side, as ``host:port``."""

    @property
    def key(self) -> str:
        """The room's key, ``"name/id"``."""
        return f"{self.room}/{self.id}"


@attrs.frozen
class Departure:
    """How a connection ended."""

    id: str
    attachment: Any
    code: int
    """The close code of RFC 6455, 7.4; 1005 for none given, 1006 where there was no closing handshake."""
    reason: str
    clean: bool
    """Whether the closing handshake was completed."""


@attrs.frozen
class WakeReport:
    """Why and how a room woke up; what an application reconciles its state by."""

    cause: str
    """What woke it: ``message``, ``connect``, ``disconnect``, ``ask``, ``destroy`` or ``crash``."""
    slept: float | None
    """Seconds of sleep by the monotonic clock; None when it slept in another process,
    crashed, or slept without connections."""
    departed: tuple[Departure, ...]
    """Who went away while it slept, as long as somebody stayed, the last 1,000 of them.

    Each also goes to `Room.on_disconnect`, which hears of every one.
    """
    restarted: bool
    """Whether the process was restarted since: then all connections that the state knows are gone."""
    fell_back: bool
    """Whether the newest snapshot did not decode and the one before it was taken."""


class Connection:
    """A handler's view of one socket, made when it is first touched and dropped at hibernation."""

    __slots__ = ("_actor", "_attachment", "_encoded", "_link")

    def __init__(self, actor: Actor, link: Link) -> None:
        self._actor = actor
        self._link = link
        self._attachment: Any = _UNREAD
        self._encoded: bytes | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.id} of {self._actor.key}>"

    @property
    def id(self) -> str:
        """A name for this connection that is never used again, here or in another process."""
        return format(self._link.id, "x")

    @property
    def link(self) -> Link:
        """The socket behind it; for the library."""
        return self._link

    @property
    def closed(self) -> bool:
        """Whether it is closing or gone; what is sent to it then goes nowhere."""
        return self._link.flags & (CLOSING | GONE) != 0

    @property
    def attachment(self) -> Any:
        """What is known of this connection: anything CBOR can hold, edits included.

        It survives hibernation. It is checked when the handler that touched it has ended.
        """
        if self._attachment is _UNREAD:
            encoded = self._link.attachment
            self._attachment = None if encoded is None else decode_value(encoded)
            self._encoded = encoded
        if not isinstance(self._attachment, _UNCHANGING):
            self._actor.touch_attachment(self)
        return self._attachment

    @attachment.setter
    def attachment(self, value: Any) -> None:
        encoded = encode_attachment(self._actor.key, value, self._actor.room.attachment_limit)
        self._attachment = value
        self._link.attachment = self._encoded = encoded

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that it is in."""
        return self._link.channels

    def join(self, channel: str) -> None:
        """Enter a channel of the room; nothing where it is in it already."""
        self._actor.lot.join(self._link, channel)

    def leave(self, channel: str) -> None:
        """Leave a channel; nothing where it is not in it."""
        self._actor.lot.leave(self._link, channel)

    def emit(self, event: str, data: Any = None) -> None:
        """Send an event to this connection; nothing happens where it is closed.

        Raises:
            TypeError, ValueError: the data cannot be encoded; nothing was sent.
        """
        self._actor.lot.send(self._link, self._actor.event(event, data))

    def send(self, message: str | bytes) -> None:
        """Send a message as it is; only in plain rooms."""
        actor = self._actor
        if not actor.plain:
            actor.room.refuse_messages()
        actor.lot.send_frame(self._link, encode_message(message))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection after everything that was sent to it.

        Args:
            code: 1000, 1001, 1003, 1008, 1011 to 1013, or 3000 to 4999 (RFC 6455, 7.4).
            reason: at most 123 bytes of UTF-8; the rest is cut off.
        """
        self._actor.lot.close(self._link, code, reason)

    def settle(self) -> None:
        """Keep an attachment that was edited in place.

        Raises:
            AttachmentError: it is too big or not CBOR-able; it is again what it was before.
        """
        try:
            encoded = encode_attachment(self._actor.key, self._attachment, self._actor.room.attachment_limit)
        except AttachmentError:
            self._attachment = _UNREAD
            raise
        if encoded != self._encoded:
            self._link.attachment = self._encoded = encoded


def encode_attachment(key: str, value: Any, limit: int) -> bytes | None:
    """The CBOR of an attachment.

    Raises:
        AttachmentError: it is too big or not CBOR-able.
    """
    if value is None:
        return None
    try:
        encoded = encode_value(key, "attachment", value)
    except RoomsError as error:
        raise AttachmentError(str(error)) from error
    if len(encoded) > limit:
        msg = (
            f"room {key}: an attachment has {len(encoded)} bytes, more than the {limit} that are allowed; "
            "keep what is large in the state or the storage, or raise Room(attachment_limit=...)"
        )
        raise AttachmentError(msg)
    return encoded


class Connections(Collection[Connection]):
    """The connections of a room, or of one channel.

    One whose on_connect has not begun is not among them yet.
    """

    __slots__ = ("_actor", "_links")

    def __init__(self, actor: Actor, links: Mapping[int, Link]) -> None:
        self._actor = actor
        self._links = links

    def __len__(self) -> int:
        roster = self._actor.roster
        return len(self._links) - (roster.fresh if self._links is roster.links else 0)

    def __iter__(self) -> Iterator[Connection]:
        return iter([self._actor.connection(link) for link in self._links.values() if not link.flags & FRESH])

    def __contains__(self, item: object) -> bool:
        return isinstance(item, Connection) and self.get(item.id) is item

    def get(self, id: str) -> Connection | None:  # noqa: A002 (it is what a connection calls it)
        """The connection with this id, or None."""
        try:
            link = self._links.get(int(id, 16))
        except ValueError:
            return None
        return None if link is None or link.flags & FRESH else self._actor.connection(link)


class Storage:
    """Values of one room that are too big to load at each wake, by name.

    What is written is seen at once by what reads after it, and becomes durable in one
    transaction with the next snapshot.
    """

    __slots__ = ("_actor",)

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    @overload
    async def get(self, name: str) -> Any: ...
    @overload
    async def get(self, name: str, default: D) -> Any | D: ...
    async def get(self, name: str, default: Any = None) -> Any:
        """The value under a name, or ``default``.

        Raises:
            StoreError: it could not be read.
        """
        encoded = await self._actor.record.get(name)
        return default if encoded is None else decode_value(encoded)

    def put(self, name: str, value: Any) -> None:
        """Keep a value: anything CBOR can hold.

        Raises:
            StateError: it holds what CBOR cannot; the message says where.
        """
        self._actor.record.write(name, encode_value(self._actor.key, f"storage[{name!r}]", value))

    def delete(self, name: str) -> None:
        """Remove a value; nothing where there is none."""
        self._actor.record.write(name, None)

    async def list(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """The values whose names start with ``prefix``, in the order of their names.

        Args:
            prefix: what the names begin with; all do with ``""``.
            after: only names behind this one, to go through many a page at a time.
            limit: at most so many.
        """
        found = await self._actor.record.list(prefix, after, limit)
        return {name: decode_value(encoded) for name, encoded in found}


class LiveRoom:
    """The awake room that a handler runs in."""

    __slots__ = ("_actor", "storage")

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.storage = Storage(actor)
        """What is too big to load at each wake."""

    def __repr__(self) -> str:
        return f"<LiveRoom {self.key}>"

    @property
    def key(self) -> str:
        """``"name/id"``."""
        return self._actor.key

    @property
    def name(self) -> str:
        """The name of the definition."""
        return self._actor.room.name

    @property
    def id(self) -> str:
        """Which room of that name."""
        return self._actor.key.partition("/")[2]

    @property
    def connections(self) -> Connections:
        """Every open connection."""
        return Connections(self._actor, self._actor.roster.links)

    @property
    def channels(self) -> Mapping[str, Connections]:
        """The channels that somebody is in, by name."""
        return {
            name: Connections(self._actor, links)
            for name, links in (self._actor.roster.channels or {}).items()
        }

    def emit(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | None = None,
        except_: Connection | Iterable[Connection] = (),
    ) -> None:
        """Send an event to every connection, or to those in a channel, except some.

        Raises:
            TypeError, ValueError: the data cannot be encoded; nothing was sent.
        """
        self._actor.lot.broadcast(self._actor.roster, self._actor.event(event, data), channel, _ids(except_))

    def send(
        self,
        message: str | bytes,
        *,
        channel: str | None = None,
        except_: Connection | Iterable[Connection] = (),
    ) -> None:
        """Send a message as it is, to whom `emit` would; only in plain rooms."""
        actor = self._actor
        if not actor.plain:
            actor.room.refuse_messages()
        actor.lot.broadcast(actor.roster, PlainMessage(message), channel, _ids(except_))

    def start_soon(
        self,
        function: Callable[..., Awaitable[Any]],
        *arguments: Any,
        name: str | None = None,
        keep_awake: bool = False,
    ) -> None:
        """Run a task in the room's nursery, until it ends or the room sleeps.

        A task that raises crashes the room, as it would any nursery. A room that sleeps
        cancels its tasks after its last snapshot, so what they change then is not kept.

        Args:
            function: an async function.
            *arguments: what it is called with.
            name: what it is called in Trio's task tree and in ``info().held``.
            keep_awake: the room does not sleep before the task has ended.
        """
        self._actor.start_soon(function, arguments, name, keep_awake=keep_awake)

    @contextlib.contextmanager
    def keep_awake(self, reason: str) -> Iterator[None]:
        """``with ctx.room.keep_awake("upload"):`` the room does not sleep inside."""
        self._actor.hold(reason)
        try:
            yield
        finally:
            self._actor.let_go(reason)

    def destroy(self) -> None:
        """Delete everything of this room when the current message is done, and close its connections."""
        self._actor.destroy_soon()


class Context(Generic[S]):
    """What a handler is given: the state, the room, and who spoke."""

    __slots__ = ("_actor", "_connection", "channel", "room")

    def __init__(self, actor: Actor, connection: Connection | None) -> None:
        self._actor = actor
        self._connection = connection
        self.room = actor.live
        self.channel: str | None = None
        """The channel that the message named, if it did."""

    @property
    def state(self) -> S:
        """The room's state. Change it in place, or assign a new one."""
        return self._actor.state  # type: ignore[no-any-return]

    @state.setter
    def state(self, value: S) -> None:
        self._actor.state = value

    @property
    def connection(self) -> Connection:
        """The connection that spoke.

        Raises:
            NoConnection: nobody did: the program asked, or this is a hook of the room.
        """
        if self._connection is None:
            msg = (
                f"room {self.room.key}: there is no connection here; "
                "what is handled came from the program, or this is a hook of the room"
            )
            raise NoConnection(msg)
        return self._connection

    @property
    def from_connection(self) -> bool:
        """Whether a connection spoke, and not the program."""
        return self._connection is not None


class PlainMessage:
    """A message of a plain room, the same for every client."""

    __slots__ = ("_frame",)

    def __init__(self, message: str | bytes) -> None:
        self._frame = encode_message(message)

    def frame(self, *, binary: bool) -> bytes:  # noqa: ARG002 (it has no kinds)
        """The encoded frame."""
        return self._frame


def _ids(connections: Connection | Iterable[Connection]) -> frozenset[int]:
    if isinstance(connections, Connection):
        return frozenset((connections._link.id,))
    return frozenset(connection._link.id for connection in connections)
