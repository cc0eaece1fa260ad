"""One awake room: its mail, its handlers, its saves, its way to sleep."""

from __future__ import annotations

__all__: list[str] = []
