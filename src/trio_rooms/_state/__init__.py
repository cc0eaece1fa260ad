"""The documents of one room, and what of them is still to be written."""

from __future__ import annotations

__all__: list[str] = []
