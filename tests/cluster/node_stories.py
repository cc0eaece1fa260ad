"""What is hard for nodes that share an engine, one by one, in the steps of `tests.cluster.node_life`."""

from __future__ import annotations

from typing import Final

from tests.cluster.node_life import LEASE, Step

__all__ = ["STORIES"]

STORIES: Final[dict[str, list[Step]]] = {
    "1 calm": [("send", 0), ("send", 1), ("sleep", 0.3), ("drop", 1), ("come", 1, 2), ("send", 1)],
    "2 idle for long": [("sleep", 2 * LEASE)] * 3 + [("come", 1, 2), ("sleep", 0.3), ("send", 1)],
    "3 cut off, with something to say": [
        ("cut", 0),
        ("sleep", LEASE),
        ("emit", 0, "safe/main"),
        ("sleep", 0.05),
    ],
    "4 stopped, and others have its rooms": [
        ("send", 0),
        ("sleep", 0.3),
        ("stop", 0),
        ("sleep", LEASE + 0.5),
        ("come", 1, 1),
        ("sleep", 0.3),
        ("send", 1),
        ("sleep", 0.3),
        ("go on", 0),
        ("sleep", 0.3),
        ("send", 0),
    ],
    "5 stopped as its lease is renewed": [
        ("lag", 0, 0.6),
        ("sleep", LEASE),
        ("stop", 0),
        ("sleep", LEASE + 0.8),
        ("come", 1, 1),
        ("sleep", 0.3),
        ("send", 1),
        ("sleep", 0.05),
        ("go on", 0),
        ("sleep", 0.01),
        ("emit", 0, "safe/main"),
        ("sleep", 0.3),
        ("emit", 0, "safe/main"),
    ],
    "6 a commit that arrives when others have the room": [
        ("slow commits", 0, 3.0),
        ("send", 0),
        ("sleep", 0.05),
        ("stop", 0),
        ("sleep", LEASE + 0.3),
        ("slow commits", 1, 3.0),
        ("come", 1, 1),
        ("sleep", LEASE),
        ("send", 1),
        ("go on", 0),
    ],
    "7 what comes twice": [("twice", 0, 2), ("twice", 1, 2), *[("send", 1), ("sleep", 0.3)] * 6],
    "8 what is lost": [("lose", 0, 2), ("lose", 1, 2), *[("send", 1), ("send", 0), ("sleep", 0.3)] * 3],
    "9 a home that dies": [("send", 1), ("sleep", 0.3), ("crash", 0), ("sleep", 0.3)],
    "10 a gateway that dies": [("come", 4, 2), ("sleep", 0.3), ("crash", 2), ("sleep", 0.3)],
}
