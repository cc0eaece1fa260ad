"""Typed Python to plain values to bytes, and back."""

from __future__ import annotations

__all__: list[str] = []
