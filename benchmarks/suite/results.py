"""A benchmark's result in files: JSON, from which everything else can be made again, and Markdown."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import attrs
import cattrs
from cattrs.preconf.json import make_converter

from benchmarks.suite.numbers import spread
from benchmarks.suite.tables import Row, Table

_converter = make_converter(forbid_extra_keys=False)


@attrs.define
class Result:
    """What one benchmark measured, and where."""

    benchmark: str
    about: str
    at: datetime.datetime
    command: str
    rounds: int
    options: dict[str, Any]
    environment: dict[str, Any]
    tables: list[Table] = attrs.Factory(list)
    remarks: list[str] = attrs.Factory(list)
    took_seconds: float = 0.0

    def to_json(self) -> str:
        """Everything: the value of each round, and what follows from them."""
        content = _converter.unstructure(self)
        for told, table in zip(content["tables"], self.tables, strict=True):
            for told_row, row in zip(told["rows"], table.rows, strict=True):
                told_row.update(_derived(table, row))
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Result:
        """What `to_json` wrote. Raises `ValueError` if it is not such a text."""
        try:
            return _converter.structure(json.loads(text), cls)
        except cattrs.BaseValidationError as error:
            raise ValueError("; ".join(cattrs.transform_error(error))) from error

    def to_markdown(self) -> str:
        """The tables, and below them what a reader must know."""
        parts = [self.about]
        for table in self.tables:
            parts += [f"**{table.title}**", _markdown(table)]
            parts += [table.caption] if table.caption else []
            parts += [f"{row.name}: {row.remark}." for row in table.rows if row.remark]
        parts += self.remarks
        parts.append(self.where())
        return "\n\n".join(parts) + "\n"

    def where(self) -> str:
        """One paragraph on the circumstances."""
        machine, versions = self.environment, self.environment["versions"]
        what = f"Medians of {self.rounds} rounds (least–greatest)" if self.rounds > 1 else "One round"
        told = ", ".join(f"{name} {number}" for name, number in versions.items())
        return (
            f"{what}, {self.at:%Y-%m-%d}, `{self.command}`: {machine['cpu']}, {machine['cores']} cores,"
            f" {machine['kernel']}, {machine['python']}; {told}."
        )


def write(folder: Path, name: str, text: str) -> Path:
    """Write a file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{name}.new"
    unfinished.write_text(text, encoding="utf-8")
    return unfinished.replace(folder / name)


def _derived(table: Table, row: Row) -> dict[str, Any]:
    """Of one row: the medians, the spreads, and how many times better it is than each peer and limit."""
    medians = {key: row.median(key) for key in row.values}
    ratios: dict[str, dict[str, float]] = {}
    for other in table.rows:
        if other is row or other.group == "ours":
            continue
        times = {key: table.ratio(row, other, key) for key in row.values}
        if known := {key: value for key, value in times.items() if value is not None}:
            ratios[other.name] = known
    return {
        "median": medians,
        "least": {key: spread(values)[0] for key, values in row.values.items()},
        "greatest": {key: spread(values)[1] for key, values in row.values.items()},
        "times_better_than": ratios,
    }


def _markdown(table: Table) -> str:
    headings = table.headings()
    lines = [headings, [":--", *["--:"] * (len(headings) - 1)]]
    for row in table.rows:
        name, *values = (cell.replace("|", r"\|") for cell in table.cells(row))
        lines.append([f"**{name}**" if row.group == "ours" else name, *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
