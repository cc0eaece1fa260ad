"""One run of one benchmark: what it is asked for, and how it tells what it measures."""

from __future__ import annotations

import contextlib
import datetime
import resource
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import attrs

from benchmarks.suite import machine, pictures, results
from benchmarks.suite.failures import Failed
from benchmarks.suite.results import Result
from benchmarks.suite.screen import Screen
from benchmarks.suite.tables import Column, Group, Table

SPARE_FILES: Final = 200
"""Files that a process opens besides its sockets."""


@attrs.frozen
class Options:
    """What the command line asks of every benchmark."""

    results: Path
    quick: bool = False
    rounds: int = 3
    only: tuple[str, ...] = ()
    connections: int | None = None
    kills: int | None = None
    seed: int | None = None
    minutes: float | None = None
    beside: Path | None = None
    command: str = "benchmarks/run"

    def wants(self, name: str) -> bool:
        """Whether a contestant of this name is to take part."""
        return not self.only or any(text.casefold() in name.casefold() for text in self.only)


class Entrant(Protocol):
    """Who takes part: a contestant, or whatever else has a row."""

    @property
    def name(self) -> str:
        """As it stands in the table."""

    @property
    def group(self) -> Group:
        """Whose it is."""

    @property
    def absent(self) -> str:
        """Why it cannot run on this machine; empty if it can."""


Anyone = TypeVar("Anyone", bound=Entrant)


@attrs.frozen
class Named:
    """An entrant that is no server."""

    name: str
    group: Group
    absent: str = ""


@attrs.define(eq=False)
class Run:
    """What a benchmark gets: the options, and a place for what it measures."""

    name: str
    about: str
    options: Options
    screen: Screen
    result: Result = attrs.field(init=False)
    matched: bool = attrs.field(init=False, default=False)
    """Whether any contestant was one of those asked for."""
    ours_failed: bool = attrs.field(init=False, default=False)
    _tables: list[Table] = attrs.field(init=False, factory=list)
    """The tables of those whose turn it is."""
    _out: set[str] = attrs.field(init=False, factory=set)
    """Who of them has failed."""
    _began: float = attrs.field(init=False, factory=time.monotonic)

    def __attrs_post_init__(self) -> None:
        """Note the circumstances before they change."""
        self.result = Result(
            benchmark=self.name,
            about=self.about,
            at=datetime.datetime.now(datetime.UTC),
            command=self.options.command,
            rounds=self.options.rounds,
            options={
                "quick": self.options.quick,
                "rounds": self.options.rounds,
                "only": list(self.options.only),
                "connections": self.options.connections,
            },
            environment=machine.environment(),
        )

    @property
    def quick(self) -> bool:
        """Whether the suite itself is on trial, and the figures do not matter."""
        return self.options.quick

    @property
    def few(self) -> bool:
        """Whether a few are enough of those with which, or whose like, the same is done elsewhere."""
        return self.quick and not self.options.only

    @property
    def versions(self) -> dict[str, str]:
        """What is told with its version; a benchmark adds what it has fetched."""
        found: dict[str, str] = self.result.environment["versions"]
        return found

    # What a benchmark asks for.

    def connections(self, default: int, *, quick: int) -> int:
        """How many connections to open: as many as asked for, but not more than there may be open files."""
        wanted = self.wanted(default, quick=quick)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = wanted if files == resource.RLIM_INFINITY else files - SPARE_FILES
        if wanted > most:
            self.remark(
                f"A process may open {files:,} files here: {most:,} connections instead of {wanted:,}."
            )
        return min(wanted, most)

    def wanted(self, default: int, *, quick: int) -> int:
        """How many of what takes no open file: as many as asked for."""
        return self.options.connections or (quick if self.quick else default)

    def entrant(self, name: str, group: Group, absent: str = "") -> Named:
        """Somebody who has a row and is not a server."""
        return Named(name, group, absent)

    def each(self, entrants: Iterable[Anyone], *tables: Table) -> Iterator[Anyone]:
        """Everybody in turn, round after round, so that a slow minute of the machine is shared by all.

        Who is not asked for is left out, who cannot run here is named in the tables, and who has failed in
        one round is not in the next.

        Args:
            entrants: Who takes part.
            tables: Where each of them has a row; without any, in all tables made so far.
        """
        wanted = [entrant for entrant in entrants if self.options.wants(entrant.name)]
        self._tables, self._out = list(tables or self.result.tables), set()
        for table in self._tables:
            for entrant in wanted:
                table.row(entrant.name, entrant.group).absent = entrant.absent
        self.matched = self.matched or bool(wanted)
        for entrant in wanted:
            if entrant.absent:
                self.screen.line(f"{entrant.name} is absent: {entrant.absent}")
        running = [entrant for entrant in wanted if not entrant.absent]
        self.screen.more(self.options.rounds * len(running))
        for number in range(self.options.rounds):
            for entrant in running:
                if entrant.name not in self._out:
                    self.screen.progress(f"round {number + 1} of {self.options.rounds}: {entrant.name}")
                    yield entrant
                self.screen.stepped()

    @contextlib.contextmanager
    def attempt(self, entrant: Entrant) -> Iterator[None]:
        """A block that measures somebody, and may fail without ending the benchmark."""
        try:
            yield
        except (Failed, OSError, subprocess.SubprocessError) as error:
            why = str(error) or type(error).__name__
            self._out.add(entrant.name)
            self.ours_failed = self.ours_failed or entrant.group == "ours"
            for table in self._tables:
                table.row(entrant.name, entrant.group).failed = why
            self.screen.line(f"{entrant.name} failed: {why}")

    # What it tells.

    def table(
        self,
        key: str,
        title: str,
        columns: Sequence[Column],
        *,
        drawn: str = "",
        baseline: str = "",
        note: str = "",
        over: str = "",
    ) -> Table:
        """Begin a table.

        Args:
            key: What it is called in the JSON.
            title: What it is called elsewhere.
            columns: Its columns.
            drawn: The column of the picture and of the ratio; empty for no picture.
            baseline: The name, or the beginning of it, of the row that others are set beside.
            note: What a reader must know; it stands below the table.
            over: Of what the sizes are that the columns are of, where the table is over a size.
        """
        made = Table(key, title, list(columns), drawn=drawn, baseline=baseline, note=note, over=over)
        self.result.tables.append(made)
        return made

    def progress(self, text: str, share: float | None = None) -> None:
        """Tell what is going on, and which share of this attempt is done."""
        self.screen.progress(text, share)

    def measured(
        self,
        table: Table,
        entrant: Entrant,
        *,
        at_least: Collection[str] = (),
        note: str = "",
        **values: float,
    ) -> None:
        """Take what one round has shown of somebody.

        Args:
            table: Where it belongs.
            entrant: Who was measured.
            at_least: Columns in which a faster load generator would have seen a better value.
            note: What a reader must know of this row.
            values: For each column's key the value, in SI units.
        """
        row = table.add(entrant.name, entrant.group, values, at_least)
        row.note = note or row.note
        self.screen.measured(table, row, values)

    def remark(self, text: str) -> None:
        """Say below all tables what a reader must know."""
        if text not in self.result.remarks:
            self.result.remarks.append(text)
            self.screen.line(text)

    def finish(self) -> None:
        """Write the files, and show the tables."""
        self.result.took_seconds = round(time.monotonic() - self._began, 1)
        for table in self.result.tables:
            # Who takes part in another table alone has nothing to say in this one.
            table.rows = [row for row in table.rows if row.values or row.absent or row.failed]
        self.screen.show(self.result, write(self.result, self.options.results))


def write(result: Result, folder: Path, *, data: bool = True) -> list[Path]:
    """Write the Markdown, the picture if there is anything to draw, and the data; return the files."""
    texts = {"md": result.to_markdown(), "svg": pictures.draw(result)}
    if data:
        texts["json"] = result.to_json()
    return [
        results.write(folder, f"{result.benchmark}.{kind}", text)
        for kind, text in sorted(texts.items())
        if text
    ]
