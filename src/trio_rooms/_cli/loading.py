"""Finding the rooms that ``MODULE:ATTR`` names, or what to write instead."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from trio_rooms._definition.room import Room
from trio_rooms.errors import DefinitionError

from .failures import CommandFailed, UsageError

__all__ = ["find_rooms"]

_PACKAGE: Final = Path(__file__).parents[1]
"""Where this library is: its own lines say nothing to who reads a traceback."""


def find_rooms(target: str) -> list[Room[Any]]:
    """The rooms that a MODULE:ATTR names; imports the module.

    Raises:
        UsageError: there is no such module, no such attribute, or it is no rooms.
        CommandFailed: the module cannot be imported.
    """
    source, name = target, None
    # A path may have a colon in it too.
    if not Path(target).is_file() and (match := re.fullmatch(r"(.*):(\w*)", target, re.DOTALL)):
        source, name = match[1], match[2]
    if name == "":
        msg = f"{target!r} ends where a name should follow; write {source}:room, or leave the colon out too"
        raise UsageError(msg)
    module = _load(source)
    attribute = "room" if name is None else name
    if not hasattr(module, attribute):
        default = "" if name else ", which is served where :ATTR is left out"
        msg = f"{source} has no {attribute!r}{default}; {_offer(source, module)}"
        raise UsageError(msg)
    value = getattr(module, attribute)
    wrong = _why_no_rooms(value)
    if wrong is not None:
        what = f"{source}:{attribute} is {wrong}, not a Room or a list of Rooms"
        msg = f"{what}; {_offer(source, module)}"
        raise UsageError(msg)
    return [value] if isinstance(value, Room) else list(value)


def _why_no_rooms(value: Any) -> str | None:
    """What a value is instead of rooms; None for rooms."""
    if isinstance(value, Room):
        return None
    if not isinstance(value, list | tuple):
        return f"of type {type(value).__name__}"
    if not value:
        return f"an empty {type(value).__name__}"
    strange = next((one for one in value if not isinstance(one, Room)), None)
    return None if strange is None else f"a {type(value).__name__} with a {type(strange).__name__} in it"


def _offer(source: str, module: ModuleType) -> str:
    """What could be served instead."""
    found = [name for name, value in vars(module).items() if _why_no_rooms(value) is None]
    if not found:
        return 'there are no rooms in it; define one with room = Room("name")'
    return f"in it are {', '.join(f'{source}:{name}' for name in found)}"


def _load(source: str) -> ModuleType:
    """Import a module by its name, or by the path of its file."""
    if source.endswith(".py") or os.sep in source:
        return _import(source, lambda: _load_file(Path(source)))
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", source):
        msg = f"{source!r} is neither a module, as in package.module, nor the path of a .py file"
        raise UsageError(msg)
    sys.path.insert(0, str(Path.cwd()))

    def load() -> ModuleType:
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            # Not one that the module itself imports in vain.
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise
            file = Path(*source.split(".")).with_suffix(".py")
            missing = "" if error.name == source else f" (there is no {error.name!r})"
            msg = (
                f"there is no module {source!r}{missing}: neither {file} in the current folder nor an "
                "installed one; the path of a .py file will do as well"
            )
            raise UsageError(msg) from None

    return _import(source, load)


def _load_file(path: Path) -> ModuleType:
    """Import a file as Python runs a script, but under its own name."""
    if not path.is_file():
        beside = Path(f"{path}.py")
        what = "is a folder" if path.is_dir() else "does not exist"
        hint = f"did you mean {beside}?" if beside.is_file() else "give the path of a .py file"
        raise UsageError(f"{path} {what}; {hint}")
    if path.suffix != ".py":
        msg = f"{path} is not a .py file"
        raise UsageError(msg)
    # As Python does for a script, so that it finds what lies beside it.
    sys.path.insert(0, str(path.absolute().parent))
    # Under its own name, so that what it imports can import it; but never in place of another.
    name = path.stem if path.stem not in sys.modules else f"{path.stem} (served)"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{path} cannot be loaded as a module"
        raise UsageError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import(source: str, load: Callable[[], ModuleType]) -> ModuleType:
    """Load a module of the application, whatever it raises.

    Raises:
        UsageError: as `load` raised it.
        CommandFailed: it raised anything else. The application's own lines are in the text, or
            have been written to the standard error.
    """
    try:
        return load()
    except UsageError:
        raise
    except DefinitionError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_internal(frame)]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else source
        msg = f"{place}: {error}"
        raise CommandFailed(msg) from error
    except Exception as error:
        # The application's own mistake: its author wants its lines, not ours.
        told = traceback.TracebackException.from_exception(error)
        told.stack = traceback.StackSummary.from_list(
            [frame for frame in told.stack if not _is_internal(frame)]
        )
        sys.stderr.writelines(told.format())
        msg = f"{source} cannot be imported: {type(error).__name__}: {error}"
        raise CommandFailed(msg) from error


def _is_internal(frame: traceback.FrameSummary) -> bool:
    """Whether a line is ours or the import system's, and not the application's."""
    return (
        frame.filename.startswith("<frozen importlib")
        or _PACKAGE in Path(frame.filename).parents
        or (Path(frame.filename).parent.name == "importlib")
    )
