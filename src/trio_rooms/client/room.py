"""A room as its client sees it, and how to connect to it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, overload

import attrs
import trio

from trio_rooms._arguments import number, text, whole
from trio_rooms._loop.groups import first_error

from .address import Address
from .errors import EventsNotTaken
from .events import Event, converted
from .headers import bearer, checked
from .outbox import WINDOW, Message
from .session import Session, Settings, Token
from .states import State, StateChanges
from .users import Entries

__all__ = ["ClientStatistics", "RemoteRoom", "connect_room"]

T = TypeVar("T")

_LONGEST_NAME: Final = 256
"""Characters that the name of an event or a channel may have."""


@attrs.frozen
class ClientStatistics:
    """What a client holds, at a moment."""

    connects: int
    """Connections that were opened, the present one included."""
    events: int
    """Events that have come and were not taken."""
    unanswered: int
    """Messages that were sent and are not answered."""
    unsent: int
    """Messages that were not sent yet."""


class RemoteRoom:
    """A room, as seen by one client. Made by `connect_room`.

    ``async for event in room`` gives each event once, and in order, over all connections. Several tasks
    may iterate; each event goes to one of them. It ends when the block of `connect_room` does.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<RemoteRoom {self.url} {self.state}>"

    @property
    def url(self) -> str:
        """The address that it was connected with."""
        return self._session._settings.address.url

    @property
    def id(self) -> str:
        """What the room knows this client by, the same over reconnects; another after ``rooms.reset``."""
        return self._session.id

    @property
    def state(self) -> State:
        """Where the client is."""
        return self._session.state.now

    def states(self) -> StateChanges:
        """The state, and each change of it, to iterate over; the last is `State.CLOSED`."""
        return StateChanges(self._session.state)

    @property
    def users(self) -> Mapping[str, Entries]:
        """Who is here, by name, with an entry for each of their connections; a view that changes.

        It is what the events ``rooms.presence`` say that have come, also those that nobody has taken
        yet. Empty in a room without presence, and after ``rooms.reset`` until the whole has come again;
        while there is no connection it is what it was last. Copy it before you await while you iterate.
        """
        return MappingProxyType(self._session.users)

    def statistics(self) -> ClientStatistics:
        """What the client holds now."""
        session = self._session
        return ClientStatistics(
            session.connects, len(session.inbox), session.outbox.unanswered, session.outbox.unsent
        )

    # Up.

    @overload
    async def ask(
        self, event: str, data: Any = None, *, channel: str | None = None, result: None = None
    ) -> Any: ...

    @overload
    async def ask(
        self, event: str, data: Any = None, *, channel: str | None = None, result: type[T]
    ) -> T: ...

    @overload
    async def ask(self, event: str, data: Any = None, *, channel: str | None = None, result: Any) -> Any: ...

    async def ask(
        self, event: str, data: Any = None, *, channel: str | None = None, result: Any = None
    ) -> Any:
        """Send an event, and wait for what its handler returns.

        It waits for as long as it takes, over reconnects: the message is sent again, under its number,
        by which the room knows it. While too many messages wait for their answers it waits for room first.

        Cancelled, it takes the message back if that was never sent. Else the room may handle it, and the
        answer is dropped when it comes.

        Args:
            event: its name, 1 to 256 characters.
            data: what JSON or CBOR can hold; attrs classes and dataclasses become maps.
            channel: the channel that it names.
            result: what to make of the answer, as `Event.convert` does; without it the answer is as it came.

        Raises:
            AskFailed: the room answered with an error.
            AnswerLost: the session was lost; it may have been applied, or not.
            EventsNotTaken: more events are before the answer than may wait, and nobody takes them.
            ConnectionEnded: the server will not have this client any more.
            UnexpectedData: the answer is not such a result. It was applied.
            ClientClosed: the block has ended, or did meanwhile.
            TypeError, ValueError: no such name, or the data has no form.
        """
        message = Message(event, self._body(event, data, channel), asked=True)
        session, outbox = self._session, self._session.outbox
        with trio.CancelScope() as scope:
            session.asking.add(scope)
            session.inbox.look()
            try:
                await outbox.admit(message)
                await message.settled.wait()
            except trio.Cancelled:
                outbox.abandon(message)
                raise
            finally:
                session.asking.discard(scope)
        if scope.cancelled_caught:
            raise EventsNotTaken(event, len(session.inbox), applied=False if message.id is None else None)
        if message.error is not None:
            raise message.error
        if result is None:
            return message.data
        return converted(message.data, result, f"the answer to {event!r}", applied=True)

    def emit(self, event: str, data: Any = None, *, channel: str | None = None) -> None:
        """Send an event, and want no answer.

        It is sent when its turn comes, at most once: while there is no connection it waits, and what was
        on its way when a connection broke is not sent again. What the room does not want of it is logged.
        To know what became of an event, `ask`.

        Args:
            event: its name, 1 to 256 characters.
            data: what JSON or CBOR can hold.
            channel: the channel that it names.

        Raises:
            TooMuchWaiting: as much waits as may; it was not taken. See `flush`.
            ConnectionEnded: the server will not have this client any more.
            ClientClosed: the block has ended.
            TypeError, ValueError: no such name, or the data has no form.
        """
        self._session.outbox.add(Message(event, self._body(event, data, channel), asked=False))

    async def flush(self) -> None:
        """Wait until all that was given so far has been handed to the system's network.

        That holds back who emits faster than the network takes it. It says nothing about arrival.

        Raises:
            ConnectionEnded: the server will not have this client any more.
            ClientClosed: the block has ended, or did meanwhile.
        """
        await self._session.outbox.flush()

    def _body(self, event: str, data: Any, channel: str | None) -> bytes:
        for what, name in (("the name of an event", event), ("the name of a channel", channel)):
            if name is not None and not len(text(what, name)) <= _LONGEST_NAME:
                raise ValueError(f"{what} has at most {_LONGEST_NAME} characters, not {len(name)}")
        if not event:
            raise ValueError("an event needs a name")
        return self._session.codec.body(event, data, channel)

    # Down.

    def __aiter__(self) -> RemoteRoom:
        return self

    async def __anext__(self) -> Event:
        if not self._session._settings.events:
            raise TypeError("this client was connected with events=False: it keeps no events")
        return await self._session.inbox.take()


def connect_room(
    url: str,
    *,
    protocol: Literal["json", "cbor"] = "json",
    headers: Mapping[str, str] | None = None,
    token: Token | None = None,
    ssl_context: ssl.SSLContext | None = None,
    open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
    open_within: float = 10,
    attempt_timeout: float = 10,
    first_delay: float = 0.5,
    max_delay: float = 30,
    ping_interval: float = 20,
    ping_timeout: float = 10,
    close_timeout: float = 5,
    events: bool = True,
    max_events: int = 1000,
    max_event_bytes: int = 4 * 1024 * 1024,
    max_unanswered: int = WINDOW,
    max_unanswered_bytes: int = 4 * 1024 * 1024,
    max_message_size: int = 16 * 1024 * 1024,
) -> AbstractAsyncContextManager[RemoteRoom]:
    """Connect to a room, for as long as an ``async with`` block lasts.

    ``async with connect_room("ws://127.0.0.1:8000/chat/lobby") as room: await room.ask("say", "Hello!")``

    The block is entered when the server has said welcome. A connection that is lost later is made
    again, for as long as the block lasts: after a random time up to ``first_delay``, then up to twice
    that, and so on up to ``max_delay``. At the end of the block what was emitted is sent, what has come is
    acknowledged, and the connection is closed, within ``close_timeout``; a block that is cancelled ends
    at once. No task outlives it.

    Args:
        url: ``ws://HOST[:PORT]/ROOM/ID``, or ``wss://``.
        protocol: ``"json"``, or ``"cbor"``, which carries bytes as they are.
        headers: of each request, by name.
        token: who this is, sent as ``Authorization: Bearer``: a string, or an async function that is
            asked at each connect. An `OSError` of it, or `trio.TooSlowError`, is a connect that failed;
            whatever else it raises comes out of the block.
        ssl_context: for ``wss://``; the system's certificates without it.
        open_stream: an async function that is called at each connect in the place of TCP and TLS: for
            Unix sockets, proxies, and memory streams in tests. An `OSError` of it is a connect that failed.
        open_within: seconds in which attempts are made at the first connect; 0 for a single one,
            `math.inf` for as many as it takes.
        attempt_timeout: seconds of one attempt: token, TCP, TLS, handshake and welcome.
        first_delay: seconds that the first wait between attempts takes at most.
        max_delay: seconds that any such wait takes at most.
        ping_interval: seconds of silence after which the server is asked for a sign of life;
            `math.inf` for never.
        ping_timeout: seconds that it has to give one, or the connection is given up.
        close_timeout: seconds that the end of the block takes at most.
        events: whether events are kept for iteration. With False they are acknowledged and thrown away,
            for a client that only asks.
        max_events: events that may wait to be taken. While as many wait nothing is read; for the answer to
            who asks up to four times as many are.
        max_event_bytes: bytes of their messages that may wait, in the same way.
        max_unanswered: messages that may wait to be sent or answered, 1 to 1000.
        max_unanswered_bytes: bytes of these.
        max_message_size: the longest message that is taken from the server, in bytes.

    Raises:
        ConnectionEnded: the first connect was refused for good.
        Unreachable: it was not made in time.
        TypeError, ValueError: an argument does not fit; at the call.
    """
    address = Address.of(url)
    if protocol not in ("json", "cbor"):
        raise ValueError(f'protocol is "json" or "cbor", not {protocol!r:.100}')
    if ssl_context is not None and not address.secure:
        raise ValueError("ssl_context is for wss://, and this is ws://")
    sent = checked(headers or {})
    if token is not None:
        if not callable(token):
            bearer(token)
        if any(name.lower() == "authorization" for name in sent):
            raise ValueError("there is a token and a header Authorization, and only one can be sent")
    if whole("max_unanswered", max_unanswered, least=1) > WINDOW:
        raise ValueError(
            f"max_unanswered is at most {WINDOW}, which is what servers take, not {max_unanswered}"
        )
    return _connected(
        Settings(
            address=address,
            protocol=protocol,
            headers=sent,
            token=token,
            ssl_context=ssl_context,
            open_stream=open_stream,
            open_within=number("open_within", open_within),
            attempt_timeout=_seconds("attempt_timeout", attempt_timeout),
            first_delay=_seconds("first_delay", first_delay),
            max_delay=_seconds("max_delay", max_delay),
            ping_interval=_seconds("ping_interval", ping_interval),
            ping_timeout=_seconds("ping_timeout", ping_timeout),
            close_timeout=number("close_timeout", close_timeout),
            events=events,
            max_events=whole("max_events", max_events, least=1),
            max_event_bytes=whole("max_event_bytes", max_event_bytes, least=1),
            max_unanswered=max_unanswered,
            max_unanswered_bytes=whole("max_unanswered_bytes", max_unanswered_bytes, least=1),
            max_message_size=whole("max_message_size", max_message_size, least=1),
        )
    )


def _seconds(what: str, value: float) -> float:
    """A time that is not nothing: without it, what has to wait would not."""
    if not number(what, value) > 0:
        raise ValueError(f"{what} is more than 0 seconds; math.inf is for ever")
    return float(value)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[RemoteRoom]:
    session = Session(settings)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(session.run)
            failed = False
            try:
                yield RemoteRoom(session)
            except BaseException:
                failed = True
                raise
            finally:
                session.close()
                try:
                    with trio.move_on_after(settings.close_timeout):
                        await session.finished.wait()
                except trio.Cancelled:
                    if not failed:
                        raise
                finally:
                    nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery's own group is no business of the program's; a group that the block raised is.
        error = group.exceptions[0] if len(group.exceptions) == 1 else first_error(group)
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context
            del error, context
    finally:
        session.closed()
