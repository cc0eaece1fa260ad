"""Faults that are put into the nodes' code on purpose, to see that random lives find each of them.

``python -m tests.cluster.node_faults`` prints which life finds which, and by what.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from tests.cluster.node_life import drawn, live
from tests.cluster.test_ownership import histories
from trio_rooms._cluster.gateway import Gateway
from trio_rooms._cluster.lanes import Lane
from trio_rooms._cluster.ownership import Ownership
from trio_rooms._cluster.seat import Seat
from trio_rooms._loop.groups import first_error
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms.engines import Claim, MemoryEngine, Renewal, memory

__all__ = ["FAULTS", "search"]

Patch = Callable[[pytest.MonkeyPatch], None]
FAULTS: Final[dict[str, Patch]] = {}


def _fault(name: str) -> Callable[[Patch], Patch]:
    def register(patch: Patch) -> Patch:
        FAULTS[name] = patch
        return patch

    return register


@_fault("a lease counts from when its renewal is answered")
def _late_lease(patch: pytest.MonkeyPatch) -> None:
    renewed = Seat._renewed

    def counted(self: Seat, renewal: Renewal, began: float) -> None:
        renewed(self, renewal, self.now())

    patch.setattr(Seat, "_renewed", counted)


@_fault("a node whose lease is over goes on")
def _no_pause(patch: pytest.MonkeyPatch) -> None:
    async def watch(self: Seat) -> None:
        await trio.sleep_forever()

    patch.setattr(Seat, "check", lambda self: self.valid)
    patch.setattr(Seat, "_pause", lambda self: None)
    patch.setattr(Seat, "_watch", watch)


@_fault("a node that was taken for dead keeps what others have by now")
def _keeps_all(patch: pytest.MonkeyPatch) -> None:
    reclaimed = Ownership._reclaimed

    async def all_of_them(self: Ownership, epochs: Mapping[str, int]) -> frozenset[str]:
        await reclaimed(self, epochs)
        return frozenset(epochs)

    patch.setattr(Ownership, "_reclaimed", all_of_them)


@_fault("a room is taken from a node that lives")
def _steals(patch: pytest.MonkeyPatch) -> None:
    async def claim(self: MemoryEngine, key: str, incarnation: str) -> Claim:
        shared = await self._turn()
        if incarnation in shared.until:
            shared.epochs += 1
            shared.own(key, incarnation, shared.epochs)
            return Claim(incarnation, shared.epochs)
        return Claim("", 0)

    patch.setattr(MemoryEngine, "claim", claim)


@_fault("a claim has the epoch of the one before it")
def _same_epoch(patch: pytest.MonkeyPatch) -> None:
    own = memory._Shared.own

    def owned(self: Any, key: str, incarnation: str, epoch: int) -> None:
        self.epochs = 1
        own(self, key, incarnation, 1)

    patch.setattr(memory._Shared, "own", owned)


@_fault("what comes twice over a lane is handled twice")
def _twice(patch: pytest.MonkeyPatch) -> None:
    receive = Lane.receive

    def received(self: Lane, number: int, *rest: Any) -> None:
        if 0 < number <= self._received:
            self._received = number - 1
        receive(self, number, *rest)

    patch.setattr(Lane, "receive", received)


@_fault("what is lost in a lane is not missed")
def _gaps(patch: pytest.MonkeyPatch) -> None:
    receive = Lane.receive

    def received(self: Lane, number: int, *rest: Any) -> None:
        if number > self._received + 1:
            self._received = number - 1
        receive(self, number, *rest)

    patch.setattr(Lane, "receive", received)


@_fault("what is lost in a lane is not sent again")
def _no_resends(patch: pytest.MonkeyPatch) -> None:
    following = Lane.next_message

    def next_message(self: Lane) -> bytes | None:
        self._probe = self._again = False
        return following(self)

    patch.setattr(Lane, "next_message", next_message)


@_fault("a home that is no more is not noticed where its sockets are")
def _gateway_deaf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gateway, "_ended", lambda self, lane: None)


@_fault("a room that others have is not let go of")
def _no_forsake(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "forsake", lambda self, key: None)


def search(name: str, most: int = 60) -> str:
    """Which life finds a fault, and by what; empty where none of so many does."""
    logging.disable(logging.CRITICAL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            FAULTS[name](patch)
            for seed in range(most):
                chance = random.Random(seed)
                for life in (partial(histories, chance), partial(live, drawn(seed), seed)):
                    try:
                        trio.run(life, clock=MockClock(autojump_threshold=0))
                    except Exception as error:
                        return f"{life.func.__name__} {seed}: {first_error(error)!r:.200}"
    finally:
        logging.disable(logging.NOTSET)
    return ""


if __name__ == "__main__":
    for fault in sys.argv[1:] or FAULTS:
        print(f"{fault}: {search(fault) or 'NOT FOUND'}", flush=True)
