"""Which rooms wait for which, so that none waits for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_rooms._room.answers import Answer
from trio_rooms.errors import AskCircle

__all__ = ["Circles", "is_inside", "room_task_of"]


class Circles:
    """Finds out, when a handler asks a room, whether that waits for the handler itself.

    A room handles nothing else while its handler waits. So what its handlers have asked and
    was not answered yet are the edges of a graph of rooms, and a circle in it would stand still
    for ever. What the program asks, or a background task, is no edge: no room waits for it.
    """

    __slots__ = ("_asked",)

    def __init__(self) -> None:
        self._asked: dict[str, list[tuple[str, Answer]]] = {}
        """By the room whose handler asks, whom it asked."""

    @contextmanager
    def waiting(self, asker: str, asked: str, answer: Answer) -> Iterator[None]:
        """A handler of a room waits inside the block for another room, or for its own.

        Raises:
            AskCircle: it would wait for ever.
        """
        way = self._way(asked, asker)
        if way is not None:
            raise AskCircle((asker, *way))
        edges = self._asked.setdefault(asker, [])
        edge = (asked, answer)
        edges.append(edge)
        try:
            yield
        finally:
            edges.remove(edge)
            if not edges:
                del self._asked[asker]

    def edges(self) -> Iterator[tuple[str, str]]:
        """Rooms whose handler waits for another one, and that one, by their keys."""
        for asker, asked in self._asked.items():
            for key, answer in asked:
                if not answer.settled:
                    yield asker, key

    def _way(self, start: str, end: str) -> tuple[str, ...] | None:
        """The rooms from one to another, each of which waits for the next; None where it does not."""
        before: dict[str, str | None] = {start: None}
        left = [start]
        while left:
            room = left.pop()
            if room == end:
                return _back(before, room)
            for asked, answer in self._asked.get(room, ()):
                # Answered, it goes on, although it has not got to run yet.
                if asked not in before and not answer.settled:
                    before[asked] = room
                    left.append(asked)
        return None


def _back(before: dict[str, str | None], room: str | None) -> tuple[str, ...]:
    """The way to a room, by what stood before each."""
    way: list[str] = []
    while room is not None:
        way.append(room)
        room = before[room]
    return tuple(reversed(way))


def room_task_of(task: trio.lowlevel.Task, rooms: trio.Nursery) -> trio.lowlevel.Task | None:
    """The task of the room whose handler a task works for, so that the handler ends no sooner than it.

    Args:
        task: any task.
        rooms: the nursery that the tasks of rooms run in.

    Returns:
        None for the program's tasks, and for the background tasks of rooms.
    """
    while (nursery := task.parent_nursery) is not None:
        if nursery is rooms:
            return task
        parent = nursery.parent_task
        # The outermost nursery of a room's task has its background tasks; handlers open theirs inside it.
        if parent.parent_nursery is rooms and nursery is parent.child_nurseries[0]:
            return None
        task = parent
    return None


def is_inside(task: trio.lowlevel.Task, rooms: trio.Nursery) -> bool:
    """Whether a task is one of a room, a background task included."""
    while (nursery := task.parent_nursery) is not None and nursery is not rooms:
        task = nursery.parent_task
    return nursery is rooms
