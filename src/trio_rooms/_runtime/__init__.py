"""All rooms of a process: which are awake, and who answers for them."""

from __future__ import annotations

__all__: list[str] = []
