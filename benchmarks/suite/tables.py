"""What a result is made of: tables of rows, with the value of each round in each column.

Values are kept as they were measured, in SI units: seconds, bytes, counts, rates, fractions of 1. A column's
unit says how they are shown, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from benchmarks.suite.numbers import Better, median, ratio, spread

Group: TypeAlias = Literal["ours", "peer", "limit"]
"""Whose a row is. A limit is what the machine does when no server's work is in between."""

UNITS: Final[dict[str, float]] = {
    "": 1,
    "s": 1,
    "ms": 1e3,
    "µs": 1e6,
    "B": 1,
    "KB": 1e-3,
    "MB": 1e-6,
    "GB": 1e-9,
    "KiB": 2.0**-10,
    "MiB": 2.0**-20,
    "%": 100,
}
"""By what a value is multiplied to be shown in this unit."""


@attrs.frozen
class Column:
    """One measured quantity."""

    key: str
    """Its name in the JSON, and as an argument of `Run.measured`."""
    title: str
    unit: str = attrs.field(default="", validator=attrs.validators.in_(UNITS))
    """In what it is shown, one of `UNITS`."""
    digits: int | None = None
    """Digits after the point; None for three digits that count."""
    better: Better = ""
    spread: bool = True
    """Whether tables show the least and the greatest value of all rounds beside the median."""
    told: bool = True
    """Whether tables show it at all; the JSON has it."""
    size: int = 0
    """In a table over a size, the size that it is of; 0 for what is of none."""

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def shown(self, value: float) -> str:
        """A value in this column's unit, for people."""
        value *= UNITS[self.unit]
        if self.digits is not None:
            return f"{value:,.{self.digits}f}"
        return three_digits(value)


@attrs.define
class Row:
    """What became of one contestant."""

    name: str
    group: Group
    values: dict[str, list[float]] = attrs.Factory(dict)
    """For each column the value of each round."""
    bounds: list[str] = attrs.Factory(list)
    """Columns whose true value may be better: the load generator had no more to give."""
    absent: str = ""
    """Why it cannot run on this machine."""
    failed: str = ""
    """What went wrong."""
    note: str = ""

    def median(self, key: str) -> float | None:
        """The median over the rounds; None if there are no values."""
        values = self.values.get(key)
        return median(values) if values else None

    def shown(self, column: Column) -> str:
        """The median for people, with a sign before it if it is a bound; a dash if there is none."""
        middle = self.median(column.key)
        if middle is None:
            return "–"
        sign = "" if column.key not in self.bounds else "≤ " if column.better == "low" else "≥ "
        return sign + column.shown(middle)

    @property
    def remark(self) -> str:
        """What a reader must know about this row."""
        told = [self.note] if self.note else []
        if self.absent:
            told.append(f"absent: {self.absent}")
        if self.failed:
            # Of what a process said at its end the last line says most.
            first, *more = self.failed.splitlines()
            told.append(f"failed: {first}" + (f" … {more[-1]}" if more else ""))
        return "; ".join(told)


@attrs.define
class Table:
    """The rows of all contestants."""

    key: str
    title: str
    columns: list[Column]
    drawn: str = ""
    """The column of the picture and of the ratio; empty if there is nothing to draw."""
    baseline: str = ""
    """The row that others are set beside, or what its name begins with."""
    note: str = ""
    rows: list[Row] = attrs.Factory(list)
    over: str = ""
    """Of what the sizes are that its columns are of; then they are what is drawn, a line for each row."""

    def __attrs_post_init__(self) -> None:
        """Refuse a table that names a column it does not have."""
        if self.drawn and self.drawn not in {column.key for column in self.columns}:
            raise ValueError(f"table {self.key} has no column {self.drawn} to draw")
        if bool(self.over) != bool(self.sized):
            raise ValueError(f"table {self.key} is over a size, or no column of it is of one")

    @property
    def sized(self) -> list[Column]:
        """The columns that are of a size, the smallest first."""
        return sorted((column for column in self.columns if column.size), key=lambda column: column.size)

    def column(self, key: str) -> Column:
        """The column of this key."""
        return next(column for column in self.columns if column.key == key)

    def row(self, name: str, group: Group) -> Row:
        """The row of this name, which is added if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        self.rows.append(Row(name, group))
        return self.rows[-1]

    def add(self, name: str, group: Group, values: dict[str, float], bounds: Collection[str] = ()) -> Row:
        """Take the values of one round."""
        known = {column.key for column in self.columns}
        if unknown := sorted({*values, *bounds} - known):
            raise ValueError(f"table {self.key} has no column {', '.join(unknown)}")
        row = self.row(name, group)
        for key, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"{name}: {key} is {value}")
            row.values.setdefault(key, []).append(value)
        row.bounds.extend(key for key in bounds if key not in row.bounds)
        return row

    @property
    def base(self) -> Row | None:
        """The row that others are set beside, if it was measured."""
        if not (self.baseline and self.drawn):
            return None
        measured = [row for row in self.rows if row.median(self.drawn) is not None]
        exact = [row for row in measured if row.name == self.baseline]
        near = [row for row in measured if row.name.startswith(self.baseline)]
        return next(iter(exact + near), None)

    def ratio(self, row: Row, other: Row, key: str) -> float | None:
        """How many times better a row's median is than another's; None if that cannot be said."""
        value, base, better = row.median(key), other.median(key), self.column(key).better
        return None if value is None or base is None or not better else ratio(value, base, better)

    def headings(self) -> list[str]:
        """The names of what `cells` returns."""
        return [
            "",
            *(column.heading for column in self.columns if column.told),
            *([f"× {self.base.name}"] if self.base else []),
        ]

    def cells(self, row: Row, *, spreads: bool = True) -> list[str]:
        """A row as text: its name, its values, its ratio to the baseline."""
        told = (column for column in self.columns if column.told)
        cells = [row.name, *(_cell(row, column, spreads=spreads) for column in told)]
        if self.base:
            times = self.ratio(row, self.base, self.drawn)
            cells.append("–" if times is None else f"{three_digits(times)}×")
        if not row.values and len(cells) > 1:
            cells[1] = "absent" if row.absent else "failed" if row.failed else "–"
        return cells

    @property
    def caption(self) -> str:
        """What stands below the table."""
        said = [self.note] if self.note else []
        if self.base:
            said.append(f"×: how many times better, by {self.column(self.drawn).title}.")
        return " ".join(said)


def over_sizes(over: str, unit: str, sizes: Sequence[int]) -> list[Column]:
    """The columns of a table over a size: a cost for each, and how many times the smallest one the last is.

    `costs` makes the values of them.

    Args:
        over: of what the sizes are, as in `Table.over`.
        unit: of the cost.
        sizes: at least two.
    """
    each = [Column(f"at_{size}", f"{size:,} {over}", unit, better="low", size=size) for size in sizes]
    return [*each, Column("growth", f"{max(sizes):,} : {min(sizes):,}", digits=2, better="low")]


def costs(of: Mapping[int, float]) -> dict[str, Any]:
    """The values of the columns that `over_sizes` makes, by the cost of each size."""
    values = {f"at_{size}": cost for size, cost in of.items()}
    least, most = of[min(of)], of[max(of)]
    # Where the suite is on trial, a cost can be too small to be seen.
    return {**values, "growth": most / least} if least > 0 and most > 0 else values


def three_digits(value: float) -> str:
    """A number with three digits that count: 0.0123, 1.23, 123, 12,300."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    # The exponent after rounding, so that 9.999 is 10.0 and not 10.00.
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{round(value, 2 - exponent):,.{max(0, 2 - exponent)}f}"


def _cell(row: Row, column: Column, *, spreads: bool) -> str:
    text, values = row.shown(column), row.values.get(column.key, [])
    if spreads and column.spread and len(values) > 1:
        least, most = (column.shown(value) for value in spread(values))
        text += f" ({least}–{most})"
    return text
