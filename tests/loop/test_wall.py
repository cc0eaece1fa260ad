from __future__ import annotations

import gc
import time

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_rooms._loop import wall
from trio_rooms._loop.wall import WallClock


async def test_it_is_the_time_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Trio's own clock it follows the system's, also when somebody sets that."""
    clock = WallClock()
    assert time.time() <= clock.now() <= time.time()
    for moment in (1e9, 2e9, 5.0):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        assert clock.now() == moment


async def test_it_moves_with_the_clock_of_a_test(autojump_clock: MockClock) -> None:
    """It begins with the system's, and then moves just as that clock does."""
    clock = WallClock()
    began = clock.now()
    assert time.time() - 60 < began <= time.time()
    await trio.sleep(86400)
    assert clock.now() == pytest.approx(began + 86400, abs=1e-3)
    autojump_clock.jump(0.5)
    assert clock.now() == pytest.approx(began + 86400.5, abs=1e-3)


async def test_all_agree(autojump_clock: MockClock) -> None:
    """One that is made later tells the same time."""
    first = WallClock()
    first.now()
    await trio.sleep(3600)
    assert WallClock().now() == first.now()


def test_it_may_be_used_in_many_runs() -> None:
    """Each run has its own time: that of the system, or one that moves with its clock."""
    clock = WallClock()

    async def sleep_and_look() -> float:
        before = clock.now()
        await trio.sleep(1000)
        return clock.now() - before

    async def look() -> float:
        return clock.now()

    for _ in range(2):
        assert trio.run(sleep_and_look, clock=MockClock(autojump_threshold=0)) == pytest.approx(
            1000, abs=1e-3
        )
        assert abs(trio.run(look) - time.time()) < 60
    with pytest.raises(RuntimeError):
        clock.now()


def test_a_clock_of_somebodys_own_is_followed() -> None:
    """Whatever moves, it moves with it."""

    @attrs.define(eq=False)
    class Fast(trio.abc.Clock):
        _began: float = attrs.field(factory=time.perf_counter)

        def start_clock(self) -> None:
            """It runs."""

        def current_time(self) -> float:
            return 1e6 * (time.perf_counter() - self._began)

        def deadline_to_sleep_time(self, deadline: float) -> float:
            return (deadline - self.current_time()) / 1e6

    async def main() -> float:
        clock = WallClock()
        before = clock.now()
        await trio.sleep(3600)
        return clock.now() - before

    assert trio.run(main, clock=Fast()) >= 3600


def test_clocks_are_let_go() -> None:
    """What is remembered of a clock goes with it."""

    async def main() -> None:
        WallClock().now()

    before = len(wall._origins)
    trio.run(main, clock=MockClock())
    gc.collect()
    assert len(wall._origins) <= before
