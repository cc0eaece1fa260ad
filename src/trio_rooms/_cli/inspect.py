"""``trio-rooms inspect``: look at what is kept, write a room into a file, or a file into a room."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import trio

from trio_rooms.errors import RoomsError
from trio_rooms.stores.base import Store
from trio_rooms.stores.sqlite.store import DiskStore

from .export import ExportError, export, read_export, restore
from .failures import CommandFailed, UsageError
from .overview import describe_room, list_rooms
from .stored import check_key

__all__ = ["inspect"]


def inspect(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: what was parsed; ``fail(message)`` of it exits for options that do not go together.

    Returns:
        The exit status: 1 for a room whose state cannot be read, else 0.

    Raises:
        RoomsError, CommandFailed: it could not be done.
    """
    if options.export is not None and options.key is None:
        options.fail("--export writes one room: give its KEY too")
    if options.replace and options.import_ is None:
        options.fail("--replace goes with --import")
    if options.key is not None:
        try:
            check_key(options.key)
        except RoomsError as error:
            options.fail(str(error))
    if options.import_ is not None:
        return trio.run(_import_room, options.where, options.import_, options.key, options.replace)
    if options.export is not None:
        return trio.run(_export_room, options.where, options.key, options.export)
    return trio.run(_look, options.where, options.key)


def _store(where: Path | str, *, read_only: bool = False) -> Store:
    """What has the rooms, in a folder or at a URL.

    Raises:
        UsageError: it is no URL of an engine.
        CommandFailed: what speaks to an engine is not installed.
    """
    if isinstance(where, Path):
        return DiskStore(where, read_only=read_only)
    try:
        from trio_rooms.stores.valkey.store import ValkeyStore  # noqa: PLC0415 (it takes what is an extra)
    except ModuleNotFoundError as error:
        if error.name != "hiredis":
            raise
        msg = "to look into an engine takes hiredis: pip install 'trio-rooms[valkey]'"
        raise CommandFailed(msg) from error
    try:
        return ValkeyStore(where, durability="everysec", read_only=read_only)
    except ValueError as error:
        raise UsageError(str(error)) from error


# Each of these is a command of its own, and returns its exit status.


async def _look(where: Path | str, key: str | None) -> int:
    async with _store(where, read_only=True) as store:
        if key is not None:
            return 0 if await describe_room(store, key, print) else 1
        await list_rooms(store, print)
        return 0


async def _export_room(where: Path | str, key: str, file: Path) -> int:
    async with _store(where, read_only=True) as store:
        content, damaged = await export(store, key)
    try:
        _write(file, content)
    except OSError as error:
        msg = f"cannot write {file}: {error.strerror or error}"
        raise CommandFailed(msg) from error
    print(f"wrote room {key} to {file}: {len(content):,} bytes")
    if damaged is not None:
        print(
            f"trio-rooms: generation {damaged.stored.generation:,} is damaged ({damaged.fault}), and the one "
            "before it was written; what came after that is not in the file",
            file=sys.stderr,
        )
    return 0


def _write(file: Path, content: bytes) -> None:
    """Write a file whole or not at all; what is no file, such as a pipe, is written to."""
    if file.exists() and not file.is_file():
        file.write_bytes(content)
        return
    file = file.resolve()
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as unfinished:
        try:
            unfinished.write(content)
            unfinished.close()
            Path(unfinished.name).chmod(0o666 & ~_umask())
            Path(unfinished.name).replace(file)
        except BaseException:
            Path(unfinished.name).unlink()
            raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


async def _import_room(where: Path | str, file: Path, key: str | None, replace: bool) -> int:
    try:
        exported = read_export(await trio.Path(file).read_bytes())
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror or error}"
        raise CommandFailed(msg) from error
    except ExportError as error:
        msg = f"{file} cannot be imported: {error}"
        raise CommandFailed(msg) from error
    target = exported.key if key is None else key
    async with _store(where) as store:
        restored = await restore(store, exported, target, replace=replace)
    print(f"wrote {file} into room {target}: version {exported.version}, generation {restored.generation:,}")
    if restored.sessions or restored.entries or restored.timers:
        print(
            f"gone with the state before it: sessions {restored.sessions:,}, journal {restored.entries:,}, "
            f"timers {restored.timers:,}"
        )
    return 0
