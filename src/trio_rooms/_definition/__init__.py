"""What an application wrote about its rooms, checked and frozen."""

from __future__ import annotations

__all__: list[str] = []
