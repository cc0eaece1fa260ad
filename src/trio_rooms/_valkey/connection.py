"""One connection to a server that speaks RESP3: calls, answers, pushes."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Self, TypeAlias

import attrs
import hiredis
import trio

from trio_rooms.errors import EngineError, EngineLost

from .address import Address, Node, name
from .greeting import greet
from .protocol import AWAY, MORE, Argument, ServerError, pack, parser
from .waiters import Callback, Durable, Subscriber, Task

__all__ = ["Connection"]

_LOG: Final = logging.getLogger("trio_rooms")
_Entry: TypeAlias = Task | Callback | Durable | Subscriber | Literal["WAIT"] | None
"""Who waits: WAIT for replicas, and None where nobody wants to know."""
_RECEIVE: Final = 65_536
"""Bytes read at once."""
_MOST_UNSENT: Final = 16 * 2**20
"""Bytes of commands that are not sent yet; who has more to say waits."""
_MOST_WAITING: Final = 65_536
"""Commands that are not answered yet; who has another waits."""
_MOST_REPLY: Final = 64 * 2**20
"""Bytes of one answer, above which the connection is given up. Nothing that is asked for is as large."""
_LOOKS: Final = 4
"""How often the silence of the server is looked at within the time that it may last."""


@attrs.define(eq=False)
class Connection:
    """A connection that was greeted. `run` has to run for as long as it is used.

    What tasks have to say in one round of the event loop is sent in one piece. A call that is cancelled
    may have been done or not. A connection that breaks is over: every call that waits raises `EngineLost`,
    and nothing is ever sent twice.
    """

    node: Node
    """Where it goes to."""
    greeting: Mapping[bytes, Any]
    """What the server said of itself: ``server``, ``version``, ``mode``, ``role``."""
    silence: float
    """Seconds that the server may leave unanswered what it was asked: then the connection is lost, after
    half of that at least. Where nobody asks anything it is pinged."""
    replicas: int
    """How many replicas have to have what a durable call has written."""
    patience: float
    """Seconds that they have for it."""
    _stream: trio.abc.Stream
    _reader: hiredis.Reader
    _on_push: Callable[[list[Any]], None] | None
    _scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _out: list[bytes] = attrs.field(init=False, factory=list)
    _unsent: int = attrs.field(init=False, default=0)
    _later: deque[tuple[tuple[Argument, ...], _Entry]] = attrs.field(init=False, factory=deque)
    """What there was no room for yet; each is held by whoever says it."""
    _waiting: deque[_Entry] = attrs.field(init=False, factory=deque)
    """Whoever is answered next is first."""
    _unsafe: bool = attrs.field(init=False, default=False)
    """Whether something durable is not followed by a WAIT yet."""
    _replicating: bool = attrs.field(init=False, default=False)
    """Whether a WAIT is under way. The next follows when it is answered, for all that was said meanwhile."""
    _answered: list[tuple[Task | Callback, Any]] = attrs.field(init=False, factory=list)
    """What the next WAIT is about, with the answers."""
    _kick: trio.Event = attrs.field(init=False, factory=trio.Event)
    _lost: str = attrs.field(init=False, default="")
    _complained: bool = attrs.field(init=False, default=False)
    _heard: bool = attrs.field(init=False, default=False)

    @classmethod
    async def open(
        cls,
        address: Address,
        node: Node | None = None,
        *,
        client: str = "trio-rooms",
        on_push: Callable[[list[Any]], None] | None = None,
        silence: float = 5.0,
        replicas: int = 0,
        patience: float = 1.0,
        timeout: float = 5.0,  # noqa: ASYNC109 (that it was one is told)
        sentinel: bool = False,
    ) -> Self:
        """Connect and be greeted. A cancellation leaves nothing behind.

        Args:
            address: who to be, and how to speak.
            node: where to go; the only node of the address where None.
            client: what the server shows of this connection in its list, without spaces.
            on_push: called with what the server sends unasked, such as ``[b"message", channel, data]``.
            silence: see `Connection`.
            replicas: see `Connection`.
            patience: see `Connection`.
            timeout: seconds for a connection to be made and greeted.
            sentinel: whether a Sentinel is meant.

        Raises:
            EngineLost: nobody is there, or nobody who can be written now.
            EngineError: somebody else is there, or does not let us in.
        """
        node = node or address.nodes[0]
        context = await _context(address) if address.tls else None
        stream: trio.abc.Stream | None = None
        try:
            with trio.fail_after(timeout):
                stream = await trio.open_tcp_stream(*node)
                if context is not None:
                    stream = trio.SSLStream(stream, context, server_hostname=node[0], https_compatible=True)
                    await stream.do_handshake()
                reader = parser()
                greeting = await greet(stream, reader, address, node, client, sentinel=sentinel)
        except BaseException as error:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            text = f"the engine at {name(node)} cannot be reached"
            match error:
                case trio.TooSlowError():
                    hint = " (does it speak TLS?)" if context is not None else ""
                    raise EngineLost(f"{text}: it did not answer within {timeout:g} s{hint}") from None
                case trio.BrokenResourceError() if (cause := _tls(error)) is not None:
                    raise EngineError(f"TLS to {name(node)} failed: {cause}") from error
                case OSError() | trio.BrokenResourceError() | trio.ClosedResourceError():
                    raise EngineLost(f"{text}: {_plain(error)}") from error
                case hiredis.HiredisError():
                    raise EngineError(f"what answers at {name(node)} is no engine: {error}") from error
            raise
        return cls(
            node=node,
            greeting=greeting,
            silence=silence,
            replicas=replicas,
            patience=patience,
            stream=stream,
            reader=reader,
            on_push=on_push,
        )

    @property
    def lost(self) -> bool:
        """Whether it is over."""
        return bool(self._lost)

    @property
    def why(self) -> str:
        """Why it is over; empty while it is not."""
        return self._lost

    @property
    def unsent(self) -> int:
        """Bytes that are to be sent with the next piece, or were not taken by the system yet."""
        return self._unsent

    async def run(self) -> None:
        """Send and receive until the connection is lost, or until cancelled, after which it is lost, too."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    await self._read()
        finally:
            self.lose("it was closed")
            await trio.aclose_forcefully(self._stream)

    def lose(self, why: str) -> None:
        """It is over: whoever waits is told, and `run` returns."""
        if self._lost:
            return
        self._lost = f"the connection to the engine at {name(self.node)} is lost: {why}"
        self._scope.cancel()
        self._out.clear()
        told = [
            *self._waiting,
            *(waiter for waiter, _ in self._answered),
            *(entry for _, entry in self._later),
        ]
        self._waiting.clear()
        self._answered.clear()
        self._later.clear()
        for entry in told:
            _settle(entry, EngineLost(self._lost))

    async def call(self, *command: Argument, durable: bool = False) -> Any:
        """Say a command, and wait for the answer. Cancelled, it may have been done or not.

        Args:
            command: its words.
            durable: whether the replicas have to have what it has written, too.

        Returns:
            The answer: bytes, int, float, bool, None, or a list or a dict of these. A list may hold errors
            as `ServerError`.

        Raises:
            ServerError: the server refuses it.
            EngineLost: the connection is lost, or the server is not to be written now; whether it has
                happened is not known.
        """
        if self._lost:
            await trio.lowlevel.checkpoint()
        waiter = Task()
        self._say(command, Durable(waiter) if durable and self.replicas else waiter)
        return await waiter.answer()

    def submit(
        self, command: Sequence[Argument], done: Callable[[Any], None], *, durable: bool = False
    ) -> None:
        """Say a command, as `call` does, and have a function called with what that returns or raises.

        It is called once, later, where the answer is read, and may not raise.

        Raises:
            EngineLost: the connection is lost: it is not said, and nobody is called.
        """
        waiter = Callback(done)
        self._say(tuple(command), Durable(waiter) if durable and self.replicas else waiter)

    def post(self, *command: Argument) -> None:
        """Say a command without waiting, nor caring, for the answer.

        Raises:
            EngineLost: the connection is lost, or too much is on its way already: it is not said.
        """
        if not self._lost and (self._later or self._is_full()):
            raise EngineLost(f"the engine at {name(self.node)} is too slow: too much is waiting for it")
        self._say(command, None)

    async def subscribe(self, *channels: bytes | str) -> None:
        """Be sent what is published there from now on. Cancelled, it may be subscribed or not.

        Raises:
            ServerError: the server refuses it.
            EngineLost: the connection is lost.
        """
        if self._lost:
            await trio.lowlevel.checkpoint()
        waiter = Task()
        # Such a command has no answer, unless an error is one: what follows it has one in any case.
        echo = secrets.token_hex(8).encode()
        self._say(("SUBSCRIBE", *channels), Subscriber(waiter, echo))
        await waiter.answer()

    def _is_full(self) -> bool:
        return self._unsent >= _MOST_UNSENT or len(self._waiting) >= _MOST_WAITING

    def _say(self, command: tuple[Argument, ...], entry: _Entry) -> None:
        if self._lost:
            raise EngineLost(self._lost)
        if self._later or self._is_full():
            self._later.append((command, entry))
        else:
            self._put(pack(command), entry)

    def _put(self, packed: bytes, entry: _Entry) -> None:
        if isinstance(entry, Subscriber):
            packed += pack(("PING", entry.echo))
        elif isinstance(entry, Durable):
            self._unsafe = True
        self._out.append(packed)
        self._unsent += len(packed)
        self._waiting.append(entry)
        self._kick.set()

    def _make_room(self) -> None:
        """Say what there was no room for, in order, unless nobody wants to know any more."""
        later = self._later
        while later and not self._is_full():
            command, entry = later.popleft()
            if isinstance(entry, Task) and entry.gone:
                continue
            try:
                packed = pack(command)
            except (TypeError, ValueError) as error:
                _settle(entry, error)
            else:
                self._put(packed, entry)

    async def _write(self) -> None:
        stream = self._stream
        while True:
            if not self._out and (self._replicating or not self._unsafe):
                self._kick = trio.Event()
                await self._kick.wait()
            # Every task that is ready says what it has to say first: one piece for all of them.
            await trio.lowlevel.checkpoint()
            out, self._out = self._out, []
            if self._unsafe and not self._replicating:
                self._unsafe = False
                self._replicating = True
                # Its answer is about all that this connection has written before.
                out.append(pack(("WAIT", self.replicas, int(self.patience * 1000))))
                self._unsent += len(out[-1])
                self._waiting.append("WAIT")
            piece = out[0] if len(out) == 1 else b"".join(out)
            del out
            try:
                await stream.send_all(piece)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.lose(_plain(error))
                return
            self._unsent -= len(piece)
            if self._later:
                self._make_room()

    async def _read(self) -> None:
        stream, reader, gets, waiting = self._stream, self._reader, self._reader.gets, self._waiting
        size = 0
        while True:
            try:
                received = await stream.receive_some(_RECEIVE)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.lose(_plain(error))
                return
            if not received:
                self.lose("it closed it")
                return
            self._heard = True
            reader.feed(received)  # type: ignore[arg-type] # (it takes a bytearray, too)
            size += len(received)
            try:
                while (reply := gets()) is not MORE:
                    size = 0
                    if reply.__class__ is hiredis.PushNotification:
                        self._push(reply)
                        continue
                    if not waiting:
                        self.lose("it answers what nobody asked")
                        return
                    entry = waiting.popleft()
                    kind = entry.__class__
                    if (kind is Task or kind is Callback) and reply.__class__ is not ServerError:
                        entry.settle(reply)  # type: ignore[union-attr]
                    elif entry is not None or reply.__class__ is ServerError:
                        self._answer(entry, reply)

            except hiredis.ProtocolError as error:
                self.lose(f"it does not speak RESP3: {error}")
                return
            if size > _MOST_REPLY:
                self.lose(f"its answer has more than {_MOST_REPLY >> 20} MiB")
                return
            if self._later:
                self._make_room()

    def _push(self, message: list[Any]) -> None:
        if self._on_push is None:
            return
        try:
            self._on_push(message)
        except Exception:  # noqa: BLE001 (whoever it is that fails, the others are told)
            _LOG.exception("a message of the engine could not be handled")

    def _answer(self, entry: _Entry, reply: Any) -> None:
        """What is not an ordinary answer for somebody who waits for nothing else."""
        if isinstance(reply, ServerError) and reply.code in AWAY:
            self._waiting.appendleft(entry)
            self.lose(f"it is not to be written now: {reply}")
            return
        match entry:
            case Subscriber() if reply != entry.echo:
                entry.refused = reply
                self._waiting.appendleft(entry)
            case Subscriber():
                entry.whom.settle(entry.refused)
            case Durable() if not isinstance(reply, Exception):
                self._answered.append((entry.whom, reply))
            case "WAIT":
                self._replicated(reply)
            case None:
                if not self._complained:
                    self._complained = True
                    _LOG.warning("the engine refuses what it was told, and perhaps more of it: %s", reply)
            case _:
                _settle(entry, reply)

    def _replicated(self, count: Any) -> None:
        if not isinstance(count, int) or count < self.replicas:
            self.lose(f"given up, since {count} of {self.replicas} replicas had in time what was written")
            return
        self._replicating = False
        if self._unsafe:
            self._kick.set()
        answered, self._answered = self._answered, []
        for waiter, reply in answered:
            waiter.settle(reply)

    async def _watch(self) -> None:
        """Notice a server that does not answer, and ask one that has nothing to say."""
        missed = 0
        while missed < _LOOKS - 1:
            self._heard = False
            await trio.sleep(self.silence / _LOOKS)
            if self._heard:
                missed = 0
            elif self._waiting:
                missed += 1
            else:
                self.post("PING")
        self.lose(f"it has not answered for {self.silence * missed / _LOOKS:g} s")


async def _context(address: Address) -> ssl.SSLContext | None:
    """What TLS is spoken with. Files are read each time: certificates are renewed while programs run."""
    try:
        return await trio.to_thread.run_sync(address.context)
    except (OSError, ValueError) as error:
        raise EngineError(f"TLS to {address}: a certificate cannot be loaded: {error}") from error


def _settle(entry: _Entry, reply: Any) -> None:
    """Tell whoever waits there."""
    match entry:
        case Durable() | Subscriber():
            entry.whom.settle(reply)
        case Task() | Callback():
            entry.settle(reply)


def _tls(error: BaseException) -> ssl.SSLError | None:
    """What TLS says, if that is what broke a connection that was being made."""
    cause = error.__cause__
    return cause if isinstance(cause, ssl.SSLError) else None


def _plain(error: BaseException) -> str:
    """What the system says, in words."""
    cause: BaseException = error
    while not (isinstance(cause, OSError) and cause.errno):
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif cause.__cause__ is not None:
            cause = cause.__cause__
        else:
            return str(cause) or "it closed it"
    if isinstance(cause, ssl.SSLError | socket.gaierror):  # These have numbers of their own.
        return cause.strerror or str(cause)
    return os.strerror(cause.errno).lower()
