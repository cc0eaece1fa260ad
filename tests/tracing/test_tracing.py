"""Traces: what is told of a message on its way, and what belongs to what."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Final

import attrs
import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trio_rooms import (
    Admitted,
    Context,
    EventError,
    HandlerFailed,
    MemoryStore,
    Refused,
    Room,
    open_rooms,
)
from trio_rooms._tracing.spans import Spans as KnownSpans
from trio_rooms.testing import connect

REMOTE: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT: Final = {"traceparent": f"00-{REMOTE}-b7ad6b7169203331-01"}


@attrs.define
class Count:
    """The state of a room."""

    count: int = 0


@attrs.define(eq=False)
class Spans:
    """The spans that have ended."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """In the order in which they ended."""
        return self.exporter.get_finished_spans()

    def of(self, name: str, **about: Any) -> list[ReadableSpan]:
        """Those of a name, and with some attributes."""
        return [
            one
            for one in self.all
            if one.name == name
            and all((one.attributes or {}).get(f"trio_rooms.{key}") == value for key, value in about.items())
        ]

    def one(self, name: str, **about: Any) -> ReadableSpan:
        """The only one of these."""
        (found,) = self.of(name, **about)
        return found


@pytest.fixture
def spans() -> Spans:
    """What gathers spans, and nobody else does."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Spans(provider, exporter)


def is_child(one: ReadableSpan, of: ReadableSpan) -> bool:
    """Whether a span belongs to another one."""
    assert of.context is not None
    return one.parent is not None and one.parent.span_id == of.context.span_id


def trace_of(one: ReadableSpan) -> str:
    """The trace that a span is of."""
    assert one.context is not None
    return trace.format_trace_id(one.context.trace_id)


async def _add(ctx: Context[Count], data: int) -> int:
    ctx.state.count += data
    return ctx.state.count


async def _forward(ctx: Context[Count], data: int) -> Any:
    return await ctx.rooms.get("count", "other").ask("add", data)


async def _refuse(_ctx: Context[Count]) -> None:
    raise EventError("no", "not today")


async def _raise(_ctx: Context[Count]) -> None:
    raise ValueError("broken")


async def _any(_ctx: Context[Count], event: str, _data: Any) -> str:
    return event


async def _nothing(_ctx: Context[Count], *_: Any) -> None:
    """It does nothing."""


def counting(**options: Any) -> Room[Count]:
    """A room with a bit of all."""
    room: Room[Count] = Room("count", state=Count, **options)
    room.on("add")(_add)
    room.on("forward")(_forward)
    room.on("refuse")(_refuse)
    room.on("raise")(_raise)
    room.on_any(_any)
    room.on_connect(_nothing)
    room.on_wake(_nothing)
    return room


async def test_a_wake_by_ask_is_of_the_trace_of_who_asks(spans: Spans) -> None:
    """Also through another room; and so is what is handled then."""
    tracer = spans.provider.get_tracer("test")
    async with open_rooms([counting()], tracer=spans.provider) as rooms:
        first, other = rooms.get("count", "first"), rooms.get("count", "other")
        with tracer.start_as_current_span("program"):
            assert await first.ask("forward", 2) == 2
        program = spans.one("program")
        wake, handle = spans.one("wake", key="count/first"), spans.one("handle", key="count/first")
        assert is_child(wake, program)
        assert is_child(handle, program)
        assert (handle.attributes or {}) == {
            "trio_rooms.room": "count",
            "trio_rooms.key": "count/first",
            "trio_rooms.event": "forward",
        }
        second = spans.one("wake", key="count/other")
        assert is_child(second, handle)
        assert (second.attributes or {})["trio_rooms.cause"] == "ask"
        assert is_child(spans.one("handle", key="count/other", event="add"), handle)
        assert {trace_of(one) for one in spans.all} == {trace_of(program)}
        # It sleeps, in a trace of its own, and wakes in that of who asks next.
        spans.exporter.clear()
        assert await other.hibernate()
        asleep = spans.one("hibernate", key="count/other", trigger="explicit", asleep=True)
        assert asleep.parent is None
        assert is_child(spans.one("commit", key="count/other"), asleep)
        await first.ask("forward", 2)
        handle = spans.one("handle", key="count/first")
        assert handle.parent is None
        assert is_child(spans.one("wake", key="count/other"), handle)
        assert is_child(spans.one("handle", event="on_wake"), spans.one("wake", key="count/other"))
        assert is_child(spans.one("handle", key="count/other", event="add"), handle)


async def test_what_a_client_sends_is_of_the_trace_of_the_wake(spans: Spans) -> None:
    """A message of a socket brings no trace: the first one belongs to the wake, the next to none."""
    async with (
        open_rooms([counting()], tracer=spans.provider) as rooms,
        connect(rooms, "count/a") as client,
    ):
        await client.ask("add", 1)
        connected, wake = spans.one("handle", event="on_connect"), spans.one("wake")
        assert wake.parent is None
        assert is_child(connected, wake)
        added = spans.one("handle", event="add")
        assert added.parent is None
        assert (added.attributes or {})["trio_rooms.connection"]
        assert await client.ask("x" * 200) == "x" * 200
        assert spans.of("handle", event="x" * 100)
        assert await rooms.get("count", "a").hibernate()
        spans.exporter.clear()
        await client.ask("add", 1)
        await client.ask("add", 2)
        wake = spans.one("wake", cause="message")
        first, second = spans.of("handle", event="add")
        assert is_child(first, wake)
        assert second.parent is None


async def test_a_refusal_is_an_answer_and_what_is_raised_an_error(spans: Spans) -> None:
    """With the error as an event of the span."""
    async with open_rooms([counting()], tracer=spans.provider) as rooms:
        handle = rooms.get("count", "a")
        with pytest.raises(EventError):
            await handle.ask("refuse")
        with pytest.raises(HandlerFailed):
            await handle.ask("raise")
    refused, raised = spans.one("handle", event="refuse"), spans.one("handle", event="raise")
    assert refused.status.is_unset
    assert (refused.attributes or {})["trio_rooms.refused"] == "no"
    assert raised.status.status_code is trace.StatusCode.ERROR
    assert [one.name for one in raised.events] == ["exception"]
    assert spans.one("hibernate").attributes is not None
    assert (spans.one("hibernate").attributes or {})["trio_rooms.trigger"] == "shutdown"


class Broken(SpanProcessor):
    """What the program has spans handed to, and that takes none."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """A span begins."""
        if self.when == "begin":
            raise RuntimeError(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        """A span has ended."""
        if self.when == "end":
            raise RuntimeError(span.name)


async def test_a_handler_of_any_event_need_not_take_its_name(spans: Spans) -> None:
    """The span has it all the same."""
    room: Room[Count] = Room("count", state=Count)
    room.on_any(_refuse)
    async with open_rooms([room], tracer=spans.provider) as rooms:
        with pytest.raises(EventError, match="not today"):
            await rooms.get("count", "first").ask("whatever")
        assert (spans.one("handle").attributes or {})["trio_rooms.event"] == "whatever"


@pytest.mark.parametrize("when", ["begin", "end"])
@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_a_tracer_that_raises_keeps_rooms_from_nothing(
    when: str, durability: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What was written is not held to have failed since nobody could be told; the log says it once."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(when))
    async with open_rooms([counting(durability=durability)], tracer=provider) as rooms:
        handle = rooms.get("count", "a")
        assert await handle.ask("add", 1) == 1
        assert await handle.hibernate()
        with pytest.raises(EventError):
            await handle.ask("refuse")
        async with connect(rooms, "count/a", subprotocols=["rooms.json.1"]) as client:
            assert await client.ask("add", 1) == 2
        assert trace.get_current_span() is trace.INVALID_SPAN
        assert (rooms.metrics().errors, rooms.metrics().restarts) == (0, 0)
    assert [one.message[:17] for one in caplog.records] == ["the tracer raises"]


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_a_commit_names_what_it_has(spans: Spans, durability: Any) -> None:
    """The messages whose changes it makes durable, as links; and how large it is."""
    room = counting(durability=durability, snapshot_interval=0.01)
    async with open_rooms([room], tracer=spans.provider) as rooms:
        handle = rooms.get("count", "a")
        await handle.ask("add", 1)
        while not spans.of("commit"):
            await trio.sleep(0)
        await handle.hibernate()
    added, commit = spans.one("handle", event="add"), spans.of("commit")[0]
    assert [one.context.span_id for one in commit.links] == [added.context and added.context.span_id]
    assert int((commit.attributes or {})["trio_rooms.bytes"]) > 10  # type: ignore[arg-type]
    assert (commit.attributes or {})["trio_rooms.number"] == 1


async def _be_ada(_request: Any) -> Admitted:
    return Admitted(user="ada")


async def _call(ctx: Context[Count]) -> None:
    await ctx.rooms.user("ada").send("called", priority="high")


async def test_a_wake_for_a_user_is_of_the_trace_of_who_sends(spans: Spans) -> None:
    """Where the message is of high priority, and the room wants to be awake then."""
    home: Room[Count] = Room("home", state=Count, wakes=True, connection_idle_timeout=0)
    home.on("add")(_add)
    home.authenticate(_be_ada)
    home.on_wake(_nothing)
    office = Room[Count]("office", state=Count)
    office.on("call")(_call)
    async with open_rooms([home, office], tracer=spans.provider) as rooms, connect(rooms, "home/a") as ada:
        await ada.ask("add", 1)
        assert await rooms.get("home", "a").hibernate()
        spans.exporter.clear()
        await rooms.get("office", "a").ask("call")
        assert (await ada.receive())["event"] == "called"
        while not spans.of("wake", key="home/a"):
            await trio.sleep(0)
        wake, call = spans.one("wake", key="home/a"), spans.one("handle", event="call")
        assert (wake.attributes or {})["trio_rooms.cause"] == "priority"
        assert is_child(wake, call)


async def test_a_handshake_goes_on_with_the_trace_of_its_request(spans: Spans) -> None:
    """Whether the room is awake or has to wake, and whether it is asked or refuses."""
    room = counting()
    strict: Room[Count] = Room("strict", state=Count)
    strict.on("add")(_add)
    strict.authenticate(_authenticate)
    async with open_rooms([room, strict], tracer=spans.provider) as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)

        streams: list[trio.SocketStream] = []

        async def shake(path: str, headers: dict[str, str]) -> bytes:
            stream = await trio.open_tcp_stream("127.0.0.1", address.port)
            streams.append(stream)
            sent = {
                "Host": "x", "Upgrade": "websocket", "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **headers,
            }  # fmt: skip
            head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            await stream.send_all(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
            return bytes(await stream.receive_some(12))

        for _ in range(2):
            assert await shake("/count/a", PARENT) == b"HTTP/1.1 101"
            while not spans.of("handle", event="on_connect"):
                await trio.sleep(0)
            handshake = spans.one("handshake")
            assert trace_of(handshake) == REMOTE
            assert handshake.parent is not None
            assert handshake.parent.is_remote
            assert (handshake.attributes or {})["http.response.status_code"] == 101
            assert is_child(spans.one("handle", event="on_connect"), handshake)
            assert all(is_child(one, handshake) for one in spans.of("wake"))
            spans.exporter.clear()
        assert await shake("/strict/a?let=in", {}) == b"HTTP/1.1 101"
        (handshake,) = spans.all
        assert handshake.parent is None
        spans.exporter.clear()
        assert await shake("/strict/a", PARENT) == b"HTTP/1.1 403"
        while not spans.of("handshake"):
            await trio.sleep(0)
        handshake = spans.one("handshake", key="strict/a")
        assert trace_of(handshake) == REMOTE
        assert (handshake.attributes or {})["http.response.status_code"] == 403
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def _authenticate(request: Any) -> None:
    """Let in who says so; in the span of the handshake."""
    assert trace.get_current_span().get_span_context().is_valid
    if "let" not in request.query:
        raise Refused(403, "no")


async def test_nothing_is_of_the_trace_in_which_rooms_were_opened(spans: Spans) -> None:
    """Else that would have all spans of the server."""
    tracer = spans.provider.get_tracer("test")
    with tracer.start_as_current_span("main"):
        async with (
            open_rooms([counting()], tracer=spans.provider) as rooms,
            connect(rooms, "count/a") as client,
        ):
            await client.ask("add", 1)
            assert trace.get_current_span().get_span_context().is_valid
    main = spans.one("main")
    assert len(spans.all) > 4
    assert [one.name for one in spans.all if trace_of(one) == trace_of(main)] == ["main"]


async def test_a_store_with_traces_is_the_same_store(spans: Spans) -> None:
    """What was written is there, and what it says of itself."""
    store = MemoryStore()
    async with open_rooms([counting()], store=store, tracer=spans.provider) as rooms:
        handle = rooms.get("count", "a")
        await handle.ask("add", 3)
        assert await handle.hibernate()
        assert await handle.peek() == Count(3)
        assert rooms.statistics().store.commits == store.statistics().commits > 0
    async with open_rooms([counting()], store=store) as rooms:
        assert await rooms.get("count", "a").ask("add", 0) == 3


def test_what_is_remembered_is_bounded(spans: Spans) -> None:
    """Rooms that wake and never handle anything, connections that are never greeted."""
    known = KnownSpans(spans.provider)
    for number in range(3000):
        with known.span("wake", f"count/{number}") as span:
            known.woken(f"count/{number}", span)
            known.opened(number)
            for _ in range(3):
                known.handled(f"count/{number}", span)
    with known.span("handle", "count/1") as span:
        for _ in range(100):
            known.handled("count/1", span)
    assert len(known._woken) == len(known._opened) == len(known._handled) == 1024
    assert len(known._handled["count/1"]) == 32


def test_nothing_is_imported_that_nobody_wants() -> None:
    """And what is no provider is refused, in words."""
    code = (
        "import sys, trio_rooms, trio_rooms._cli.main\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
        "sys.modules['opentelemetry'] = None\n"
        "try: trio_rooms.open_rooms([trio_rooms.Room('a')], tracer=object())\n"
        "except TypeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "traces take OpenTelemetry: pip install 'trio-rooms[otel]'\n"
    with pytest.raises(TypeError, match="tracer is a TracerProvider of OpenTelemetry, not"):
        open_rooms([counting()], tracer=object())
