"""``trio-rooms drain``: have a node give its rooms and its clients to the others."""

from __future__ import annotations

import argparse
import time
from typing import Final

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
            raise CommandFailed(
                f"node {name} has {rooms:,} rooms and {connections:,} connections still, and goes on"
            )
        time.sleep(_PAUSE)
    print(f"node {name} is drained" if left is not None else f"node {name} is gone")
    return 0


def _left(url: str, name: str) -> tuple[int, int] | None:
    """How many rooms and connections a node has still; None where it is gone."""
    try:
        for node in nodes_of(url)["nodes"]:
            if node["name"] == name:
                rooms = node["rooms"]
                # Until it says that it is drained, what it has is of before.
                least = 0 if node["draining"] else 1
                return max(int(rooms["awake"]) + int(rooms["asleep"]), least), int(node["connections"])
    except (TypeError, KeyError, ValueError) as error:
        raise CommandFailed(f"{url} answers what says nothing of nodes") from error
    return None
