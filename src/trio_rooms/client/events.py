"""What a room sends, as a program gets it."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import attrs

from trio_rooms._values.misfits import describe
from trio_rooms._values.strict import wire

from .errors import UnexpectedData

__all__ = ["Event", "converted"]

T = TypeVar("T")


@attrs.frozen
class Event:
    """An event that a room sent."""

    name: str
    data: Any
    """What came with it: what JSON or CBOR has a form for."""
    seq: int | None = None
    """Its place in the room's journal, if it was sent reliably. Not every number comes to every client."""

    @overload
    def convert(self, kind: type[T]) -> T: ...

    @overload
    def convert(self, kind: Any) -> Any: ...

    def convert(self, kind: Any) -> Any:
        """The data as a value of a type: an attrs class, a dataclass, ``list[Line]``, ``int | None``, ...

        Nothing is coerced: data that is not of the type is refused, as the server does with what
        clients send.

        Raises:
            UnexpectedData: it does not fit; the message says where.
        """
        return converted(self.data, kind, f"the data of {self.name!r}")


def converted(data: Any, kind: Any, what: str, applied: bool | None = None) -> Any:
    """Data as a value of a type.

    Args:
        data: plain data that came from a server.
        kind: what it is to become.
        what: which data, for the error.
        applied: what the error says about the request that it answers.

    Raises:
        UnexpectedData: it does not fit.
    """
    try:
        return wire.structure(data, kind)
    except Exception as error:
        raise UnexpectedData(what, describe(error), applied) from error
