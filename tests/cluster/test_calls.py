"""Calls: what one node asks of another is done once at most, and whoever asks is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.cluster.test_lanes import Node
from trio_rooms import errors
from trio_rooms._cluster.calls import MOST, Calls, Reply
from trio_rooms._cluster.failures import NotHere, pack, unpack
from trio_rooms.engines import MemoryEngine
from trio_rooms.errors import EventError, RoomsClosed, RoomsError, Unavailable


class Pair:
    """Two nodes, of which the second asks the first."""

    def __init__(self, nodes: tuple[Node, Node], engine: MemoryEngine) -> None:
        self.nodes = nodes
        self.engine = engine
        self.asked, self.asks = (Calls(node.lanes) for node in nodes)

    async def ask(self, name: str, *values: Any, **options: Any) -> Any:
        """The second asks the first."""
        return await self.asks.ask("a#1", name, *values, **options)

    @property
    def waiting(self) -> int:
        """Calls that are not answered."""
        return len(self.nodes[1].lanes.lane("a#1").context["calls"].waiting)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Two nodes whose lanes run."""
    engine = MemoryEngine()
    nodes = Node(engine, "a#1", ["b#1"], 1 << 24), Node(engine, "b#1", ["a#1"], 1 << 24)
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.lanes.run)
        found = Pair(nodes, engine)
        nursery.start_soon(found.asks.run)
        yield found
        nursery.cancel_scope.cancel()


async def test_what_is_asked_is_answered(autojump_clock: MockClock) -> None:
    """By a function of its own task or at once; who asks is known; what CBOR has comes as it is."""
    async with pair() as two:

        async def later(peer: str, *values: Any) -> Any:
            await trio.sleep(1)
            return [peer, *values]

        two.asked.on("later", later)
        two.asked.on_now("now", lambda reply, value: reply.succeed(value + 1))
        assert await two.ask("later", b"x", {"a": [None, 1.5]}) == ["b#1", b"x", {"a": [None, 1.5]}]
        assert await two.ask("now", 1) == 2
        assert two.waiting == 0


async def test_errors_are_told(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Those of the library are what they are. Others are told as a text, and logged where they happened."""
    async with pair() as two:

        async def fail(_: str, what: str) -> None:
            raise {"event": EventError("full", "no room"), "key": KeyError("k"), "value": ValueError("v")}[
                what
            ]

        def refuse(_: Reply) -> None:
            raise NotHere("x")

        two.asked.on("fail", fail)
        two.asked.on_now("refuse", refuse)
        two.asked.on_now("odd", lambda reply: reply.succeed(object()))
        with pytest.raises(EventError, match="full: no room"):
            await two.ask("fail", "event")
        with pytest.raises(ValueError, match="v"):
            await two.ask("fail", "value")
        assert not caplog.records
        with pytest.raises(RoomsError, match="KeyError: 'k'"):
            await two.ask("fail", "key")
        assert "could not be answered" in caplog.text
        with pytest.raises(NotHere):
            await two.ask("refuse")
        with pytest.raises(Unavailable, match="does not know"):
            await two.ask("what")
        with pytest.raises(RoomsError, match="CBOREncode"):
            await two.ask("odd")


async def test_who_does_not_answer_in_time(autojump_clock: MockClock) -> None:
    """The caller is told; the answer that comes later is for nobody, and until then it counts."""
    async with pair() as two:
        replies: list[Reply] = []
        two.asked.on_now("hang", replies.append)
        with pytest.raises(Unavailable, match=r"has not answered 'hang' within 0\.25 s"):
            await two.ask("hang", timeout=0.25)
        with trio.move_on_after(1):
            await two.ask("hang")
        assert two.waiting == 2
        for reply in replies:
            assert not reply.settled
            reply.succeed(1)
            reply.fail(ValueError())  # Too late.
            assert reply.settled
        await trio.sleep(1)
        assert two.waiting == 0


async def test_the_lane_ends(autojump_clock: MockClock) -> None:
    """What became of it is not known; and who is no member is asked nothing."""
    async with pair() as two, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(Unavailable, match="its node was lost while it was asked"):
                await two.ask("hang")

        two.asked.on_now("hang", lambda _: None)
        nursery.start_soon(ask)
        await trio.sleep(1)
        two.nodes[1].seat.lose("a#1")
        with pytest.raises(Unavailable, match="its node is not there"):
            await two.ask("hang")


async def test_large_answers_wait_for_room(autojump_clock: MockClock) -> None:
    """Together they would end a lane, and come as there is room; one alone that is too large does not."""
    async with pair() as two, trio.open_nursery() as nursery:
        got: list[int] = []

        async def ask() -> None:
            got.append(len(await two.ask("large", 1_500_000)))

        two.asked.on_now("large", lambda reply, size: reply.succeed(bytes(size)))
        two.engine.delay = lambda: 0.01
        for _ in range(10):
            nursery.start_soon(ask)
        await trio.sleep(10)
        assert got == [1_500_000] * 10
        assert not any(node.ended for node in two.nodes)
        with pytest.raises(Unavailable, match="the answer is too large"):
            await two.ask("large", 5_000_000)
        with pytest.raises(Unavailable, match="more than 4,194,304 bytes"):
            await two.ask("large", bytes(5_000_000))
        two.engine.down()
        lost = two.nodes[0].lanes.lane("b#1")
        for _ in range(20):
            Reply(two.asked, lost, 0).succeed(bytes(1_500_000))
        # The rest has become small errors.
        assert lost.context["calls"].size <= 8 * 1024 * 1024
        assert lost.size <= 9 * 1024 * 1024


async def test_calls_have_a_bound(autojump_clock: MockClock) -> None:
    """So many may be unanswered, abandoned ones too."""
    async with pair() as two:
        two.asked.on_now("hang", lambda _: None)
        for _ in range(MOST):
            two.asks.post("a#1", "hang", (), print, print)
        with pytest.raises(Unavailable, match="too much waits for its node"):
            await two.ask("hang")


async def test_the_end(autojump_clock: MockClock) -> None:
    """Who waits is told that the rooms have closed, and nothing more is asked."""
    async with trio.open_nursery() as nursery:
        async with pair() as two:

            async def ask() -> None:
                with pytest.raises(RoomsClosed):
                    await two.ask("hang")

            two.asked.on_now("hang", lambda _: None)
            nursery.start_soon(ask)
            await trio.sleep(1)
        with pytest.raises(RoomsClosed):
            await two.ask("hang")


KINDS = [
    errors.EventError("full", "no room"),
    errors.AskRefused("a/x", "unknown_event", "what"),
    errors.StaleContext("a/x", "emit"),
    errors.ScheduleError("a/x", "name", "too many"),
    errors.ScheduleGivenUp("a/x", "name", 3),
    errors.HandlerFailed("a/x", "say"),
    errors.HandlerTimeout("a/x", "say", 1.5, "file:3"),
    errors.AskCircle(("a/x", "a/y", "a/x")),
    errors.AskTimeout("a/x", "say", 30.0),
    errors.NotSaved("a/x", "full"),
    errors.RoomFailed("a/x", "it crashed"),
    errors.Unavailable("a/x", "gone"),
    errors.SnapshotCorrupt("a/x", "cut"),
    errors.SnapshotTooNew("a/x", 3, 2),
    errors.MigrationError("a/x", "none"),
    errors.UnknownRoom("no room"),
    errors.RoomsClosed("closed"),
    errors.StoreFull("full"),
    errors.StaleWrite("stale"),
    errors.EngineLost("lost"),
    ValueError("wrong"),
    TypeError("wrong"),
]


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_on_the_other_side(error: Exception) -> None:
    """Its kind, its text, its fields, and the text of its cause."""
    error.__cause__ = LookupError("why")
    there = unpack(pack(error))
    assert type(there) is type(error)
    assert (str(there), vars(there)) == (str(error), vars(error))
    assert str(there.__cause__) == "LookupError: why"


def test_an_error_that_is_not_known_is_a_text() -> None:
    """One of the application, also one that cannot even be said, and what another version may send."""

    class Unsaid(Exception):
        def __str__(self) -> str:
            raise LookupError

    class SoldOut(EventError):
        pass

    assert str(unpack(pack(Unsaid()))) == "Unsaid: its text cannot be had: LookupError"
    there = unpack(pack(SoldOut("sold_out", "no")))
    assert (type(there), str(there)) == (EventError, "sold_out: no")
    state = unpack(pack(errors.StateError("a/x", "state.a", "no form")))
    assert (type(state), str(state)) == (errors.SnapshotError, "room a/x: cannot save state.a: no form")
    for packed in (None, ["os.system", ["x"], ""], ["EventError", ["a b", ""], ""], ["RoomFailed", [], ""]):
        assert "in a way that is not known here" in str(unpack(packed))
