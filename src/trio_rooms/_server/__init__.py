"""HTTP around the rooms: who is let in, what is answered."""

from __future__ import annotations

__all__: list[str] = []
