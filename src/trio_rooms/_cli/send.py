"""``trio-rooms send``: send an event to a user or a room of a running server, over HTTP."""

from __future__ import annotations

import argparse
import math
from typing import Any
from urllib.parse import quote

from trio_rooms._values.json_codec import decode, encode

from .asking import ask, room_path
from .failures import UsageError
from .tokens import read_token

__all__ = ["send"]


def send(options: argparse.Namespace) -> int:
    """Send it and print what has become of it, a count each; returns the exit status.

    Raises:
        UsageError: what is asked for makes no sense; nothing was sent.
        CommandFailed: the server did not do it, and says why; or there is none.
    """
    path, content = _wanted(options)
    token = read_token(options.token_file)
    answer = ask(options.url, "POST", path, encode(content), token=token)
    print(answer.decode(errors="replace").strip())
    return 0


def _wanted(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The path and the content of the request."""
    content: dict[str, Any] = {"event": options.event}
    try:
        content["data"] = decode(options.data)
    except ValueError as error:
        msg = f"DATA is JSON, where a string has quotes of its own, as '\"hello\"': {error}"
        raise UsageError(msg) from error
    if options.volatile:
        content["volatile"] = True
    try:
        if options.user is not None:
            if options.channel is not None or options.reliable:
                options.fail("--channel and --reliable go with --room")
            if options.priority is not None:
                content["priority"] = options.priority
            if options.ttl is not None:
                if options.ttl == math.inf:
                    raise UsageError("--ttl is a number of seconds that ends: nothing waits for ever")
                content["ttl"] = options.ttl
            return f"/users/{quote(options.user, safe='')}/send", content
        if options.priority is not None or options.ttl is not None:
            options.fail("--priority and --ttl go with --user")
        if options.channel is not None:
            content["channel"] = options.channel
        if options.reliable:
            content["reliable"] = True
        return f"/rooms{room_path(options.room)}/emit", content
    except UnicodeEncodeError as error:
        msg = f"a name has what is no UTF-8: {error.object!r}"
        raise UsageError(msg) from None
