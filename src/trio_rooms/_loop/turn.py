"""How long a task that is always ready goes on before the rest of the program has its turn.

The hub, the actors and the acceptor look at the clock as they work, and let the event loop
go round once they have been at it for so long. They do it in place, since a call for each
message would cost more than the look.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TURN"]

TURN: Final = 0.002
"""Seconds. Others wait so long at most, and a round of the event loop is paid for by many messages."""
