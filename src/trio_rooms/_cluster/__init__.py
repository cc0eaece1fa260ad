"""Many nodes: who lives, who owns which room, and how mail and output cross between them."""

from __future__ import annotations

__all__: list[str] = []
