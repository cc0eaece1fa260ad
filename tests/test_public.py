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
for name in {[name for name in MODULES if not name.startswith("trio_rooms.testing")]!r}:
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
