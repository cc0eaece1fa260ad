"""The dashboard: one page that asks ``/stats`` each second and draws what it is told."""

from __future__ import annotations

from .page import DASHBOARD

__all__ = ["DASHBOARD"]
