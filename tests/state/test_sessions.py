"""What is known of sessions: tokens, ids, verdicts and refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._state.sessions import MOST_UNANSWERED, Answered, Session, Sessions, Token


class TestToken:
    def test_is_short_text_for_a_query_and_comes_back(self) -> None:
        token = Token.new((1 << 60) - 5)
        text = str(token)
        assert len(text) == 32
        assert text.isascii()
        assert not set(text) & set("+/=&?%")
        assert Token.parse(text) == token

    def test_of_two_sessions_differ_in_their_digests_as_well(self) -> None:
        one, other = Token.new(7), Token.new(7)
        assert one.digest != other.digest
        assert len(one.digest) == 16
        assert one.secret not in one.digest

    @pytest.mark.parametrize(
        "garbage",
        [
            "", "x", "ü" * 32, "=" * 32, "A" * 31, "A" * 32, "A" * 33, "A" * 4000, "AAAA AAAA" * 4, "\0" * 32,
            "_" * 32, "g" + "A" * 31,
        ],
    )  # fmt: skip
    def test_what_is_none_is_none(self, garbage: str) -> None:
        assert Token.parse(garbage) is None

    @given(st.text(max_size=64))
    def test_any_text_is_a_token_or_none(self, text: str) -> None:
        token = Token.parse(text)
        assert token is None or Token.parse(str(token)) == token


class TestAnswered:
    @pytest.mark.parametrize(
        "answered",
        [
            Answered(),
            Answered(data={"balance": 3, "of": [b"x", "y", 1.5]}),
            Answered("not_saved", "it was not saved"),
            Answered(bare=True),
        ],
    )
    def test_comes_back_as_it_was(self, answered: Answered) -> None:
        assert Answered.decode(answered.encode()) == answered

    def test_data_that_is_more_than_a_session_may_keep_is_forgotten_and_the_verdict_not(self) -> None:
        assert Answered.decode(Answered(data="x" * 70_000).encode()) == Answered(bare=True)

    def test_a_long_text_of_an_error_is_cut(self) -> None:
        assert Answered.decode(Answered("mine", "x" * 5000).encode()) == Answered("mine", "x" * 1000)


class TestSession:
    def test_keeps_the_verdicts_of_as_many_ids_as_may_be_unanswered(self) -> None:
        session = Session()
        for number in range(1, MOST_UNANSWERED + 1):
            assert session.keep(number, Answered(data=number).encode()) == {}
        assert session.keep(MOST_UNANSWERED + 1, Answered().encode()) == {1: None}
        assert list(session.verdicts) == list(range(2, MOST_UNANSWERED + 2))

    def test_forgets_the_data_of_the_oldest_first_and_no_verdict(self) -> None:
        session = Session()
        big = Answered(data="x" * 30_000).encode()
        session.keep(1, Answered("mine", "why").encode())
        session.keep(2, big)
        session.keep(3, big)
        changed = session.keep(4, big)
        assert {id_: Answered.decode(verdict) for id_, verdict in changed.items() if verdict} == {
            1: Answered("mine", ""),
            2: Answered(bare=True),
        }
        assert [Answered.decode(one).bare for one in session.verdicts.values()] == [False, True, False, False]

    def test_one_that_comes_from_the_store_is_bounded_in_the_same_way(self) -> None:
        big = Answered(data="x" * 30_000).encode()
        session = Session(9, dict.fromkeys(range(1, 10), big))
        assert sum(len(verdict) for verdict in session.verdicts.values()) < 65_000
        assert len(session.verdicts) == 9

    def test_what_the_client_has_answers_to_is_forgotten(self) -> None:
        session = Session(3, {number: Answered().encode() for number in (1, 2, 3)})
        assert session.answered(2)
        assert list(session.verdicts) == [3]
        assert not session.answered(2)
        assert session.last == 3

    @given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40_000)), max_size=30))
    def test_what_it_says_has_changed_is_what_has(self, steps: list[tuple[int, int]]) -> None:
        session, number = Session(), 0
        kept: dict[int, bytes | None] = {}
        for step, size in steps:
            number += step
            verdict = Answered(data="x" * size).encode()
            kept[number] = verdict
            kept |= session.keep(number, verdict)
            assert session.verdicts == {id_: one for id_, one in kept.items() if one is not None}
            assert sum(map(len, session.verdicts.values())) <= max(64 * 1024, 3 * number)


class TestSessions:
    def test_a_refusal_outlives_that_everything_is_read_again(self) -> None:
        sessions = Sessions()
        sessions.know(5, Session(1, {1: Answered().encode()})).last = 3
        sessions.refuse(5, 2, "not_saved")
        sessions.refuse(5, 3, "not_saved")
        sessions.clear()
        assert sessions.get(5) is None
        again = sessions.know(5, Session(1, {1: Answered().encode()}))
        assert again.last == 3
        assert [Answered.decode(one).code for one in again.verdicts.values()] == [
            "",
            "not_saved",
            "not_saved",
        ]

    def test_a_refusal_that_a_commit_has_is_the_stores_from_then_on(self) -> None:
        sessions = Sessions()
        sessions.know(5, Session())
        sessions.refuse(5, 1, "not_saved")
        sessions.recorded({(5, 1): "not_saved"})
        assert sessions.refused == {}
        known = sessions.get(5)
        assert known is not None
        assert 1 in known.verdicts

    def test_one_that_is_over_leaves_nothing(self) -> None:
        sessions = Sessions()
        sessions.know(5, Session())
        sessions.refuse(5, 1, "not_saved")
        sessions.refuse(6, 1, "not_saved")
        sessions.forget(5)
        assert sessions.get(5) is None
        assert sessions.refused == {(6, 1): "not_saved"}

    def test_of_refusals_that_no_commit_has_those_are_kept_that_may_be_asked_for(self) -> None:
        sessions = Sessions()
        sessions.know(5, Session())
        for number in range(1, 2 * MOST_UNANSWERED + 1):
            sessions.refuse(5, number, "not_saved")
            if not number % 300:
                sessions.clear()
                assert sessions.know(5, Session()).last == number
        assert [*sessions.refused] == [(5, number) for number in range(1001, 2001)]
        sessions.clear()
        for number in range(2001, 4001):
            sessions.refuse(5, number, "not_saved")
        known = sessions.know(5, Session())
        assert known.last == 4000
        assert [*known.verdicts] == [number for _, number in sessions.refused] == [*range(3001, 4001)]
