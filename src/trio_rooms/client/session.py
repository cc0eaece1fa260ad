"""One client's life: connections one after the other, and what goes up and comes down over them."""

from __future__ import annotations

import logging
import math
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NoReturn

import attrs
import trio

from trio_rooms._wire.close_codes import CloseCode

from .acks import Acks
from .address import Address
from .backoff import Backoff
from .codec import Codec
from .errors import FORGOTTEN, AnswerLost, AskFailed, ClientClosed, ClientError, ConnectionEnded, Unreachable
from .events import Event
from .headers import bearer
from .inbox import Inbox
from .link import Link, Wire, run_link
from .outbox import Outbox
from .states import State, Watched
from .users import PRESENCE, Entries, attend
from .verdicts import TAKEN, TOKEN_EXPIRED, Ending, LinkEnded, LinkLost

__all__ = ["Session", "Settings", "Token"]

logger: Final = logging.getLogger("trio_rooms.client")

Token = str | Callable[[], Awaitable[str]]
"""Who this is: a token, or what is asked for one at each connect."""

_AGAIN: Final = ("unavailable", "too_many_in_flight")
"""What answers nothing: the server waits for the same id again, and takes no later one before."""
_GHOST: Final = 60.0
"""Seconds for which an attempt may still arrive that was given up: something on the way holds its bytes."""


@attrs.frozen
class Settings:
    """What `connect_room` was given."""

    address: Address
    protocol: str
    headers: Mapping[str, str]
    token: Token | None
    ssl_context: ssl.SSLContext | None
    open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None
    open_within: float
    attempt_timeout: float
    first_delay: float
    max_delay: float
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    events: bool
    max_events: int
    max_event_bytes: int
    max_unanswered: int
    max_unanswered_bytes: int
    max_message_size: int


class Session:
    """A client's session with a room, over as many connections as it takes; a new one, where it is lost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.codec: Codec = Codec(binary=settings.protocol == "cbor")
        self.state: Watched = Watched()
        self.outbox: Outbox = Outbox(
            self.codec,
            settings.max_unanswered,
            settings.max_unanswered_bytes,
            Backoff(settings.first_delay, settings.max_delay),
        )
        self.inbox: Inbox = Inbox(settings.max_events, settings.max_event_bytes, keep=settings.events)
        self.asking: set[trio.CancelScope] = set()
        """Of those who wait for an answer; cancelled where it is behind events that nobody takes."""
        self.id: str = ""
        self.users: dict[str, Entries] = {}
        """Who is here, as far as the server has told."""
        self.connects: int = 0
        self._acks: Acks | None = None
        self._backoff = Backoff(settings.first_delay, settings.max_delay)
        self._token: str | None = None
        """What resumes the session; None where there is nothing to resume."""
        self._ghosts: deque[float] = deque(maxlen=100)
        """Until when attempts to resume it may arrive that were given up, and take it from a later one."""
        self._ssl_context = settings.ssl_context
        self._closing = trio.Event()
        self._scope = trio.CancelScope()
        self._is_open = False
        self.finished: trio.Event = trio.Event()

    # From the beginning to the end.

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Live; for a nursery's ``start``, which returns when the first server has said welcome.

        Raises:
            ConnectionEnded: the first connect was refused for good.
            Unreachable: it was not made in time.
            Exception: what the functions raised that were given for the token and the stream.
        """
        give_up = trio.current_time() + self._settings.open_within
        attempts = 0
        try:
            with self._scope:
                while not self._closing.is_set() or self.outbox.unsent:
                    began = trio.current_time()
                    attempts += 1
                    try:
                        await self._connect(task_status)
                    except LinkEnded as ended:
                        if self._closing.is_set():
                            break
                        self._end(ended.ending)
                        if not self.connects:
                            raise self._ended(ended.ending, applied=False) from None
                        break
                    except LinkLost as lost:
                        if trio.current_time() - began > self._backoff.ceiling and self._is_open:
                            self._backoff.reset()
                        wait = lost.retry_after + self._backoff.next()
                        if not self.connects and trio.current_time() + wait > give_up:
                            raise Unreachable(self._settings.address.url, attempts, lost.why) from lost
                        await self._pause(wait, lost.why)
        finally:
            self._is_open = False
            self.finished.set()

    def close(self) -> None:
        """The program is done: take nothing more, send what was given, acknowledge, close, end."""
        self._closing.set()
        if self.outbox.over is None:
            self._fail_all(ClientClosed)
            self.inbox.end(StopAsyncIteration, clear=True)
        self.outbox.filled.set()
        if not self._is_open and not self.outbox.unsent:
            self._scope.cancel()

    def closed(self) -> None:
        """It has ended."""
        if self.outbox.unwritten:
            logger.warning(
                "%s: the client ended before it could send all that was emitted; %d events were not",
                self._settings.address.url,
                self.outbox.unwritten,
            )
        self.state.become(State.CLOSED)

    async def _pause(self, wait: float, why: str) -> None:
        """Wait until the next attempt."""
        if self.connects:
            self.state.become(State.RECONNECTING)
        self._is_open = False
        if self._closing.is_set() and not self.outbox.unsent:
            return
        logger.info("%s: %s; the next attempt is in %.2f s", self._settings.address.url, why, wait)
        await trio.sleep(wait)

    # The end for good.

    def _end(self, ending: Ending) -> None:
        """The server will not have this client any more."""
        self._is_open = False
        self._fail_all(lambda applied: self._ended(ending, applied=applied))
        self.inbox.end(lambda: self._ended(ending, applied=None))
        self.state.become(State.CLOSED)

    def _fail_all(self, error: Callable[[bool | None], ClientError]) -> None:
        """Tell all who wait for an answer, and who will, that there will be none."""
        self.outbox.over = lambda: error(False)
        for message in self.outbox.clear():
            message.settle(error=error(False if message.id is None else None))

    @staticmethod
    def _ended(ending: Ending, *, applied: bool | None) -> ConnectionEnded:
        return ConnectionEnded(ending.status, ending.code, ending.reason, applied)

    # One connection.

    async def _connect(self, task_status: trio.TaskStatus[None]) -> NoReturn:
        """Open a connection, and use it until its end.

        Raises:
            LinkLost, LinkEnded: that was it.
        """
        settings = self._settings
        why: LinkLost | LinkEnded = LinkLost(f"nothing came of it within {settings.attempt_timeout:g} s")
        with trio.CancelScope(deadline=trio.current_time() + settings.attempt_timeout) as attempt:
            headers = await self._headers()
            wire = Wire(await self._open_stream())
            try:
                async with trio.open_nursery() as nursery:
                    try:
                        link = await nursery.start(
                            partial(
                                run_link,
                                wire,
                                settings.address.header,
                                settings.address.target(self._token, self._acks.seq if self._acks else 0),
                                headers,
                                f"trio-rooms.v1.{settings.protocol}",
                                settings.max_message_size,
                            )
                        )
                        await self._welcome(link)
                        attempt.deadline = math.inf
                        self._opened()
                        if self.connects == 1:
                            task_status.started()
                        nursery.start_soon(self._write, link)
                        if settings.ping_interval != math.inf:
                            nursery.start_soon(link.watch, settings.ping_interval, settings.ping_timeout)
                        await self._read(link)
                    except (LinkLost, LinkEnded) as error:
                        why = error
                    nursery.cancel_scope.cancel()
            finally:
                await trio.aclose_forcefully(wire)
        was_welcome = attempt.deadline == math.inf
        if not was_welcome and self._token is not None and isinstance(why, LinkLost) and not why.answered:
            self._ghosts.append(trio.current_time() + _GHOST)
        raise self._second_thoughts(why)

    def _second_thoughts(self, why: LinkLost | LinkEnded) -> LinkLost | LinkEnded:
        """What ended a connection for good, unless this side knows better."""
        if isinstance(why, LinkLost):
            return why
        if why.ending.code == TOKEN_EXPIRED and callable(self._settings.token):
            return LinkLost("the token has expired")  # There is another one to be had.
        while self._ghosts and self._ghosts[0] < trio.current_time():
            self._ghosts.popleft()
        if why.ending.code == TAKEN and self._ghosts:
            self._ghosts.popleft()
            return LinkLost("an attempt that was given up has arrived after all, and took the session")
        return why

    async def _headers(self) -> list[tuple[bytes, bytes]]:
        """What is sent with the request."""
        headers = dict(self._settings.headers)
        token = self._settings.token
        if token is not None:
            try:
                given = token if isinstance(token, str) else await token()
            except (OSError, trio.TooSlowError) as error:
                raise LinkLost(f"there was no token: {error!r}") from error
            headers["Authorization"] = bearer(given)
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    async def _open_stream(self) -> trio.abc.Stream:
        """A stream to the server."""
        settings = self._settings
        address = settings.address
        try:
            if settings.open_stream is not None:
                return await settings.open_stream()
            stream = await trio.open_tcp_stream(address.host, address.port)
        except (OSError, trio.BrokenResourceError) as error:
            raise LinkLost(f"no connection: {error}") from error
        if not address.secure:
            return stream
        if self._ssl_context is None:  # It takes a while to read the system's certificates.
            self._ssl_context = ssl.create_default_context()
        secured = trio.SSLStream(
            stream, self._ssl_context, server_hostname=address.host, https_compatible=True
        )
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise LinkEnded(Ending(None, None, str(error.__cause__))) from error
            raise LinkLost(f"no TLS: {error.__cause__ or error}") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secured

    async def _welcome(self, link: Link) -> None:
        """Take the first message, and see whether the session goes on."""
        if link.subprotocol is None:
            raise self._breach(
                f"it has not chosen trio-rooms.v1.{self._settings.protocol}: is the room a plain one?"
            )
        message = await link.receive()
        content = self._content(message)
        data = content.get("data")
        if content.get("event") != "rooms.welcome" or not isinstance(data, dict):
            raise self._breach("its first message is no welcome")
        token, seq = data.get("resume"), data.get("seq", 0)
        if not isinstance(token, str | None) or type(seq) is not int:
            raise self._breach("its welcome is not as the protocol has it")
        if self.connects and data.get("resumed") is True:
            self.outbox.resumed()
            return
        reason = data.get("reason") or "none"
        for message_ in self.outbox.restarted():
            message_.settle(error=AnswerLost(message_.event, str(reason)))
        if self.connects:
            self.users.clear()
            self.inbox.reset(str(reason))
        self.id = str(data.get("connection") or "")
        self._token = token
        self._acks = None if token is None else Acks(seq)

    def _opened(self) -> None:
        self.connects += 1
        self._is_open = True
        self.state.become(State.OPEN)

    # Down.

    async def _read(self, link: Link) -> NoReturn:
        """Take what comes, until the end of the connection."""
        while True:
            if self.inbox.is_full:
                await self._until_there_is_room()
            message = await link.receive()
            try:
                self._take(self._content(message), len(message))
            except (KeyError, TypeError, ValueError) as error:
                raise self._breach(f"its message is not as the protocol has it: {error!r}") from error

    async def _until_there_is_room(self) -> None:
        """Read nothing while the program has enough events to take, unless it waits for an answer."""
        inbox = self.inbox
        while inbox.is_full and not inbox.is_over:
            if self.asking:
                if not inbox.is_brimming:
                    return
                for scope in self.asking:
                    scope.cancel()  # Nobody takes what the answers are behind.
            await inbox.looked()

    def _take(self, content: dict[str, Any], size: int) -> None:
        """Take one message of the server."""
        name = content.get("event")
        if name is not None:
            self._take_event(name, content, size)
        elif "ack" in content:
            self._take_answer(content)
        elif "error" in content:
            error = content["error"]
            logger.warning(
                "%s: an event that was emitted failed: %s: %s",
                self._settings.address.url,
                error["code"],
                error["message"],
            )

    def _take_event(self, name: Any, content: dict[str, Any], size: int) -> None:
        seq = content.get("seq")
        if not isinstance(name, str) or not isinstance(seq, int | None):
            raise TypeError(name, seq)
        if seq is not None and self._acks is not None:
            if seq <= self._acks.seq:
                return  # It has come before.
            self._acks.seq = seq
            self._note()
        if name == PRESENCE:
            attend(self.users, content["data"])
        if name != "rooms.welcome":
            self.inbox.put(Event(name, content.get("data"), seq), size)

    def _take_answer(self, content: dict[str, Any]) -> None:
        number = content["ack"]
        event = self.outbox.event_of(number)
        if event is None:
            return  # It was answered before, and sent again meanwhile.
        error = content.get("error")
        if error is None and "data" in content:
            self.outbox.answer(number, content["data"])
        elif error is None:
            self.outbox.answer(number, error=AnswerLost(event, FORGOTTEN))
        elif error["code"] in _AGAIN:
            self.outbox.postpone(number, trio.current_time())
            return
        else:
            self.outbox.answer(number, error=AskFailed(error["code"], error["message"], event))
        self._note()

    def _note(self) -> None:
        """There is something to be acknowledged."""
        if self._acks is not None:
            self._acks.note(trio.current_time())
            self.outbox.filled.set()

    def _content(self, message: str | bytes) -> dict[str, Any]:
        try:
            return self.codec.read(message)
        except ValueError as error:
            raise self._breach(f"its message cannot be read: {error}") from error

    @staticmethod
    def _breach(what: str) -> LinkEnded:
        """The server does not speak the protocol: the next connection would go the same way."""
        return LinkEnded(Ending(None, CloseCode.PROTOCOL_ERROR, f"by this side, about the server: {what}"))

    # Up.

    async def _write(self, link: Link) -> None:
        """Send what is to be sent, until the connection ends. Nobody else sends: half a frame is not left."""
        outbox = self.outbox
        while True:
            now = trio.current_time()
            acks = self._acks
            if self._closing.is_set() and acks is not None:
                acks.hurry()
            message: str | bytes | None = None
            if acks is not None and acks.due <= now:
                acks.told()
                message = self.codec.ack(acks.seq, outbox.answered_up_to)
            elif outbox.held_until <= now:
                message = outbox.next()
            if message is not None:
                sent = await link.send(message)
                outbox.written()
                if not sent:
                    return
                continue
            if self._closing.is_set() and not outbox.unsent:
                await link.close()
                return
            outbox.filled = trio.Event()
            due = math.inf if acks is None else acks.due
            held = outbox.held_until if outbox.held_until > now else math.inf
            with trio.CancelScope(deadline=min(due, held)):
                await outbox.filled.wait()
