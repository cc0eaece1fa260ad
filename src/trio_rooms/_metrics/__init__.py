"""What is counted and measured, in constant memory: leaves that everything else may use."""

from __future__ import annotations

__all__: list[str] = []
