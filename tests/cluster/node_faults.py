"""Faults put into the nodes' code on purpose, to see that stories and random lives find each of them.

``python -m tests.cluster.node_faults 500`` prints which of so many random lives finds which, and by which
rule.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest
import trio

from tests.cluster.node_life import live, search
from tests.cluster.node_stories import STORIES
from trio_rooms._cluster.doors import Doors
from trio_rooms._cluster.gateway import Gateway
from trio_rooms._cluster.lanes import Lane
from trio_rooms._cluster.ownership import Ownership
from trio_rooms._cluster.seat import Seat
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms._sockets.hub import SocketHub
from trio_rooms.engines import Claim, MemoryEngine, Renewal, memory

__all__ = ["FAULTS", "found_by_story", "put_in"]

Patch = Callable[[pytest.MonkeyPatch], None]
FAULTS: Final[dict[str, tuple[str, Patch]]] = {}
"""By what is wrong: the story that finds it, and what has it be so."""


def _fault(name: str, story: int) -> Callable[[Patch], Patch]:
    def register(patch: Patch) -> Patch:
        FAULTS[name] = next(one for one in STORIES if one.startswith(f"{story} ")), patch
        return patch

    return register


@_fault("a lease counts from when its renewal is answered", 5)
def _late_lease(patch: pytest.MonkeyPatch) -> None:
    renewed = Seat._renewed

    def counted(self: Seat, renewal: Renewal, began: float) -> None:
        renewed(self, renewal, self.now())

    patch.setattr(Seat, "_renewed", counted)


@_fault("a node whose lease is over goes on", 3)
def _no_pause(patch: pytest.MonkeyPatch) -> None:
    async def watch(self: Seat) -> None:
        await trio.sleep_forever()

    patch.setattr(Seat, "check", lambda self: self.valid)
    patch.setattr(Seat, "_pause", lambda _: None)
    patch.setattr(Seat, "_watch", watch)


@_fault("what rooms do goes out although the lease is over", 3)
def _not_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SocketHub, "hold_output", lambda _: None)


@_fault("a node that was taken for dead keeps what others have by now", 4)
def _keeps_all(patch: pytest.MonkeyPatch) -> None:
    reclaimed = Ownership._reclaimed

    async def all_of_them(self: Ownership, epochs: Mapping[str, int]) -> frozenset[str]:
        await reclaimed(self, epochs)
        return frozenset(epochs)

    patch.setattr(Ownership, "_reclaimed", all_of_them)


@_fault("the engine gives back what others have by now", 4)
def _reclaims_all(patch: pytest.MonkeyPatch) -> None:
    async def reclaim(self: MemoryEngine, incarnation: str, epochs: Mapping[str, int]) -> frozenset[str]:
        shared = await self._turn()
        for key, epoch in epochs.items():
            shared.own(key, incarnation, epoch)
        return frozenset(epochs)

    patch.setattr(MemoryEngine, "reclaim", reclaim)


@_fault("a room is taken from a node that lives", 1)
def _steals(patch: pytest.MonkeyPatch) -> None:
    async def claim(self: MemoryEngine, key: str, incarnation: str) -> Claim:
        shared = await self._turn()
        if incarnation in shared.until:
            shared.epochs += 1
            shared.own(key, incarnation, shared.epochs)
            return Claim(incarnation, shared.epochs)
        return Claim("", 0)

    patch.setattr(MemoryEngine, "claim", claim)


@_fault("a claim has the epoch of the one before it", 4)
def _same_epoch(patch: pytest.MonkeyPatch) -> None:
    own = memory._Shared.own

    def owned(self: Any, key: str, incarnation: str, epoch: int) -> None:
        self.epochs = 1
        own(self, key, incarnation, 1)

    patch.setattr(memory._Shared, "own", owned)


@_fault("a commit is not fenced", 6)
def _no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory._FencedStore, "_check_fence", lambda *_: None)


@_fault("what comes twice over a lane is handled twice", 7)
def _twice(patch: pytest.MonkeyPatch) -> None:
    receive = Lane.receive

    def received(self: Lane, number: int, *rest: Any) -> None:
        newest = self._received
        again = 0 < number <= newest
        if again:
            self._received = number - 1
        receive(self, number, *rest)
        if again:
            self._received = newest

    patch.setattr(Lane, "receive", received)


@_fault("what is lost in a lane is not missed", 8)
def _gaps(patch: pytest.MonkeyPatch) -> None:
    receive = Lane.receive

    def received(self: Lane, number: int, *rest: Any) -> None:
        if number > self._received + 1:
            self._received = number - 1
        receive(self, number, *rest)

    patch.setattr(Lane, "receive", received)


@_fault("what is lost in a lane is not sent again", 1)
def _no_resends(patch: pytest.MonkeyPatch) -> None:
    following = Lane.next_message

    def next_message(self: Lane) -> bytes | None:
        self._probe = self._again = False
        return following(self)

    patch.setattr(Lane, "next_message", next_message)


@_fault("a home that is no more is not noticed where its sockets are", 9)
def _gateway_deaf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gateway, "_ended", lambda *_: None)


@_fault("a node that is no more is not noticed where its sockets' rooms are", 10)
def _home_deaf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Doors, "_ended", lambda *_: None)


@_fault("a room that others have is not let go of", 3)
def _no_forsake(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "forsake", lambda *_: None)


@_fault("a room that is used is let go of", 2)
def _lets_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "has", lambda *_: False)


@contextmanager
def put_in(fault: str) -> Iterator[None]:
    """Have a fault in the code until the end of the block."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[fault][1](patch)
        yield


def found_by_story(fault: str) -> str:
    """The rule that is broken in the story of a fault; empty for none."""
    with put_in(fault):
        try:
            live(STORIES[FAULTS[fault][0]], 0)
        except Exception as error:
            return _rule(f"{type(error).__name__}: {error}")
    return ""


def _rule(error: str) -> str:
    return error.splitlines()[0][:110]


def main(most: int = 500) -> None:
    """Print the table."""
    for fault in FAULTS:
        with put_in(fault):
            held, _, what = search(most)
        print(f"{fault:66} {held + 1 if what else '-':>4} {_rule(what) if what else ''}")
        print(f"    {FAULTS[fault][0]}: {found_by_story(fault)}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
