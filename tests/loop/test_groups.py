from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from trio_rooms._loop.groups import alone, first_error, parted


async def cancelled() -> trio.Cancelled:
    """A cancellation, which only Trio can make."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            return error
    raise AssertionError


def nested(error: BaseException, depth: int) -> BaseException:
    """An error in groups of one."""
    for _ in range(depth):
        error = BaseExceptionGroup("", [error])
    return error


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_a_group_of_one_is_that_one(depth: int) -> None:
    """However deep; a group of several is none of them."""
    error = ValueError()
    assert alone(nested(error, depth)) is error
    several = ExceptionGroup("", [error, KeyError()])
    assert alone(nested(several, depth)) is several


Order = Callable[[BaseException, BaseException], list[BaseException]]


@pytest.mark.parametrize("order", [lambda one, two: [one, two], lambda one, two: [two, one]])
async def test_what_ends_the_program_goes_before_errors_and_those_before_cancellations(order: Order) -> None:
    """In whatever order and depth they stand."""
    error, cancel = ValueError(), await cancelled()
    assert first_error(error) is error
    assert first_error(BaseExceptionGroup("", order(nested(cancel, 2), nested(error, 1)))) is error
    for end in (KeyboardInterrupt(), SystemExit(1)):
        group = BaseExceptionGroup("", order(nested(error, 2), nested(end, 1)))
        assert first_error(BaseExceptionGroup("", order(cancel, group))) is end
    assert first_error(nested(cancel, 3)) is cancel


async def test_what_is_not_about_who_raised_it_goes_on() -> None:
    """Cancellations, Ctrl-C and exits; the rest stays, and nothing of either is lost."""
    cancel, error, odd = await cancelled(), ValueError(), GeneratorExit()
    for one in (cancel, KeyboardInterrupt(), SystemExit(1)):
        assert parted(one) == (one, None)
        passing, rest = parted(BaseExceptionGroup("", [error, nested(one, 2), odd]))
        assert passing is not None
        assert alone(passing) is one
        assert isinstance(rest, BaseExceptionGroup)
        assert rest.exceptions == (error, odd)
    assert parted(error) == (None, error)
    assert parted(odd) == (None, odd)
