"""Rooms in a server that speaks as Valkey and Redis do, of one process or of many nodes."""

from __future__ import annotations

__all__: list[str] = []
