from __future__ import annotations

import datetime
import math
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._state.occurrences import LAST_TIME, Cron, Every, zone_of

BERLIN = "Europe/Berlin"
moments = st.floats(0, 4e9)


def in_berlin(*when: int, fold: int = 0) -> float:
    """A time by a clock in Berlin, which are put forward on 29 March 2026 and back on 25 October."""
    return datetime.datetime(*when, tzinfo=ZoneInfo(BERLIN), fold=fold).timestamp()  # type: ignore[arg-type, misc]


def shown(when: float | None) -> str:
    """A time as a clock in Berlin shows it, with the offset."""
    assert when is not None
    return datetime.datetime.fromtimestamp(when, ZoneInfo(BERLIN)).isoformat(" ", "minutes")


@given(st.floats(1, 1e7), moments, moments)
def test_a_period_keeps_its_phase(period: float, first: float, moment: float) -> None:
    """Whenever it is asked: the next is later, no more than a period away, and a whole number of them on."""
    every = Every(period, first)
    when = every.following(moment)
    assert when > moment
    if moment < first:
        assert when == first
    else:
        assert when - moment <= period + 1e-6
        count = round((when - first) / period)
        assert when == first + count * period


@given(st.floats(1, 1e5), moments, st.lists(st.floats(0, 10), max_size=20))
def test_a_period_does_not_drift(period: float, first: float, lateness: list[float]) -> None:
    """However late each is handled, the times are those of the first."""
    every, when = Every(period, first), first
    for late in lateness:
        when = every.following(when + late * period)
    assert when == first + round((when - first) / period) * period


lists = st.sets(st.integers(0, 59), min_size=1, max_size=4)


@given(
    lists,
    st.sets(st.integers(0, 23), min_size=1, max_size=4),
    st.sets(st.integers(0, 6), min_size=1),
    moments,
)
def test_cron_is_what_a_search_finds(
    minutes: set[int], hours: set[int], days: set[int], moment: float
) -> None:
    """In a zone whose clocks nobody changes it is the first minute that matches."""
    fields = (",".join(map(str, sorted(field))) for field in (minutes, hours, days))
    minute, hour, day = fields
    found = Cron(f"{minute} {hour} * * {day}", "UTC").following(moment)
    when = datetime.datetime.fromtimestamp(moment, datetime.UTC).replace(second=0, microsecond=0)
    while True:
        when += datetime.timedelta(minutes=1)
        if when.hour not in hours:
            when = when.replace(minute=59)
        elif when.minute in minutes and when.isoweekday() % 7 in days:
            break
    assert found == when.timestamp()


around_changes = st.one_of(
    st.floats(in_berlin(2026, 3, 28), in_berlin(2026, 3, 31)),
    st.floats(in_berlin(2026, 10, 24), in_berlin(2026, 10, 27)),
)


@given(
    st.sampled_from(
        ["30 2 * * *", "0 3 * * *", "*/20 * * * *", "15 * * * *", "0-59 2 * * *", "5,35 1-3 * * SAT,SUN"]
    ),
    around_changes,
    st.floats(0, 1),
)
def test_cron_is_the_same_from_wherever_one_looks(expression: str, moment: float, fraction: float) -> None:
    """From each moment up to the next occurrence that is the next one, also where clocks are changed."""
    cron = Cron(expression, BERLIN)
    first = cron.following(moment)
    assert first is not None
    assert first > moment
    second = cron.following(first)
    assert second is not None
    assert second > first
    assert cron.following(first + fraction * (second - first) * 0.999) == second


def test_cron_where_clocks_are_put_forward() -> None:
    """What falls into the missing hour is due as it ends, once."""
    cron, when = Cron("30 2 * * *", BERLIN), in_berlin(2026, 3, 28, 12)
    found = []
    for _ in range(2):
        when = cron.following(when) or 0
        found.append(shown(when))
    assert found == ["2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"]


def test_cron_where_clocks_are_put_back() -> None:
    """What falls into the hour that there is twice is due in the first; what comes often in both."""
    cron = Cron("30 2 * * *", BERLIN)
    first = cron.following(in_berlin(2026, 10, 25))
    assert shown(first) == "2026-10-25 02:30+02:00"
    assert shown(cron.following(in_berlin(2026, 10, 25, 2, 15, fold=1))) == "2026-10-26 02:30+01:00"
    often, when, found = Cron("*/30 * * * *", BERLIN), in_berlin(2026, 10, 25, 1, 45), []
    for _ in range(5):
        when = often.following(when) or 0
        found.append(shown(when)[11:])
    assert found == ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00", "03:00+01:00"]


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "Wrong number of fields"),
        ("* * * *", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("0 0 31 2 *", "Bad day-of-month"),
        ("* * */20 * 1L", "no day of the next 50 years"),
        ("*," * 200 + "* * * * *", "256 characters"),
    ],
)
def test_what_is_no_cron_expression(expression: str, why: str) -> None:
    """It is refused, and the error shows one that is."""
    with pytest.raises(ValueError, match=rf"30 6 \* \* MON-FRI.*{why}"):
        Cron(expression, "UTC").check()


@pytest.mark.parametrize(
    "name", ["", "Europe", "Mars/Olympus", "/etc/passwd", "../UTC", "x" * 1000, "\0", "\udcff"]
)
def test_what_is_no_zone(name: str) -> None:
    """Whatever is not the name of a zone is a ValueError."""
    with pytest.raises(ValueError, match="Europe/Berlin"):
        zone_of(name)


def test_zones_and_the_last_of_all_times() -> None:
    """UTC is always there; a date at the end of the calendar can still be told."""
    assert zone_of("UTC") is datetime.UTC
    assert math.isfinite(Every(1.0, 0.0).following(LAST_TIME - 1))
    assert datetime.datetime.fromtimestamp(LAST_TIME, datetime.UTC).year == 9999
