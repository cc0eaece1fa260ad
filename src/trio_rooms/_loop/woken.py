"""What a waiting task is rescheduled with where there is nothing to tell it."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["WOKEN"]


class _Woken:
    """Like ``outcome.Value(None)``, but made once for all."""

    __slots__ = ()

    def unwrap(self) -> None:
        """No value, and no error."""


WOKEN: Final[Any] = _Woken()
