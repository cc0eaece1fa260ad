from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sockets.bench import Line
from trio_rooms._sockets.flags import GONE, UNGREETED
from trio_rooms._sockets.roster import Disconnected, Roster


def roster_of(count: int) -> tuple[Roster, list[Line]]:
    """A room with so many connections, from 1 on by their ids."""
    roster = Roster(None, "a/b", None, greets=False)  # type: ignore[arg-type]  # it asks its owner for nothing
    lines = [Line(number + 1, roster, None, 0) for number in range(count)]
    roster.links.update({line.id: line for line in lines})
    return roster, lines


def test_a_room_of_many_is_not_packed_and_one_alone_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """To undo it would take long; and to look for one of many one after the other, so then it is undone."""
    monkeypatch.setattr("trio_rooms._sockets.roster._PACKED", 100)
    for count, packed, looked in ((1, type(None), type(None)), (64, tuple, tuple), (100, tuple, dict)):
        roster, lines = roster_of(count)
        roster.pack()
        assert type(roster.holder) is packed
        assert roster.members(None) == lines
        assert type(roster.holder) is packed
        assert roster.has(lines[-1])
        assert not roster.has(Line(1000, roster, None, 0))
        assert type(roster.holder) is looked
    roster, _ = roster_of(101)
    roster.pack()
    assert type(roster.holder) is dict
    roster, (line,) = roster_of(1)
    assert roster.remove(line)
    roster.add(line)
    assert type(roster.holder) is dict, "somebody may look into it"


def test_who_joins_the_same_channels_has_the_same_names() -> None:
    """One tuple for all of them; whoever leaves one has names of his own."""
    roster, (one, other, third) = roster_of(3)
    for line in (one, other, third):
        for channel in ("red", "blue"):
            roster.join(line, channel)
        roster.pack()
    assert one.channels is other.channels is third.channels
    roster.leave(other, "red")
    assert (one.channels, other.channels) == (("red", "blue"), ("blue",))
    assert {name: [*group.values()] for name, group in roster.channels.items()} == {
        "red": [one, third],
        "blue": [one, other, third],
    }


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["join", "leave"]), st.integers(0, 3), st.sampled_from(["red", "blue"])),
        st.tuples(st.sampled_from(["remove", "come"]), st.integers(0, 3)),
        st.tuples(st.sampled_from(["pack", "look"]), st.just(0)),
    ),
    max_size=30,
)


@given(steps)
def test_members_are_those_that_joined_and_neither_left_nor_went(steps: list[tuple[Any, ...]]) -> None:
    """In any order of coming, joining, leaving and going, and however the room keeps its connections.

    A channel in which nobody is left is no channel. Who comes first stands first.
    """
    roster, lines = roster_of(4)
    inside = [*lines]
    channels: dict[str, list[Line]] = {"red": [], "blue": []}
    names: dict[Line, list[str]] = {line: [] for line in lines}
    for step in steps:
        line = lines[step[1]]
        if step[0] == "join":
            roster.join(line, step[2])
            if line in inside and line not in channels[step[2]]:
                channels[step[2]].append(line)
                names[line].append(step[2])
        elif step[0] == "leave":
            roster.leave(line, step[2])
            if step[2] in names[line]:
                names[line].remove(step[2])
            if line in channels[step[2]]:
                channels[step[2]].remove(line)
        elif step[0] == "pack":
            roster.pack()
        elif step[0] == "look":
            assert [*roster.links.items()] == [(line.id, line) for line in inside]
        elif step[0] == "come":
            if line not in inside:
                roster.come(line)
                inside.append(line)
                for name in names[line]:
                    channels[name].append(line)
        else:
            assert roster.remove(line) is (line in inside)
            if line in inside:
                inside.remove(line)
            for members in channels.values():
                if line in members:
                    members.remove(line)
        assert roster.members(None) == roster.everybody() == inside
        assert (roster.count, [line for line in lines if roster.has(line)]) == (
            len(inside),
            [line for line in lines if line in inside],
        )
        for name, members in channels.items():
            assert roster.members(name) == members
            assert roster.members(name, frozenset({2})) == [line for line in members if line.id != 2]
        assert set(roster.channel_names) == {name for name, members in channels.items() if members}
        # Who has gone keeps the names: its on_disconnect may want to know them.
        assert {line: [*line.channels] for line in lines} == names


def test_who_was_not_greeted_is_spoken_to_by_nobody() -> None:
    """Neither with the room nor in a channel, until its greeting began; a second greeting counts nothing."""
    roster, (one, two) = roster_of(2)
    two.flags |= UNGREETED
    roster.ungreeted = 1
    roster.join(one, "red")
    roster.join(two, "red")
    assert roster.members(None) == roster.members("red") == [one]
    roster.greeted(one)
    assert roster.members(None) == [one]
    for _ in range(2):
        roster.greeted(two)
        assert roster.members(None) == roster.members("red") == [one, two]
        assert roster.ungreeted == 0


def test_who_goes_before_it_was_greeted_is_not_waited_for() -> None:
    """It is no connection that has still to be greeted."""
    roster, (one, two) = roster_of(2)
    one.flags |= UNGREETED
    roster.ungreeted = 1
    assert roster.remove(one)
    assert (roster.ungreeted, one.flags & UNGREETED) == (0, 0)
    assert roster.members(None) == [two]


def test_a_list_of_members_is_the_callers() -> None:
    """Who comes or goes later does not change it, and it changes nothing here."""
    roster, (one, two) = roster_of(2)
    members = roster.members(None)
    roster.remove(one)
    assert members == [one, two]
    members.clear()
    assert roster.members(None) == [two]


class Paused(Line):
    """Notes that it is read again."""

    resumed = 0

    def resume_reading(self) -> None:
        """Note it."""
        self.resumed += 1


def test_who_was_paused_is_read_again_once_and_only_while_it_is_there() -> None:
    """Whoever is gone is left alone: its descriptor may be somebody else's."""
    roster, _ = roster_of(0)
    here, gone = Paused(1, roster, None, 0), Paused(2, roster, None, GONE)
    other = Paused(3, roster, None, 0)
    roster.paused = dict.fromkeys((here, gone, other))
    for _ in range(2):
        roster.resume_reading(other)
    assert (here.resumed, gone.resumed, other.resumed) == (0, 0, 1)
    for _ in range(2):
        roster.resume_reading()
    assert (here.resumed, gone.resumed, other.resumed) == (1, 0, 1)
    roster.resume_reading(here)
    assert here.resumed == 1


def test_departures_are_kept_in_their_order() -> None:
    """All of them, in a list that whoever notes one may cut."""
    roster, lines = roster_of(3)
    departures = [Disconnected(line, 1000, "", clean=True) for line in lines]
    kept = [roster.note_departure(departure) for departure in departures][-1]
    assert kept == roster.departed == departures
    del kept[:1]
    assert roster.departed == departures[1:]
