"""Spans of OpenTelemetry: what they are named, what they belong to, what they say."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import propagate, trace

from trio_rooms._keys import split_key
from trio_rooms._room.mail import Ask, Mail
from trio_rooms._sockets.roster import Connected, Resumed
from trio_rooms.errors import EventError, Refused

__all__ = ["Spans"]

logger = logging.getLogger("trio_rooms")

_MOST: Final = 1024
"""Rooms, or connections, whose spans are remembered for what is to follow on them."""
_MOST_LINKS: Final = 32
"""Messages that a commit names."""


class Spans:
    """Begins spans, and knows which belong together.

    A span belongs to the one in which its task is. Where there is none, it goes on with what its mail
    brought: the trace of who asks. Else it begins a trace.

    Args:
        provider: where they go.
    """

    __slots__ = ("_failed", "_handled", "_opened", "_tracer", "_woken")

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("trio_rooms")
        self._failed = False
        """Whether it has raised, and somebody was told."""
        self._woken: OrderedDict[str, otel.Context] = OrderedDict()
        """By room, the wake that the first message belongs to."""
        self._opened: OrderedDict[int, otel.Context] = OrderedDict()
        """By connection, the handshake that its on_connect belongs to."""
        self._handled: OrderedDict[str, list[trace.Link]] = OrderedDict()
        """By room, the messages since the last commit."""

    @contextmanager
    def span(
        self,
        name: str,
        key: str,
        parent: otel.Context | None = None,
        *,
        began: int | None = None,
        **about: Any,
    ) -> Iterator[trace.Span]:
        """A span, for as long as the block takes; what it raises is told there, but for a cancellation.

        Args:
            name: what is done.
            key: the room.
            parent: what it belongs to; None for what its task is in.
            began: when, in nanoseconds since 1970; None for now.
            about: what else it says; what is None or empty is left out.
        """
        said = {f"trio_rooms.{one}": value for one, value in about.items() if value or value is False}
        said |= {"trio_rooms.room": split_key(key)[0], "trio_rooms.key": key}
        links = self._handled.pop(key, None) if name == "commit" else None
        span: trace.Span = trace.INVALID_SPAN
        begun = ExitStack()
        with self._harmless():
            span = begun.enter_context(
                self._tracer.start_as_current_span(
                    name,
                    parent,
                    attributes=said,
                    links=links,
                    start_time=began,
                    record_exception=False,
                    set_status_on_exception=False,
                )
            )
        try:
            yield span
        except (EventError, Refused) as refused:
            # That is an answer, and nothing has failed.
            code = refused.code if isinstance(refused, EventError) else refused.reason
            self.say(span, "trio_rooms.refused", code)
            raise
        except Exception as error:
            self.fails(span, error)
            raise
        finally:
            with self._harmless():
                begun.close()

    def say(self, span: trace.Span, name: str, value: str | int | bool) -> None:
        """Tell something more of a span."""
        with self._harmless():
            span.set_attribute(name, value)

    def fails(self, span: trace.Span, error: Exception | None = None) -> None:
        """Tell that what a span is about failed, and by what."""
        with self._harmless():
            if error is None:
                span.set_status(trace.StatusCode.ERROR)
            else:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """A block in which the provider is at work: whatever it raises, rooms go on without the span."""
        try:
            yield
        except Exception:
            # Once: it may well do so for each message.
            if not self._failed:
                self._failed = True
                logger.exception("the tracer raises; what it does not take is missed in traces")

    def current(self) -> otel.Context:
        """What the task that runs now is in."""
        return otel.get_current()

    @contextmanager
    def none(self) -> Iterator[None]:
        """Be in no span inside the block, and so are the tasks that begin there."""
        token = otel.attach(otel.Context())
        try:
            yield
        finally:
            otel.detach(token)

    def remote(self, headers: Mapping[str, str]) -> otel.Context:
        """The span of whoever sent a request, as its headers say."""
        with self._harmless():
            return propagate.extract(headers, otel.Context())
        return otel.Context()

    # What follows on what.

    def woken(self, key: str, span: trace.Span) -> None:
        """A room has woken; what is handled first belongs to that."""
        _keep(self._woken, key, trace.set_span_in_context(span, otel.Context()))

    def opened(self, number: int) -> None:
        """A connection was opened in the span in which its task is; its on_connect belongs to that."""
        _keep(self._opened, number, self.current())

    def forget(self, key: str) -> None:
        """A room sleeps, or failed."""
        self._woken.pop(key, None)
        self._handled.pop(key, None)

    def parent_of(self, key: str, mail: Mail | None) -> otel.Context | None:
        """What the handling of mail belongs to; None for what its task is in."""
        woken = self._woken.pop(key, None)
        opened = self._opened.pop(mail.link.id, None) if isinstance(mail, Connected | Resumed) else None
        if trace.get_current_span().get_span_context().is_valid:
            return None
        if isinstance(mail, Ask) and mail.trace is not None:
            asked: otel.Context = mail.trace
            return asked
        return opened or woken or otel.Context()

    def handled(self, key: str, span: trace.Span) -> None:
        """A message was handled; the next commit has what it changed."""
        links = self._handled.get(key)
        if links is None:
            links = []
            _keep(self._handled, key, links)
        if len(links) < _MOST_LINKS:
            with self._harmless():
                links.append(trace.Link(span.get_span_context()))


def _keep(kept: OrderedDict[Any, Any], name: str | int, value: object) -> None:
    """Remember something, and forget the oldest for it."""
    kept[name] = value
    if len(kept) > _MOST:
        kept.popitem(last=False)
