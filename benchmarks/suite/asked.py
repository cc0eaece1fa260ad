"""What a server on this machine answers over HTTP, without blocking who asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import trio

__all__ = ["get", "post"]

_PATIENCE: Final = 5.0


async def get(port: int, path: str) -> Any:
    """The JSON at a path.

    Raises:
        OSError: nobody answers, or not with 200.
        trio.TooSlowError: not in time.
    """
    return await _ask(port, "GET", path, {})


async def post(port: int, path: str, headers: Mapping[str, str]) -> Any:
    """The JSON that is the answer to a request without a body.

    Raises:
        OSError, trio.TooSlowError: as `get`.
    """
    return await _ask(port, "POST", path, {**headers, "Content-Length": "0"})


async def _ask(port: int, method: str, path: str, headers: Mapping[str, str]) -> Any:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    answer = b""
    try:
        with trio.fail_after(_PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all("\r\n".join([*lines, "", ""]).encode())
                async for part in stream:
                    answer += part
    except trio.BrokenResourceError as error:
        raise OSError(f"{path}: {error}") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    if head[9:12] != b"200":
        raise OSError(f"{path}: {answer[:500]!r}")
    return json.loads(body)
