from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import trio_rooms

ROOT = Path(trio_rooms.__file__).parent
NAMES = sorted(module.name for module in pkgutil.walk_packages([str(ROOT)], "trio_rooms."))
MODULES = ["trio_rooms", *(name for name in NAMES if not name.endswith("__main__"))]
LAYERS = (
    ("cli",),
    ("rooms",),
    ("server",),
    ("handshake", "newcomers"),
    ("supervisor",),
    ("actor",),
    ("context", "record"),
    ("room",),
    ("protocol", "snapshot"),
    ("parking",),
    ("store", "links", "frames", "cbor"),
    ("convert", "errors", "lifecycle", "alarms", "groups"),
)
"""Modules that stand above others: none of them is imported by one further below."""


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Each module of the package, one after the other."""
    return importlib.import_module(request.param)


def test_all_is_true_and_sorted(module: ModuleType) -> None:
    """Every module says what it offers, in order, and has all of it."""
    offered = module.__all__
    assert offered == sorted(set(offered), key=by_kind)
    for name in offered:
        assert hasattr(module, name), name
        assert not name.startswith("_")


def by_kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by name: as ruff's RUF022 sorts."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_the_package_offers_what_it_imports() -> None:
    """What the package imports for its users is in its ``__all__``, and nothing else is."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert set(trio_rooms.__all__) == imported


def test_every_error_is_offered() -> None:
    """An error that can be raised can be caught by its name from the package."""
    errors = importlib.import_module("trio_rooms.errors")
    assert set(errors.__all__) <= set(trio_rooms.__all__)
    drawn = errors.__doc__
    assert drawn is not None
    for name in errors.__all__:
        assert name in drawn
        assert issubclass(getattr(errors, name), errors.RoomsError)


def members(module: ModuleType) -> Iterator[tuple[str, object]]:
    """What a module offers, and the public members of its classes."""
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value) and not inspect.isroutine(value):
            continue
        yield name, value
        if inspect.isclass(value) and value.__module__.startswith("trio_rooms"):
            for inner, member in vars(value).items():
                if not inner.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    yield f"{name}.{inner}", member


def test_everything_public_is_documented(module: ModuleType) -> None:
    """Each module, public class, function, method and property says what it is."""
    assert module.__doc__
    for name, value in members(module):
        assert inspect.getdoc(value), name


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports when it runs, lazily or not."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for other in node.orelse:
                    walk(other)
                return
            case ast.ImportFrom(level=1, module=None):
                found.update(alias.name for alias in node.names)
            case ast.ImportFrom(level=1, module=str(name)):
                found.add(name.partition(".")[0])
            case ast.ImportFrom(level=0, module=str(name)) if name.startswith("trio_rooms."):
                found.add(name.split(".")[1])
            case ast.Import():
                found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("trio_rooms."))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found


GRAPH = {path.stem: imports(path) for path in ROOT.glob("*.py")}


def test_imports_have_no_cycle() -> None:
    """No module needs, by any way, itself: the package can be read from the bottom up."""
    left = {name: {other for other in needed if other in GRAPH} for name, needed in GRAPH.items()}
    while ready := [name for name, needed in left.items() if not needed]:
        left = {name: needed - set(ready) for name, needed in left.items() if name not in ready}
    assert left == {}


def test_imports_lead_downwards() -> None:
    """No module imports, by any way, one of a layer above it."""
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    below: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in below:
            below[name] = set()
            for other in GRAPH.get(name, ()):
                below[name] |= {other} | reach(other)
        return below[name]

    for name in set(GRAPH) & set(level):
        above = {other for other in reach(name) if level.get(other, len(LAYERS)) < level[name]}
        assert not above, f"{name} imports {above}"


def test_an_import_does_nothing_else() -> None:
    """Importing the whole package starts no thread and no process, opens nothing and prints nothing."""
    program = f"""
import os, signal, sys, threading, warnings
import trio, trio_websocket, attrs, cattrs, cbor2, logging
hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
signals = {{number: signal.getsignal(number) for number in signal.valid_signals()}}
files = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
handlers = list(logging.getLogger().handlers)
filters = list(warnings.filters)
import importlib
for name in {[name for name in MODULES if name != "trio_rooms.testing"]!r}:
    importlib.import_module(name)
assert threading.active_count() == 1
assert (os.listdir("/proc/self/fd") if files else []) == files
assert {{number: signal.getsignal(number) for number in signal.valid_signals()}} == signals
assert (sys.excepthook, sys.unraisablehook, threading.excepthook) == hooks
assert logging.getLogger().handlers == handlers
assert "pytest" not in sys.modules
print("quiet")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("quiet\n", "")


def test_the_package_is_typed() -> None:
    """Type checkers are told that the package has types."""
    assert (ROOT / "py.typed").exists()
