"""Asking a running server something over HTTP, for every command that does."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from trio_rooms._values.json_codec import decode

from .failures import CommandFailed, UsageError
from .render import printable

__all__ = ["ask", "get", "get_json", "room_path", "unlike_ours"]

_PATIENCE: Final = 45.0
"""Seconds of silence after which nothing more is expected of a server; it answers within 30."""
_LONGEST: Final = 8 * 1024 * 1024
"""Bytes of an answer that are read at most."""
_LONGEST_REASON: Final = 500
"""Characters of a refusal that are shown."""


def get(url: str, path: str, *, token: str | None = None, longest: int = _LONGEST) -> bytes:
    """What is at a path of a server. It blocks: from Trio it is called in a thread.

    Args:
        url: where the server is, as ``http://127.0.0.1:8000``; ``ws://`` and ``wss://`` do as well.
        path: from the slash on, percent-encoded, with its query.
        token: what is shown as a bearer token, if anything is.
        longest: bytes of the answer that are taken at most.

    Raises:
        UsageError: the URL is none of a server.
        CommandFailed: there is no answer, or one that is too long, or another one than 200.
    """
    return ask(url, "GET", path, token=token, longest=longest)


def get_json(url: str, path: str, *, token: str | None = None, longest: int = _LONGEST) -> Any:
    """The same of what is JSON.

    Raises:
        UsageError, CommandFailed: as `get`; or it is not JSON.
    """
    answer = get(url, path, token=token, longest=longest)
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise unlike_ours(url, path, answer) from error


def ask(
    url: str,
    method: str,
    path: str,
    content: bytes | None = None,
    *,
    token: str | None = None,
    longest: int = _LONGEST,
    marks: Mapping[str, str] | None = None,
) -> bytes:
    """What a server answers to a request, whose content is JSON.

    Args:
        url: where the server is.
        method: the request's.
        path: from the slash on, percent-encoded, with its query.
        content: what is sent along.
        token: what is shown as a bearer token, if anything is.
        longest: bytes of the answer that are taken at most.
        marks: other headers.

    Raises:
        UsageError, CommandFailed: as `get`.
    """
    connection, base = _connection(url)
    headers = dict(marks or {})
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if content is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, base + path, content, headers)
        with connection.getresponse() as response:
            answer = response.read(longest + 1)
    except (OSError, http.client.HTTPException) as error:
        msg = f"no answer from {url}: {str(error) or type(error).__name__}"
        raise CommandFailed(msg) from error
    finally:
        connection.close()
    if response.status != 200:
        msg = f"{url} answers {response.status}: {_reason(answer) or response.reason}"
        raise CommandFailed(msg, response.status)
    if len(answer) > longest:
        raise CommandFailed(f"{url} answers more than {longest:,} bytes at {path}")
    return answer


def unlike_ours(url: str, path: str, answer: bytes = b"") -> CommandFailed:
    """What is raised where no server of rooms would have answered like that."""
    shown = f": {_shown(answer)}" if answer else ""
    return CommandFailed(f"what {url} answers at {path} is not that of a server of rooms{shown}")


def room_path(key: str) -> str:
    """Where a room is under another path: ``/name/id``, percent-encoded.

    Raises:
        UsageError: it is not the key of a room.
    """
    name, slash, id_ = key.partition("/")
    if not (name and slash and id_):
        raise UsageError(f"a room is given as ROOM/ID, like chat/lobby, not {key!r}")
    try:
        return f"/{quote(name, safe='')}/{quote(id_, safe='')}"
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


def _reason(answer: bytes) -> str:
    """What a server says in an answer; that of a proxy is shown as it is."""
    try:
        content = decode(answer.decode(errors="replace"))
    except ValueError:
        return _shown(answer)
    return (
        printable(str(content["error"])) if type(content) is dict and "error" in content else _shown(answer)
    )


def _shown(answer: bytes) -> str:
    """The beginning of an answer, in one line."""
    text = answer[: 4 * _LONGEST_REASON].decode(errors="replace")
    return printable(" ".join(text.split())[:_LONGEST_REASON])
