"""Messages that need no room, as a room defines them: they are answered, go back, or go on to the others."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Automatic"]


class Automatic:
    """What the hub does by itself with messages to rooms of one definition.

    Args:
        answers: frames that are the answers to whole messages.
        echoes: what messages begin with that go back to who sent them.
        relays: what messages begin with that go on to all others in the room.
        rate: messages a second of one connection that go on.
    """

    __slots__ = ("_echoes", "_relays", "answers", "rate")

    def __init__(
        self,
        answers: Mapping[str | bytes, bytes],
        echoes: tuple[str | bytes, ...] = (),
        relays: tuple[str | bytes, ...] = (),
        rate: float = 100.0,
    ) -> None:
        self.answers: Mapping[str | bytes, bytes] = answers
        self.rate: float = rate
        self._echoes = _by_kind(echoes)
        self._relays = _by_kind(relays)

    def echoes(self, message: str | bytes) -> bool:
        """Whether a message goes back."""
        texts, binaries = self._echoes
        return message.startswith(texts) if isinstance(message, str) else message.startswith(binaries)

    def relays(self, message: str | bytes) -> bool:
        """Whether a message goes on."""
        texts, binaries = self._relays
        return message.startswith(texts) if isinstance(message, str) else message.startswith(binaries)


def _by_kind(prefixes: tuple[str | bytes, ...]) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """Those of text messages, and those of binary ones."""
    texts = tuple(one for one in prefixes if isinstance(one, str))
    return texts, tuple(one for one in prefixes if isinstance(one, bytes))
