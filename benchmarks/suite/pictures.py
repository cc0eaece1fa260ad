"""A benchmark's picture for a README: bars of its medians, and lines where they are over a size."""

from __future__ import annotations

import io
import textwrap
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import Transform

from benchmarks.suite.results import Result
from benchmarks.suite.tables import UNITS, Group, Row, Table

WIDTH: Final = 8.0
"""Inches, of 72 points each: with letters of 10 points it can be read in a README's column."""
BAR: Final = 0.30
"""Inches from one bar to the next."""
HEAD: Final = 0.62
"""Inches above the bars of a table, for its title and for what is measured."""
FOOT: Final = 0.40
"""Inches below the bars of a table, for the numbers of the axis."""
LINES: Final = 1.8
"""Inches for the lines of a table that is over a size."""
EDGE: Final = 0.15
NAME: Final = 36
"""Letters of a bar's name after which it takes a second line."""

INK: Final = "#24292f"
PALE: Final = "#57606a"
BARS: Final[dict[Group, tuple[str, str]]] = {
    "ours": ("#0a7d5a", "#0a7d5a"),
    "peer": ("#afb8c1", "#afb8c1"),
    "limit": ("#ffffff", "#8c959f"),
}
"""The colour of a bar and of its edge."""

STROKES: Final = ("-", "--", ":", "-.")
"""By which lines of one colour are told apart."""

BOLD: Final = FontProperties(family="DejaVu Sans", weight="bold")

STYLE: Final[dict[Any, Any]] = {
    # Letters as paths: they look the same where a font is missing.
    "svg.fonttype": "path",
    # The same figures give the same file.
    "svg.hashsalt": "trio_rooms",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#d0d7de",
    "xtick.color": PALE,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
}


def draw(result: Result) -> str:
    """The result as an SVG, with one chart for each table that has a column to draw; empty if none has."""
    charts = [(table, rows) for table in result.tables if (rows := _lines(table) or _bars(table))]
    if not charts:
        return ""
    notes = [line for note in _notes(result) for line in textwrap.wrap(note, 115)]
    height = sum(HEAD + FOOT + _tall(*chart) for chart in charts) + 2 * EDGE + 0.17 * len(notes)
    # Neither pyplot nor its state: a Figure writes SVG by itself.
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        figure.patch.set_visible(False)
        figure.add_artist(_paper(height, figure.dpi_scale_trans))
        top = height - EDGE
        for table, rows in charts:
            names = 0.1 + max(_width(line, 9) for row in rows for line in _name(row).splitlines())
            if table.over:
                names = 0.45  # They stand at the end of their lines, and here the numbers of the axis.
            bars = _tall(table, rows)
            axes = figure.add_axes(
                (
                    (EDGE + names) / WIDTH,
                    (top - HEAD - bars) / height,
                    (WIDTH - 3 * EDGE - names) / WIDTH,
                    bars / height,
                )
            )
            left = EDGE / WIDTH
            size = min(11, 11 * (WIDTH - 2 * EDGE) / _width(table.title, 11))
            figure.text(left, (top - 0.12) / height, table.title, weight="bold", size=size, va="top")
            figure.text(left, (top - 0.36) / height, _scale(table), color=PALE, size=9, va="top")
            (_plot if table.over else _chart)(axes, table, rows)
            top -= HEAD + FOOT + bars
        for number, line in enumerate(notes):
            figure.text(EDGE / WIDTH, (top - 0.17 * number) / height, line, color=PALE, size=8, va="top")
        text = io.StringIO()
        figure.savefig(
            text, format="svg", metadata={"Date": None, "Title": f"{result.benchmark}: {result.about}"}
        )
    return text.getvalue()


def _bars(table: Table) -> list[Row]:
    """The rows with a value to draw: the best first, where there are others to be better than."""
    if not table.drawn:
        return []
    rows = [row for row in table.rows if row.values.get(table.drawn)]
    better = table.column(table.drawn).better
    if better and any(row.group != "ours" for row in rows):
        rows.sort(key=lambda row: row.median(table.drawn) or 0.0, reverse=better == "high")
    return rows


def _lines(table: Table) -> list[Row]:
    """The rows with values to draw over a size."""
    keys = [column.key for column in table.sized]
    return [row for row in table.rows if keys and all(row.values.get(key) for key in keys)]


def _tall(table: Table, rows: list[Row]) -> float:
    """How many inches a table's chart is high, without what is above and below it."""
    return LINES if table.over else BAR * len(rows)


def _plot(axes: Axes, table: Table, rows: list[Row]) -> None:
    columns = table.sized
    times = UNITS[columns[0].unit]
    sizes = [column.size for column in columns]
    most, ends = 0.0, []
    for place, row in enumerate(rows):
        middles = [(row.median(column.key) or 0.0) * times for column in columns]
        spreads = [[value * times for value in row.values[column.key]] for column in columns]
        most = max(most, *(max(values) for values in spreads))
        colour = BARS[row.group][1]
        axes.errorbar(
            sizes,
            middles,
            yerr=[
                [middle - min(values) for middle, values in zip(middles, spreads, strict=True)],
                [max(values) - middle for middle, values in zip(middles, spreads, strict=True)],
            ],
            color=colour,
            linestyle=STROKES[place % len(STROKES)],
            marker="o",
            markersize=4,
            linewidth=1.6,
            capsize=2.5,
            elinewidth=1,
        )
        ends.append((middles[-1], row))
    axes.set_xscale("log")
    axes.set_ylim(0, (most or 1.0) * 1.15)
    # Room for the names behind the last values, and a little before the first.
    widest = max(_width(line, 8) for _, row in ends for line in _name(row).splitlines()) + 0.2
    before, behind = 0.03, widest / (WIDTH - 3 * EDGE - 0.45)
    whole = (sizes[-1] / sizes[0]) ** (1 / (1 - before - behind))
    axes.set_xlim(sizes[0] / whole**before, sizes[-1] * whole**behind)
    apart, lowest = (most or 1.0) * 1.15 * 0.13, -1.0
    for end, row in sorted(ends, key=lambda one: one[0]):
        # Not one over the other, where their lines end together.
        lowest = max(end, lowest + apart) if lowest >= 0 else end
        axes.annotate(
            _name(row),
            (sizes[-1], lowest),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            size=8,
            linespacing=0.9,
            weight="bold" if row.group == "ours" else "normal",
            color=BARS["ours"][1] if row.group == "ours" else PALE,
        )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(length=0, labelsize=8)
    axes.yaxis.grid(visible=True, color="#eaeef2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _chart(axes: Axes, table: Table, rows: list[Row]) -> None:
    column = table.column(table.drawn)
    times = UNITS[column.unit]
    most = max(max(row.values[column.key]) for row in rows) * times or 1.0
    for place, row in enumerate(rows):
        values = [value * times for value in row.values[column.key]]
        middle = (row.median(column.key) or 0.0) * times
        colour, edge = BARS[row.group]
        axes.barh(
            place,
            middle,
            height=0.68,
            color=colour,
            edgecolor=edge,
            hatch="////" if row.group == "limit" else None,
            linewidth=0.8,
        )
        if len(values) > 1:
            axes.errorbar(
                middle,
                place,
                xerr=[[middle - min(values)], [max(values) - middle]],
                color=INK,
                capsize=2.5,
                elinewidth=1,
                capthick=1,
            )
        axes.annotate(
            row.shown(column),
            (max(values), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=9,
            weight="bold" if row.group == "ours" else "normal",
        )
    # Room for what is written at the end of the longest bar.
    axes.set_xlim(0, most * 1.3)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.group == "ours" else "normal")
        label.set_linespacing(0.95)
        if "\n" in label.get_text():
            label.set_fontsize(8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.grid(visible=True, color="#eaeef2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _name(row: Row) -> str:
    """A row's name, in two lines if it is long."""
    return "\n".join(textwrap.wrap(row.name, NAME, max_lines=2, placeholder="…"))


def _width(line: str, size: float) -> float:
    """How many inches wide a line of bold letters is."""
    return float(TextPath((0, 0), line, size=size, prop=BOLD).get_extents().width) / 72


def _scale(table: Table) -> str:
    column = table.sized[0] if table.over else table.column(table.drawn)
    better = {"low": "less is better", "high": "more is better", "": ""}[column.better]
    if table.over:
        return f"{column.unit}, over {table.over}; {better}"
    return "; ".join(filter(None, [column.heading, better]))


def _notes(result: Result) -> list[str]:
    """What a reader must know: who is in no chart, and where the figures come from."""
    machine = result.environment
    often = (
        f"medians of {result.rounds} rounds, with the least and the greatest"
        if result.rounds > 1
        else "one round"
    )
    missing = {
        row.name: "absent" if row.absent else "failed"
        for table in result.tables
        for row in table.rows
        if (key := table.sized[-1].key if table.over else table.drawn)
        and not row.values.get(key)
        and (row.absent or row.failed)
    }
    told = (
        [f"Not measured: {', '.join(f'{name} ({why})' for name, why in missing.items())}"] if missing else []
    )
    return [*told, f"{result.at:%Y-%m-%d}, {machine['cpu']}, {machine['cores']} cores; {often}"]


def _paper(height: float, inches: Transform) -> FancyBboxPatch:
    """A white ground with round corners, so that a dark page has the same picture."""
    corner = 0.09
    return FancyBboxPatch(
        (corner + 0.01, corner + 0.01),
        WIDTH - 2 * corner - 0.02,
        height - 2 * corner - 0.02,
        boxstyle=f"round,pad={corner},rounding_size={corner}",
        facecolor="#ffffff",
        edgecolor="#d0d7de",
        linewidth=0.8,
        transform=inches,
        # Below all else, which it would cover.
        zorder=-1,
    )
