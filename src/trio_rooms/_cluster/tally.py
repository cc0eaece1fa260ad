"""What becomes of a message at several nodes, added up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import attrs
import trio

from trio_rooms._loop.deadlines import Deadline, Deadlines
from trio_rooms._sockets.sent import Sent

__all__ = ["PATIENCE", "Tally"]

PATIENCE: Final = 0.25
"""Seconds for which other nodes are asked, such as what became of something that was sent."""


@attrs.define(eq=False)
class Tally:
    """Waits until all nodes have said what became of a message there, or for a quarter of a second.

    A node that does not say so counts as one for whose connections it waits: it may still come to them.

    Args:
        volatile: whether it is not kept, and dropped for who is not there.
        nodes: the other nodes that are asked; None where they are not known.
        over: called when it does not wait any more.
        deadlines: those of the runtime.
    """

    _volatile: bool
    _nodes: Collection[str] | None
    _over: Callable[[], object]
    _deadlines: Deadlines
    _waiting: set[str] = attrs.field(init=False, factory=set)
    _silent: bool = attrs.field(init=False, default=False)
    _others: Sent = attrs.field(init=False, factory=Sent)
    _own: Sent | None = attrs.field(init=False, default=None)
    _done: Callable[[Sent], None] | None = attrs.field(init=False, default=None)
    _deadline: Deadline | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        """Know for whom it waits."""
        self._silent = self._nodes is None
        self._waiting = set(self._nodes or ())

    def begin(self) -> None:
        """Those who are asked have been."""
        if self._waiting:
            self._deadline = self._deadlines.set(trio.current_time() + PATIENCE, self.finish)

    def own(self, sent: Sent, done: Callable[[Sent], None]) -> None:
        """What became of it here, and who is to be told of all.

        Args:
            sent: what.
            done: called once, with the sum.
        """
        self._own, self._done = sent, done
        self._look()

    def add(self, node: str, sent: Sent) -> None:
        """What became of it at another node; a second time does nothing."""
        if node in self._waiting:
            self._waiting.discard(node)
            self._others = _sum(self._others, sent)
            self._look()

    def finish(self) -> None:
        """Wait for nobody any more."""
        self._silent |= bool(self._waiting)
        self._waiting.clear()
        self._look()

    def _look(self) -> None:
        """Tell the sum, if it is known."""
        if self._waiting or self._own is None or self._done is None:
            return
        self._deadlines.cancel(self._deadline)
        self._over()
        done, self._done = self._done, None
        done(self._total(self._own))

    def _total(self, own: Sent) -> Sent:
        total = _sum(own, self._others)
        nowhere = not (self._silent or total.reached or total.dropped)
        if self._volatile:
            return attrs.evolve(total, stored=int(self._silent), dropped=total.dropped or int(nowhere))
        return attrs.evolve(total, stored=int(self._silent or nowhere), dropped=min(total.dropped, 1))


def _sum(one: Sent, other: Sent) -> Sent:
    return Sent(
        one.active + other.active,
        one.parked + other.parked,
        one.queued + other.queued,
        one.stored + other.stored,
        one.dropped + other.dropped,
    )
