"""What is told of open rooms: how they sleep, why they do not, and what would be better."""

from __future__ import annotations

__all__: list[str] = []
