"""One socket of an awake room as its handlers see it, and those of a room or a channel together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from trio_rooms._arguments import text
from trio_rooms._sockets.flags import BINARY, CLOSING, GONE, UNGREETED, subprotocol_of
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._state.audience import Audience
from trio_rooms._state.codec import decode_value, encode_value
from trio_rooms._state.rows import present
from trio_rooms._users.presence import encode_presence, presence_of
from trio_rooms._values.cbor import decode_sent
from trio_rooms._wire import envelope
from trio_rooms._wire.envelope import Body
from trio_rooms._wire.frames import encode_message
from trio_rooms.errors import AttachmentError, ConnectionGone, RoomsError, StaleContext

from .reliably import is_reliable, manner_of
from .shared import Shared

__all__ = ["Connection", "Connections", "encode_attachment"]

_UNREAD: Final = object()
_OVER: Final = b"over"
"""Stands, as itself, for what is encoded of a view whose life is over: its attachment is unread for ever."""
_UNCHANGING: Final = (str, bytes, int, float, type(None))
"""What cannot be edited in place, so that nobody need look whether it was."""


class Connection:
    """A handler's view of one socket, made when it is first touched and dropped at hibernation."""

    __slots__ = ("__weakref__", "_attachment", "_encoded", "_link", "_shared")

    def __init__(self, shared: Shared, link: Link) -> None:
        self._shared = shared
        self._link = link
        self._attachment: Any = _UNREAD
        self._encoded: bytes | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.id} of {self._shared.key}>"

    @property
    def id(self) -> str:
        """A name for this connection that is never used again, here or in another process.

        It stays the same where its client loses the connection and comes back to its session.
        """
        return format(self._link.sid, "x")

    @property
    def link(self) -> Link:
        """The socket behind it, or the last one that its session had; for the library."""
        link = self._link
        if link.flags & (CLOSING | GONE) and link.session is not None:
            self._link = link = present(link)
        return link

    def go_on(self, link: Link) -> None:
        """Its session goes on with another socket."""
        self._link = link

    @property
    def closed(self) -> bool:
        """Whether it is closing or gone; what is sent to it then goes nowhere.

        Also while its client may still come back to its session: what is sent reliably reaches it then.
        """
        return self.link.flags & (CLOSING | GONE) != 0

    @property
    def attachment(self) -> Any:
        """What is known of this connection: anything CBOR can hold, edits included.

        It survives hibernation. It is checked when the handler that touched it has ended.

        Raises:
            StaleContext: the room has fallen asleep or crashed since; what is edited would be lost.
        """
        if self._attachment is _UNREAD:
            self._check_life("an attachment cannot be read")
            encoded = self.link.attachment
            self._attachment = None if encoded is None else decode_value(encoded)
            self._encoded = encoded
        if not isinstance(self._attachment, _UNCHANGING):
            self._shared.edited[self] = None
        return self._attachment

    @attachment.setter
    def attachment(self, value: Any) -> None:
        self._check_life("an attachment cannot be set")
        encoded = encode_attachment(self._shared.key, value, self._shared.definition.attachment_limit)
        self._attachment = value
        link = self.link
        if encoded != link.attachment:
            self._shared.touched(link)
        link.attachment = self._encoded = encoded
        if not isinstance(value, _UNCHANGING):
            self._shared.edited[self] = None  # Who has assigned it has it, and may edit it still.

    @property
    def user(self) -> str | None:
        """Who its client is: the user of `Admitted`, or None."""
        return self._link.user

    @property
    def presence(self) -> dict[str, Any] | None:
        """What all that are in the room are shown of it, beside its user; None where nothing was set.

        A dict with strings as keys, at most 1 KiB of CBOR. What is got is a copy: to change it, assign
        another. It is told within a moment, also where what else a handler does waits until it is durable,
        or is undone. It stays as long as the connection, or its session; None takes it away. In the list
        of what is here, ``"status"`` is ``"online"``, unless something else is set here.

        Raises:
            TypeError: set in a room without ``presence=True``, or to what is no such dict.
            ValueError: set to more than 1 KiB, or to something that has no form in JSON or in CBOR.
            StaleContext: set when the room has fallen asleep or crashed since.
        """
        presence = presence_of(self.link.roster)
        encoded = b"" if presence is None else presence.value(self.link.sid)
        value: dict[str, Any] | None = decode_sent(encoded) if encoded else None
        return value

    @presence.setter
    def presence(self, value: Mapping[str, Any] | None) -> None:
        shared, link = self._shared, self.link
        encoded = encode_presence(shared.definition, value)
        self._check_life("no presence can be set")
        presence = presence_of(link.roster)
        if presence is not None:
            presence.set(link, encoded, shared.record)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was chosen for it, or None; see `Room`."""
        return subprotocol_of(self.link.flags, self._shared.definition.subprotocols)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that it is in."""
        return self.link.channels

    def join(self, channel: str) -> None:
        """Enter a channel of the room; nothing where it is in it already.

        Raises:
            TypeError, ValueError: no channel can have this name.
            StaleContext: the room has fallen asleep or crashed since.
        """
        text("channel", channel)
        self._check_life("no channel can be joined")
        link = self.link
        if channel not in link.channels:
            self._shared.touched(link)
            link.roster.join(link, channel)

    def leave(self, channel: str) -> None:
        """Leave a channel; nothing where it is not in it.

        Raises:
            TypeError, ValueError: no channel can have this name.
            StaleContext: the room has fallen asleep or crashed since.
        """
        text("channel", channel)
        self._check_life("no channel can be left")
        link = self.link
        if channel in link.channels:
            self._shared.touched(link)
            link.roster.leave(link, channel)

    def emit(
        self,
        event: str,
        data: Any = None,
        *,
        reliable: bool | None = None,
        unconfirmed: bool = False,
        volatile: bool = False,
        coalesce: str | None = None,
    ) -> None:
        """Send an event to this connection; nothing happens where it is closed, unless it is `reliable`.

        Args:
            event: its name.
            data: what it says.
            reliable: as `LiveRoom.emit`. A client that may come back to its session gets it then.
            unconfirmed: as `LiveRoom.emit`.
            volatile: drop it, if something that was sent before is still on its way, or nobody is there.
            coalesce: as `LiveRoom.emit`; the name alone counts here, whoever's message is handled.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the data cannot be encoded;
                nothing was sent.
        """
        shared, link = self._shared, self._link
        if shared.plain:
            shared.definition.refuse_events()
        flags = link.flags
        if (
            reliable is None
            and not (unconfirmed or volatile or flags & (CLOSING | GONE) or shared.definition.reliable)
            and coalesce is None
        ):
            # As below, for nearly all that is sent.
            frame = envelope.event_frame(event, data, binary=flags & BINARY == BINARY)
            shared.output.send_frame(link, frame)
            return
        output = shared.output
        if volatile or coalesce is not None:
            manner = manner_of(0.0, reliable, volatile=volatile, coalesce=coalesce)
            assert manner is not None
            out = shared.hub if unconfirmed else output
            out.send_in(self.link, envelope.event(event, data), manner)
            return
        if reliable or unconfirmed or link.session is not None:
            if unconfirmed and reliable:
                msg = "what is sent unconfirmed cannot be sent reliably"
                raise ValueError(msg)
            link = self.link
            if is_reliable(shared.definition, reliable) and not unconfirmed and link.session is not None:
                self._check_life("nothing can be sent reliably")
                here = [] if link.flags & (CLOSING | GONE) else [link]
                shared.emit(Body.of(event, data), Audience(sid=link.sid), here)
                return
            if unconfirmed:
                output = shared.hub
        output.send(link, envelope.event(event, data))

    def send(self, message: str | bytes) -> None:
        """Send a message as it is; only in plain rooms."""
        shared = self._shared
        if not shared.plain:
            shared.definition.refuse_messages()
        shared.output.send_frame(self._link, encode_message(message))

    async def drained(self) -> None:
        """Wait until all that was sent to this connection until now has been handed to the network.

        So that much can be sent in pieces to a client that reads: a piece, ``await drained()``, the
        next piece. Without it what waits is limited, see ``max_unsent`` of `open_rooms`. While a
        handler waits, the room's other mail does; a background task (`LiveRoom.start_soon`) keeps
        nobody waiting. How long it takes is the client's choice: ``trio.fail_after`` limits it.
        It is a checkpoint also where there is nothing to wait for, and may be cancelled.

        Raises:
            ConnectionGone: it is closing or gone, from the beginning or meanwhile.
        """
        if not await self._shared.output.drained(self.link):
            raise ConnectionGone(self._shared.key, self.id)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection after everything that was sent to it.

        Where what a handler does waits until it is durable, this does, too; what the client has sent is
        not handled any more from now on.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455, 7.4).
            reason: at most 123 bytes of UTF-8; the rest is cut off.

        Raises:
            TypeError, ValueError: no such code may be sent, or the reason is no string; nothing is closed.
        """
        self._shared.output.close(self.link, code, reason)

    def _check_life(self, what: str) -> None:
        """Refuse what the room's next life would not know of, or overwrite.

        Raises:
            StaleContext: the life of this view is over.
        """
        if self._encoded is _OVER:
            raise StaleContext(self._shared.key, what)

    def end(self) -> None:
        """The life of the room is over, and this view with it; the connection itself goes on."""
        self._attachment, self._encoded = _UNREAD, _OVER

    @property
    def editable(self) -> bool:
        """Whether somebody may have its attachment, and edit it in place."""
        return self._attachment is not _UNREAD and not isinstance(self._attachment, _UNCHANGING)

    def settle(self) -> None:
        """Keep an attachment that was edited in place.

        Raises:
            AttachmentError: it is too big or not CBOR-able; it is again what it was before.
        """
        try:
            encoded = encode_attachment(
                self._shared.key, self._attachment, self._shared.definition.attachment_limit
            )
        except AttachmentError:
            self._attachment = _UNREAD
            raise
        if encoded != self._encoded:
            link = self.link
            self._shared.touched(link)
            link.attachment = self._encoded = encoded


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

    Args:
        roster: the room's.
        links: those of the connections, which change as clients come and go.
        view: the one view on a link that all handlers share.
    """

    __slots__ = ("_links", "_roster", "_view")

    def __init__(self, roster: Roster, links: Mapping[int, Link], view: Callable[[Link], Connection]) -> None:
        self._roster = roster
        self._links = links
        self._view = view

    def __len__(self) -> int:
        return len(self._links) - (self._roster.ungreeted if self._links is self._roster.links else 0)

    def __iter__(self) -> Iterator[Connection]:
        return iter([self._view(link) for link in self._links.values() if not link.flags & UNGREETED])

    def __contains__(self, item: object) -> bool:
        return isinstance(item, Connection) and self.get(item.id) is item

    def get(self, id: str) -> Connection | None:  # noqa: A002 (it is what a connection calls it)
        """The connection with this id; None where there is none, or it is no id at all."""
        try:
            link = self._roster.link_of(int(id, 16))
        except (TypeError, ValueError):
            return None
        if link is None or link.flags & UNGREETED or format(link.sid, "x") != id:
            return None
        return self._view(link) if self._links.get(link.id) is link else None
