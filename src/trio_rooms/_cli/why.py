"""``trio-rooms why``: what keeps a room of a running server awake."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from .asking import get_json, room_path
from .failures import CommandFailed
from .render import printable

__all__ = ["why"]

_LONG: Final = 100
"""Seconds from which on their tenths are of no use to anybody."""


def why(options: argparse.Namespace) -> int:
    """Print it, a line for each reason; returns the exit status.

    Raises:
        UsageError: this is no URL of a server, or no key of a room.
        CommandFailed: the server does not say, or there is none.
    """
    answer = get_json(options.url, f"/why{room_path(options.key)}")
    if options.json:
        print(json.dumps(answer))
        return 0
    try:
        stage, rows = answer["stage"], [_row(reason) for reason in answer["reasons"]]
    except (TypeError, KeyError, ValueError) as error:
        raise CommandFailed(f"{options.url} answers what says nothing of a room") from error
    print(f"{printable(options.key)} is {printable(str(stage))}")
    if stage == "awake" and not rows:
        print("  nothing keeps it awake: it is about to sleep")
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:2]]
    for reason, lasted, until in rows:
        print(f"  {reason:{widths[0]}}  {lasted:>{widths[1]}}  until: {until}")
    return 0


def _row(reason: dict[str, Any]) -> tuple[str, str, str]:
    """What keeps it awake, for how long, and until when."""
    lasted = float(reason["for_seconds"])
    shown = f"{lasted:.0f} s" if lasted >= _LONG else f"{lasted:.1f} s"
    return printable(str(reason["reason"])), shown, printable(str(reason["until"]))
