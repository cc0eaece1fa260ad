"""One room: how it is reached; and awake, its mail, its handlers, its saves, its way to sleep."""

from __future__ import annotations

__all__: list[str] = []
