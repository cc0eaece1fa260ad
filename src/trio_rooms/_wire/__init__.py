"""Bytes to messages and back: no I/O, no Trio."""

from __future__ import annotations

__all__: list[str] = []
