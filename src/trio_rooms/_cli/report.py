"""``trio-rooms report``: what a running server promises of hibernation, beside what it has measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any, Final

from .asking import get_json, unlike_ours
from .render import printable, show

__all__ = ["report"]

_HOLDS: Final = {True: "yes", False: "NO", None: "not seen yet"}
_WIDTH: Final = max(map(len, _HOLDS.values()))


def report(options: argparse.Namespace) -> int:
    """Print it; returns the exit status, which is 0 also where something does not hold.

    Raises:
        UsageError, CommandFailed: as `asking.get`.
    """
    content = get_json(options.url, "/report")
    try:
        lines = [json.dumps(content, indent=2)] if options.json else [*_lines(content)]
    except (KeyError, TypeError, AttributeError) as error:
        raise unlike_ours(options.url, "/report") from error
    print("\n".join(lines))
    return 0


def _lines(content: dict[str, Any]) -> Iterator[str]:
    """It as people read it: the verdicts first."""
    for one in content["verdicts"]:
        measured = "" if one["measured"] is None else f": {_short(one['measured'])}"
        yield f"{_HOLDS[one['holds']]:{_WIDTH}}  {printable(one['standard'])}{measured}"
    for part, leaves in content.items():
        if part == "verdicts":
            continue
        yield f"\n{printable(part).replace('_', ' ')}"
        for name, leaf in leaves.items():
            yield f"  {printable(name).replace('_', ' ')}"
            for side in ("declared", "measured"):
                yield f"    {side}: {_short(leaf[side])}"


def _short(value: Any) -> str:
    """A value in one line or more."""
    if value is None:
        return "not seen yet"
    return printable(value) if isinstance(value, str) else "".join(show(value, "      "))
