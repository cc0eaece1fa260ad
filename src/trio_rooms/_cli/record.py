"""``trio-rooms record``: write what clients send to the rooms of a running server into a file, row by row."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import BinaryIO, Final

import cbor2

from .asking import get, unlike_ours
from .failures import CommandFailed, UsageError
from .tokens import read_token

__all__ = ["record"]

_PAUSE: Final = 1.0
"""Seconds between two questions whether there is more."""
_LONGEST: Final = 32 * 1024 * 1024
"""Bytes that a server gives out at a time at most."""
_FULL: Final = 1024 * 1024
"""Bytes of an answer after which there is more at once."""


def record(options: argparse.Namespace) -> int:
    """Record until the time is over or Ctrl-C; returns the exit status.

    Raises:
        UsageError: the URL is none of a server, or the output a terminal.
        CommandFailed: the server does not let us, or is gone; what was written until then is a trace.
    """
    token = read_token(options.token_file)
    if options.output is None and sys.stdout.isatty():
        raise UsageError("a trace is no text: give --output FILE")
    until = time.monotonic() + options.seconds
    try:
        with ExitStack() as stack:
            # Before the server is asked: what cannot be written need not be recorded.
            file = sys.stdout.buffer if options.output is None else _opened(options, stack)
            for piece in _pieces(options.url, token, until):
                file.write(piece)
                file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        msg = f"the trace cannot be written on: {error.strerror or error}"
        raise CommandFailed(msg) from error
    return 0


def _opened(options: argparse.Namespace, stack: ExitStack) -> BinaryIO:
    """The file that is written."""
    try:
        file: BinaryIO = stack.enter_context(options.output.open("wb"))
    except OSError as error:
        msg = f"{options.output} cannot be written: {error.strerror or error}"
        raise CommandFailed(msg) from error
    return file


def _name(url: str, begin: bytes) -> str:
    """The name of the recording that has begun."""
    try:
        name = cbor2.loads(begin)["recording"]
    except (cbor2.CBORDecodeError, TypeError, KeyError) as error:
        raise unlike_ours(url, "/trace") from error
    return str(name)


def _pieces(url: str, token: str | None, until: float) -> Iterator[bytes]:
    """What is recorded, until the time is over or somebody presses Ctrl-C."""

    def fetch(path: str) -> bytes:
        return get(url, path, token=token, longest=_LONGEST)

    try:
        begin = fetch("/trace")
    except CommandFailed as error:
        if error.status != 404:
            raise
        msg = f"{error}; who records shows the token (--token-file), or the server has --dashboard"
        raise CommandFailed(msg) from error
    yield begin
    path = f"/trace/{_name(url, begin)}"
    with suppress(KeyboardInterrupt):
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _PAUSE))
            piece = fetch(path)
            yield piece
            while len(piece) >= _FULL:
                piece = fetch(path)
                yield piece
    yield fetch(f"{path}/end")
