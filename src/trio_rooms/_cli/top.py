"""``trio-rooms top``: what a running server does, live in a terminal."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_rooms._loop.groups import alone

from .asking import get_json, unlike_ours
from .failures import CommandFailed, UsageError
from .tokens import read_token

if TYPE_CHECKING:
    from rich.live import Live

    from .picture import Picture

__all__ = ["top"]

_PAUSE: Final = 1.0
"""Seconds between two questions."""


def top(options: argparse.Namespace) -> int:
    """Show it until q or Ctrl-C; returns the exit status.

    Raises:
        UsageError: the URL is none, the token is none, or there is no terminal.
        CommandFailed: the server does not answer the first question, or something is not installed.
    """
    try:
        from rich.console import Console  # noqa: PLC0415 (an extra)

        from .picture import Picture  # noqa: PLC0415
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        msg = "top takes the package rich, which is not installed: pip install 'trio-rooms[top]'"
        raise CommandFailed(msg) from error
    # What a terminal does not know is shown as a question mark, and does not end the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    if not options.once and not (console.is_terminal and sys.stdout.isatty()):
        raise UsageError("top draws on a terminal, and the standard output is none; --once prints it once")
    token = read_token(options.token_file)
    picture = Picture(options.url)
    asking = partial(_ask, options.url, token)
    picture.tell(asking(), perf_counter())
    if options.once:
        console.print(picture.page())
        return 0
    from rich.live import Live  # noqa: PLC0415 (as above)

    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            return trio.run(_Top(live, picture, asking, keys).run)
        except BaseExceptionGroup as group:
            raise alone(group) from None


def _ask(url: str, token: str | None) -> Mapping[str, Any]:
    """What a server tells; blocks.

    Raises:
        UsageError, CommandFailed: as `get_json`.
    """
    told = get_json(url, "/stats", token=token)
    if not isinstance(told, dict) or not isinstance(told.get("hibernation"), dict):
        raise unlike_ours(url, "/stats")
    return told


@contextmanager
def _keys() -> Iterator[int | None]:
    """The descriptor that keys are read from as they are pressed; None where there is no keyboard."""
    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Top:
    """The picture on a terminal, asked for again and again.

    Args:
        live: the terminal.
        picture: what is shown.
        ask: asks the server; blocks.
        keys: see `_keys`.
    """

    def __init__(
        self, live: Live, picture: Picture, ask: Callable[[], Mapping[str, Any]], keys: int | None
    ) -> None:
        self._live = live
        self._picture = picture
        self._ask = ask
        self._keys = keys
        self._answered = 0.0
        self._problem = ""
        self._status = 0

    async def run(self) -> int:
        """Show it until somebody has seen enough; returns the exit status."""
        self._answered = perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._asking)
            nursery.start_soon(self._drawing)
            nursery.start_soon(self._hearing, nursery.cancel_scope)
            if self._keys is not None:
                nursery.start_soon(self._reading, self._keys, nursery.cancel_scope)
        return self._status

    async def _asking(self) -> None:
        """Ask, and go on where there is no answer."""
        while True:
            await trio.sleep(_PAUSE)
            try:
                told = await trio.to_thread.run_sync(self._ask, abandon_on_cancel=True)
            except CommandFailed as error:
                self._problem = str(error)
            else:
                self._problem, self._answered = "", perf_counter()
                self._picture.tell(told, self._answered)
            self._draw()

    async def _drawing(self) -> None:
        """Draw it also while no answer comes."""
        while True:
            self._draw()
            await trio.sleep(_PAUSE)

    def _draw(self) -> None:
        """Draw it in the size that the terminal has now."""
        silent = round(perf_counter() - self._answered)
        good = not self._problem and silent < 3 * _PAUSE
        status = "live" if good else f"no answer for {silent} s {self._problem}"
        console = self._live.console
        # Asked of the terminal: COLUMNS and LINES in the environment, which rich believes, stay as they were.
        with suppress(OSError):
            console.size = os.get_terminal_size(sys.stdout.fileno())
        picture = self._picture.screen(status, good=good, height=console.size.height)
        self._live.update(picture, refresh=True)

    async def _hearing(self, scope: trio.CancelScope) -> None:
        """Draw it again when the terminal has another size, and end where that is asked for."""
        ends = (signal.SIGTERM, signal.SIGHUP)
        with trio.open_signal_receiver(*ends, signal.SIGWINCH, signal.SIGCONT) as received:
            async for one in received:
                if one in ends:
                    self._status = 128 + one
                    scope.cancel()
                    return
                if one == signal.SIGCONT and self._keys is not None:
                    tty.setcbreak(self._keys)  # A shell has set it as it likes it.
                self._draw()

    async def _reading(self, fd: int, scope: trio.CancelScope) -> None:
        """End when q is pressed."""
        while True:
            await trio.lowlevel.wait_readable(fd)
            try:
                pressed = os.read(fd, 64)
            except OSError:
                pressed = b""
            if not pressed:
                return  # The terminal is gone, which a signal tells as well.
            if pressed[:1] in b"qQ":
                scope.cancel()
                return
