"""The packages of trio_rooms: what each is for, its modules, and which imports which.

    python scripts/packages.py

All of it is read from the code: the rule of a package is the first line of its docstring, its
place is that in the contract which import-linter checks. docs/architecture.md has what this
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


def packages() -> list[str]:
    """The packages, and the modules beside them, from the bottom up."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers: list[str] = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    found = [name.strip() for layer in reversed(layers) for name in layer.split("|")]
    return [name for name in found if name != "__main__"]


def files(name: str) -> list[Path]:
    """The files of one package, in the order of their names."""
    folder = PACKAGE / name
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{name}.py"]


def rule(name: str) -> str:
    """What one package is for, in a line."""
    folder = PACKAGE / name
    file = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return docstring.partition("\n")[0].replace("``", "`")


def modules(name: str) -> str:
    """The modules of one package; a package in it is named as a folder."""
    folder = PACKAGE / name
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [path.stem for path in inside if path.suffix == ".py" and path.stem != "__init__"]
    names += [f"{path.name}/" for path in inside if (path / "__init__.py").exists()]
    return ", ".join(f"`{one}`" for one in names)


def imports(name: str) -> set[str]:
    """The packages that one package imports, for type checkers included."""
    return {imported for file in files(name) for imported in _imported(file)} - {name}


def _imported(file: Path) -> Iterator[str]:
    here = ("trio_rooms", *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else ()
            parts = (*above, *(node.module or "").split("."))
            if parts[0] == "trio_rooms" and len(parts) > 1:
                yield parts[1]


def table() -> str:
    """Each package in a line, from the bottom up."""
    rows = [f"| `{name}` | {rule(name)} | {modules(name)} |" for name in packages()]
    return "\n".join(["| package | rule | modules |", "|---|---|---|", *rows])


def drawing() -> str:
    """Which package imports which, as a Mermaid drawing, without arrows that follow from others."""
    order = packages()
    lines = []
    reached: dict[str, set[str]] = {}
    for name in order:
        needed = imports(name) & set(order)
        further = {far for near in needed for far in reached.get(near, ())}
        reached[name] = needed | further
        lines += [f"    {name} --> {near}" for near in order if near in needed - further]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


if __name__ == "__main__":
    print(table(), drawing(), sep="\n\n")
