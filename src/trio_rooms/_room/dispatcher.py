"""What becomes of one piece of mail: the handler or hook that it goes to, and what its sender is told."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import CoroutineType
from typing import Any, Final, NamedTuple, NoReturn

from trio_rooms._definition.definition import Definition, EventHandler, Handler
from trio_rooms._definition.signatures import refuse_awaitable
from trio_rooms._loop.groups import alone
from trio_rooms._sockets.flags import DISMISSED, OVER, UNGREETED, UNREPORTED
from trio_rooms._sockets.roster import Connected, Disconnected, Dropped, Link, PassOn, Resumed
from trio_rooms._state.codec import decode_value
from trio_rooms._state.rows import half_of, present
from trio_rooms._state.sessions import MOST_UNANSWERED, WHY, Answered, Session
from trio_rooms._values.cbor import as_sent
from trio_rooms._values.misfits import describe
from trio_rooms._wire import envelope
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms._wire.frames import encode_message
from trio_rooms.errors import (
    AskRefused,
    ConnectionGone,
    EventError,
    HandlerFailed,
    HandlerTimeout,
    NotSaved,
    Refused,
    StoreError,
    Unavailable,
)

from .answers import Late, own
from .connection import Connection
from .context import Context
from .endings import recall
from .mail import Alarm, Ask, Destroy, Hibernate, Mail, SaveFailed
from .members import Members
from .output import Output
from .reports import Disconnect
from .saver import NotBegun
from .shared import Shared

__all__ = ["Dispatcher", "Failure", "disconnect_of", "refuse", "refuse_unsaved"]

logger = logging.getLogger("trio_rooms")


_UNAVAILABLE: Final = (
    "whether this was handled before cannot be looked up now; the same id may succeed later, in order"
)
_NOT_NOW: Final = "the room cannot be reached now"
_RETURNED: Final = "this is what the handler returned"


class Failure(NamedTuple):
    """What is left to do about an error of a handler that ran outside of its room's task."""

    context: Context[Any]
    """In which it ran."""
    error: Exception
    """Which on_error is to hear of."""
    then: Callable[[], None]
    """What is done after that."""


class Dispatcher:
    """Hands mail to handlers; what they raise goes to their sender and to on_error, and no further.

    Only what on_error itself raises escapes, and crashes the room. It saves nothing and puts
    nothing to sleep.

    Args:
        shared: the room.
        members: the contexts of its connections.
    """

    __slots__ = ("_definition", "_members", "_shared")

    def __init__(self, shared: Shared, members: Members) -> None:
        self._shared = shared
        self._definition: Definition = shared.definition
        self._members = members

    async def handle(self, mail: Mail) -> None:
        """Handle one piece of mail to its end."""
        if type(mail) is tuple:
            link, message = mail
            if self._shared.plain:
                await self.finish(self.handle_message(link, message))
            else:
                await self._envelope(link, message)
        elif isinstance(mail, Ask):
            await self._ask(mail)
        elif isinstance(mail, Connected):
            await self._connected(mail)
        elif isinstance(mail, Disconnected):
            await self._disconnected(mail)
        elif isinstance(mail, Dropped):
            await self._dropped(mail)
        elif isinstance(mail, Resumed):
            await self._resumed(mail)
        elif type(mail) is PassOn:
            self._pass_on(mail)
        elif isinstance(mail, SaveFailed):
            await self._report(self._members.own, mail.error)

    async def turn_away(self, context: Context[Any], event: str, error: Exception) -> None:
        """A handler raised for a connection that its close alone can tell of it."""
        if not self._turned_away(context, error):
            await self.failed(context, event, error)
            self._turn_away_failed(context, event, error)

    def _turned_away(self, context: Context[Any], error: Exception) -> bool:
        """Close a connection that its handler has refused; whether it has."""
        refusal = _refusal(error)
        if isinstance(refusal, EventError):
            code, reason = int(CloseCode.POLICY), refusal.message or refusal.code
        elif isinstance(refusal, Refused):
            code, reason = refusal.close or CloseCode.POLICY, refusal.reason
        else:
            return False
        self._members.settle_quietly()
        self._shared.output.close(context.connection.link, code, reason)
        return True

    def _turn_away_failed(self, context: Context[Any], event: str, error: Exception) -> None:
        """Close a connection whose handler has failed; after on_error, which may use a code of its own."""
        link, output = context.connection.link, self._shared.output
        if event == "on_connect":
            link.flags |= OVER  # It never came in, and does not come back.
        if self.half_run(error):
            output = self._shared.hub
        output.close(link, CloseCode.INTERNAL_ERROR, "the room failed")

    async def failed(self, context: Context[Any], event: str, error: Exception) -> None:
        """A handler raised: keep what it edited, log it, tell on_error; but not that its client has left."""
        if self._note(context, event, error):
            await self._report(context, error)

    async def finish(self, failure: Failure | bool) -> None:
        """Do what was left of a failure, if there was one, see `handle_message` and `handle_at_once`."""
        if not isinstance(failure, bool):
            await self._report(failure.context, failure.error)
            failure.then()

    def _fail(
        self, context: Context[Any], event: str, error: Exception, then: Callable[[], None]
    ) -> Failure | None:
        """A handler raised: do as `failed`, then as given; what has to wait for on_error is returned."""
        if self._note(context, event, error):
            return Failure(context, error, then)
        then()
        return None

    def _note(self, context: Context[Any], event: str, error: Exception) -> bool:
        """Keep what a handler that raised has edited, and log it; whether on_error is to hear of it."""
        self._members.settle_quietly()
        gone = alone(error)
        if isinstance(gone, ConnectionGone) and context.from_connection and context.connection.id == gone.id:
            return False
        if isinstance(gone, Refused):
            gone.add_note(
                "only authenticate, on_connect and on_message refuse with it; here it is EventError"
            )
        self._shared.hub.metrics.errors += 1
        logger.error(
            "room %s: the handler of %r raised",
            self._shared.key,
            event,
            exc_info=error,
            extra={"cause": event},
        )
        return self._definition.on_error is not None

    def interrupted(self, mail: Mail, failure: Exception) -> None:
        """Answer mail that may be half done, since the room crashed or was cancelled while it handled it."""
        shared = self._shared
        if type(mail) is tuple and not shared.plain:
            link, number = mail[0], _number_of(mail[1])
            _use_up(shared, link, number, "internal_error")
            _send_error(shared, shared.hub, link, number, "internal_error", WHY["internal_error"])
        elif isinstance(mail, Connected):
            # Its on_connect had begun, and may be in a snapshot: it is to hear of the end.
            mail.link.flags |= OVER
            shared.hub.close(mail.link, CloseCode.INTERNAL_ERROR, "the room failed")
        else:
            refuse(shared, mail, failure)

    def not_saved(self, mail: Mail, failure: NotSaved) -> None:
        """Answer mail of which nothing was done in the end, since it could not be saved."""
        if type(mail) is tuple:
            link, message = mail
            if self._shared.plain:
                refuse_unsaved(self._shared, link, None)
            elif (number := _number_of(message)) is not None:
                refuse_unsaved(self._shared, link, number)
        elif isinstance(mail, Ask | Hibernate | Destroy) and mail.answer is not None:
            mail.answer.fail(own(failure))

    def half_run(self, error: Exception) -> bool:
        """Whether a handler was cancelled that is durable as a whole or not at all; then all is undone."""
        gate = self._shared.gate
        if gate is None or not isinstance(error, HandlerTimeout):
            return False
        if gate.done is not None and not gate.open.durable:
            return False  # It is no durable one.
        gate.fail(error)
        return True

    # Each kind of mail.

    async def _envelope(self, link: Link, message: str | bytes) -> None:
        """Handle a client's event, and acknowledge it if it has a number; exactly one answer goes out."""
        shared = self._shared
        if link.flags & DISMISSED:
            if shared.gate is not None:
                self._wait_with(link, _number_of(message))  # Where the close is undone, it wants an answer.
            return
        context = self._members.contexts.get(link.id) or self._members.context_for(link)
        number, name = None, ""
        try:
            received = envelope.decode(message)
            if received is None:
                return
            number, name = received.id, received.event
            handler = self._definition.for_clients.get(name) or self._definition.client_handler(name)
            if shared.gate is not None:
                shared.gate.before(handler)  # Before its id counts as handled: that is cut with what it does.
            if number is not None and link.session is not None and not await self._is_new(link, number):
                return
            if received.channel is not None:
                context = self._in_channel(context, received.channel)
            if handler is None:
                _refuse_unknown(name)
            data = received.data if handler.convert is None else _converted(handler.convert, received.data)
            result = _called(handler, context, name, data)
            if not handler.eager:
                result = await result
            if shared.edited:
                self._members.settle()
            if number is not None:
                self._acknowledge(link, number, result)
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
            if not self._refused(context, number, error):
                await self.failed(context, name, error)
                self._tell_failed(context, number, error)

    def handle_message(self, link: Link, message: str | bytes) -> Failure | bool:
        """Hand a message to the plain function that handles those of a plain room, in whatever task that is.

        Returns:
            That it was handled, or what is left to `finish`.
        """
        if link.flags & DISMISSED:
            return True
        members, function = self._members, self._definition.on_message
        assert function is not None
        context = members.contexts.get(link.id) or members.context_for(link)
        try:
            returned = function(context, message)
            if returned is not None and isinstance(returned, Awaitable):
                refuse_awaitable(function, returned)
            if members.edited:
                members.settle()
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
            if not self._turned_away(context, error):
                # No variable has what is left: the error's traceback has this frame, which would be a cycle.
                return (
                    self._fail(
                        context,
                        "on_message",
                        error,
                        partial(self._turn_away_failed, context, "on_message", error),
                    )
                    or True
                )
        return True

    def handle_at_once(self, link: Link, message: str | bytes) -> Failure | bool:
        """Do as `_envelope`, in whatever task that is, where nothing has to be awaited; there is no gate.

        Returns:
            Whether it was handled: else nothing of it was done; or what is left to `finish`.
        """
        if link.flags & DISMISSED:
            return True
        shared = self._shared
        context = self._members.contexts.get(link.id) or self._members.context_for(link)
        number, name = None, ""
        try:
            received = envelope.decode(message)
            if received is None:
                return True
            number, name = received.id, received.event
            handler = self._definition.for_clients.get(name) or self._definition.client_handler(name)
            if handler is not None and not handler.eager:
                return False
            if number is not None and link.session is not None:
                session = shared.record.sessions.get(link.sid)
                if session is None:
                    return False
                if self._is_out_of_order(link, number) or not self._is_next(link, number, session):
                    return True
            if received.channel is not None:
                context = self._in_channel(context, received.channel)
            if handler is None:
                _refuse_unknown(name)
            data = received.data if handler.convert is None else _converted(handler.convert, received.data)
            result = _called(handler, context, name, data)
            if shared.edited:
                self._members.settle()
            if number is not None:
                self._acknowledge(link, number, result)
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
            if not self._refused(context, number, error):
                # As above.
                return (
                    self._fail(context, name, error, partial(self._tell_failed, context, number, error))
                    or True
                )
        return True

    def _in_channel(self, context: Context[Any], channel: str) -> Context[Any]:
        """The context of a message that names a channel."""
        context = self._members.new_context(context.connection)
        context.channel = channel
        return context

    def _acknowledge(self, link: Link, number: int, result: Any) -> None:
        """Answer a message with a number with what its handler returned.

        Raises:
            TypeError, ValueError: that cannot be sent; nothing was.
        """
        shared = self._shared
        try:
            shared.output.send(link, envelope.acknowledge(number, result))
        except (TypeError, ValueError) as error:
            error.add_note(_RETURNED)
            raise
        if link.session is not None:
            self._keep(link, number, Answered(data=result))
        elif shared.gate is not None:
            shared.gate.open.waiting.append((link, number))

    def _refused(self, context: Context[Any], number: int | None, error: Exception) -> bool:
        """Tell a client that its event was refused, by whatever its handler raised; whether it was."""
        refusal = _refusal(error)
        if isinstance(refusal, EventError):
            self._members.settle_quietly()
            self._answer_with(context.connection.link, number, refusal.code, refusal.message)
            return True
        if isinstance(error, NotBegun):
            refuse_unsaved(self._shared, context.connection.link, number)
            return True
        return False

    def _tell_failed(self, context: Context[Any], number: int | None, error: Exception) -> None:
        """Tell a client that the handler of its event has failed.

        At the very end: whoever ends a message before answers it, see `interrupted`.
        """
        shared, link = self._shared, context.connection.link
        code, message = _told(error)
        if self.half_run(error):
            _use_up(shared, link, number, code)
            _send_error(shared, shared.hub, link, number, code, message)
        else:
            self._answer_with(link, number, code, message)

    def _answer_with(self, link: Link, number: int | None, code: str, message: str) -> None:
        """Answer a message with an error."""
        _send_error(self._shared, self._shared.output, link, number, code, message)
        if number is not None and link.session is not None:
            self._keep(link, number, Answered(code, message))
        elif self._shared.gate is not None:
            self._wait_with(link, number)

    def _pass_on(self, mail: PassOn) -> None:
        """Send a message back or on, behind what the room has sent for those before it."""
        shared, link = self._shared, mail.link
        if link.flags & DISMISSED:
            return
        frame, gate = encode_message(mail.message), shared.gate
        if not mail.relay:
            shared.output.send_frame(link, frame)
        elif gate is None:
            shared.hub.relays.send(link, frame)
        else:
            gate.add(partial(shared.hub.relays.send, link, frame), len(frame))

    def _wait_with(self, link: Link, number: int | None) -> None:
        """A message with an id is told if what it is part of cannot be saved."""
        gate = self._shared.gate
        if number is None or gate is None:
            return
        if link.session is None:
            gate.open.waiting.append((link, number))
        else:
            gate.open.messages.setdefault((link.sid, number), []).append(link)

    # The ids of sessions.

    async def _is_new(self, link: Link, number: int) -> bool:
        """Whether a message of a session is to be handled; else it is told what it was told before."""
        if self._is_out_of_order(link, number):
            return False
        shared, sid = self._shared, link.sid
        sessions = shared.record.sessions
        session = sessions.get(sid)
        if session is None:
            if shared.gate is not None:
                shared.gate.handling = None  # It is not the handler that waits here.
            try:
                session = await shared.record.session(sid)
            except StoreError as error:
                logger.error("room %s: %s", shared.key, error)  # noqa: TRY400
                sessions.stalled[sid] = number
                _send_error(shared, shared.hub, link, number, "unavailable", _UNAVAILABLE)
                return False
        return self._is_next(link, number, session)

    def _is_out_of_order(self, link: Link, number: int) -> bool:
        """Whether a message of a session is not to be handled whatever was handled before; it is told so."""
        shared, sessions = self._shared, self._shared.record.sessions
        if number < 1:
            _send_error(
                shared, shared.hub, link, number, "invalid_message", "the ids of a session begin at 1"
            )
            return True
        if sessions.stalled and sessions.is_stalled(link.sid, number):
            _send_error(shared, shared.hub, link, number, "unavailable", _UNAVAILABLE)
            return True
        return False

    def _is_next(self, link: Link, number: int, session: Session) -> bool:
        """Whether a message is one that its session has not seen; else it is told what it was told before."""
        shared, sid = self._shared, link.sid
        if number > session.last:
            if session.held >= MOST_UNANSWERED:
                message = f"more than {MOST_UNANSWERED} messages wait for their answers"
                shared.record.sessions.stalled[sid] = number
                _send_error(shared, shared.hub, link, number, "too_many_in_flight", message)
                return False
            session.last = number
            return True
        gate = shared.gate
        copies = None if gate is None else gate.holds(sid, number)
        if gate is None or copies is None:
            _tell_again(shared, link, number)
        elif link not in copies:
            copies.append(link)
            gate.add(partial(_tell_again, shared, link, number))
        return False

    def _keep(self, link: Link, number: int, answered: Answered) -> None:
        """Keep what a message of a session was answered; with the next commit, the store does, too."""
        record, sid = self._shared.record, link.sid
        session = record.sessions.get(sid)
        if session is None:
            return  # It has ended meanwhile.
        try:
            verdict = answered.encode()
        except (TypeError, ValueError):
            verdict = Answered(bare=True).encode()  # Its data has a form in JSON only.
        delta = record.delta
        delta.verdicts[sid, number] = verdict
        delta.handled[sid] = partial(half_of, record, link)
        for other, shorter in session.keep(number, verdict).items():
            if shorter is None:
                delta.verdicts.pop((sid, other), None)
                delta.answered[sid] = max(delta.answered.get(sid, 0), other)
            else:
                delta.verdicts[sid, other] = shorter
        gate = self._shared.gate
        if gate is not None:
            session.held += 1
            gate.open.messages[sid, number] = [link]
            gate.open.last.append(session.let_go)

    async def _ask(self, mail: Ask) -> None:
        """Handle an event of the program; its answer is settled before anything else is told."""
        handler = self._definition.handler(mail.event)
        try:
            if handler is None:
                _refuse_unknown(mail.event)
            data = mail.data if handler.convert is None else _converted(handler.convert, mail.data)
        except EventError as error:
            mail.answer.fail(AskRefused(self._shared.key, error.code, error.message))
            return
        gate = self._shared.gate
        if gate is not None:
            gate.before(handler)
        try:
            result = _called(handler, self._members.own, mail.event, data)
            if not handler.eager:
                result = await result
            self._members.settle()
            try:
                answer = as_sent(result)
            except (TypeError, ValueError) as error:
                error.add_note(_RETURNED)
                raise
            self._settle(mail, partial(mail.answer.succeed, answer))
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
            await self._not_answered(mail, error)

    def _settle(self, mail: Ask, answer: Callable[[], None]) -> None:
        """Answer the program, when what the handler changed is durable."""
        gate, hub = self._shared.gate, self._shared.hub
        if gate is not None:
            gate.add(answer)
            gate.open.asked.append(lambda failure: mail.answer.fail(own(failure)))
        elif hub.standstill.on:
            hub.work(self._shared.roster, Late(mail.answer, answer))
        else:
            answer()

    async def _not_answered(self, mail: Ask, error: Exception) -> None:
        """Tell the program that what it asked was refused, or that the handler raised."""
        refusal = _refusal(error)
        if isinstance(refusal, EventError):
            self._members.settle_quietly()
            self._settle(mail, partial(mail.answer.fail, refusal))
        elif isinstance(error, NotBegun):
            failure = NotSaved(error.key, error.why)
            failure.__cause__ = error.__cause__
            mail.answer.fail(failure)
        elif self.half_run(error):
            mail.answer.fail(_handler_failed(self._shared.key, mail.event, error))
            await self.failed(self._members.own, mail.event, error)
        else:
            failed = _handler_failed(self._shared.key, mail.event, error)
            self._settle(mail, partial(mail.answer.fail, failed))
            await self.failed(self._members.own, mail.event, error)

    def _happened(self, mail: Mail) -> None:
        """Mail that tells what has happened is handled once more, if what is done now cannot be saved."""
        gate = self._shared.gate
        if gate is not None:
            gate.handling = None
            gate.open.again.append(mail)

    def _not_again(self, mail: Mail, error: Exception) -> None:
        """A hook that took too long, and is undone, would do so again when it is told once more, for ever."""
        gate = self._shared.gate
        if gate is not None and isinstance(error, HandlerTimeout):
            gate.open.again = [one for one in gate.open.again if one is not mail]

    async def _connected(self, mail: Connected) -> None:
        """Greet a connection: from here on it hears what is said to all."""
        link, hook = mail.link, self._definition.on_connect
        if hook is None:
            return
        if link.session is not None:
            link = present(link)
            if not link.flags & UNGREETED:
                return  # It was greeted with another connection.
            record = self._shared.record
            record.delta.sessions[link.sid] = partial(half_of, record, link)
            if record.journal is not None:
                record.journal.begin(link.sid)
        context = self._members.context_for(link)
        self._happened(mail)
        if link.flags & UNGREETED and self._shared.gate is not None:
            self._shared.gate.open.undo.append(partial(link.roster.ungreeted_again, link))
        link.roster.greeted(link)
        try:
            await self._shared.run("on_connect", hook, context)
            self._members.settle()
        except Exception as error:  # noqa: BLE001 (one connection's failure touches no other)
            await self.turn_away(context, "on_connect", error)
            self._not_again(mail, error)

    async def _disconnected(self, mail: Disconnected) -> None:
        """Forget a connection, and tell on_disconnect."""
        hook = self._definition.on_disconnect
        context = self._members.forget(mail.link)
        if hook is None or mail.link.flags & UNREPORTED:
            self._forget_session(mail.link)
            return
        if context is None:
            context = self._members.new_context(Connection(self._shared, mail.link))
        elif self._shared.edited:
            self._members.settle_quietly()  # A task may have edited what the hook is told.
        self._happened(mail)
        try:
            await self._shared.run("on_disconnect", hook, context, disconnect_of(mail))
            self._members.settle()
        except Exception as error:  # noqa: BLE001 (one connection's failure touches no other)
            await self.failed(context, "on_disconnect", error)
            if self.half_run(error):
                self._not_again(mail, error)
                if mail.link.session is not None:
                    record = self._shared.record
                    record.outside(partial(record.forget_session, mail.link.sid))
                return
        self._forget_session(mail.link)
        if self._shared.record.more_ended and not self._shared.record.telling:
            await self._recall()

    async def _recall(self) -> None:
        """There are more sessions that ended while the room slept: it hears of the next ones."""
        try:
            ended = await recall(self._shared)
        except StoreError as error:
            logger.error("room %s: %s", self._shared.key, error)  # noqa: TRY400 (the next wake tells)
            return
        if self._shared.roster.inbox is not None:
            for mail in ended:
                self._shared.roster.inbox.post(mail)

    def _forget_session(self, link: Link) -> None:
        """A session is over, and its room has heard of it."""
        if link.session is None:
            return
        record, sid = self._shared.record, link.sid
        record.telling.pop(sid, None)
        record.forget_session(sid)

    async def _dropped(self, mail: Dropped) -> None:
        """A connection is lost whose session goes on: tell on_drop."""
        if self._definition.on_drop is not None:
            await self._tell(mail, "on_drop", self._definition.on_drop, disconnect_of(mail))

    async def _resumed(self, mail: Resumed) -> None:
        """A session goes on with another connection: tell on_resume."""
        if self._definition.on_resume is None:
            self._members.context_for(mail.link)  # Which goes on with that, too.
        else:
            await self._tell(mail, "on_resume", self._definition.on_resume)

    async def _tell(self, mail: Dropped | Resumed, name: str, hook: Handler, *about: Any) -> None:
        """Tell a hook what has become of the connection of a session."""
        context = self._members.context_for(mail.link)
        self._happened(mail)
        try:
            await self._shared.run(name, hook, context, *about)
            self._members.settle()
        except Exception as error:  # noqa: BLE001 (one connection's failure touches no other)
            await self.failed(context, name, error)
            self.half_run(error)
            self._not_again(mail, error)

    async def _report(self, context: Context[Any], error: Exception) -> None:
        """Tell on_error; what it raises crashes the room."""
        if self._definition.on_error is not None:
            await self._shared.run("on_error", self._definition.on_error, context, error)
            self._members.settle_quietly()


def refuse(shared: Shared, mail: Mail, error: Exception) -> None:
    """Answer mail that a room did not begin to handle with an error."""
    if isinstance(error, Unavailable) and isinstance(mail, tuple | Connected):
        _refuse_for_now(shared, mail)
    elif type(mail) is tuple:
        link, message = mail
        if shared.plain:
            shared.hub.close(link, CloseCode.INTERNAL_ERROR, "the room failed")
        else:
            why = "the room failed; try again later"
            _send_error(shared, shared.hub, link, _number_of(message), "room_failed", why)
    elif isinstance(mail, Ask | Hibernate | Destroy):
        if mail.answer is not None:
            mail.answer.fail(own(error))
    elif isinstance(mail, Alarm):
        mail.over(True)
    elif isinstance(mail, Disconnected) and mail.link.session is not None:
        shared.record.telling.pop(mail.link.sid, None)  # Its row says that it is to be told.
    elif isinstance(mail, Connected):
        # Of a connection that the room was never told of it does not hear the end either, whoever ends it.
        mail.link.flags |= OVER
        shared.hub.close(mail.link, CloseCode.INTERNAL_ERROR, "the room failed", report=False)
    elif (
        isinstance(mail, Disconnected)
        and shared.definition.on_disconnect is not None
        and not mail.link.flags & UNREPORTED
    ):
        shared.roster.note_departure(mail)


def _refuse_for_now(shared: Shared, mail: tuple[Link, str | bytes] | Connected) -> None:
    """Tell a client that its room cannot be reached now; it may try the same again."""
    if isinstance(mail, Connected):
        # It was never in its room, and is not told that it has left. What it has of a session it keeps.
        shared.hub.close(mail.link, CloseCode.TRY_AGAIN_LATER, _NOT_NOW, report=False)
        return
    link, message = mail
    if shared.plain:
        shared.hub.turn_away(link, CloseCode.TRY_AGAIN_LATER, _NOT_NOW)
        return
    number = _number_of(message)
    if number is not None and link.session is not None:
        # What its client has sent behind it is on its way, and handled it would make this one a duplicate.
        shared.record.sessions.stall(link.sid, number)
    shared.hub.tell(
        link, envelope.refuse(number, "unavailable", f"{_NOT_NOW}; the same id may succeed later")
    )


def _refusal(error: Exception) -> BaseException | None:
    """What a handler raised, where it may be meant for its sender: not what another room refused it."""
    refusal = alone(error)
    return None if isinstance(refusal, AskRefused) else refusal


def _refuse_unknown(event: str) -> NoReturn:
    """Say that there is no handler of an event.

    Raises:
        EventError: that.
    """
    code = "unknown_event"
    raise EventError(code, f"this room has no event {event[:100]!r}")


def _converted(convert: Callable[[Any], Any], data: Any) -> Any:
    """The data of an event as its handler wants it.

    Raises:
        EventError: it does not fit; nothing of the handler has run.
    """
    try:
        return convert(data)
    except Exception as error:
        code = "invalid_data"
        raise EventError(code, describe(error)) from error


def _called(handler: EventHandler, context: Context[Any], event: str, data: Any) -> Any:
    """What a handler returns: to be awaited, unless it is eager.

    Raises:
        TypeError: it is eager, and was not meant to be: it returned something to be awaited.
    """
    if handler.named:
        result = handler.function(*(context, event, data)[: handler.arguments])
    elif handler.arguments > 1:
        result = handler.function(context, data)
    else:
        result = handler.function(context)
    if handler.eager and type(result) is CoroutineType:
        refuse_awaitable(handler.function, result)
    return result


def refuse_unsaved(shared: Shared, link: Link, number: int | None) -> None:
    """Tell a client that nothing of its message was done; in a plain room, without answers, by a close."""
    if shared.plain:
        shared.hub.close(link, CloseCode.INTERNAL_ERROR, "the room could not save this")
    else:
        _use_up(shared, link, number, "not_saved")
        _send_error(shared, shared.hub, link, number, "not_saved", WHY["not_saved"])


def _send_error(
    shared: Shared, output: Output, link: Link, number: int | None, code: str, message: str
) -> None:
    """Tell a client that its message failed; an error that cannot be encoded becomes one that can."""
    try:
        output.send(link, envelope.refuse(number, code, message))
    except (TypeError, ValueError):
        logger.exception("room %s: the error %r cannot be sent", shared.key, code)
        answer = envelope.refuse(number, "internal_error", "the room could not handle this")
        output.send(link, answer)


def _use_up(shared: Shared, link: Link, number: int | None, code: str) -> None:
    """An id was told an error that is part of no commit: it is told the same again, and never handled."""
    if number is not None and link.session is not None:
        shared.record.sessions.refuse(link.sid, number, code)


def _tell_again(shared: Shared, link: Link, number: int) -> None:
    """Tell a client once more what became of its message."""
    session = shared.record.sessions.get(link.sid)
    verdict = None if session is None else session.verdicts.get(number)
    answered = Answered(bare=True) if verdict is None else Answered.decode(verdict)
    if answered.code:
        shared.hub.send(link, envelope.refuse(number, answered.code, answered.message))
    elif answered.bare:
        shared.hub.send(link, envelope.bare(number))
    else:
        shared.hub.send(link, envelope.acknowledge(number, answered.data))


def _told(error: Exception) -> tuple[str, str]:
    """The code and the text that a client is told of a handler that raised: nothing of the error itself."""
    if isinstance(error, HandlerTimeout):
        return "handler_timeout", WHY["handler_timeout"]
    return "internal_error", "the room could not handle this"


def _handler_failed(key: str, event: str, error: Exception) -> HandlerFailed:
    """What the caller of a handler that raised is told.

    Made where no frame of the error's traceback has it, which would be a cycle.
    """
    failure = HandlerFailed(key, event)
    failure.__cause__ = error
    return failure


def disconnect_of(mail: Disconnected | Dropped) -> Disconnect:
    """What handlers are told of a connection that is gone."""
    encoded = mail.link.attachment
    attachment = None if encoded is None else decode_value(encoded)
    # A plain number, that a state can keep; the library's own codes are members of an enum.
    id_, user = format(mail.link.sid, "x"), mail.link.user
    return Disconnect(id_, attachment, int(mail.code), mail.reason, mail.clean, user)


def _number_of(message: str | bytes) -> int | None:
    """The id of a message that will not be handled, for the answer that says so."""
    try:
        received = envelope.decode(message)
    except EventError:
        return None
    return None if received is None else received.id
