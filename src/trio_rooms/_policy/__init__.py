"""When rooms and connections are to sleep: frozen values and pure decisions."""

from __future__ import annotations

__all__: list[str] = []
