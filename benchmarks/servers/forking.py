"""Servers that are started, stopped, killed and paused again and again, as a process is told to.

A line on its standard input is ``start``, ``kill`` (with SIGKILL), ``stop`` (with SIGTERM), ``pause`` (with
SIGSTOP) or ``continue``. What the server prints is printed; after ``kill`` and ``stop`` comes how it has
ended: its exit status, or minus the signal. Each server is a process of its own that has nothing from those
before it. It is forked from one that has imported everything, so that many can be killed in a minute, and
leads no process group: all end together.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final

__all__ = ["obey"]

_SIGNALS: Final = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGTERM,
    "pause": signal.SIGSTOP,
    "continue": signal.SIGCONT,
}


def obey(serve: Callable[[], None]) -> None:
    """Do what is asked for until the standard input ends.

    Args:
        serve: what a server does, until it is told to stop by SIGTERM; called in each of these processes.
    """
    # An exception, so that the server is ended; it has its own way with this signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    child = 0
    try:
        for line in sys.stdin:
            command = line.strip()
            if command == "start":
                child = _fork(serve)
                continue
            os.kill(child, _SIGNALS[command])
            if command in ("kill", "stop"):
                status, child = _ended(child), 0
                print(status, flush=True)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            _ended(child)


def _fork(serve: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        serve()
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # Nothing of the parent is to be ended twice.
        sys.stderr.flush()
        os._exit(status)


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
