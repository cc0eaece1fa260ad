"""The command ``trio-rooms``."""

from __future__ import annotations

__all__: list[str] = []
