"""For whom an entry is, and who was in a channel when it was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._sockets.standing import Change
from trio_rooms._state.audience import EVERYBODY, Audience, Membership

sids = st.integers(1, 1 << 62)
audiences = st.builds(
    Audience, st.none() | sids, st.none() | st.text(max_size=9), st.frozensets(sids, max_size=3)
).filter(lambda one: one.sid is None or one.channel is None)


class TestAudience:
    @given(audiences)
    def test_comes_back_as_it_was(self, audience: Audience) -> None:
        assert Audience.decode(audience.encode()) == audience

    def test_everybody_is_one_byte(self) -> None:
        assert len(EVERYBODY.encode()) == 1
        assert Audience.decode(EVERYBODY.encode()) is EVERYBODY

    def test_is_a_few_bytes(self) -> None:
        assert len(Audience(sid=1 << 60).encode()) == 9
        assert len(Audience(channel="red").encode()) == 4

    @pytest.mark.parametrize("garbage", [b"", b"\x80", b"\xa0", b"\xfb\0\0\0\0\0\0\0\0"])
    def test_what_is_none_is_refused(self, garbage: bytes) -> None:
        with pytest.raises(ValueError, match="no audience"):
            Audience.decode(garbage)

    def test_includes_whom_it_names(self) -> None:
        inside = Membership(("red",))
        assert EVERYBODY.includes(1, Membership(), 5)
        assert Audience(sid=1).includes(1, Membership(), 5)
        assert not Audience(sid=1).includes(2, Membership(), 5)
        assert Audience(channel="red").includes(1, inside, 5)
        assert not Audience(channel="blue").includes(1, inside, 5)
        assert not Audience(excluded=frozenset((1,))).includes(1, inside, 5)
        assert not Audience(channel="red", excluded=frozenset((1,))).includes(1, inside, 5)
        assert Audience(channel="red", excluded=frozenset((2,))).includes(1, inside, 5)


class TestMembership:
    @given(
        st.lists(st.text(max_size=3), max_size=3, unique=True).map(tuple),
        st.none() | st.integers(0, 1 << 53),
        st.lists(st.tuples(st.integers(0, 1 << 53), st.text(max_size=3), st.booleans()), max_size=4).map(
            tuple
        ),
    )
    def test_comes_back_as_it_was(
        self, channels: tuple[str, ...], since: int | None, changes: tuple[Change, ...]
    ) -> None:
        membership = Membership(channels, since, changes)
        assert Membership.decode(membership.encode()) == membership

    def test_nothing_is_nobodys(self) -> None:
        assert Membership.decode(b"") == Membership()

    @given(st.lists(st.tuples(st.sampled_from(["emit", "change"]), st.sampled_from("ab")), max_size=30))
    def test_says_who_was_where_when_something_was_sent(self, steps: list[tuple[str, str]]) -> None:
        inside: set[str] = set()
        changes: list[Change] = []
        was: dict[int, set[str]] = {}
        seq = 0
        for kind, channel in steps:
            if kind == "emit":
                seq += 1
                was[seq] = set(inside)
            else:
                inside ^= {channel}
                changes.append((seq, channel, channel in inside))
        membership = Membership(tuple(inside), 0, tuple(changes))
        for number, then in was.items():
            assert {channel for channel in "ab" if membership.was_in(channel, number)} == then
