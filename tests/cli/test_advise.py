"""``trio-rooms advise``: what it makes of a recorded life, and what it says of one that is none."""

from __future__ import annotations

import json
import math
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest

from trio_rooms import Policy
from trio_rooms._cli.failures import CommandFailed
from trio_rooms._cli.lives import replay_file
from trio_rooms._cli.main import main
from trio_rooms._insight.rows import encode_header, encode_room, encode_row

Advise = Callable[..., Any]


@pytest.fixture
def advise(capsys: pytest.CaptureFixture[str]) -> Advise:
    """``advise("--trace", file)``: the exit status and what was printed; or with ``json``, that."""

    def advise(*arguments: str | Path, as_json: bool = False) -> Any:
        try:
            status = main(["advise", *map(str, arguments), *(["--json"] if as_json else [])])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if as_json:
            assert (status, err) == (0, "")
            return json.loads(out)
        return status, out, err

    return advise


def csv_of(path: Path, *rows: str) -> Path:
    """A trace with these rows."""
    file = path / "life.csv"
    file.write_text("\n".join(["time,room,connection,bytes", *rows, ""]))
    return file


def of(document: Any, timeout: float) -> Any:
    """What a document says of one idle timeout."""
    (one,) = [one for one in document["settings"] if one["idle_timeout"] == timeout]
    return one


def test_the_life_of_another_system(advise: Advise, tmp_path: Path) -> None:
    """Each idle timeout, in order, with what it would bring; and which to choose."""
    rows = [
        f"{1e9 + time + room / 8},room {room},c,{room}" for time in range(0, 6001, 600) for room in range(4)
    ]
    document = advise("--trace", csv_of(tmp_path, *rows), as_json=True)
    timeouts = [one["idle_timeout"] for one in document["settings"]]
    assert timeouts == sorted(timeouts)
    minute, long = of(document, 60), of(document, 300)
    assert minute["hibernation_ratio"] == pytest.approx(0.9, abs=1e-3)
    assert minute["savings"] == pytest.approx(0.81, abs=1e-3)
    assert minute["added_wakes"] == 40
    assert long["hibernation_ratio"] == pytest.approx(0.5, abs=1e-3)
    assert of(document, 1800) == {
        "idle_timeout": 1800, "hibernation_ratio": 0, "savings": 0, "added_wakes": 0,
    }  # fmt: skip
    assert document["advice"]["idle_timeout"] == 120
    assert "idle_timeout=120" in document["advice"]["message"]
    assert (document["rows"], document["seconds"]) == (44, 6000.375)


def test_it_is_told_in_words(advise: Advise, tmp_path: Path) -> None:
    """As a table, with what to set below it; what would not help is said to."""
    status, out, _ = advise("--trace", csv_of(tmp_path, "0,a,1,5", "1000,a,1,5"))
    assert status == 0
    assert "       300 s        70 %     63 %            1\n" in out
    assert "\nset idle_timeout=120 and connection_idle_timeout=120: 88 % of the connections" in out
    status, out, _ = advise("--trace", csv_of(tmp_path, *(f"{time},a,1,5" for time in range(100))))
    assert out.endswith("\nno idle timeout would hibernate much\n")


def test_a_recording_knows_what_there_was(advise: Advise, tmp_path: Path) -> None:
    """Its policies are what is compared with; connections that only are there count; its end is its own."""
    policies = {"a": Policy(idle_timeout=400, connection_idle_timeout=400), "b": Policy(idle_timeout=60)}
    rows = [
        encode_row(-5.0, encode_room("a/x"), 1, 7),
        encode_row(0.0, encode_room("b/y"), 3, "here"),
        encode_row(0.0, encode_room("a/x"), 2, "here"),
        cbor2.dumps({"lost": 3}),
        encode_row(500.0, encode_room("a/x"), 2, "gone"),
        encode_row(499.0, encode_room("a/x"), 1, 7),  # Told a little late.
        encode_row(995.0, encode_room("a/x"), None, 0),
    ]
    file = tmp_path / "life"
    file.write_bytes(encode_header(policies) + b"".join(rows) + cbor2.dumps({"end": 1000.0}) + rows[0][:-2])
    document = advise("--trace", file, as_json=True)
    assert document["seconds"] == 1000
    assert document["lost"] == 3
    present = document["present"]
    connected = 1000 + 500 + 1000
    assert present["hibernation_ratio"] == pytest.approx(1 - (395 + 395 + 400) / connected, abs=1e-3)
    assert present["added_wakes"] == 2
    assert of(document, 400)["idle_timeout"] == 400
    assert of(document, 5)["hibernation_ratio"] == pytest.approx(1 - 5 / connected, abs=1e-3)
    assert "in place of " in document["advice"]["message"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1: it is empty; a trace is CSV with the header time,room,connection,bytes"),
        (b"when,room\n", "line 1: it begins with 'when,room'; a trace is CSV with the header time,room"),
        (b"time,room,connection,bytes\n", "the trace has no rows"),
        (b"time,room,connection,bytes\n1,a,b,2\nsoon,a,b,2\n", "line 3: 'time' is a number of seconds"),
        (b"time,room,connection,bytes\n1,a,b\n", "line 2: it has 3 fields, and not the 4 of time,room"),
        (b"time,room,connection,bytes\n1,,b,2\n", "line 2: 'room' is empty"),
        (b"time,room,connection,bytes\n1,a,b,-2\n", "line 2: 'bytes' is a whole number from 0 on"),
        (b"time,room,connection,bytes\n2,a,b,2\n1,c,b,2\n1,a,b,2\n", "line 4: its time, 1, is before 2"),
        (b"time,room,connection,bytes\n\xff,a,b,2\n", "it is not UTF-8"),
        (b'time,room,connection,bytes\n"1,a,b,2\n', "it is no CSV"),
        (b"\xef\xbb\xbftime,room,connection,bytes\ninf,a,b,2\n", "line 2: 'time' is a number of seconds"),
        (cbor2.dumps({"format": "x"}), "item 1: it is no map with format 'trio-rooms.trace.1'"),
        (encode_header({}) + encode_row(1, encode_room("a/b"), 1, 2), "item 2: room 'a/b' is none of those"),
        (encode_header({"a": Policy()}) + cbor2.dumps([1, 2]), "item 2: a row is a list of time, room"),
        (encode_header({"a": Policy()}) + cbor2.dumps([1, "a/b", 1, "away"]), "item 2: it takes a whole"),
        (encode_header({"a": Policy()}) + b"\x1c", "item 2: it is no CBOR"),
        (encode_header({"a": Policy()}) + cbor2.dumps([10**400, "a/b", 1, 2]), "item 2: a time is a number"),
        (encode_header({"a": Policy()}) + cbor2.dumps([1, "a/b", 1, 10**5000]), "item 2: it takes a whole"),
        (encode_header({"a": Policy()}) + cbor2.dumps({"lost": 10**5000}), "item 2: it takes a whole"),
        (encode_header({"a": Policy()}) + cbor2.dumps({"end": 1e300}), "item 2: a time is a number"),
        (encode_header({"a": Policy(idle_timeout=10**400)}), "item 1: it has a policy that is none"),
        (b"time,room,connection,bytes\n-1e308,a,b,2\n1e308,a,b,2\n", "line 2: 'time' is a number of seconds"),
    ],
)
def test_what_is_no_trace(advise: Advise, tmp_path: Path, content: bytes, complaint: str) -> None:
    """It is said what is wrong, in which line, and what would be right."""
    file = tmp_path / "trace"
    file.write_bytes(content)
    status, out, err = advise("--trace", file)
    assert (status, out) == (1, "")
    assert complaint in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("begins", "complaint"),
    [
        (b"time,room,connection,bytes\n1,", "line 2: it has more than 1,048,576 characters"),
        (encode_header({"a": Policy()}) + b"\x7b\0\0\0\1\0\0\0\0", "item 2: it has more than 262,144 bytes"),
        (encode_header({"a": Policy()}) + b"\x9b\0\0\0\1\0\0\0\0", "item 2: it has more than 262,144 bytes"),
    ],
)
def test_what_has_no_end_is_not_read_to_it(tmp_path: Path, begins: bytes, complaint: str) -> None:
    """A line, a string or a list that claims to be gigabytes takes no more memory than any other."""
    file = tmp_path / "trace"
    with file.open("wb") as trace:
        trace.write(begins)
        trace.seek(200_000_000)
        trace.write(b"x")  # All between is zeros, and not on the disk.
    tracemalloc.start()
    try:
        with pytest.raises(CommandFailed, match=complaint):
            replay_file(file)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def sleepless(path: Path) -> Path:
    """A recording of a room that never slept."""
    policy = Policy(idle_timeout=math.inf, connection_idle_timeout=math.inf)
    file, room = path / "life", encode_room("a/x")
    file.write_bytes(
        encode_header({"a": policy}) + encode_row(0.0, room, 1, 5) + encode_row(1000.0, room, 1, 5)
    )
    return file


def test_a_room_that_never_sleeps_has_no_number_of_seconds(advise: Advise, tmp_path: Path) -> None:
    """JSON has none for it: it is null."""
    _, out, _ = advise("--trace", sleepless(tmp_path), "--json")
    document = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["present"]["idle_timeout"] is None
    assert document["settings"][-1] == document["present"]


@pytest.mark.parametrize(
    "answer", ["[]", "1", "{}", '{"recommendations": [1]}', '{"recommendations": [{"rule": "a"}]}']
)
def test_what_is_no_server_of_rooms(advise: Advise, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Another server may answer at /stats, too: it is said, in one line."""
    monkeypatch.setattr("trio_rooms._cli.asking.get", lambda *_, **__: answer.encode())
    for json_too in ([], ["--json"]):
        status, out, err = advise("http://127.0.0.1:1", *json_too)
        assert (status, out) == (1, "")
        assert err.endswith("answers at /stats is not that of a server of rooms\n")


def test_what_makes_no_sense(advise: Advise, tmp_path: Path) -> None:
    """A server and a file, neither, or a picture of a server; a file that is not there."""
    for arguments in ([], ["http://x", "--trace", "y"], ["http://x", "--plot", "y.png"], ["x"]):
        status, _, err = advise(*arguments)
        assert status == 2, err
    status, _, err = advise("--trace", tmp_path / "none")
    assert status == 1
    assert "none cannot be read: No such file" in err


def test_a_picture(advise: Advise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn in the format that its name has; without matplotlib it is said what to install.

    A room that never sleeps has no place in it.
    """
    file = sleepless(tmp_path)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "matplotlib.figure", None)
        status, _, err = advise("--trace", file, "--plot", tmp_path / "x.svg")
        assert (status, err) == (1, "trio-rooms: --plot takes matplotlib: install trio-rooms[plot]\n")
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    status, _, _ = advise("--trace", file, "--plot", tmp_path / "x.svg")
    assert status == 0
    drawn = (tmp_path / "x.svg").read_text()
    assert "<svg" in drawn
    status, _, err = advise("--trace", file, "--plot", tmp_path / "x.mp3")
    assert status == 1
    assert "x.mp3 cannot be drawn: Format 'mp3' is not supported" in err


def test_what_is_read_need_not_be_a_file(advise: Advise, tmp_path: Path) -> None:
    """A pipe does as well, as of a compressed trace."""
    read, write = os.pipe()
    os.write(write, csv_of(tmp_path, "0,a,1,5", "1000,a,1,5").read_bytes())
    os.close(write)
    assert len(advise("--trace", f"/dev/fd/{read}", as_json=True)["settings"]) > 5
    os.close(read)
