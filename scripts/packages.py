"""The packages of trio_rooms, from the top down: what each is for, and what it imports.

    python scripts/packages.py

Both are read from the code: the rule of a package is the first line of its docstring, its
place is that in the contract which `lint-imports` checks. docs/architecture.md has what this
prints, and a test compares them.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "src/trio_rooms"


def layers() -> list[str]:
    """The parts of the package, from the top down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found: list[str] = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [part.strip() for layer in found for part in layer.split("|") if part.strip() != "__main__"]


def modules(part: str) -> list[Path]:
    """The files of one part, in the order of their names."""
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


def rule(part: str) -> str:
    """What one part is for, in a line."""
    folder = PACKAGE / part
    tree = ast.parse((folder / "__init__.py" if folder.is_dir() else modules(part)[0]).read_text())
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def imports(part: str) -> set[str]:
    """The parts that one part imports, by type checkers' imports too."""
    return {name for path in modules(part) for name in _imported(path, part)} - {part, ""}


def _imported(path: Path, part: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level == 0 and node.module is not None and node.module.startswith("trio_rooms."):
                yield node.module.split(".")[1]
            elif node.level == 1 and path.parent == PACKAGE:
                yield (node.module or "").split(".")[0]
            elif node.level == 1:
                yield part


def nouns(part: str) -> str:
    """The modules of one part."""
    names = [path.stem for path in modules(part) if path.stem != "__init__" and path.parent.name == part]
    names += sorted({f"{path.parent.name}/" for path in modules(part) if path.parent.parent.name == part})
    return ", ".join(f"`{name}`" for name in names)


def table() -> str:
    """The rule of each part, as a table for the documentation."""
    lines = ["| part | rule | modules |", "|---|---|---|"]
    lines += [f"| `{part}` | {rule(part)} | {nouns(part)} |" for part in layers()]
    return "\n".join(lines)


def drawing() -> str:
    """Which part imports which, as a Mermaid drawing, without what follows from other arrows."""
    order = layers()
    needs = {part: imports(part) & set(order) for part in order}
    below: dict[str, set[str]] = {}
    for part in reversed(order):
        below[part] = needs[part] | {far for near in needs[part] for far in below[near]}
    lines = ["flowchart TD"]
    for part in order:
        far = {far for near in needs[part] for far in below[near]}
        lines += [f"    {part} --> {near}" for near in order if near in needs[part] - far]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), drawing(), sep="\n\n")
