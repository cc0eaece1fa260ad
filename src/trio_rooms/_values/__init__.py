"""Between typed Python, plain values and bytes."""

from __future__ import annotations

__all__: list[str] = []
