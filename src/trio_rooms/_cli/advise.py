"""``trio-rooms advise``: what a running server recommends, or what hibernation would bring to others."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from trio_rooms._insight.replay import Outcome, best, percent
from trio_rooms._values.plain import finite

from .asking import get_json
from .failures import CommandFailed
from .lives import Findings, replay_file
from .plot import plot
from .render import printable
from .tokens import read_token

__all__ = ["advise"]

_DIGITS: Final = 4
"""Of a share; more would say more than is known."""


def advise(options: argparse.Namespace) -> int:
    """Print the advice; returns the exit status.

    Raises:
        UsageError: the URL is none of a server.
        CommandFailed: the server or the file does not answer; the text says why.
    """
    if (options.url is None) is (options.trace is None):
        options.fail("give the URL of a server, or --trace FILE")
    if options.url is not None and options.plot is not None:
        options.fail("--plot goes with --trace")
    if options.url is not None:
        token = read_token(options.token_file)
        told = get_json(options.url, "/stats", token=token)
        try:
            recommended = told["recommendations"]
            lines = [*_recommended(recommended)]
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"what {options.url} answers at /stats is not that of a server of rooms"
            raise CommandFailed(msg) from error
        _print(recommended, lines, as_json=options.json)
        return 0
    findings = replay_file(options.trace)
    shown = _document(findings)
    if options.plot is not None:
        plot(findings.settings, options.plot)
    _print(shown, _table(findings, shown), as_json=options.json)
    return 0


def _print(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        for line in lines:
            print(printable(line))


def _recommended(told: list[dict[str, Any]]) -> Iterator[str]:
    """What a server recommends, one after the other."""
    if not told:
        yield "nothing to recommend"
    for one in told:
        yield f"{one['rule']}: {one['message']}"
        for name in ("evidence", "predicted"):
            for key, value in one[name].items():
                yield f"    {name} {key}: {json.dumps(value)}"


def _document(findings: Findings) -> dict[str, Any]:
    """What was found, as JSON has it."""
    shown: dict[str, Any] = {
        "settings": [_setting(one) for one in findings.settings],
        "advice": _advice(findings),
        "seconds": round(findings.seconds, 3),
        "rows": findings.rows,
    }
    if findings.present is not None:
        shown["present"] = _setting(findings.present)
        shown["lost"] = findings.lost
    document: dict[str, Any] = finite(shown)
    return document


def _setting(outcome: Outcome) -> dict[str, Any]:
    """One setting, and what it brings."""
    return {
        "idle_timeout": outcome.policy.idle_timeout,
        "hibernation_ratio": _share(outcome.hibernation_ratio),
        "savings": _share(outcome.savings),
        "added_wakes": outcome.added_wakes,
    }


def _share(share: float | None) -> float | None:
    return None if share is None else round(share, _DIGITS)


def _advice(findings: Findings) -> dict[str, Any]:
    """What to set, and what that brings."""
    present = findings.present
    chosen = best(findings.settings, present)
    if chosen is None:
        why = "no idle timeout would hibernate much" if present is None else "nothing would be much better"
        now = "" if present is None else f" than now, with {percent(present.hibernation_ratio)} hibernated"
        return {"idle_timeout": None, "message": f"{why}{now}"}
    timeout = chosen.policy.idle_timeout
    what = f"idle_timeout={timeout:g}"
    if present is None:
        what += f" and connection_idle_timeout={timeout:g}"
        than = ""
        wakes = _count(chosen.added_wakes, "wake")
    else:
        than = f" in place of {percent(present.hibernation_ratio)}"
        wakes = f"{_count(chosen.added_wakes, 'wake')} in place of {present.added_wakes:,}"
    message = (
        f"set {what}: {percent(chosen.hibernation_ratio)} of the connections would have been hibernated"
        f"{than}, which saves {percent(chosen.savings)} of what connections cost, with {wakes} in "
        f"{findings.seconds:,.0f} s"
    )
    return {**_setting(chosen), "message": message}


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(findings: Findings, shown: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield f"{_count(findings.rows, 'row')} in {findings.seconds:,.0f} s"
    if findings.lost:
        yield f"{findings.lost:,} more could not be recorded, and are missed in what follows"
    yield ""
    yield "idle timeout  hibernated  savings  added wakes"
    for one in findings.settings:
        yield (
            f"{one.policy.idle_timeout:>10g} s  {percent(one.hibernation_ratio):>10}  "
            f"{percent(one.savings):>7}  {one.added_wakes:>11,}"
        )
    if findings.present is not None:
        one = findings.present
        yield (
            f"{'as it is set':>12}  {percent(one.hibernation_ratio):>10}  "
            f"{percent(one.savings):>7}  {one.added_wakes:>11,}"
        )
    yield ""
    yield shown["advice"]["message"]
