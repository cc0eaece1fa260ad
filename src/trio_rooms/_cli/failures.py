"""The two ways in which a command fails; `main` makes an exit status of each."""

from __future__ import annotations

__all__ = ["CommandFailed", "UsageError"]


class UsageError(Exception):
    """What the command line asks for does not exist; the text says what does."""


class CommandFailed(Exception):
    """It could not be done; the text says why.

    Args:
        text: why.
        status: what a server answered, where that was why.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status
