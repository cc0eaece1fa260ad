"""What becomes of a message at several nodes, added up."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Sent
from trio_rooms._cluster.tally import Tally
from trio_rooms._loop.deadlines import Deadlines

SUMS = [
    (False, Sent(stored=1), [], Sent(stored=1)),
    (False, Sent(stored=1), [Sent()], Sent(stored=1)),
    (False, Sent(stored=1), [Sent(), Sent(parked=2)], Sent(parked=2)),
    (False, Sent(active=1), [Sent(active=1), Sent(queued=1)], Sent(active=2, queued=1)),
    (False, Sent(dropped=1), [Sent(dropped=1)], Sent(dropped=1)),
    (False, Sent(active=1), [None], Sent(active=1, stored=1)),
    (False, Sent(stored=1), [None, Sent()], Sent(stored=1)),
    (True, Sent(), [], Sent(dropped=1)),
    (True, Sent(), [Sent()], Sent(dropped=1)),
    (True, Sent(), [Sent(active=1)], Sent(active=1)),
    (True, Sent(dropped=1), [Sent(active=1, dropped=2)], Sent(active=1, dropped=3)),
    (True, Sent(), [None], Sent(stored=1)),
]


@pytest.mark.parametrize(("volatile", "own", "others", "total"), SUMS)
async def test_what_all_say_is_added_up(
    volatile: bool, own: Sent, others: list[Sent | None], total: Sent, autojump_clock: MockClock
) -> None:
    """In any order; at once where all have said it, else after a quarter of a second."""
    for own_first in (True, False):
        told: list[Sent] = []
        over: list[bool] = []
        deadlines = Deadlines()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deadlines.run)
            names = [str(number) for number in range(len(others))]
            tally = Tally(volatile, names, partial(over.append, True), deadlines)
            tally.begin()
            if own_first:
                tally.own(own, told.append)
            for name, sent in zip(names, others, strict=True):
                if sent is not None:
                    tally.add(name, sent)
                    tally.add(name, sent)
            if not own_first:
                tally.own(own, told.append)
            assert told == ([] if None in others else [total])
            await trio.sleep(0.3)
            assert told == [total]
            assert over == [True]
            tally.finish()
            assert len(told) == len(over) == 1
            nursery.cancel_scope.cancel()


def test_nodes_that_are_not_known_count_as_one_that_does_not_answer() -> None:
    """And nobody waits for them."""
    told: list[Sent] = []
    tally = Tally(False, None, list, Deadlines())
    tally.begin()
    tally.own(Sent(active=1), told.append)
    assert told == [Sent(active=1, stored=1)]
