"""What is sent to sockets of another node: once for all that it is for, and to each in its order."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rooms._cluster.far import LONG, Door, FarLink, Lists, Outbound
from trio_rooms._cluster.kinds import FRAMES
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._sockets.hub import SocketHub


class Lane:
    """Takes what is put, and unpacks it as the other side does."""

    load = size = 0
    silent = False

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.flush: Callable[[], None] = lambda: None
        self._lists = Lists()

    def gather(self, flush: Callable[[], None]) -> None:
        self.flush = flush

    def put(self, item: bytes, _: int = 0) -> None:
        self.items.append(item)

    def unpacked(self) -> list[tuple[int, int, bytes]]:
        """Uplink, socket and frame of each that is written."""
        written: list[tuple[int, int, bytes]] = []
        for item in self.items:
            kind, uplink, to, frame = cbor2.loads(item)
            assert kind == FRAMES
            if isinstance(to, int):
                numbers: Any = [to]
            elif isinstance(to, bytes):
                numbers = array("Q", to)
                if len(numbers) >= LONG:
                    self._lists.keep(uplink, numbers)
            else:
                numbers = self._lists.get(uplink, to[0])
            written += [(uplink, number, frame) for number in numbers]
        self.items.clear()
        return written


def far_links(lane: Any, *counts: int) -> list[list[FarLink]]:
    """Links in rooms of so many each."""
    hub = SocketHub(Deadlines(), max_message_size=1000, backlog=1000, close_timeout=1)
    outbound = Outbound(lane, hub.stall)
    rooms = []
    for uplink, count in enumerate(counts, 1):
        roster = hub.roster(f"x/{uplink}", None, greets=False)
        door = Door(lane, outbound, uplink, roster.key, lambda _: None)
        rooms.append([FarLink(hub.new_id(), roster, None, 0, door, at + 1) for at in range(count)])
    hub.poller.close()
    return rooms


def test_what_many_get_goes_once() -> None:
    """And the second time without the list of them; each kind of client gets its own."""
    lane = Lane()
    (links,) = far_links(lane, 1000)
    text, binary = b"t" * 500, b"b" * 500
    sizes: list[int] = []
    for _ in range(2):
        for at, link in enumerate(links):
            link.send(binary if at % 2 else text)
        lane.flush()
        sizes = [len(item) for item in lane.items]
        assert len(sizes) == 2
        written = lane.unpacked()
        assert sorted(number for _, number, _ in written) == list(range(1, 1001))
        assert {frame for _, _, frame in written} == {text, binary}
    assert sum(sizes) < 1100


frames = [bytes((at,)) * 3 for at in range(6)]
sent = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 39), st.integers(0, 5), st.booleans()), max_size=300
)


@settings(max_examples=100)
@given(sent, st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), max_size=20))
def test_each_gets_all_in_its_order(singles: list[tuple[int, int, int, bool]], broadcasts: list[Any]) -> None:
    """Whatever is sent to whom, alone and with others, and when it goes out."""
    lane = Lane()
    rooms = far_links(lane, 40, 40)
    wanted: dict[tuple[int, int], list[bytes]] = {}
    got: dict[tuple[int, int], list[bytes]] = {}

    def send(link: FarLink, frame: bytes) -> None:
        link.send(frame)
        wanted.setdefault((link.door.uplink, link.number), []).append(frame)

    steps = [("one", *one) for one in singles] + [("all", *one) for one in broadcasts]
    steps = [step for pair in zip(steps[::2], steps[1::2], strict=False) for step in reversed(pair)]
    for what, room, *more in steps:
        if what == "all":
            for link in rooms[room]:
                send(link, frames[more[0]])
        else:
            send(rooms[room][more[0]], frames[more[1]])
            if more[2]:
                lane.flush()
    lane.flush()
    for uplink, number, frame in lane.unpacked():
        got.setdefault((uplink, number), []).append(frame)
    assert got == wanted
