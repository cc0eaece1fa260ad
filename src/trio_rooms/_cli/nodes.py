"""``trio-rooms nodes``: the nodes that share an engine, and what each has."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, Final

from .asking import get_json
from .failures import CommandFailed
from .render import printable

__all__ = ["nodes", "nodes_of"]

_HEAD: Final = ("node", "awake", "asleep", "connections", "for others", "since", "address")
_TEXTS: Final = (0, 6)
"""Columns that are no numbers."""


def nodes(options: argparse.Namespace) -> int:
    """Print them, a line each; returns the exit status.

    Raises:
        UsageError: this is no URL of a server.
        CommandFailed: the server does not say, or there is none.
    """
    told = nodes_of(options.url)
    if options.json:
        print(json.dumps(told))
        return 0
    try:
        rows = [_HEAD, *(_row(node) for node in told["nodes"])]
    except (TypeError, KeyError, ValueError) as error:
        raise CommandFailed(f"{options.url} answers what says nothing of nodes") from error
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:{width}}" if number in _TEXTS else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    return 0


def nodes_of(url: str) -> Any:
    """What a server tells of the nodes.

    Raises:
        UsageError: this is no URL of a server.
        CommandFailed: it is alone, or does not say.
    """
    try:
        return get_json(url, "/nodes")
    except CommandFailed as error:
        if error.status == 404:
            raise CommandFailed(f"{url} is alone: it was started without --engine", 404) from error
        raise


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    """What a node has."""
    name = printable(str(node["name"]))
    if node["self"]:
        name += " (asked)"
    for what in ("paused", "draining"):
        if node.get(what):
            name += f" ({what})"
    rooms = node["rooms"]
    counts = (rooms["awake"], rooms["asleep"], node["connections"], node["gateway_connections"])
    address, since = node["address"], node["since"]  # None where its version says it in another way.
    return (
        name,
        *("?" if count is None else f"{int(count):,}" for count in counts),
        "?" if since is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(since))),
        "" if address is None else printable(str(address)),
    )
