"""A picture of what hibernation would bring, over the idle timeout."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Final

from trio_rooms._insight.replay import Outcome

from .failures import CommandFailed

__all__ = ["plot"]

_SAVINGS: Final = "#1f6f5c"
_WAKES: Final = "#b4541a"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw savings and added wakes over the idle timeout.

    Args:
        outcomes: by idle timeout.
        path: what is written; its name says in which format, as ``savings.svg``.

    Raises:
        CommandFailed: matplotlib is not installed, does not know the format, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (an extra, and slow to import)
    except ImportError as error:
        msg = "--plot takes matplotlib: install trio-rooms[plot]"
        raise CommandFailed(msg) from error
    # That rooms never sleep has no place on the axis.
    shown = [one for one in outcomes if one.savings is not None and isfinite(one.policy.idle_timeout)]
    timeouts = [one.policy.idle_timeout for one in shown]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    savings = figure.add_subplot()
    savings.set_xscale("log")
    savings.set_xticks(timeouts, [f"{one:g}" for one in timeouts])
    savings.minorticks_off()
    savings.set_xlabel("idle timeout in seconds")
    savings.plot(timeouts, [100 * (one.savings or 0) for one in shown], "o-", color=_SAVINGS)
    savings.set_ylim(0, 100)
    savings.set_ylabel("savings in % of what connections cost", color=_SAVINGS)
    wakes = savings.twinx()
    wakes.plot(timeouts, [one.added_wakes for one in shown], "s--", color=_WAKES)
    wakes.set_ylim(bottom=0)
    wakes.set_ylabel("added wakes", color=_WAKES)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be drawn: {getattr(error, 'strerror', None) or error}"
        raise CommandFailed(msg) from error
