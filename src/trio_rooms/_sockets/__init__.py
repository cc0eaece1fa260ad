"""Every socket of the process; knows nothing of what rooms do."""

from __future__ import annotations

__all__: list[str] = []
