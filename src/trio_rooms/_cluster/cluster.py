"""One node of several that share an engine: its parts, wired together."""

from __future__ import annotations

from collections.abc import Mapping

from trio_rooms._definition.definition import Definition
from trio_rooms._room.placement import Placement
from trio_rooms._runtime.runtime import Runtime
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms.engines.base import Engine
from trio_rooms.stores.base import Store

__all__ = ["Cluster"]


class Cluster:
    """What makes a runtime a node.

    Args:
        engine: what it shares with the others.
        node: its name; None for one that is drawn.
        lease: seconds after which others take over from it.
        definitions: the rooms that are served, by name.
    """

    store: Store
    """Where the rooms are kept. It is opened before all else and closed after it: with it the node joins
    and leaves."""

    def __init__(
        self, engine: Engine, node: str | None, lease: float, definitions: Mapping[str, Definition]
    ) -> None:
        raise NotImplementedError

    def placement(self, supervisor: Supervisor) -> Placement:
        """Where rooms are, in whichever process: those of this one are its supervisor's."""
        raise NotImplementedError

    def attach(self, runtime: Runtime) -> None:
        """Bring rooms and sockets of a runtime into the cluster; it has not begun."""
