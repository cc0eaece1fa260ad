"""A room whose state is as large as it is told to be."""

from __future__ import annotations

import zlib

import attrs

from trio_rooms import Context, Room

LINE = 1000


@attrs.define
class Pages:
    """Lines of a thousand characters."""

    lines: list[str] = attrs.field(factory=list)


large: Room[Pages] = Room("large", state=Pages)


def lines_of(number: int, count: int) -> list[str]:
    """What a room is filled with: other characters in each line of each room."""
    return [f"{number}/{line} ".ljust(LINE, chr(65 + (number + line) % 26)) for line in range(count)]


def checksum(lines: list[str]) -> int:
    """That of a state."""
    return zlib.crc32("".join(lines).encode())


@large.on("fill")
async def fill(ctx: Context[Pages], data: list[int]) -> None:
    """Become so large."""
    ctx.state.lines = lines_of(*data)


@large.on("sum")
async def sum_(ctx: Context[Pages]) -> int:
    """Tell what there is."""
    return checksum(ctx.state.lines)
