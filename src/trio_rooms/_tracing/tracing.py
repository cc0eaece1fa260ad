"""The parts of a runtime that has traces: what they do is what the others do, in spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from time import time_ns
from typing import Any, Final

import attrs
from opentelemetry import trace

from trio_rooms._definition.definition import Definition, EventHandler
from trio_rooms._definition.signatures import HOOKS
from trio_rooms._room.actor import Actor
from trio_rooms._room.mail import Ask, Mail
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms._sockets.roster import Link
from trio_rooms.stores.base import Commit, Store

from .spans import Spans

__all__ = ["Tracing"]

_LONGEST_NAME: Final = 100
"""Characters of an event's name that are told; a client may have chosen it."""
_WITH_NAME: Final = 2
"""Arguments of a handler of any event that is told its name."""


class Tracing:
    """Makes what `open_rooms` is to run with.

    Args:
        provider: where spans go.

    Raises:
        TypeError: it is no TracerProvider.
    """

    __slots__ = ("spans",)

    def __init__(self, provider: trace.TracerProvider) -> None:
        if not isinstance(provider, trace.TracerProvider):
            msg = f"tracer is a TracerProvider of OpenTelemetry, not {provider!r:.100}"
            raise TypeError(msg)
        self.spans: Spans = Spans(provider)

    def definition(self, definition: Definition) -> Definition:
        """The same, with each handler and hook in a span when it is called."""
        made = {id(one): self._event(name, one) for name, one in definition.events.items()}
        made[id(None)] = None
        any_event = definition.any_event
        changes: dict[str, Any] = {
            name: self._handler(name, hook, eager=name == "on_message" and definition.eager)
            for name in (*HOOKS, "on_message")
            if name != "authenticate" and (hook := getattr(definition, name)) is not None
        }
        return attrs.evolve(
            definition,
            events={name: made[id(one)] for name, one in definition.events.items()},
            for_clients={name: made[id(one)] for name, one in definition.for_clients.items()},
            any_event=None if any_event is None else self._event("", any_event),
            schedules={
                name: attrs.evolve(one, function=self._handler(f"on_schedule {name}", one.function))
                for name, one in definition.schedules.items()
            },
            **changes,
        )

    def _event(self, name: str, handler: EventHandler) -> Any:
        function, arguments = handler.function, handler.arguments
        if handler.named and arguments < _WITH_NAME:
            # The span has the name of the event, also where the handler does not want it.
            function, arguments = partial(_without_name, function), _WITH_NAME
        return attrs.evolve(
            handler, function=self._handler(name, function, eager=handler.eager), arguments=arguments
        )

    def _handler(self, name: str, function: Callable[..., Any], *, eager: bool = False) -> Callable[..., Any]:
        """A function of the application in a span.

        Args:
            name: the event, or the hook; empty where that is its first argument.
            function: what is called.
            eager: whether it is a plain function, and is to stay one.
        """
        if eager:

            def handle_at_once(ctx: Any, *rest: Any) -> Any:
                with self._handling(name or rest[0], ctx):
                    return function(ctx, *rest)

            return handle_at_once

        async def handle(ctx: Any, *rest: Any) -> Any:
            with self._handling(name or rest[0], ctx):
                return await function(ctx, *rest)

        return handle

    @contextmanager
    def _handling(self, event: str, ctx: Any) -> Iterator[None]:
        """The span of a handler or a hook that is called."""
        spans, key = self.spans, ctx.room.key
        parent = spans.parent_of(key, ctx.room._mailbox.current)
        from_ = ctx.connection.id if ctx.from_connection else None
        with spans.span("handle", key, parent, event=event[:_LONGEST_NAME], connection=from_) as span:
            try:
                yield
            finally:
                spans.handled(key, span)

    def store(self, store: Store) -> Store:
        """The same store, with each commit in a span."""
        return _traced_store(self.spans, store)

    def supervisor(self, *arguments: Any) -> Supervisor:
        """A supervisor of rooms that wake and sleep in spans."""
        return _Supervisor(self.spans, *arguments)

    def outside(self) -> AbstractContextManager[None]:
        """See `Traces`."""
        return self.spans.none()

    @contextmanager
    def handshake(self, headers: Mapping[str, str], key: str) -> Iterator[Handshake]:
        """A span for a client that asks to be let in; it goes on with the trace that its headers name."""
        with self.spans.span("handshake", key, self.spans.remote(headers)) as span:
            yield Handshake(self.spans, span)


@attrs.frozen
class Handshake:
    """A handshake that is under way."""

    _spans: Spans
    _span: trace.Span

    def answered(self, status: int) -> None:
        """What the client was answered with."""
        self._spans.say(self._span, "http.response.status_code", status)
        if status >= 500:
            self._spans.fails(self._span)

    def opened(self, link: Link) -> None:
        """It is let in. To be called before anything else happens."""
        self._spans.opened(link.id)


class _Supervisor(Supervisor):
    """A supervisor whose mail knows the trace that it belongs to."""

    def __init__(self, spans: Spans, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._spans = spans

    def deliver(self, key: str, mail: Mail) -> bool:
        """See `Placement`."""
        if isinstance(mail, Ask):
            mail = attrs.evolve(mail, trace=self._spans.current())
        return super().deliver(key, mail)

    def _make_actor(self, *arguments: Any, **more: Any) -> Actor:
        """An actor, in the span in which it is woken."""
        return _Actor(self._spans, *arguments, **more)


class _Actor(Actor):
    """An actor that wakes and sleeps in spans."""

    __slots__ = ("_began", "_parent", "_spans")

    def __init__(self, spans: Spans, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._spans = spans
        self._parent: Any = spans.current()
        self._began: int | None = time_ns()

    async def _begin(self) -> None:
        # After a crash it begins anew, and nobody woke it.
        parent, began, self._parent, self._began = self._parent, self._began, None, None
        assert self._wake is not None
        with self._spans.span("wake", self.key, parent, began=began, cause=self._wake.cause) as span:
            await super()._begin()
            self._spans.woken(self.key, span)

    async def _hibernate(self) -> bool:
        trigger = "shutdown" if self.idleness.stopping else self.idleness.trigger or "explicit"
        with self._spans.span("hibernate", self.key, trigger=trigger) as span:
            asleep = await super()._hibernate()
            self._spans.say(span, "trio_rooms.asleep", asleep)
            return asleep

    def dispose(self) -> None:
        """See `Actor`."""
        self._spans.forget(self.key)
        super().dispose()


def _traced_store(spans: Spans, store: Store) -> Store:
    """A store that is another one in all, with each commit in a span."""

    async def commit(_: Store, one: Commit) -> None:
        with spans.span("commit", one.key, number=one.number, bytes=len(one.document or b"")):
            await store.commit(one)

    def passed_on(name: str) -> Any:
        if isinstance(vars(Store).get(name), property):
            return property(lambda _: getattr(store, name))
        return lambda _, *arguments, **more: getattr(store, name)(*arguments, **more)

    methods = {name: passed_on(name) for name in dir(Store) if not name.startswith("_")}
    kind: Callable[[], Store] = type("TracedStore", (Store,), {**methods, "commit": commit})
    return kind()


def _without_name(function: Callable[..., Any], ctx: Any, _: str) -> Any:
    """Call a handler of any event that takes the context alone."""
    return function(ctx)
