"""How a store is used, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
import trio.testing

from trio_rooms.errors import StoreClosed, StoreInUse
from trio_rooms.stores.base import (
    Commit,
    Entry,
    LinkHalf,
    Offer,
    Opening,
    Post,
    RoomHalf,
    Store,
    Timer,
    Verdict,
)

from .support import HALF_A_PAIR, OPENED, following, put, raises, sent

__all__ = ["Uses"]


class Uses:
    """What a store can be asked, and when."""

    async def test_a_store_that_is_not_open_refuses_everything(self, store: Store) -> None:
        """Before it is opened and after it is closed, a store raises StoreClosed; closing it does nothing."""
        await store.aclose()
        await _is_closed(store)
        async with store:
            await put(store, "chat/1", 1, b"one")
            await store.aclose()
            await _is_closed(store)
        await store.aclose()
        await _is_closed(store)

    async def test_a_store_is_opened_once(self, store: Store) -> None:
        """An open store cannot be opened again, and goes on to work."""
        async with store:
            with raises(StoreInUse):
                await store.open()
            await put(store, "chat/1", 1, b"one")

    async def test_what_cannot_be_stored_is_refused_at_once(self, store: Store) -> None:
        """Half a surrogate pair, a bad limit, number or epoch, writing while destroying: ValueErrors."""
        bad: list[Callable[[], Awaitable[object]]] = [
            lambda: store.load(HALF_A_PAIR),
            lambda: store.get(HALF_A_PAIR, ""),
            lambda: store.get("chat/1", HALF_A_PAIR),
            lambda: store.list(HALF_A_PAIR),
            lambda: store.list("chat/1", HALF_A_PAIR),
            lambda: store.list("chat/1", after=HALF_A_PAIR),
            lambda: store.list("chat/1", limit=-1),
            lambda: store.keys(HALF_A_PAIR),
            lambda: store.keys(after=HALF_A_PAIR),
            lambda: store.keys(limit=-1),
            lambda: put(store, HALF_A_PAIR, 1, b""),
            lambda: put(store, "chat/1", 1, b"", {HALF_A_PAIR: b""}),
            lambda: put(store, "chat/1", 0, b""),
            lambda: put(store, "chat/1", -1),
            lambda: put(store, "chat/1", 2**63, b""),
            lambda: store.commit(Commit("chat/1", 1, 0, b"")),
            lambda: store.commit(Commit("chat/1", 1, 2**63)),
            lambda: put(store, "chat/1", 1, b"", destroy=True),
            lambda: put(store, "chat/1", 1, writes={"a": None}, destroy=True),
            lambda: store.session(HALF_A_PAIR, 1),
            lambda: store.sessions("chat/1", limit=-1),
            lambda: store.journal(HALF_A_PAIR, 0, 1, 1),
            lambda: store.timers("chat/1", HALF_A_PAIR),
            lambda: store.timer("chat/1", HALF_A_PAIR),
            lambda: store.due(1, -1),
            *(lambda post=post: store.post([POST, post]) for post in BAD_POSTS),
            lambda: store.settle(HALF_A_PAIR, [1]),
            lambda: store.settle("ana", [0]),
            lambda: store.settle("ana", [2**63]),
            lambda: store.inbox(HALF_A_PAIR),
            lambda: store.inbox("ana", limit=-1),
            lambda: store.inbox_size(HALF_A_PAIR),
            lambda: store.inboxes(after=HALF_A_PAIR),
            lambda: store.expired(1, -1),
            *(lambda commit=commit: store.commit(following(store, 1, **commit)) for commit in BAD),
        ]
        async with store:
            for call in bad:
                with raises(ValueError):
                    await call()
            with raises(TypeError):
                await put(store, "chat/1", 1, "text")  # type: ignore[arg-type]
            with raises(TypeError):
                await put(store, "chat/1", 1, b"", {"a": "text"})  # type: ignore[dict-item]
            for commit in TEXT:
                with raises(TypeError):
                    await store.commit(following(store, 1, **commit))
            with raises(TypeError):
                await store.post([POST, attrs.evolve(POST, body="text")])  # type: ignore[arg-type]
            assert await store.keys() == []
            assert await store.inboxes() == []

    async def test_every_operation_is_a_checkpoint(self, store: Store) -> None:
        """Each operation lets other tasks run, and can be cancelled."""
        async with store:
            await put(store, "chat/1", 1, b"one", {"a": b"1"})
            for operation in _everything(store, Commit("chat/1", 2, store.epoch, writes={"b": b"2"})):
                with trio.testing.assert_checkpoints():
                    await operation()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await operation()
                assert scope.cancelled_caught


async def _is_closed(store: Store) -> None:
    """Check that a store refuses whatever it is asked."""
    with raises(StoreClosed):
        assert store.epoch
    for operation in _everything(store, Commit("chat/1", 1, 1, b"closed")):
        with raises(StoreClosed):
            await operation()


def _everything(store: Store, commit: Commit) -> list[Callable[[], Awaitable[object]]]:
    """Everything that a store can be asked."""
    return [
        lambda: store.load("chat/1"),
        lambda: store.head("chat/1"),
        lambda: store.get("chat/1", "a"),
        lambda: store.list("chat/1"),
        store.keys,
        lambda: store.session("chat/1", 1),
        lambda: store.sessions("chat/1"),
        lambda: store.positions("chat/1"),
        lambda: store.verdicts("chat/1", 1),
        lambda: store.journal("chat/1", 0, 10, 10),
        lambda: store.timers("chat/1"),
        lambda: store.due_timers("chat/1", 1e9, 10),
        lambda: store.timer("chat/1", "a"),
        lambda: store.due(1e9, 10),
        lambda: store.post([POST]),
        lambda: store.settle("ana", [1]),
        lambda: store.inbox("ana"),
        lambda: store.inbox_size("ana"),
        store.inboxes,
        lambda: store.expired(1e9, 10),
        lambda: store.commit(commit),
    ]


POST = Post("ana", 1, b"", 1.0)
BAD_POSTS = (
    attrs.evolve(POST, user=HALF_A_PAIR),
    attrs.evolve(POST, room=HALF_A_PAIR),
    attrs.evolve(POST, id=0),
    attrs.evolve(POST, id=2**63),
    attrs.evolve(POST, expires=math.inf),
    attrs.evolve(POST, expires=math.nan),
    attrs.evolve(POST, priority=3),
)
"""What no store can keep for a user."""


BAD: tuple[dict[str, Any], ...] = (
    {"nonce": 0},
    {"nonce": 2**63},
    {"entries": sent(1)},
    {"entries": sent(1, 3), "seq": 2},
    {"entries": sent(1, 1), "seq": 2},
    {"entries": sent(2, 1), "seq": 2},
    {"entries": sent(0), "seq": 2},
    {"entries": (Entry(1, b"", b"", math.nan),), "seq": 1},
    {"seq": -1},
    {"seq": 2**63},
    {"before": 1},
    {"floor": 3, "seq": 2},
    {"trim": -1},
    {"trim": 2**63},
    {"sessions": {0: OPENED}},
    {"sessions": {2**63: OPENED}},
    {"sessions": {1: attrs.evolve(OPENED, last=-1)}},
    {"sessions": {1: attrs.evolve(OPENED, opening=Opening(b"", HALF_A_PAIR, 0, 1.0))}},
    {"sessions": {1: attrs.evolve(OPENED, opening=Opening(b"", None, -1, 1.0))}},
    {"sessions": {1: attrs.evolve(OPENED, opening=Opening(b"", None, 0, math.inf))}},
    {"links": {0: LinkHalf(0, None)}},
    {"links": {1: LinkHalf(-1, None)}},
    {"links": {1: LinkHalf(0, math.inf)}},
    {"links": {1: LinkHalf(0, None, -1)}},
    {"verdicts": (Verdict(0, 1, b""),)},
    {"verdicts": (Verdict(1, 0, b""),)},
    {"answered": {1: 2**63}},
    {"timers": {HALF_A_PAIR: None}},
    {"timers": {"a": Timer(math.inf, b"")}},
    {"timers": {"a": Timer(math.nan, b"")}},
    *({"sends": (POST, post)} for post in BAD_POSTS),
    {"offers": {0: Offer("ana", "chat/1", 1, 1)}},
    {"offers": {1: Offer(HALF_A_PAIR, "chat/1", 1, 1)}},
    {"offers": {1: Offer("ana", HALF_A_PAIR, 1, 1)}},
    {"offers": {1: Offer("ana", "chat/1", 0, 1)}},
    {"offers": {1: Offer("ana", "chat/1", 1, 2**63)}},
    {"lapses": math.inf},
    *(
        {"destroy": True, **commit}
        for commit in (
            {"entries": sent(1), "seq": 1},
            {"seq": 1},
            {"trim": 1},
            {"sessions": {1: None}},
            {"links": {1: LinkHalf(0, None)}},
            {"verdicts": (Verdict(1, 1, b""),)},
            {"answered": {1: 1}},
            {"timers": {"a": None}},
            {"offers": {1: Offer("ana", "chat/1", 1, 1)}},
            {"lapses": 0.0},
        )
    ),
)
"""What no store can carry out."""
TEXT: tuple[dict[str, Any], ...] = (
    {"entries": (Entry(1, "text", b"", 1.0),), "seq": 1},  # type: ignore[arg-type]
    {"entries": (Entry(1, b"", "text", 1.0),), "seq": 1},  # type: ignore[arg-type]
    {"sessions": {1: RoomHalf(0, None, "text")}},  # type: ignore[arg-type]
    {"sessions": {1: RoomHalf(0, "text", b"")}},  # type: ignore[arg-type]
    {"sessions": {1: attrs.evolve(OPENED, opening=Opening("text", None, 0, 1.0))}},  # type: ignore[arg-type]
    {"links": {1: LinkHalf(0, None, 0, "text")}},  # type: ignore[arg-type]
    {"links": {1: LinkHalf(0, None, presence="text")}},  # type: ignore[arg-type]
    {"sends": (attrs.evolve(POST, body="text"),)},  # type: ignore[arg-type]
    {"verdicts": (Verdict(1, 1, "text"),)},  # type: ignore[arg-type]
    {"timers": {"a": Timer(None, "text")}},  # type: ignore[arg-type]
)
"""What is to be bytes, and is text."""
