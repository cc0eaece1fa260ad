"""Where in the application something waits, for people."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Final

__all__ = ["innermost"]

_LIBRARIES: Final = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
)
"""Where code is that is not the application's."""


def innermost(frames: Iterable[tuple[FrameType, int]]) -> str:
    """``"file:line"`` of the last of some frames that is the application's; the empty string for none.

    Args:
        frames: what was called, each with the line that it is at, the outermost first.
    """
    place = ""
    for frame, line in frames:
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARIES):
            place = f"{file}:{line}"
    return place
