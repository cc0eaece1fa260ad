"""Types of every kind that a state or an event may be declared with."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from typing import Any, Literal, NamedTuple, TypedDict

import attrs


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


@attrs.define
class Point:
    x: int
    y: int = 0


@attrs.define
class Path:
    name: str
    points: list[Point] = attrs.field(factory=list)
    end: Point | None = None
    weights: dict[str, int] = attrs.field(factory=dict)


@attrs.define
class Circle:
    kind: Literal["circle"]
    size: int


@attrs.define
class Square:
    kind: Literal["square"]
    size: int


@attrs.define
class Twin:
    x: int
    y: int


@attrs.define
class Tree:
    name: str
    children: list[Tree] = attrs.field(factory=list)
    left: Tree | None = None


@dataclasses.dataclass
class Move:
    x: int
    where: Point | None = None


class Pair(NamedTuple):
    x: int
    name: str


class Options(TypedDict):
    x: int


@attrs.define
class Counted:
    name: str = ""
    count: int = attrs.field(init=False, default=0)


@attrs.frozen
class Frozen:
    name: str
    size: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.name))


@attrs.define
class Anything:
    any: Any
    thing: object


MOMENT = datetime.datetime(2026, 2, 3, 4, 5, 6, 789, datetime.UTC)
IDENTITY = uuid.UUID(int=5)
