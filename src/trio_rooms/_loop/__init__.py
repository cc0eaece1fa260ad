"""Small things around Trio's loop: deadlines, turns, exception groups, the garbage collector."""

from __future__ import annotations

__all__: list[str] = []
