"""All rooms of a process: which are awake, which start again after a crash, which wait for which."""

from __future__ import annotations

__all__: list[str] = []
