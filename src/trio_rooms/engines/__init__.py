"""What coordinates many nodes: which of them live, who owns which room, and how they reach each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Claim, Engine, Fence, Renewal
from .memory import MemoryEngine

if TYPE_CHECKING:
    from .valkey import Valkey

__all__ = ["Claim", "Engine", "Fence", "MemoryEngine", "Renewal", "Valkey"]


def __getattr__(name: str) -> Any:
    # Who has no Valkey need not have installed what speaks to it.
    if name == "Valkey":
        from .valkey import Valkey  # noqa: PLC0415

        return Valkey
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
