"""What coordinates many nodes: which of them live, who owns which room, and how they reach each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Claim, Engine, Fence, Renewal
from .memory import MemoryEngine

if TYPE_CHECKING:
    from .valkey import Valkey

__all__ = ["Claim", "Engine", "Fence", "MemoryEngine", "Renewal", "Valkey"]


def __getattr__(name: str) -> Any:
    """What is imported where it is used, since it needs what is not installed everywhere."""
    if name != "Valkey":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .valkey import Valkey  # noqa: PLC0415
    except ImportError as error:
        if error.name != "hiredis":
            raise
        raise ImportError("Valkey needs hiredis: pip install 'trio-rooms[valkey]'") from error
    return Valkey
