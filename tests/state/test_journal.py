"""The journal of a room: who has what, what goes, and who comes back to what."""

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_rooms._sockets.standing import Unsettled, acknowledge, sid_of
from trio_rooms._state.audience import Membership
from trio_rooms._state.journal import Journal

BLOCK = 1 << 32


@attrs.frozen
class Head:
    seq: int = 0
    before: int = 0
    floor: int = 0
    entries: int = 0
    entry_bytes: int = 0


def a_journal(
    head: Head | None = None, away: dict[int, int] | None = None, *, lost: bool = False, now: float = 0.0
) -> Journal:
    """One of a room whose sessions outlive their connections by two minutes."""
    return Journal(head or Head(), away or {}, lost=lost, patience=180.0, now=now)


def emit(journal: Journal, count: int = 1, size: int = 10, now: float = 0.0) -> int:
    """Give out some places, and release them."""
    for _ in range(count):
        journal.append(size, now)
    journal.release(journal.seq)
    return journal.seq


class Client:
    """A session with its connection, as the hub has it."""

    def __init__(self, journal: Journal, sid: int) -> None:
        self.journal = journal
        self.session: int | Unsettled = sid
        self.at: int | None = None
        """Up to where it was sent what it was away for, while that goes on."""
        self.target = 0
        self.got: list[int] = []

    def sent(self, seq: int) -> None:
        self.session = self.journal.stand(self.session, seq)
        self.got.append(seq)

    def acknowledge(self, seq: int) -> None:
        session = acknowledge(self.session, seq, self.journal)
        assert session is not None
        self.session = session


class TestTrimming:
    def test_what_nobody_wants_goes_at_once(self) -> None:
        journal = a_journal()
        assert journal.trim() == 0
        emit(journal, 3)
        assert journal.trim() == 3
        journal.trimmed_to(3)
        assert journal.trim() == 0
        assert (journal.count, journal.size) == (0, 0)

    def test_what_was_not_sent_yet_stays(self) -> None:
        journal = a_journal()
        journal.append(10, 0.0)
        assert journal.trim() == 0

    def test_what_one_has_not_acknowledged_stays(self) -> None:
        journal = a_journal()
        client = Client(journal, 7)
        for _ in range(4):
            client.sent(emit(journal))
        assert journal.trim() == 0
        client.acknowledge(2)
        assert journal.trim() == 2
        client.acknowledge(4)
        assert client.session == 7
        assert journal.trim() == 4

    def test_a_session_that_an_entry_was_not_for_keeps_none(self) -> None:
        journal = a_journal()
        one, other = Client(journal, 1), Client(journal, 2)
        one.sent(emit(journal))
        other.sent(emit(journal))
        other.acknowledge(2)
        one.acknowledge(1)
        assert journal.trim() == 2

    def test_one_that_is_away_keeps_all_from_where_it_stood(self) -> None:
        journal = a_journal()
        emit(journal, 5)
        journal.enter(6)
        emit(journal, 5)
        assert journal.trim() == 5
        journal.leave(6)
        assert journal.trim() == 10

    def test_those_that_the_store_knows_to_be_away_keep_theirs(self) -> None:
        journal = a_journal(Head(seq=20, entries=20, entry_bytes=200), {5: 2, 15: 1})
        assert journal.trim() == 4
        journal.leave(5)
        assert journal.trim() == 4
        journal.leave(5)
        assert journal.trim() == 14
        journal.leave(15)
        assert journal.trim() == 20

    def test_old_and_strange_acknowledgements_change_nothing(self) -> None:
        journal = a_journal()
        client = Client(journal, 1)
        for _ in range(3):
            client.sent(emit(journal))
        client.acknowledge(2)
        for strange in (-5, 0, 1, 2):
            client.acknowledge(strange)
        assert journal.behind(client.session) == 3
        client.acknowledge(1 << 62)
        assert client.session == 1

    def test_acknowledgements_at_any_rate_leave_no_more_than_there_are_places(self) -> None:
        journal = a_journal()
        slow, client = Client(journal, 1), Client(journal, 2)
        slow.sent(emit(journal))
        for _ in range(50):
            for _ in range(2):
                client.sent(emit(journal))
            for seq in (journal.seq - 1, journal.seq - 1, journal.seq - 2, journal.seq):
                client.acknowledge(seq)
        assert len(journal._places) <= 101
        assert len(journal._counts) == len(journal._places)


class TestBound:
    def test_the_oldest_tenth_goes_where_there_are_more_than_ten_thousand(self) -> None:
        journal = a_journal()
        client, later = Client(journal, 1), Client(journal, 2)
        for number in range(10_000):
            seq = emit(journal)
            client.sent(seq)
            if number >= 1000:
                later.sent(seq)
        assert journal.over_bound(0.0) == 0
        emit(journal)
        assert journal.over_bound(0.0) == 1000
        assert journal.over_bound(0.0) == 0
        assert journal.floor == 1000
        assert journal.count == 9001
        assert journal.behind(client.session) <= journal.floor < journal.behind(later.session)
        assert journal.trim() == 0
        later.acknowledge(3000)
        assert journal.trim() == 0
        client.acknowledge(2000)
        assert journal.trim() == 2000
        client.acknowledge(4000)
        assert journal.trim() == 3000

    def test_what_nobody_wanted_makes_no_floor(self) -> None:
        journal = a_journal()
        emit(journal, 10_001)
        assert journal.over_bound(0.0) == 1000
        assert journal.floor == 0

    def test_large_ones_count_with_their_bytes(self) -> None:
        journal = a_journal()
        client = Client(journal, 1)
        client.sent(emit(journal, size=3_000_000))
        for _ in range(5):
            client.sent(emit(journal, size=3_000_000))
        assert journal.over_bound(0.0) == 1
        assert journal.over_bound(0.0) == 0
        assert journal.size == 15_000_000

    def test_old_ones_go_after_their_time(self) -> None:
        journal = a_journal()
        client = Client(journal, 1)
        client.sent(emit(journal, now=0.0))
        client.sent(emit(journal, now=100.0))
        assert journal.over_bound(180.0) == 0
        assert journal.over_bound(180.1) == 1
        assert journal.over_bound(280.1) == 2
        assert journal.floor == 2

    def test_what_was_sent_to_nobody_yet_does_not_go(self) -> None:
        journal = a_journal()
        journal.enter(1)
        for _ in range(10_001):
            journal.append(10, 0.0)
        assert journal.over_bound(1000.0) == 0

    def test_one_that_is_read_from_the_store_goes_by_tenths_too(self) -> None:
        journal = a_journal(Head(seq=12_000, entries=10_000, entry_bytes=100_000), {2001: 1, 3500: 1})
        emit(journal)
        assert journal.over_bound(0.0) == 3000
        assert journal.floor == 3000
        assert journal.trim() == 0
        journal.leave(2001)
        assert journal.trim() == 3499

    def test_one_from_the_store_may_lie_in_two_blocks(self) -> None:
        head = Head(seq=BLOCK + 500, before=1700, entries=2000, entry_bytes=20_000)
        journal = a_journal(head, {1: 1})
        emit(journal, 8001)
        assert journal.over_bound(0.0) > 0
        assert 200 < journal.floor <= 1700

    def test_changes_of_channels_count_as_well(self) -> None:
        journal = a_journal()
        client = Client(journal, 1)
        client.sent(emit(journal))
        emit(journal)
        for _ in range(200_000):
            if journal.over_bound(0.0):
                break
            journal.changed(2, "red", joined=True)  # Settled, and nothing is under way: nothing to keep.
            assert isinstance(client.session, Unsettled)
            client.session.changes = ()
            journal.changed(client.session, "red", joined=True)
        assert journal.floor > 0


class TestBlocks:
    def test_a_new_one_begins_where_something_may_be_lost(self) -> None:
        journal = a_journal(Head(seq=17), lost=True)
        assert (journal.seq, journal.before) == (BLOCK, 17)
        assert emit(journal) == BLOCK + 1

    def test_a_room_that_never_sent_anything_needs_none(self) -> None:
        journal = a_journal(Head(), lost=True)
        assert (journal.seq, journal.before) == (0, 0)

    def test_where_nothing_is_lost_it_goes_on(self) -> None:
        journal = a_journal(Head(seq=BLOCK + 3, before=17))
        assert (journal.seq, journal.before) == (BLOCK + 3, 17)

    @pytest.mark.parametrize(
        ("seq", "why"),
        [
            (17, ""),
            (18, "unknown"),
            (BLOCK - 1, "unknown"),
            (BLOCK, ""),
            (BLOCK + 3, ""),
            (BLOCK + 4, "unknown"),
            (2 * BLOCK, "unknown"),
            (1 << 70, "unknown"),
        ],
    )
    def test_a_client_that_has_seen_what_is_lost_is_known(self, seq: int, why: str) -> None:
        journal = a_journal(Head(seq=BLOCK + 3, before=17))
        assert journal.refusal(seq, Membership((), 0), 1) == why

    def test_a_client_that_is_known_to_have_it_all_may_name_any_that_it_had(self) -> None:
        journal = a_journal(Head(seq=3 * BLOCK + 3, before=2 * BLOCK + 5))
        assert journal.refusal(BLOCK, Membership((), 0), 1) == "unknown"
        assert journal.refusal(BLOCK, Membership((), 0), BLOCK + 1) == ""

    def test_places_between_two_blocks_are_the_first_of_the_later(self) -> None:
        journal = a_journal(Head(seq=17), lost=True)
        emit(journal)
        journal.enter(18)
        assert journal.trim() == 0
        journal.leave(BLOCK - 5)
        assert journal.trim() == BLOCK + 1


class TestComingBack:
    def test_one_that_stands_behind_the_floor_is_too_far_behind(self) -> None:
        journal = a_journal(Head(seq=50, floor=10))
        assert journal.refusal(9, Membership((), 3), 4) == "too_far_behind"
        assert journal.refusal(10, Membership((), 3), 4) == ""
        assert journal.refusal(2, Membership((), 3), 11) == ""

    def test_goes_on_from_the_highest_that_it_is_known_to_have(self) -> None:
        journal = a_journal(Head(seq=50))
        assert journal.since(9, Membership((), 3), 4) == 9
        assert journal.since(0, Membership((), 3), 8) == 7
        assert journal.since(0, Membership((), 12), 8) == 12

    def test_one_that_was_not_let_in_yet_has_missed_nothing(self) -> None:
        journal = a_journal(Head(seq=50, floor=10))
        assert journal.since(0, Membership((), None), 1) == 50
        assert journal.refusal(0, Membership((), None), 1) == ""

    def test_a_rewound_place_is_given_out_again(self) -> None:
        journal = a_journal()
        emit(journal, 3)
        journal.append(10, 0.0)
        journal.append(10, 0.0)
        journal.rewind(3)
        assert (journal.count, journal.size) == (3, 30)
        assert journal.append(10, 0.0) == 4
        assert journal.count == 4


class TestBeginning:
    def test_what_was_given_out_before_is_not_for_it(self) -> None:
        journal = a_journal()
        emit(journal, 3)
        journal.append(10, 0.0)
        assert journal.begin(5) == 4
        assert journal.membership(5, ()).since == 4
        assert journal.depart(5).pos == 5

    def test_it_is_forgotten_as_soon_as_that_is_released_or_taken_back(self) -> None:
        journal = a_journal()
        journal.append(10, 0.0)
        journal.begin(5)
        journal.release(1)
        assert journal.starts == {}
        journal.append(10, 0.0)
        journal.begin(5)
        journal.rewind(1)
        assert journal.starts == {}


class TestChannels:
    @pytest.mark.parametrize("settled", [False, True])
    def test_who_comes_and_goes_between_two_entries_was_never_there(self, settled: bool) -> None:
        journal = a_journal()
        client = Client(journal, 5)
        if settled:
            journal.append(10, 0.0)
        else:
            client.sent(emit(journal))
        size = journal.size
        for _ in range(1000):
            journal.changed(client.session, "red", joined=True)
            journal.changed(client.session, "blue", joined=True)
            journal.changed(client.session, "red", joined=False)
            journal.changed(client.session, "blue", joined=False)
        journal.changed(client.session, "red", joined=True)
        assert journal.changes(client.session) == ((1, "red", True),)
        assert journal.size <= size + 100
        emit(journal)
        journal.changed(client.session, "red", joined=False)
        if not settled:
            assert journal.membership(client.session, ()).changes == ((1, "red", True), (2, "red", False))

    def test_nothing_is_kept_where_nothing_is_under_way(self) -> None:
        journal = a_journal()
        emit(journal)
        journal.changed(5, "red", joined=True)
        assert journal.membership(5, ("red",)) == Membership(("red",), 1)

    def test_what_a_settled_session_changed_behind_the_last_release_is_kept_until_then(self) -> None:
        journal = a_journal()
        journal.append(10, 0.0)
        journal.changed(5, "red", joined=True)
        assert journal.membership(5, ("red",)) == Membership(("red",), 0, ((1, "red", True),))
        journal.release(1)
        assert journal.membership(5, ("red",)) == Membership(("red",), 1)

    def test_it_goes_along_where_the_session_is_sent_something_first(self) -> None:
        journal = a_journal()
        journal.append(10, 0.0)
        journal.changed(5, "red", joined=True)
        client = Client(journal, 5)
        client.sent(1)
        journal.release(1)
        assert journal.membership(client.session, ("red",)) == Membership(("red",), 0, ((1, "red", True),))

    def test_a_change_that_is_taken_back_is_gone(self) -> None:
        journal = a_journal()
        client = Client(journal, 5)
        client.sent(emit(journal))
        before = journal.changes(client.session)
        journal.changed(client.session, "red", joined=True)
        journal.restore(client.session, before)
        assert journal.membership(client.session, ()) == Membership((), 0)


@settings(max_examples=60, stateful_step_count=40, deadline=None)
class JournalMachine(RuleBasedStateMachine):
    """Any order of sending, acknowledging, leaving and coming back, beside a journal of every recipient."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = a_journal()
        self.clients = [Client(self.journal, sid) for sid in (11, 12, 13)]
        self.inside: dict[int, set[str]] = {sid: set() for sid in (11, 12, 13)}
        self.away: dict[int, int] = {}
        self.sent: dict[int, tuple[str | None, set[int]]] = {}
        """For whom each entry was, by its place."""
        self.has = dict.fromkeys((11, 12, 13), 0)
        """The highest that each client has."""
        self.open: list[tuple[int, list[Client]]] = []
        """What was given out, and not sent yet."""
        self.trimmed = 0

    def here(self) -> list[Client]:
        return [one for one in self.clients if sid_of(one.session) not in self.away]

    @rule(channel=st.none() | st.sampled_from("ab"))
    def give_out(self, channel: str | None) -> None:
        seq = self.journal.append(10, 0.0)
        whom = {sid for sid, inside in self.inside.items() if channel is None or channel in inside}
        self.sent[seq] = (channel, whom)
        self.open.append((seq, [one for one in self.here() if sid_of(one.session) in whom]))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, len(self.open)))):
            seq, links = self.open.pop(0)
            for one in links:
                if sid_of(one.session) not in self.away and one.at is None:
                    one.sent(seq)
            self.journal.release(seq)

    @precondition(lambda self: self.open)
    @rule()
    def fail(self) -> None:
        self.journal.rewind(self.journal.released)
        for seq, _ in self.open:
            del self.sent[seq]
        self.open.clear()
        for one in self.clients:
            # What the room does with its connections' channels.
            membership = self.journal.membership(one.session, tuple(self.inside[sid_of(one.session)]))
            assert all(position <= self.journal.seq for position, _, _ in membership.changes)

    @precondition(lambda self: not self.open)
    @rule(data=st.data(), channel=st.sampled_from("ab"))
    def change(self, data: st.DataObject, channel: str) -> None:
        one = data.draw(st.sampled_from(self.clients))
        inside = self.inside[sid_of(one.session)]
        inside ^= {channel}
        self.journal.changed(one.session, channel, joined=channel in inside)

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        here = self.here()
        if here:
            one = data.draw(st.sampled_from(here))
            if one.got:
                seq = data.draw(st.sampled_from(one.got))
                sid = sid_of(one.session)
                self.has[sid] = max(self.has[sid], seq)
                one.acknowledge(seq)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        here = self.here()
        if here:
            one = data.draw(st.sampled_from(here))
            one.session = self.journal.depart(one.session)
            one.at = None
            self.away[one.session.sid] = one.session.pos

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        sid = data.draw(st.sampled_from(sorted(self.away)))
        pos = self.away.pop(sid)
        (one,) = [one for one in self.clients if sid_of(one.session) == sid]
        membership = self.journal.membership(one.session, tuple(self.inside[sid]))
        one.got = one.got[: data.draw(st.integers(0, len(one.got)))]  # The rest was lost on the way.
        seq = max([self.has[sid], *one.got])
        self.has[sid] = seq
        one.got = [place for place in self.for_whom(sid) if place <= seq]
        assert self.journal.refusal(seq, membership, pos) == ""
        assert isinstance(one.session, Unsettled)
        one.at = self.journal.since(seq, membership, pos)
        one.session = self.journal.back(one.session, one.at)
        one.target = self.journal.seq

    def for_whom(self, sid: int) -> list[int]:
        return [place for place, (_, whom) in self.sent.items() if sid in whom]

    @rule()
    def replay(self) -> None:
        for one in self.here():
            if one.at is None:
                continue
            sid = sid_of(one.session)
            membership = self.journal.membership(one.session, tuple(self.inside[sid]))
            for place, (channel, _) in self.sent.items():
                if one.at < place <= self.journal.released and (
                    channel is None or membership.was_in(channel, place)
                ):
                    assert place > self.trimmed
                    one.sent(place)
            one.at = self.journal.released
            if one.at >= min(one.target, self.journal.seq):
                one.session = self.journal.caught_up(one.session, one.got[-1] if one.got else 0)
                one.at = None

    @invariant()
    def each_has_all_that_was_for_it_once_and_in_order(self) -> None:
        for one in self.here():
            upto = self.journal.released if one.at is None else one.at
            assert one.got == [place for place in self.for_whom(sid_of(one.session)) if place <= upto]

    @invariant()
    def what_somebody_wants_is_there(self) -> None:
        bound = self.journal.trim()
        if bound:
            self.journal.trimmed_to(bound)
            self.trimmed = bound
        assert self.trimmed <= self.journal.released
        for place, (_, whom) in self.sent.items():
            if place <= self.trimmed:
                assert all(self.has[sid] >= place for sid in whom), place

        lowest = min(
            [self.journal.released + 1]
            + [self.journal.behind(one.session) for one in self.here()]
            + list(self.away.values())
        )
        assert self.trimmed >= lowest - 1 or not self.journal.count
        standing = sum(type(one.session) is Unsettled for one in self.clients)
        assert sum(self.journal._counts.values()) == standing


TestAnyOrder = JournalMachine.TestCase
