"""Users: who of them is connected where, and what waits for whom."""

from __future__ import annotations

__all__: list[str] = []
