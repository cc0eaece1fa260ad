from __future__ import annotations

import io
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import cbor2
import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks run on Linux alone", allow_module_level=True)
if os.environ.get("CI", "") in {"", "0", "false"}:
    for needed in ("matplotlib", "rich"):
        pytest.importorskip(needed, reason="the extra benchmark is not installed")

from rich.console import Console
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, BytesMessage, Request, TextMessage

from benchmarks import __main__ as command
from benchmarks.suite.contestants import Contestant, ours, serving
from benchmarks.suite.dialects import CBOR, DIALECTS, JSON, PLAIN, Dialect
from benchmarks.suite.failures import Failed
from benchmarks.suite.ledgers import Account, Member, Wrong
from benchmarks.suite.load import Load, LoadError
from benchmarks.suite.numbers import Better, median, percentile, ratio, slope, spread
from benchmarks.suite.pictures import draw
from benchmarks.suite.report import Named, Options, Run
from benchmarks.suite.results import Result
from benchmarks.suite.screen import LiveScreen, Screen, screen
from benchmarks.suite.tables import Column, Row, Table, costs, over_sizes, three_digits
from benchmarks.suite.users import Users

ROOT = Path(__file__).parents[1]
RATE = Column("rate", "messages/s", better="high")
TIME = Column("p99", "p99", unit="ms", better="low", spread=False)


# What is made of measured values.


@pytest.mark.parametrize("count", [1, 2, 3, 100, 1000, 1001])
@pytest.mark.parametrize("percent", [0, 50, 99, 99.9, 100])
def test_a_percentile_is_the_least_value_that_enough_others_do_not_exceed(count: int, percent: float) -> None:
    """At least so many percent are at or below it, and fewer at or below the one before it."""
    values = [random.random() for _ in range(count)]
    found = percentile(values, percent)
    below = sum(value < found for value in values)
    assert found in values
    assert 100 * (below + 1) >= percent * count * (1 - 1e-12)
    assert below == 0 or 100 * below < percent * count


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_there_is_no_percentile_of_nothing_or_beyond_100(values: Any, percent: float) -> None:
    """Both are refused."""
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


def test_a_percentile_is_not_misled_by_floating_point() -> None:
    """99.9 percent of 41,000 is 40,959, whatever a product of floats says."""
    assert percentile(range(1, 41_001), 99.9) == 40_959


def test_medians_spreads_and_slopes() -> None:
    """They are what everybody takes them for."""
    assert median([3, 1, 2]) == 2
    assert median([1, 2, 3, 10]) == 2.5
    assert spread([3, 1, 2]) == (1, 3)
    assert slope([0, 10, 20], [100, 120, 140]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("value", "base", "better", "times"),
    [(10, 5, "high", 2), (10, 5, "low", 0.5), (5, 10, "low", 2), (0, 5, "low", None), (5, 0, "high", None)],
)
def test_a_ratio_above_1_is_better(value: float, base: float, better: Better, times: float | None) -> None:
    """Whether more is better or less; a zero makes none."""
    assert ratio(value, base, better) == times


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (123.4, "123"),
        (12345, "12,300"),
        (999_600, "1,000,000"),
        (-0.5, "-0.500"),
    ],
)
def test_three_digits_count(value: float, text: str) -> None:
    """Whatever the size of the number."""
    assert three_digits(value) == text


# Tables.


@pytest.fixture
def table() -> Table:
    """Ours, two peers, one absent and one failed, two rounds."""
    made = Table("small", "Echo of 64 bytes", [RATE, TIME], drawn="rate", baseline="trio-web")
    for rate in (900.0, 1100.0):
        made.add("trio_rooms", "ours", {"rate": rate, "p99": 0.001})
        made.add("trio-websocket", "peer", {"rate": rate / 10, "p99": 0.002})
        made.add("Node | ws", "peer", {"rate": rate / 2})
        made.add("reflector", "limit", {"rate": rate * 2, "p99": 0.0001}, bounds=["rate"])
    made.columns.append(Column("rss", "Rss", told=False))
    made.row("bun", "peer").absent = "there is no npm"
    made.row("Socket.IO", "peer").failed = "hung up:\nTraceback\nError: 3"
    return made


def test_a_table_shows_medians_spreads_bounds_and_how_many_times_better(table: Table) -> None:
    """In the units of its columns, and beside the row that is its baseline."""
    assert table.headings() == ["", "messages/s", "p99 (ms)", "× trio-websocket"]
    assert [table.cells(row) for row in table.rows] == [
        ["trio_rooms", "1,000 (900–1,100)", "1.00", "10.0×"],
        ["trio-websocket", "100 (90.0–110)", "2.00", "1.00×"],
        ["Node | ws", "500 (450–550)", "–", "5.00×"],
        ["reflector", "≥ 2,000 (1,800–2,200)", "0.100", "20.0×"],
        ["bun", "absent", "–", "–"],
        ["Socket.IO", "failed", "–", "–"],
    ]
    assert table.cells(table.rows[0], spreads=False)[1] == "1,000"


def test_without_its_baseline_a_table_has_no_ratios(table: Table) -> None:
    """As where that peer is absent."""
    table.rows = [row for row in table.rows if row.name != "trio-websocket"]
    assert table.headings()[-1] == "p99 (ms)"
    assert len(table.cells(table.rows[0])) == 3


@pytest.mark.parametrize(
    "values", [{"other": 1.0}, {"rate": math.nan}, {"rate": math.inf}], ids=["column", "nan", "inf"]
)
def test_a_table_takes_only_numbers_for_its_columns(table: Table, values: Any) -> None:
    """The rest is a defect of a benchmark, and would spoil the JSON."""
    with pytest.raises(ValueError, match=r"other|rate"):
        table.add("trio_rooms", "ours", values)


# Files.


@pytest.fixture
def result(table: Table) -> Result:
    """A result with that table."""
    made = Run("fake", "A fake.", Options(Path(), rounds=2), plain(io.StringIO())).result
    made.tables.append(table)
    made.remarks.append("Nothing was measured.")
    return made


def test_the_json_has_every_round_and_what_follows_from_them(result: Result) -> None:
    """Medians, extremes, and the ratio to every peer and limit."""
    told = json.loads(result.to_json())
    assert told["environment"]["cores"] > 0
    assert told["environment"]["kernel"].startswith("Linux ")
    assert "trio" in told["environment"]["versions"]
    ours, _, _, limit, absent, failed = told["tables"][0]["rows"]
    assert ours["values"]["rate"] == [900, 1100]
    assert (ours["least"]["rate"], ours["median"]["rate"], ours["greatest"]["rate"]) == (900, 1000, 1100)
    assert ours["times_better_than"] == {
        "trio-websocket": {"rate": 10, "p99": 2},
        "Node | ws": {"rate": 2},
        "reflector": {"rate": 0.5, "p99": pytest.approx(0.1)},
    }
    assert limit["bounds"] == ["rate"]
    assert (absent["absent"], failed["failed"]) == ("there is no npm", "hung up:\nTraceback\nError: 3")


def test_a_result_can_be_read_again(result: Result) -> None:
    """As it was, so that it can be drawn again."""
    assert Result.from_json(result.to_json()) == result


@pytest.mark.parametrize("text", ["", "[]", '{"benchmark": 3}'])
def test_what_is_no_result_is_refused(text: str) -> None:
    """With the error that `json` has too."""
    with pytest.raises(ValueError, match=r"."):
        Result.from_json(text)


def test_the_markdown_has_the_table_and_who_is_missing(result: Result) -> None:
    """Ours in bold; a name cannot break the table."""
    text = result.to_markdown()
    assert "| **trio_rooms** | 1,000 (900–1,100) | 1.00 | 10.0× |" in text
    assert r"| Node \| ws | 500 (450–550) | – | 5.00× |" in text
    assert "bun: absent: there is no npm." in text
    assert "Socket.IO: failed: hung up: … Error: 3." in text
    assert "Nothing was measured." in text
    assert "Medians of 2 rounds" in text


def test_a_picture_is_an_svg_that_needs_no_font(result: Result) -> None:
    """Letters are paths; the same figures make the same picture."""
    text = draw(result)
    root = ET.fromstring(text)  # noqa: S314 - made here
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not root.findall(".//{http://www.w3.org/2000/svg}text")
    assert draw(result) == text
    result.tables[0].rows[0].values["rate"] = [1.0, 2.0]
    assert draw(result) != text


def test_a_table_without_a_column_to_draw_has_no_picture(result: Result) -> None:
    """Nor one in which nothing was measured."""
    result.tables[0].drawn = ""
    assert draw(result) == ""
    result.tables = [Table("small", "Echo", [RATE], drawn="rate", rows=[Row("bun", "peer", absent="no npm")])]
    assert draw(result) == ""


def test_a_table_over_a_size_says_what_grows_and_is_drawn_as_lines(result: Result) -> None:
    """How many times the smallest the largest costs; nothing where a cost is too small to be seen."""
    table = Table("sizes", "A message", over_sizes("rooms", "µs", [1, 100, 10_000]), over="rooms")
    table.add("trio_rooms", "ours", costs({1: 1e-5, 100: 1.1e-5, 10_000: 1.3e-5}))
    assert table.headings() == ["", "1 rooms (µs)", "100 rooms (µs)", "10,000 rooms (µs)", "10,000 : 1"]
    assert table.cells(table.rows[0]) == ["trio_rooms", "10.0", "11.0", "13.0", "1.30"]
    assert "growth" not in costs({1: 0.0, 100: 1e-5})
    result.tables = [table]
    one = draw(result)
    table.add("picows", "peer", costs({1: 1e-6, 100: 1e-6, 10_000: 1e-6}))
    table.row("bun", "peer").absent = "there is no npm"
    assert draw(result) == draw(Result.from_json(result.to_json())) != one


@pytest.mark.parametrize(("over", "columns"), [("rooms", [RATE]), ("", over_sizes("rooms", "µs", [1, 2]))])
def test_a_table_over_a_size_has_columns_of_sizes(over: str, columns: list[Column]) -> None:
    """And one that is over none has no such columns."""
    with pytest.raises(ValueError, match="size"):
        Table("sizes", "A message", columns, over=over)


# One run.


def plain(file: io.StringIO) -> Screen:
    """The screen of a log."""
    return screen(Console(file=file, highlight=False))


ENTRANTS = [Named("trio_rooms", "ours"), Named("Node ws", "peer"), Named("bun", "peer", "no npm")]


def run_of(**options: Any) -> Run:
    """A run whose screen is a log."""
    return Run(
        "fake", "A fake.", Options(**{"results": Path(), "rounds": 2, **options}), plain(io.StringIO())
    )


def test_contestants_take_turns() -> None:
    """Round after round; who is absent has a row and no turn."""
    run = run_of()
    table = run.table("small", "Echo", [RATE])
    assert [one.name for one in run.each(ENTRANTS)] == ["trio_rooms", "Node ws"] * 2
    assert [(row.name, row.absent) for row in table.rows] == [
        ("trio_rooms", ""),
        ("Node ws", ""),
        ("bun", "no npm"),
    ]


def test_only_some_can_be_asked_for() -> None:
    """By a part of their name, in any case."""
    run = run_of(only=("NODE", "else"))
    assert [one.name for one in run.each(ENTRANTS)] == ["Node ws"] * 2
    assert run.matched
    run = run_of(only=("else",))
    assert list(run.each(ENTRANTS)) == []
    assert not run.matched


@pytest.mark.parametrize(("failing", "ours_failed"), [("trio_rooms", True), ("Node ws", False)])
@pytest.mark.parametrize("error", [Failed("hung up"), OSError("hung up")])
def test_who_fails_is_named_and_the_others_go_on(failing: str, ours_failed: bool, error: Exception) -> None:
    """It has no turn any more, and keeps what was measured before."""
    run = run_of(rounds=3)
    table = run.table("small", "Echo", [RATE])
    turns = []
    for entrant in run.each(ENTRANTS):
        with run.attempt(entrant):
            turns.append(entrant.name)
            if entrant.name == failing and len(turns) > 2:
                raise error
            run.measured(table, entrant, rate=1.0)
    assert turns.count(failing) == 2
    assert len(turns) == 5
    row = table.row(failing, "peer")
    assert (row.failed, row.values) == ("hung up", {"rate": [1.0]})
    assert run.ours_failed is ours_failed


def test_a_defect_of_a_benchmark_is_no_failure_of_a_contestant() -> None:
    """It ends the benchmark."""
    with pytest.raises(KeyError), run_of().attempt(ENTRANTS[1]):
        raise KeyError("a defect")


def test_there_are_no_more_connections_than_files() -> None:
    """Fewer than asked for are told of."""
    assert run_of().connections(7, quick=3) == 7
    assert run_of(quick=True).connections(7, quick=3) == 3
    assert run_of(quick=True, connections=5).connections(7, quick=3) == 5
    run = run_of(connections=10**9)
    assert run.connections(7, quick=3) < 10**9
    assert "files" in run.result.remarks[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_shown(terminal: bool) -> None:
    """A log has plain lines; a terminal has the tables as they fill, and its cursor back in the end."""
    file = io.StringIO()
    shown = screen(Console(file=file, force_terminal=terminal, width=100, height=30, legacy_windows=False))
    assert isinstance(shown, LiveScreen) is terminal
    run = Run("fake", "A fake.", Options(Path(), rounds=1), shown)
    with shown.running(run.result):
        table = run.table("small", "Echo of 64 bytes", [RATE], drawn="rate", note="A note.")
        for entrant in run.each(ENTRANTS):
            with run.attempt(entrant):
                run.progress(f"{entrant.name} begins", 0.5)
                if entrant.group == "peer":
                    raise Failed("hung up")
                run.measured(table, entrant, rate=1234.0)
    shown.show(run.result, [Path("fake.json")])
    text = file.getvalue()
    for words in ("Echo of 64 bytes", "1,230", "absent: no npm", "failed: hung up", "A note.", "fake.json"):
        assert words in text
    assert ("\x1b[" in text) is terminal
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == (1 if terminal else 0)
    if not terminal:
        assert "[1/2] small: trio_rooms: messages/s 1,230\n" in text


# The command line.

Fake: TypeAlias = Callable[[Callable[[Run], None]], None]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes a function the only benchmark there is."""

    def fake(run: Callable[[Run], None]) -> None:
        module = types.ModuleType("benchmarks.fake")
        module.__dict__.update(NAME="fake", ABOUT="A fake.", run=run)
        monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
        monkeypatch.setattr(command, "NAMES", ("fake",))

    return fake


def measure(run: Run) -> None:
    """A benchmark in which everybody does well."""
    table = run.table("small", "Echo", [RATE, TIME], drawn="rate", baseline="Node")
    for entrant in run.each(ENTRANTS):
        with run.attempt(entrant):
            run.measured(table, entrant, rate=random.random(), p99=random.random())


def test_a_benchmark_leaves_data_a_table_and_a_picture(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the two last can be made again from the first."""
    fake(measure)
    assert command.main(["--results", str(tmp_path / "a"), "--rounds", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fake.json", "fake.md", "fake.svg"]
    assert json.loads((tmp_path / "a" / "fake.json").read_text())["command"].startswith("benchmarks/run --r")
    assert "trio_rooms" in capsys.readouterr().out
    assert command.main(["--results", str(tmp_path / "a"), "--draw", str(tmp_path / "b")]) == 0
    for name in ("fake.md", "fake.svg"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert not (tmp_path / "b" / "fake.json").exists()


def _fail(run: Run, group: str) -> None:
    table = run.table("small", "Echo", [RATE])
    for entrant in run.each(ENTRANTS):
        with run.attempt(entrant):
            if entrant.group == group:
                raise Failed("hung up")
            run.measured(table, entrant, rate=1.0)


@pytest.mark.parametrize(("group", "status"), [("ours", 1), ("peer", 0)])
def test_the_exit_status_says_whether_one_of_ours_failed(
    fake: Fake, tmp_path: Path, group: str, status: int
) -> None:
    """A peer that fails is its own affair; both are in the files."""
    fake(lambda run: _fail(run, group))
    assert command.main(["--results", str(tmp_path)]) == status
    assert "hung up" in (tmp_path / "fake.md").read_text()


def test_a_defect_of_the_suite_is_shown_and_fails(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its traceback."""

    def run(_: Run) -> None:
        raise KeyError("a defect")

    fake(run)
    assert command.main(["--results", str(tmp_path)]) == 1
    assert "KeyError: 'a defect'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["idle", "nope"], "no benchmark nope; there are: idle, parked, "),
        (["--rounds", "0"], "0 is not a whole number of 1 or more"),
        (["--connections", "many"], "many is not a whole number of 1 or more"),
        (["--only", "ours", "echo"], "put echo before it"),
        (["--results", "/dev/null/x"], "/dev/null/x"),
        (["--quik"], "--quik"),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_is_right(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is run."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_nobody_of_that_name_takes_part(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not taken for success, and leaves no files."""
    fake(measure)
    assert command.main(["--results", str(tmp_path), "--only", "nobody"]) == 2
    assert "'nobody'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No results, or results that are none."""
    assert command.main(["--results", str(tmp_path), "--draw", str(tmp_path)]) == 2
    (tmp_path / "echo.json").write_text("{}")
    assert command.main(["--results", str(tmp_path), "--draw", str(tmp_path)]) == 2
    assert str(tmp_path / "echo.json") in capsys.readouterr().err


def test_every_benchmark_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    """In the list of them all."""
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(command.NAMES)


# The whole, with a real server.


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_benchmark_of_a_real_server(tmp_path: Path) -> None:
    """From the command line to the files; beside it the same of another checkout, and without metrics."""
    asked = ("--only", "plain, 1 room", "plain, watched", "--beside", str(ROOT), "--results", str(tmp_path))
    with start("echo", "--quick", *asked) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    (watched, small, large) = json.loads((tmp_path / "echo.json").read_text())["tables"]
    ((name, found),) = [(row["name"], row["median"]) for row in watched["rows"]]
    assert name == "trio_rooms, plain, watched"
    assert found["extra"] == pytest.approx(found["on"] / found["off"] - 1)
    for told in (small, large):
        names = [row["name"] for row in told["rows"]]
        assert names == ["trio_rooms, plain, 1 room", f"trio_rooms, plain, 1 room, {ROOT.name}"]
        for row in told["rows"]:
            assert row["group"] == "ours"
            assert row["median"]["rate"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(number: signal.Signals, tmp_path: Path) -> None:
    """Server and load generator too, and the exit status says which signal it was."""
    with start("echo", "--rounds", "50", "--only", "plain, 1 room", "--results", str(tmp_path)) as process:
        try:
            deadline = time.monotonic() + 60
            while len(started := children(process.pid)) < 2:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(number)
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == -number
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert not (tmp_path / "echo.json").exists()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [
        int(child)
        for tasks in Path(f"/proc/{pid}/task").glob("*/children")
        for child in tasks.read_text().split()
    ]


# What clients of a ledger must see.


def heard(account: Account, *balances: tuple[int, int]) -> Member:
    """A client that heard these balances, each with its count."""
    member = Member(account)
    for count, balance in balances:
        member.hear("balance", {"count": count, "balance": balance})
    return member


def test_a_ledger_that_is_right() -> None:
    """Every amount once, in whatever order, and every client from when it came."""
    account = Account("x")
    assert [account.next() for _ in range(3)] == [1, 2, 3]
    heard(account, (1, 2), (2, 3), (3, 6))
    heard(account, (3, 6)).came({"count": 2, "balance": 3})
    account.answers = {2: 2, 1: 3, 3: 6}
    account.check(6, 3)


@pytest.mark.parametrize(
    ("balances", "end", "words"),
    [
        ([(1, 1), (2, 3), (3, 5)], (5, 3), "more than once: 2"),
        ([(1, 1), (2, 3), (3, 10)], (10, 3), "nobody asked for it: 7"),
        ([(1, 1), (2, 3)], (3, 2), "not added: 3"),
        ([(1, 1), (2, 3), (3, 6)], (3, 2), "it says 3 of 2"),
        ([(1, 2), (2, 3), (3, 6)], (6, 3), "1 was answered 1, and not 3"),
    ],
)
def test_a_ledger_that_is_wrong(balances: list[tuple[int, int]], end: tuple[int, int], words: str) -> None:
    """Twice, invented, lost, lost again in the end, or answered with something else."""
    account = Account("x")
    for _ in range(3):
        account.next()
    account.answers = {1: 1}
    heard(account, *balances)
    with pytest.raises(Wrong, match=words):
        account.check(*end)


@pytest.mark.parametrize(
    ("event", "data", "words"),
    [
        ("balance", {"count": 4, "balance": 9}, "after 2 nothing before it"),
        ("balance", {"count": 2, "balance": 3}, "heard balance 2 after 2"),
        ("balance", {"count": 3, "balance": 5}, "5 to one client and 6 to another"),
        ("rooms.reset", {"reason": "unknown"}, "lost its session"),
        ("other", None, "heard other"),
    ],
)
def test_a_client_that_hears_something_wrong(event: str, data: Any, words: str) -> None:
    """A gap, something twice, something that others did not hear, and what must not come at all."""
    account = Account("x")
    heard(account, (1, 1), (2, 3), (3, 6))
    member = heard(account, (1, 1), (2, 3))
    with pytest.raises(Wrong, match=words):
        member.hear(event, data)


def test_a_client_that_comes_must_hear_what_follows() -> None:
    """What it was told as it came is what its first event follows on, or has in it."""
    account = Account("x")
    heard(account, (1, 1), (2, 3), (3, 6))
    member = Member(account)
    member.came({"count": 1, "balance": 1})
    with pytest.raises(Wrong, match="heard balance 3 first, and had been told 1"):
        member.hear("balance", {"count": 3, "balance": 6})


# The load generator.


@pytest.mark.parametrize(
    "dialect", [one for one in DIALECTS.values() if one.masked], ids=lambda one: one.name
)
@pytest.mark.parametrize("size", [1, 20, 23, 24, 125, 126, 255, 256, 4096, 65_535, 65_536])
def test_frames_are_what_another_library_takes_them_for(dialect: Dialect, size: int) -> None:
    """What a dialect asks with, wsproto reads; and what it waits for is what wsproto sends."""
    payload = bytes(random.choices(b"abcdefgh", k=size))
    server = Connection(ConnectionType.SERVER)
    server.receive_data(dialect.request(payload))
    (event,) = server.events()
    assert isinstance(event, TextMessage | BytesMessage)
    assert event.message_finished
    assert payload in (event.data.encode() if isinstance(event.data, str) else event.data)
    assert server.send(event) == dialect.reply(payload)


@pytest.mark.parametrize("size", [1, 23, 24, 255, 256, 65_535, 65_536])
def test_events_are_what_other_libraries_take_them_for(size: int) -> None:
    """In JSON and in CBOR."""
    payload = bytes(random.choices(b"abcdefgh", k=size))
    event = {"event": "echo", "data": payload.decode()}
    assert json.loads(JSON.encode(payload)) == event
    assert cbor2.loads(CBOR.encode(payload)) == event


ROOMS = [(PLAIN, "plain"), (JSON, "events"), (CBOR, "events")]


@pytest.mark.parametrize(("dialect", "room"), ROOMS, ids=lambda value: getattr(value, "name", value))
def test_the_load_generator_speaks_with_our_rooms(dialect: Dialect, room: str) -> None:
    """In each of their dialects, and finds every byte as it must be."""
    contestant = Contestant("ours", "ours", ours(room), dialect, f"/{room}/{{n}}", rooms=3)
    with serving(contestant) as server, Load() as load:
        opened = load.open(server.port, contestant.path, 3, dialect, count=10)
        assert (opened.count, opened.failed, len(opened.latencies)) == (10, 0, 10)
        echoed = load.echo(0.2, 300)
        assert 0 < echoed.cpu_share <= 1.1
        assert echoed.checked >= echoed.rate * 0.2 > 0
        paced = load.paced(0.5, 200, 300)
        assert paced.expected == pytest.approx(100, abs=2)
        assert 0 < paced.p50 <= paced.p99 <= paced.max
        assert load.ask(3, 300) > 0
        assert len(load.storm([1, 2, 5], 300).latencies) == 3


@pytest.mark.parametrize("event", ["add", "count"])
def test_the_load_generator_speaks_with_durable_ledgers(event: str) -> None:
    """Each connection with its own, some messages ahead; the first may be timed."""
    contestant = Contestant("ours", "ours", ours("ledger"), JSON, "/ledger/{n}", rooms=5)
    with serving(contestant) as server, Load() as load:
        load.open(server.port, contestant.path, 5, JSON, count=5)
        piped = load.pipeline(0.2, 5, event, 20_000)
        assert piped.answered >= piped.rate * 0.2 > 0
        assert piped.latencies == []
        timed = load.pipeline(0.2, 5, event, 20_000, probe=True)
        assert len(timed.latencies) > 0
        assert min(timed.latencies) > 0


def test_a_wrong_answer_of_a_ledger_is_found() -> None:
    """As that of a room which knows no such event."""
    with serving(Contestant("ours", "ours", ours("events"))) as server, Load() as load:
        load.open(server.port, "/events/x", 1, JSON)
        with pytest.raises(LoadError, match="unknown_event"):
            load.pipeline(0.2, 5, "add", 100)


@contextmanager
def reflector(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server for one client, which hears what a function makes of the right answer; gives its port."""

    def serve() -> None:
        client, _ = listener.accept()
        protocol = WSConnection(ConnectionType.SERVER)
        # The clients leave with an RST.
        with client, suppress(ConnectionResetError):
            while data := client.recv(65536):
                protocol.receive_data(data)
                for event in protocol.events():
                    if isinstance(event, Request):
                        client.sendall(protocol.send(AcceptConnection()))
                    elif isinstance(event, TextMessage):
                        client.sendall(answer(protocol.send(event)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
    thread.join(10)


@pytest.mark.parametrize("operation", ["echo", "paced"])
@pytest.mark.parametrize("wrong", ["other", "twice", "longer", "gone"])
def test_a_wrong_answer_is_found(operation: str, wrong: str) -> None:
    """One among many: with another byte in it, twice, with more bytes after it, or none and the end."""
    count = 0

    def lie(frame: bytes) -> bytes:
        nonlocal count
        count += 1
        if count != 50:
            return frame
        if wrong == "gone":
            raise ConnectionResetError
        return {"other": frame[:-1] + b"?", "twice": frame * 2, "longer": frame + b"\x81\x01?"}[wrong]

    with reflector(lie) as port, Load() as load:
        load.open(port)
        with pytest.raises(LoadError):
            load.echo(0.5, 64) if operation == "echo" else load.paced(0.5, 200, 64)
        assert count >= 50


def test_a_latency_counts_from_when_the_message_was_due() -> None:
    """A server that stands still once is slow for all messages that were due meanwhile, sent or not."""
    count = 0

    def stand_still(frame: bytes) -> bytes:
        nonlocal count
        count += 1
        if count == 50:
            time.sleep(0.5)
        return frame

    with reflector(stand_still) as port, Load() as load:
        load.open(port)
        paced = load.paced(1.0, 200, 64)
    assert paced.max >= 0.45
    # Half of all messages were due while it stood still, a quarter of all in the first half of that.
    assert paced.p99 >= 0.4
    assert paced.p50 <= 0.35


def test_the_load_generator_is_not_blind_to_its_own_delays() -> None:
    """What was sent late was waited for all the longer, and the figures say how late it was."""
    count = 0

    def stop(frame: bytes) -> bytes:
        nonlocal count
        count += 1
        if count == 50:
            os.kill(load.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(load.pid, signal.SIGCONT)
        return frame

    with reflector(stop) as port, Load() as load:
        load.open(port)
        paced = load.paced(1.0, 200, 64)
    assert paced.late >= 0.4
    assert paced.p99 >= 0.4


# Users.


def test_the_load_generator_hears_what_nobody_asked_for(tmp_path: Path) -> None:
    """All of it and no more, and knows in how many writes it came."""
    with Users(tmp_path) as users, Load() as load:
        load.open(users.port, "/parked/x", 1, JSON, 5)
        before = load.segments()
        users.do("emit parked 3")
        began = time.perf_counter()
        assert began - 1 < load.hear(3) < time.perf_counter()
        assert 5 <= load.segments() - before <= 15
        assert users.wakes() == 0
        users.do("emit parked 2")
        with pytest.raises(LoadError):
            load.hear(1)


def test_users_who_are_away_and_who_are_parked(tmp_path: Path) -> None:
    """What is measured of them, as short as can be."""
    with Users(tmp_path, 0.05) as users, Load() as load:
        load.open(users.port, "/home/{n}", 3, JSON, 3)
        users.do("send 3 low")
        users.do("send 3 low volatile")
        load.hear(2)
        assert users.wakes() == 0
        users.do("send 3 high")
        load.hear(1)
        users.do("sleep 3")
        assert users.wakes() == 3
        users.do("fill away 4 5 0.05")
        while users.do("expired") != "20":
            time.sleep(0.01)
