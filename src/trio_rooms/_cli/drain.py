"""``trio-rooms drain``: have a node give its rooms and its clients to the others."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from .asking import ask
from .failures import CommandFailed
from .nodes import nodes_of
from .tokens import read_token

__all__ = ["drain"]

_PAUSE: Final = 0.25
"""Seconds between two looks at what a node has still."""


def drain(options: argparse.Namespace) -> int:
    """Ask for it, and wait until nothing is left; returns the exit status.

    Raises:
        UsageError: this is no URL of a server.
        CommandFailed: there is no such node, or it is not done in time; it goes on all the same.
    """
    name, until = options.node, time.monotonic() + options.timeout
    token = read_token(options.token_file)
    marks = {"X-Trio-Rooms-Drain": "yes"}
    ask(options.url, "POST", f"/nodes/{name}/drain", b"", token=token, marks=marks)
    while (left := _left(options.url, name)) is not None and left != (0, 0):
        if time.monotonic() > until:
            rooms, connections = left
            raise CommandFailed(f"{name} still has {rooms:,} rooms and {connections:,} connections")
        time.sleep(_PAUSE)
    print(f"{name} is drained" if left is not None else f"{name} is drained, and gone")
    return 0


def _left(url: str, name: str) -> tuple[int, int] | None:
    """How many rooms and connections a node has still; None where it is gone."""
    try:
        found: list[dict[str, Any]] = [node for node in nodes_of(url)["nodes"] if node["name"] == name]
        if not found:
            return None
        rooms = found[0]["rooms"]
        connections = found[0]["connections"] + found[0]["gateway_connections"]
        return int(rooms["awake"]) + int(rooms["asleep"]), int(connections)
    except (TypeError, KeyError, ValueError) as error:
        raise CommandFailed(f"{url} answers what says nothing of nodes") from error
