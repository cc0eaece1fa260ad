"""Traces of messages, for OpenTelemetry: nothing of this is there unless a program asks for it."""

from __future__ import annotations

__all__: list[str] = []
