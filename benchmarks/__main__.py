"""The command line of the benchmarks: ``benchmarks/run``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import resource
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, Protocol, cast

from benchmarks.suite import report, results
from benchmarks.suite.screen import Screen, screen

NAMES: Final = (
    "idle",
    "parked",
    "echo",
    "pairs",
    "fanout",
    "sizes",
    "low",
    "offline",
    "wake",
    "hibernate",
    "commit",
    "engine",
    "nodes",
    "connect",
    "start",
    "crash",
    "failover",
    "cluster",
)
"""All benchmarks, in the order in which they run."""
RESULTS: Final = Path(__file__).resolve().parent / "results"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Benchmark(Protocol):
    """A module beside this one."""

    NAME: str
    ABOUT: str
    run: Callable[[report.Run], None]


class Stopped(BaseException):
    """A signal has asked for the end. Not an ``Exception``, so that nobody takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return the exit status."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    if not asked.names and (taken := [text for text in asked.only if text in NAMES]):
        parser.error(f"--only takes all that follows it; put {', '.join(taken)} before it")
    if asked.list:
        for name in asked.names or NAMES:
            print(f"{name:10} {_benchmark(name).ABOUT}")
        return 0
    if asked.draw is not None:
        return _draw(asked.results, asked.draw, asked.names)
    if not sys.platform.startswith("linux"):
        print("The benchmarks run on Linux alone: they read /proc and use epoll.", file=sys.stderr)
        return 2
    try:
        asked.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--results: {error}")
    options = report.Options(
        results=asked.results,
        quick=asked.quick,
        rounds=asked.rounds or (1 if asked.quick else 3),
        only=tuple(asked.only),
        connections=asked.connections,
        kills=asked.kills,
        seed=asked.seed,
        minutes=asked.minutes,
        beside=asked.beside and asked.beside.resolve(),
        command=shlex.join(["benchmarks/run", *arguments]),
    )
    # What is started inherits it.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    try:
        with _signals():
            return _run(list(dict.fromkeys(asked.names)) or list(NAMES), options, screen())
    except Stopped as stopped:
        _end_children()
        print(f"stopped by {stopped.signal.name}; what was not finished is not kept", file=sys.stderr)
        sys.stderr.flush()
        # In the way that tells a shell so.
        signal.signal(stopped.signal, signal.SIG_DFL)
        os.kill(os.getpid(), stopped.signal)
        return 128 + stopped.signal


def _run(names: list[str], options: report.Options, shown: Screen) -> int:
    """Run these benchmarks; 1 if the suite has a defect or one of ours failed, else 0."""
    broken, matched = [], False
    for name in names:
        try:
            benchmark = _benchmark(name)
            run = report.Run(benchmark.NAME, benchmark.ABOUT, options, shown)
            with shown.running(run.result):
                benchmark.run(run)
            matched = matched or run.matched
            if run.matched or not options.only:
                run.finish()
            if run.ours_failed:
                broken.append(name)
        except Exception:  # noqa: BLE001
            # A defect of the suite. It does not take what the other benchmarks have to say.
            traceback.print_exc()
            broken.append(name)
    if options.only and not matched and not broken:
        print(f"no contestant's name has {' or '.join(map(repr, options.only))} in it", file=sys.stderr)
        return 2
    if broken:
        print(f"failed: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _draw(folder: Path, target: Path, names: list[str]) -> int:
    """Write Markdown and pictures again from the data of earlier runs."""
    files = sorted(folder.glob("*.json"))
    if names:
        files = [folder / f"{name}.json" for name in names]
    if not files:
        print(f"there are no results in {folder}", file=sys.stderr)
        return 2
    for file in files:
        try:
            result = results.Result.from_json(file.read_text(encoding="utf-8"))
            written = report.write(result, target, data=False)
        except (OSError, ValueError) as error:
            print(f"{file}: {error}", file=sys.stderr)
            return 2
        print(*written, sep="\n")
    return 0


def _benchmark(name: str) -> Benchmark:
    return cast("Benchmark", importlib.import_module(f"benchmarks.{name}"))


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Have signals raise `Stopped`, once: what it unwinds ends all processes, and is not to be disturbed."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_children() -> None:
    """End what is still there: a signal can come when a process is started and not yet in anybody's hands."""
    for tasks in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, tasks.read_text(encoding="ascii").split()):
            with contextlib.suppress(OSError):
                # Each is the first of a session of its own, or at least itself.
                (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run",
        usage="%(prog)s [NAME ...] [OPTIONS]",
        description="What trio_rooms costs on this machine, beside what else there is.",
        epilog=f"The benchmarks are: {', '.join(NAMES)}; all of them, if none is named.",
        allow_abbrev=False,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="which benchmarks to run, in this order")
    parser.add_argument(
        "--quick", action="store_true", help="all in two minutes: tries the suite, and its figures say little"
    )
    parser.add_argument(
        "--rounds", metavar="N", type=_count, help="measure each contestant so often (3, or 1 with --quick)"
    )
    parser.add_argument(
        "--only",
        metavar="TEXT",
        nargs="+",
        action="extend",
        default=[],
        help="contestants with one of these texts in their names",
    )
    parser.add_argument(
        "--connections", metavar="N", type=_count, help="so many, where a benchmark has a number of them"
    )
    parser.add_argument("--kills", metavar="N", type=_count, help="kill a server so often, in crash (200)")
    parser.add_argument("--seed", metavar="N", type=_count, help="of random numbers, in crash and cluster")
    parser.add_argument(
        "--minutes", metavar="M", type=_minutes, help="disturb nodes for so long, in cluster (5)"
    )
    parser.add_argument(
        "--beside", metavar="DIR", type=Path, help="ours once more, of another checkout of it, in echo"
    )
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=RESULTS, help="where to write (benchmarks/results)"
    )
    parser.add_argument("--list", action="store_true", help="say what benchmarks there are, and run none")
    parser.add_argument(
        "--draw",
        metavar="DIR",
        type=Path,
        help="run none; write Markdown and pictures into DIR from the JSON in --results",
    )
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes, such as 0.5")
    return minutes


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
