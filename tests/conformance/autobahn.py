"""The cases of the Autobahn test suite, as a client, against the echo example.

Each case is one connection on which a client does one thing, right or wrong, and looks at what comes back.
Left out are the cases about compression, 12.* and 13.*. All are run twice: in a room that stays awake, and in
one that falls asleep whenever nothing happens for five milliseconds, so in the middle of a case as well.

The suite exists twice. The original is the authority and needs a Python 2.7; kosoku runs the same cases from
the same files on Python 3, and is what we use from day to day. Both write the same reports.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import attrs

Command: TypeAlias = Sequence[str | os.PathLike[str]]

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
REPORTS = ROOT / "tests" / "conformance" / "reports"

AWAKE = 3600.0  # Longer than any run.
ASLEEP = 0.005

# The largest messages of 9.1 and 9.2 have 16 MiB.
LARGEST_MESSAGE = 16 * 2**20

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0

PASSED = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})

ORIGINAL = "autobahntestsuite==25.10.1"
ORIGINAL_HOME = ROOT / ".venv-autobahn"
# Its packages lie in a folder and not in an environment, which Python 2.7 has no module for.
ORIGINAL_START = """\
import site, sys
site.addsitedir(sys.argv.pop(1))
from autobahntestsuite.wstest import run
run()
"""


@attrs.frozen
class Group:
    """The cases whose ids start with the same number."""

    number: str
    title: str
    size: int
    #: Seconds after which it is given up. A good server needs a twentieth of that.
    timeout: float = 60.0


GROUPS = [
    Group("1", "framing", 16),
    Group("2", "pings and pongs", 11),
    Group("3", "reserved bits", 7),
    Group("4", "opcodes", 10),
    Group("5", "fragmentation", 20),
    Group("6", "UTF-8", 145, timeout=180.0),
    Group("7", "closing", 37),
    Group("9", "limits and performance", 54, timeout=300.0),
    Group("10", "automatic fragmentation", 1),
]


@attrs.frozen
class Result:
    """What came out of one case."""

    case: str
    behavior: str
    behavior_close: str
    explanation: str

    @property
    def passed(self) -> bool:
        """Whether the server does what the RFC demands. NON-STRICT: not all of what it recommends."""
        return self.behavior in PASSED and self.behavior_close in PASSED


class Broken(Exception):
    """The server or the suite did not run; the text says which, and how."""


@contextmanager
def echo_server(idle_timeout: float, logs: Path) -> Iterator[str]:
    """Serve the echo example in a process of its own; gives the address of the room.

    Raises:
        Broken: the server does not start, does not stop, or does not say that it stopped well.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, (logs / "server.log").open("w+") as log:
        command: Command = [
            *(SCRIPTS / "trio-rooms", "serve", f"{ROOT / 'examples' / 'echo.py'}:room"),
            *("--port", "0", "--data", data),
            *("--idle-timeout", str(idle_timeout), "--max-message-size", str(LARGEST_MESSAGE)),
        ]
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
        )
        try:
            yield f"{listening(server, Path(log.name))}/echo/autobahn"
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
            try:
                status = server.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise Broken(f"the server does not stop at SIGTERM{tail(log.name)}") from None
            if status != 0:
                raise Broken(f"the server ended with exit status {status}{tail(log.name)}")
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()


def listening(server: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the line in which the server says where it listens."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        status = server.poll()
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith("listening on ") and line.endswith("\n"):
                return line.removeprefix("listening on ").strip()
        if status is not None:
            raise Broken(f"the server ended with exit status {status} and never listened{tail(log)}")
        time.sleep(0.02)
    raise Broken(f"the server did not listen within {START_TIMEOUT:.0f} s{tail(log)}")


def tail(log: str | Path) -> str:
    """The last lines of a log, to follow a message."""
    lines = Path(log).read_text(errors="replace").splitlines()[-20:]
    return "".join(f"\n    {line}" for line in lines)


def kosoku(url: str, cases: Sequence[str], reports: Path, timeout: float) -> list[Result]:
    """Run cases with kosoku, one at a time: with several, the room has less time to sleep.

    Raises:
        Broken: it does not end in time, or reports nothing.
    """
    include = [argument for case in cases for argument in ("--include", case)]
    command: Command = [SCRIPTS / "kosoku", url, "--parallelism", "1", "--outdir", reports, *include]
    return run_suite(command, cases, reports, timeout)


def original(url: str, cases: Sequence[str], reports: Path, timeout: float) -> list[Result]:
    """Run cases with the original suite.

    Raises:
        Broken: it cannot be installed, does not end in time, or reports nothing.
    """
    python2 = find_python2()
    install_original(python2)
    reports.mkdir(parents=True, exist_ok=True)
    specification = reports / "specification.json"
    specification.write_text(
        json.dumps(
            {
                "outdir": os.fspath(reports),
                "servers": [{"agent": "trio_rooms", "url": url}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    start = [python2, "-c", ORIGINAL_START, os.fspath(ORIGINAL_HOME)]
    command = [*start, "-m", "fuzzingclient", "-s", os.fspath(specification)]
    return run_suite(command, cases, reports, timeout)


def find_python2() -> str:
    """A Python 2.7: ``$PYTHON2``, one on the PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [os.environ.get("PYTHON2"), "python2.7", *pyenv.glob("versions/2.7.*/bin/python2.7")]
    for candidate in candidates:
        if candidate and (path := shutil.which(candidate)) and succeeds([path, "-m", "pip", "--version"]):
            return path
    raise Broken("the original suite needs a Python 2.7 with pip; name one: PYTHON2=/path/to/python2.7")


def install_original(python2: str) -> None:
    """Install the original suite, unless it is there already. It pins what it needs by itself."""
    if ORIGINAL_HOME.exists():
        return
    print(f"installing {ORIGINAL} into {ORIGINAL_HOME.name} (once; takes a minute)", flush=True)
    # Under another name until all of it is there.
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=f"{ORIGINAL_HOME.name}.") as temporary:
        target = Path(temporary) / "packages"
        install = [python2, "-m", "pip", "install", "-qq", "--target", os.fspath(target), ORIGINAL]
        if not succeeds(install, show=True):
            raise Broken(f"{ORIGINAL} cannot be installed")
        target.rename(ORIGINAL_HOME)


def succeeds(command: Command, *, show: bool = False) -> bool:
    """Run a command; return whether it succeeded."""
    output = None if show else subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def run_suite(command: Command, cases: Sequence[str], reports: Path, timeout: float) -> list[Result]:
    """Run one of the two suites, and read the reports that it leaves."""
    reports.mkdir(parents=True, exist_ok=True)
    with (reports / "suite.log").open("w") as log:
        try:
            # Its exit status says no more than the reports.
            subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            what = f"{' '.join(cases)}: not done within {timeout:.0f} s"
            raise Broken(f"{what}{tail(log.name)}") from None
        index = reports / "index.json"
        if not index.exists():
            raise Broken(f"{' '.join(cases)}: no report{tail(log.name)}")
    (agent,) = json.loads(index.read_text()).values()
    return [read_result(case, entry, reports) for case, entry in agent.items()]


def read_result(case: str, entry: dict[str, str], reports: Path) -> Result:
    """One entry of a report's index, with the explanation from the page about the case."""
    # The original's index names the HTML page; there is a JSON file of the same name beside it.
    page = json.loads((reports / entry["reportfile"]).with_suffix(".json").read_text())
    explanation = page["result"]
    if page["resultClose"] not in {explanation, None}:
        explanation = f"{explanation} {page['resultClose']}"
    return Result(case, entry["behavior"], entry["behaviorClose"], explanation)


def order(result: Result) -> list[int]:
    """A key that puts 1.2.10 after 1.2.9."""
    return [int(part) for part in result.case.split(".")]


def run_all(
    idle_timeout: float, cases: Sequence[str], reports: Path, *, use_original: bool = False
) -> list[Result]:
    """Run the given cases, or else all, against one server; print a line for each group.

    Raises:
        Broken: the server or the suite did not run, or left out cases.
    """

    def run(name: str, wanted: Sequence[str], timeout: float) -> list[Result]:
        start = time.monotonic()
        folder = reports / name.partition(" ")[0]
        suite = original if use_original else kosoku
        results = suite(url, wanted, folder, timeout)
        behaviors = collections.Counter(result.behavior for result in results if result.passed)
        behaviors["FAILED"] = sum(not result.passed for result in results)
        summary = ", ".join(f"{count} {behavior}" for behavior, count in behaviors.items() if count)
        print(f"    {name:<32}{time.monotonic() - start:6.1f} s   {summary}", flush=True)
        return results

    with echo_server(idle_timeout, reports) as url:
        if cases:
            return run("cases", cases, sum(group.timeout for group in GROUPS))
        results = []
        for group in GROUPS:
            some = run(f"{group.number} {group.title}", [f"{group.number}.*"], group.timeout)
            if len(some) != group.size:
                raise Broken(f"{group.number}.*: {len(some)} of {group.size} cases were run")
            results += some
        return results


def main() -> int:
    """Run what the command line asks for; the exit status is 0 if all that was run has passed."""
    parser = argparse.ArgumentParser(
        prog="tests/conformance/run",
        description="Run the cases of the Autobahn test suite against the echo example.",
    )
    parser.add_argument(
        "--original",
        action="store_true",
        help="use the original suite, which needs a Python 2.7, and not kosoku",
    )
    parser.add_argument(
        "--idle-timeout",
        type=float,
        action="append",
        metavar="S",
        help=f"after how many seconds the room falls asleep; repeatable (default: {AWAKE:g} and {ASLEEP:g})",
    )
    parser.add_argument("case", nargs="*", help="only these cases, as in 7.1.5 or '9.*' (default: all)")
    options = parser.parse_args()

    # So that the server is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    shutil.rmtree(REPORTS, ignore_errors=True)
    passed = failed = 0
    for idle_timeout in options.idle_timeout or [AWAKE, ASLEEP]:
        print(f"room falls asleep after {idle_timeout:g} s:", flush=True)
        reports = REPORTS / f"{idle_timeout:g}"
        try:
            results = run_all(idle_timeout, options.case, reports, use_original=options.original)
        except Broken as problem:
            print(f"    {problem}")
            failed += 1
            continue
        results.sort(key=order)
        lenient = [result.case for result in results if result.passed and result.behavior == "NON-STRICT"]
        if lenient:
            print(f"    NON-STRICT: {' '.join(lenient)}")
        for result in results:
            if not result.passed:
                behavior = f"{result.behavior}, close {result.behavior_close}"
                print(f"    {result.case} {behavior}: {result.explanation}")
        passed += sum(result.passed for result in results)
        failed += sum(not result.passed for result in results)
    print(f"reports: {REPORTS.relative_to(ROOT)}")
    print(f"conformance: {passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
