"""``trio-rooms send``: send an event to a user or a room of a running server, over HTTP."""

from __future__ import annotations

import argparse
import http.client
import math
import ssl
from typing import Any, Final
from urllib.parse import quote, urlsplit

from trio_rooms._values.json_codec import decode, encode

from .failures import CommandFailed, UsageError
from .tokens import read_token

__all__ = ["send"]

_PATIENCE: Final = 45.0
"""Seconds of silence after which nothing more is expected of a server; it answers within 30."""
_LONGEST: Final = 64 * 1024
"""Bytes of an answer that are read at most."""


def send(options: argparse.Namespace) -> int:
    """Send it and print what has become of it, a count each; returns the exit status.

    Raises:
        UsageError: what is asked for makes no sense; nothing was sent.
        CommandFailed: the server did not do it, and says why; or there is none.
    """
    path, content = _wanted(options)
    token = read_token(options.token_file)
    connection, base = _connection(options.url)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", base + path, encode(content), headers)
        response = connection.getresponse()
        answer = response.read(_LONGEST).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        msg = f"no answer from {options.url}: {str(error) or type(error).__name__}"
        raise CommandFailed(msg) from error
    finally:
        connection.close()
    if response.status != 200:
        msg = f"{options.url} answers {response.status}: {_reason(answer) or response.reason}"
        raise CommandFailed(msg)
    print(answer)
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
        name, slash, id_ = options.room.partition("/")
        if not (name and slash and id_):
            raise UsageError(f"a room is given as ROOM/ID, like chat/lobby, not {options.room!r}")
        return f"/rooms/{quote(name, safe='')}/{quote(id_, safe='')}/emit", content
    except UnicodeEncodeError as error:
        msg = f"a name has what is no UTF-8: {error.object!r}"
        raise UsageError(msg) from None


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    """A connection to the server at a URL, not open yet, and what its paths begin with."""
    wrong = f"a server's URL is like http://127.0.0.1:8000 or wss://example.org, not {url!r}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(wrong) from None
    if not host or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(wrong)
    if parts.scheme in {"http", "ws"}:
        return http.client.HTTPConnection(host, port, timeout=_PATIENCE), parts.path.rstrip("/")
    if parts.scheme in {"https", "wss"}:
        context = ssl.create_default_context()
        secure = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=context)
        return secure, parts.path.rstrip("/")
    raise UsageError(wrong)


def _reason(answer: str) -> str:
    """What a server says in an answer; that of a proxy is shown as it is."""
    try:
        content = decode(answer)
    except ValueError:
        return answer[:500]
    return str(content["error"]) if type(content) is dict and "error" in content else answer[:500]
