"""Speaking to Valkey, or Redis: one connection for Trio, and where to find the server."""

from __future__ import annotations

__all__: list[str] = []
