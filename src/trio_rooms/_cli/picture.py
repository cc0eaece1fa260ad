"""What a server tells in its statistics, as a picture in a terminal."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from .render import printable

__all__ = ["Picture"]

_NONE: Final = "–"
_SAMPLES: Final = 600
"""What was told before that is kept: a column of a chart each."""
_SLEEP: Final = Style(color="blue")
_WAKE: Final = Style(color="yellow")
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII: Final = " ..::++##"
"""The same for terminals that have nothing else."""
_BYTES: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B"))
_SECONDS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_LATENCIES: Final = (
    ("wake", "wake_latency_seconds"),
    ("reading the state", "state_restoration_seconds"),
    ("falling asleep", "hibernation_latency_seconds"),
    ("being asleep", "hibernation_duration_seconds"),
    ("delivery, active", "delivery_delay_seconds.active"),
    ("delivery, hibernated", "delivery_delay_seconds.hibernated"),
    ("the loop is late", "loop_lag_seconds"),
)
_BEYOND: Final = 1e300
"""What is no number of anything, as NaN and a whole number of a thousand digits are none."""
_SUMMARY: Final = ("mean", "p50", "p95", "p99", "max")


# Values as people read them. A server is not believed: what is no number is shown as none.


def _at(told: Any, path: str) -> Any:
    """What a path leads to."""
    for name in path.split("."):
        told = told.get(name) if isinstance(told, Mapping) else None
    return told


def _number(value: Any) -> float | None:
    """A value, if it is a number that can be shown."""
    return value if type(value) in (int, float) and abs(value) < _BEYOND else None


def _count(value: Any) -> str:
    """A number of something."""
    number = _number(value)
    return _NONE if number is None else f"{number:,.1f}".removesuffix(".0")


def _share(value: Any) -> str:
    """A part of a whole."""
    number = _number(value)
    return _NONE if number is None else f"{_count(100 * number)}%"


def _scaled(value: Any, units: Sequence[tuple[float, str]]) -> str:
    """A number with the largest of some units that it has one of."""
    number = _number(value)
    if number is None:
        return _NONE
    size, unit = next((one for one in units if abs(number) >= one[0]), units[-1])
    shown = number / size
    digits = 0 if shown == 0 else max(0, 2 - math.floor(math.log10(abs(shown))))
    return f"{shown:.{digits}f} {unit}"


def _size(value: Any) -> str:
    """Bytes."""
    return _scaled(value, _BYTES)


def _seconds(value: Any) -> str:
    """A time."""
    return _scaled(value, _SECONDS)


def _total(counts: Any) -> float:
    """The sum of counts by name."""
    return sum(_number(one) or 0 for one in counts.values()) if isinstance(counts, Mapping) else 0


# Charts.


@attrs.frozen
class _Sample:
    """What was told at one time."""

    active: float
    hibernated: float
    wakes: float
    """A second."""
    sleeps: float


@attrs.frozen
class _Bars:
    """Two values for each column, the second on top of the first, as high and as wide as there is room.

    Args:
        columns: the newest last.
        styles: of the two.
    """

    columns: Sequence[tuple[float, float]]
    styles: tuple[Style, Style] = (_SLEEP, _WAKE)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or 4
        blocks = _ASCII if options.ascii_only else _BLOCKS
        shown = self.columns[-width:]
        most = max([1.0, *(lower + upper for lower, upper in shown)])
        eighths = [
            (round(8 * height * lower / most), round(8 * height * (lower + upper) / most))
            for lower, upper in shown
        ]
        lower_style, upper_style = self.styles
        for row in range(height - 1, -1, -1):
            yield Segment(" " * (width - len(shown)))
            for lower, both in eighths:
                lower_part, both_part = (min(max(one - 8 * row, 0), 8) for one in (lower, both))
                if not lower_part:
                    yield Segment(blocks[both_part], upper_style)
                elif lower_part < both_part == 8:
                    yield Segment(blocks[lower_part], lower_style + Style(bgcolor=upper_style.color))
                else:
                    yield Segment(blocks[lower_part], lower_style)
            yield Segment.line()


class Picture:
    """Shows what was told last, and how some of it went before.

    Args:
        url: where the server is.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._told: Mapping[str, Any] = {}
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._counts: tuple[float, float, float] | None = None
        """When it was told last, and how many wakes and sleeps there had been."""

    def tell(self, told: Mapping[str, Any], now: float) -> None:
        """A server has told its statistics.

        Args:
            told: all of them.
            now: seconds on a clock that only grows.
        """
        self._told = told
        life = _at(told, "hibernation")
        wakes, sleeps = _total(_at(life, "wakes")), _total(_at(life, "sleeps"))
        rates = (0.0, 0.0)
        if self._counts is not None:
            before, wakes_before, sleeps_before = self._counts
            if wakes < wakes_before:  # Another server answers, which counts from nothing.
                self._samples.clear()
            elif now > before:
                rates = (
                    (wakes - wakes_before) / (now - before),
                    max(0.0, (sleeps - sleeps_before) / (now - before)),
                )
        self._counts = (now, wakes, sleeps)
        active, hibernated = (
            _number(_at(life, f"connections.{one}")) or 0 for one in ("active", "hibernated")
        )
        self._samples.append(_Sample(active, hibernated, *rates))

    def screen(self, status: str, *, good: bool, height: int) -> RenderableType:
        """All of it, in the size of a terminal.

        Args:
            status: how it stands with the server.
            good: whether that is well.
            height: lines that there are.
        """
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append("trio-rooms ", "bold").append(printable(self._url)).append("  ")
        head.append(printable(status), "green" if good else "bold red")
        pressure = _at(self._told, "supervisor.pressure")
        if pressure:
            head.append(f"  under pressure: {printable(str(pressure))}", "bold red")
        head.append("  q ends it", "dim")
        left = height - 4
        latencies = advice = charts = None
        if left >= 30:
            latencies = Layout(self._latencies(), size=len(_LATENCIES) + 3)
            left -= len(_LATENCIES) + 3
        if left >= 16:
            tall = min(10, left // 3)
            charts = Layout(size=tall)
            charts.split_row(Layout(self._connections()), Layout(self._rates()))
            left -= tall
        recommended = self._advice()
        if recommended is not None and left >= 12:
            advice = Layout(Panel(recommended, title="Recommendations"), size=5)
            left -= 5
        lists = Layout(ratio=1, minimum_size=4)
        lists.split_row(Layout(self._rooms(), ratio=2), Layout(self._causes(left - 2), ratio=1))
        parts = (Layout(head, size=1), Layout(self._figures(), size=3), charts, lists, advice, latencies)
        whole = Layout()
        whole.split_column(*(part for part in parts if part is not None))
        return whole

    def page(self) -> RenderableType:
        """All of it but the charts, one below the other, as long as it is."""
        advice = self._advice()
        parts = [self._figures(), self._rooms(), self._causes(None), self._latencies()]
        if advice is not None:
            parts.append(Panel(advice, title="Recommendations"))
        return Group(*parts)

    # The parts.

    def _figures(self) -> RenderableType:
        """The most important numbers."""
        life = _at(self._told, "hibernation")
        connections, resident = _at(life, "connections.total"), _at(life, "bytes.resident")
        each = resident / connections if _number(connections) and _number(resident) else None
        target = _at(life, "ratio_target")
        wake = _at(life, "wake_latency_seconds")
        shown = [
            ("connections", _count(connections), f"{_count(_at(life, 'connections.active'))} active"),
            ("hibernated", _share(_at(life, "ratio")), f"wanted: {_share(target) if target else 'any'}"),
            ("rooms awake", _count(_at(life, "rooms.awake")), f"{_count(_at(life, 'rooms.asleep'))} asleep"),
            ("memory", _size(resident), f"{_size(each)} each"),
            ("saved", _share(_at(life, "cost_savings")), f"{_size(_at(life, 'bytes.saved'))} measured"),
            ("a wake", _seconds(_at(wake, "p50")), f"p99 {_seconds(_at(wake, 'p99'))}"),
        ]
        table = Table.grid(expand=True, padding=(0, 1))
        for _ in shown:
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_row(*(Text(name, "dim") for name, _, _ in shown))
        table.add_row(*(Text(figure, "bold") for _, figure, _ in shown))
        table.add_row(*(Text(more, "dim") for _, _, more in shown))
        return table

    def _connections(self) -> RenderableType:
        """Connections over time."""
        columns = [(one.hibernated, one.active) for one in self._samples]
        return Panel(_Bars(columns), title="Connections: [blue]hibernated[/], [yellow]active[/]")

    def _rates(self) -> RenderableType:
        """Wakes and sleeps over time."""
        columns = [(one.sleeps, one.wakes) for one in self._samples]
        last = self._samples[-1] if self._samples else _Sample(0, 0, 0, 0)
        title = f"Each second: [blue]sleeps[/] {_count(last.sleeps)}, [yellow]wakes[/] {_count(last.wakes)}"
        return Panel(_Bars(columns), title=title)

    def _rooms(self) -> RenderableType:
        """The rooms that cost most."""
        rooms = _at(self._told, "costliest")
        if rooms is None:
            text = "Which rooms there are is told with --token-file, or where serve has --dashboard."
            return Panel(Text(text, "dim"), title="Rooms")
        table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
        table.add_column("room", overflow="fold", ratio=2, min_width=12)
        for name in ("conns", "active", "messages"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("awake because", overflow="fold", ratio=3)
        for room in _maps(rooms):
            figures = [_count(room.get(one)) for one in ("connections", "active", "messages")]
            table.add_row(
                Text(printable(str(room.get("key")))),
                *(Text(one) for one in figures),
                Text("\n".join(map(_because, _maps(room.get("reasons"))))),
            )
        return Panel(table, title="The rooms that cost most")

    def _causes(self, height: int | None) -> RenderableType:
        """What woke rooms, what put them to sleep and what did not let them.

        Args:
            height: lines that there are; None for any number.
        """
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        lists = [
            (title, [one for one in _counts(_at(self._told, f"hibernation.{name}")) if one[1] > 0])
            for title, name in (
                ("wakes", "wakes"),
                ("sleeps", "sleeps"),
                ("not asleep because", "blocked"),
                ("in the way of hibernation", "antipatterns"),
                ("sweeps", "sweeps"),
            )
        ]
        shares = _shares([len(counts) for _, counts in lists], height)
        for (title, counts), share in zip(lists, shares, strict=True):
            table.add_row(Text(title, "bold"), Text("" if counts else "none", "dim"))
            for name, count in counts[:share]:
                table.add_row(Text(f"  {printable(name)}"), Text(_count(count)))
        return Panel(table, title="Causes")

    def _latencies(self) -> RenderableType:
        """How long things take."""
        table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
        table.add_column("how long it takes", no_wrap=True)
        for name in ("count", *_SUMMARY):
            table.add_column(name, justify="right", no_wrap=True)
        for name, path in _LATENCIES:
            summary = _at(self._told, f"hibernation.{path}")
            times = (Text(_seconds(_at(summary, one))) for one in _SUMMARY)
            table.add_row(Text(name), Text(_count(_at(summary, "count"))), *times)
        return Panel(table)

    def _advice(self) -> RenderableType | None:
        """What the server recommends; None for nothing."""
        advice = [
            Text(f"{printable(str(one.get('rule')))}: {printable(str(one.get('message')))}")
            for one in _maps(_at(self._told, "recommendations"))
        ]
        return Group(*advice) if advice else None


def _maps(value: Any) -> Iterable[Mapping[str, Any]]:
    """The maps in a list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _counts(value: Any) -> list[tuple[str, float]]:
    """Counts by name, the largest first."""
    if not isinstance(value, Mapping):
        return []
    return sorted(((name, _number(count) or 0) for name, count in value.items()), key=lambda one: -one[1])


def _shares(lengths: Sequence[int], height: int | None) -> list[int]:
    """How many lines of each list are shown, below its title, where there are so many for all."""
    if height is None:
        return [*lengths]
    shares = [0 for _ in lengths]
    left = height - len(lengths)
    while left > 0 and shares != [*lengths]:
        for index, length in enumerate(lengths):
            if shares[index] < length and left > 0:
                shares[index] += 1
                left -= 1
    return shares


def _because(reason: Mapping[str, Any]) -> str:
    """One of the reasons why a room is awake."""
    what, until = (printable(str(reason.get(one))) for one in ("reason", "until"))
    return f"{what}, for {_seconds(reason.get('for_seconds'))}; until: {until}"
