"""What coordinates many nodes: which of them live, who owns which room, and how they reach each other."""

from __future__ import annotations

from .base import Claim, Engine, Fence, Renewal
from .memory import MemoryEngine

__all__ = ["Claim", "Engine", "Fence", "MemoryEngine", "Renewal"]
