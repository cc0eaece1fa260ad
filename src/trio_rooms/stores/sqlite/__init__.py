"""The store of a server with a data directory of its own: one SQLite file."""

from __future__ import annotations

__all__: list[str] = []
