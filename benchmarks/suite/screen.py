"""What stands on the terminal, or in a log, while benchmarks run and when they are done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment, Segments
from rich.table import Table as Drawn
from rich.text import Text

from benchmarks.suite.results import Result
from benchmarks.suite.tables import Row, Table

LOG_WIDTH: Final = 220
"""Columns of a log: no line of a table is broken there."""
STYLES: Final = {"ours": "bold green", "peer": "", "limit": "dim"}
NEWS_EVERY: Final = 10.0
"""Seconds of silence in a log after which it hears what is going on."""


def screen(console: Console | None = None) -> Screen:
    """The screen for standard output: one that moves on a terminal, plain lines elsewhere."""
    console = console or Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console)
    console.width = LOG_WIDTH
    return Screen(console)


@attrs.define(eq=False)
class Screen:
    """Plain lines, one for each thing measured."""

    console: Console
    steps: int = 0
    """How many measurements the running benchmark is known to take."""
    done: int = 0
    _began: float = attrs.field(factory=time.monotonic)
    _last: float = attrs.field(factory=time.monotonic)

    @contextlib.contextmanager
    def running(self, result: Result) -> Iterator[None]:
        """Show one benchmark as it runs."""
        self.steps = self.done = 0
        self._began = self._last = time.monotonic()
        self.console.print(Text(f"\n{result.benchmark}: {result.about}", style="bold"))
        yield

    def more(self, steps: int) -> None:
        """Count on so many measurements more."""
        self.steps += steps

    def stepped(self) -> None:
        """One of them is over."""
        self.done += 1

    def progress(self, text: str, share: float | None = None) -> None:
        """Tell what is going on, and which share of the present measurement is done."""
        if time.monotonic() - self._last > NEWS_EVERY:
            self.line(f"… {text}" + ("" if share is None else f" ({share:.0%})"))

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self._last = time.monotonic()
        when = f"{self._last - self._began:4.0f} s"
        self.console.print(Text(f"{when}  {text}"), soft_wrap=True)

    def measured(self, table: Table, row: Row, values: dict[str, float]) -> None:
        """Show the values of one round."""
        told = [
            f"{column.heading} {column.shown(values[column.key])}"
            for column in table.columns
            if column.told and column.key in values
        ]
        counted = f"[{min(self.done + 1, self.steps)}/{self.steps}] " if self.steps else ""
        self.line(f"{counted}{table.key}: {row.name}: {', '.join(told)}")

    def show(self, result: Result, files: Iterable[Path]) -> None:
        """Write the tables of a benchmark that is done."""
        for table in result.tables:
            self.console.print()
            self._print(_drawn(table, self.console))
            for row in table.rows:
                if row.remark:
                    style = "red" if row.failed else "dim"
                    self.console.print(Text(f"  {row.name}: {row.remark}", style=style), soft_wrap=True)
        for remark in result.remarks:
            self.console.print(Text(f"  {remark}", style="dim"), soft_wrap=True)
        where = ", ".join(map(_near, files))
        self.console.print(
            Text(f"  {result.took_seconds:.0f} s; written to {where}", style="dim"), soft_wrap=True
        )

    def _print(self, table: Drawn) -> None:
        # A log's lines end where their text does.
        lines = self.console.render_lines(table, pad=False)
        text = "\n".join("".join(part.text for part in line).rstrip() for line in lines)
        self.console.print(Text(text), soft_wrap=True)


@attrs.define(eq=False)
class LiveScreen(Screen):
    """A bar and the tables as they fill, on a terminal."""

    _bar: Progress | None = None
    _result: Result | None = None
    _tables: RenderableType = ""

    @contextlib.contextmanager
    def running(self, result: Result) -> Iterator[None]:
        """Show one benchmark as it runs; what was shown goes away with the block."""
        with super().running(result):
            self._result, self._tables = result, Text("")
            self._bar = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
                console=self.console,
                auto_refresh=False,
            )
            self._bar.add_task("", total=None)
            # Once a second, and else not: to draw takes time from what is measured.
            live = Live(
                get_renderable=self._picture, console=self.console, refresh_per_second=1, transient=True
            )
            with live:
                try:
                    yield
                finally:
                    self._bar = self._result = None

    def more(self, steps: int) -> None:
        """Count on so many measurements more."""
        super().more(steps)
        self._move(total=self.steps)

    def stepped(self) -> None:
        """One of them is over."""
        super().stepped()
        self._move(completed=self.done)

    def progress(self, text: str, share: float | None = None) -> None:
        """Tell what is going on, and which share of the present measurement is done."""
        self._move(description=text, completed=self.done + (share or 0.0))

    def measured(self, table: Table, row: Row, values: dict[str, float]) -> None:
        """Show the values of one round: the tables have them already."""
        del table, row, values
        if self._result is not None:
            # Laid out once, and not at each tick of the clock; as much as there is room for.
            tables = Group(*(_drawn(table, self.console) for table in self._result.tables))
            lines = self.console.render_lines(tables, pad=False)[: self.console.height - 3]
            self._tables = Segments([part for line in lines for part in (*line, Segment.line())])

    def _print(self, table: Drawn) -> None:
        self.console.print(table)

    def _move(
        self, *, total: float | None = None, completed: float | None = None, description: str | None = None
    ) -> None:
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, total=total, completed=completed, description=description)

    def _picture(self) -> RenderableType:
        # The last line is empty: there a terminal shows Ctrl-C, which would break a full one.
        return Text("") if self._bar is None else Group(self._bar, self._tables, Text(""))


def _near(file: Path) -> str:
    """A path as one would type it here."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _drawn(table: Table, console: Console) -> Drawn:
    """A table for this console: without the spreads, where there is no room for them."""
    whole = _laid_out(table, spreads=True)
    wanted = Measurement.get(console, console.options.update_width(10_000), whole).maximum
    return whole if wanted <= console.width else _laid_out(table, spreads=False)


def _laid_out(table: Table, *, spreads: bool) -> Drawn:
    drawn = Drawn(
        title=table.title,
        caption=table.caption or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    rows = [table.cells(row, spreads=spreads) for row in table.rows]
    for number, heading in enumerate(table.headings()):
        words = " ".join([heading, *(row[0] for row in rows if not number)]).split()
        drawn.add_column(
            heading,
            justify="right" if number else "left",
            # No word is broken in two.
            min_width=max(map(len, words), default=0),
        )
    for row, cells in zip(table.rows, rows, strict=True):
        style = "dim" if row.absent else "red" if row.failed else STYLES[row.group]
        drawn.add_row(*map(Text, cells), style=style)
    return drawn
