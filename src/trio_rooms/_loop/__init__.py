"""Small things around Trio and the clock."""

from __future__ import annotations

__all__: list[str] = []
