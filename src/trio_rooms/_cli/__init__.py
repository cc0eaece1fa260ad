"""The command ``trio-rooms``: parse, call, print."""

from __future__ import annotations

__all__: list[str] = []
