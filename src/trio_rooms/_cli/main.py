"""The command ``trio-rooms``: serve rooms, look into a store."""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.util
import logging
import math
import os
import re
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

import trio

from trio_rooms import __version__
from trio_rooms._definition.room import Room
from trio_rooms._loop.groups import first_error
from trio_rooms._rooms import open_rooms
from trio_rooms._server.server import Address
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.errors import DefinitionError, RoomsError
from trio_rooms.stores.sqlite.store import DiskStore

from .inspection import ExportError, check_key, describe, export, list_rooms, read_export, restore

__all__ = ["main"]

logger = logging.getLogger("trio_rooms")

_USAGE: Final = 2
"""The exit status for a command line that cannot be carried out by anybody."""
_CLOSING: Final = {
    signal.SIGTERM: (CloseCode.RESTART, "the server restarts"),
    signal.SIGINT: (CloseCode.GOING_AWAY, "the server is going away"),
}
_PACKAGE: Final = Path(__file__).parents[1]


class _UsageError(Exception):
    """What the command line asks for does not exist; the text says what does."""


class _FailedError(Exception):
    """It could not be done; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for what failed, 2 for what was asked wrongly."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except _UsageError as error:
        return _complain(str(error), _USAGE)
    except (RoomsError, _FailedError) as error:
        return _complain(str(error), 1)
    except BrokenPipeError:
        # Who reads what we print has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _complain(message: str, status: int) -> int:
    print(f"trio-rooms: {message}", file=sys.stderr)
    return status


def _is_internal(frame: traceback.FrameSummary) -> bool:
    """Whether a line is ours or the import system's, and not the application's."""
    return (
        frame.filename.startswith("<frozen importlib")
        or _PACKAGE in Path(frame.filename).parents
        or (Path(frame.filename).parent.name == "importlib")
    )


# The command line.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, which the usage would hide."""
        self.exit(_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trio-rooms", description="Rooms that many WebSockets share.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"trio-rooms {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    serve = commands.add_parser(
        "serve",
        help="serve the rooms of a module",
        description="Serve the rooms of a module until SIGTERM or SIGINT. A second signal stops at once.",
        allow_abbrev=False,
    )
    serve.set_defaults(run=_serve)
    serve.add_argument(
        "target",
        metavar="MODULE:ATTR",
        help="a module (package.module, looked for in the current folder first) or a .py file, and in it a "
        "Room or a list of Rooms; ':room' may be left out",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", type=_host, help="the address to listen on (%(default)s)"
    )
    serve.add_argument("--port", default=8000, type=_port, help="the port; 0 for a free one (%(default)s)")
    serve.add_argument("--data", metavar="DIR", type=_folder, help="where to keep rooms (default: in memory)")
    serve.add_argument(
        "--idle-timeout", metavar="S", type=_seconds, help="seconds without mail after which a room sleeps"
    )
    serve.add_argument(
        "--snapshot-interval",
        metavar="S",
        type=_seconds,
        help="seconds until a change is saved at the latest",
    )
    serve.add_argument("--max-awake", metavar="N", type=_count, help="rooms that may be awake at once")
    serve.add_argument(
        "--max-message-size",
        metavar="BYTES",
        type=_count,
        default=1024 * 1024,
        help="bytes of the largest message that is taken (%(default)s)",
    )

    inspect = commands.add_parser(
        "inspect",
        help="look into a data folder",
        description="List the rooms of a data folder, or show one. Works beside a running server.",
        allow_abbrev=False,
    )
    inspect.set_defaults(run=_inspect, fail=inspect.error)
    inspect.add_argument("directory", metavar="DIR", type=_folder, help="what serve was given as --data")
    inspect.add_argument("key", metavar="KEY", nargs="?", help="one room, like chat/lobby")
    action = inspect.add_mutually_exclusive_group()
    action.add_argument("--export", metavar="FILE", type=Path, help="write the room into a .cbor file")
    action.add_argument(
        "--import",
        metavar="FILE",
        type=Path,
        dest="import_",
        help="write a room from such a file into the data folder, which no server may have; KEY renames it",
    )
    inspect.add_argument("--replace", action="store_true", help="let --import replace a room that is there")
    return parser


def _host(text: str) -> str:
    if not text:
        msg = "it is empty; for all addresses of this machine give 0.0.0.0 (or :: for IPv6)"
        raise argparse.ArgumentTypeError(msg)
    return text


def _folder(text: str) -> Path:
    if not text:
        msg = "it is empty; for the current folder give ."
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > 65535:
        msg = f"a port is a whole number from 0 (any free one) to 65535, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        msg = f"it takes a number of seconds from 0 on, such as 0.5, or inf for never, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < 1:
        msg = f"it takes a whole number from 1 on, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


# serve


def _serve(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    rooms = _find_rooms(options.target)
    for room in rooms:
        room.override(idle_timeout=options.idle_timeout, snapshot_interval=options.snapshot_interval)
    try:
        trio.run(_run, rooms, options)
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    return 0


async def _run(rooms: Sequence[Room[Any]], options: argparse.Namespace) -> None:
    store = None if options.data is None else DiskStore(options.data)
    settings = {"max_awake": options.max_awake, "max_message_size": options.max_message_size}
    with _signals() as signals:
        async with trio.open_nursery() as nursery, open_rooms(rooms, store=store, **settings) as opened:
            try:
                address = await nursery.start(opened.serve, options.host, options.port)
            except OSError as error:
                raise _FailedError(_why_not_listening(error, options.host, options.port)) from error
            _announce(rooms, options.data, address)
            received = await signals.receive()
            logger.info("%s: saving rooms, closing connections; once more: stop at once", received.name)
            await opened.aclose(*_CLOSING[received])
    logger.info("stopped")


@contextmanager
def _signals() -> Iterator[trio.MemoryReceiveChannel[signal.Signals]]:
    """Report the first signal that asks to stop; die of the second, even if a handler keeps the loop busy."""
    sender, receiver = trio.open_memory_channel[signal.Signals](1)
    token = trio.lowlevel.current_trio_token()

    def stop(number: int, _: object) -> None:
        # What was committed is safe in any case.
        for one in _CLOSING:
            signal.signal(one, signal.SIG_DFL)
        token.run_sync_soon(sender.send_nowait, signal.Signals(number))

    before = {one: signal.signal(one, stop) for one in _CLOSING}
    try:
        yield receiver
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _announce(rooms: Sequence[Room[Any]], data: Path | None, address: Address) -> None:
    if data is None:
        logger.info("rooms are kept in memory and end with this process; --data DIR keeps them")
    else:
        logger.info("rooms are kept in %s", data)
    for room in rooms:
        logger.info("room %s is at %s/%s/ID", room.name, address, room.name)
    # Who started us may have closed its end; rooms are served all the same.
    with suppress(OSError):
        print(f"listening on {address}", flush=True)


def _why_not_listening(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror):
        why = f"there is no address of that name ({error.strerror})"
        return f"cannot listen on {host}: {why}; give another --host"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {port} of {host} is in use by another program; stop that one, or give another --port "
                "(0 takes a free one)"
            )
        case errno.EACCES | errno.EPERM:
            return (
                f"this user may not listen on port {port}: the ports below 1024 need a privilege; "
                "give a --port from 1024 on"
            )
        case errno.EADDRNOTAVAIL:
            return f"this machine has no address {host}; give another --host, such as 127.0.0.1 or 0.0.0.0"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"


def _find_rooms(target: str) -> list[Room[Any]]:
    """The rooms that a MODULE:ATTR names."""
    source, name = target, None
    # A path may have a colon in it too.
    if not Path(target).is_file() and (match := re.fullmatch(r"(.*):(\w*)", target, re.DOTALL)):
        source, name = match[1], match[2]
    if name == "":
        msg = f"{target!r} ends where a name should follow; write {source}:room, or leave the colon out too"
        raise _UsageError(msg)
    module = _load(source)
    attribute = "room" if name is None else name
    if not hasattr(module, attribute):
        default = "" if name else ", which is served where :ATTR is left out"
        msg = f"{source} has no {attribute!r}{default}; {_offer(source, module)}"
        raise _UsageError(msg)
    value = getattr(module, attribute)
    wrong = _why_no_rooms(value)
    if wrong is not None:
        what = f"{source}:{attribute} is {wrong}, not a Room or a list of Rooms"
        msg = f"{what}; {_offer(source, module)}"
        raise _UsageError(msg)
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
    found = [name for name, value in vars(module).items() if _why_no_rooms(value) is None]
    if not found:
        return 'there are no rooms in it; define one with room = Room("name")'
    return f"in it are {', '.join(f'{source}:{name}' for name in found)}"


def _load(source: str) -> ModuleType:
    if source.endswith(".py") or os.sep in source:
        return _import(source, lambda: _load_file(Path(source)))
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", source):
        msg = f"{source!r} is neither a module, as in package.module, nor the path of a .py file"
        raise _UsageError(msg)
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
            raise _UsageError(msg) from None

    return _import(source, load)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        beside = Path(f"{path}.py")
        what = "is a folder" if path.is_dir() else "does not exist"
        hint = f"did you mean {beside}?" if beside.is_file() else "give the path of a .py file"
        raise _UsageError(f"{path} {what}; {hint}")
    if path.suffix != ".py":
        msg = f"{path} is not a .py file"
        raise _UsageError(msg)
    # As Python does for a script, so that it finds what lies beside it.
    sys.path.insert(0, str(path.absolute().parent))
    # Under its own name, so that what it imports can import it; but never in place of another.
    name = path.stem if path.stem not in sys.modules else f"{path.stem} (served)"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{path} cannot be loaded as a module"
        raise _UsageError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import(source: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except _UsageError:
        raise
    except DefinitionError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_internal(frame)]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else source
        msg = f"{place}: {error}"
        raise _FailedError(msg) from error
    except Exception as error:
        # The application's own mistake: its author wants its lines, not ours.
        told = traceback.TracebackException.from_exception(error)
        told.stack = traceback.StackSummary.from_list(
            [frame for frame in told.stack if not _is_internal(frame)]
        )
        sys.stderr.writelines(told.format())
        msg = f"{source} cannot be imported: {type(error).__name__}: {error}"
        raise _FailedError(msg) from error


# inspect


def _inspect(options: argparse.Namespace) -> int:
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
        return trio.run(_import_room, options.directory, options.import_, options.key, options.replace)
    if options.export is not None:
        return trio.run(_export_room, options.directory, options.key, options.export)
    return trio.run(_look, options.directory, options.key)


async def _look(directory: Path, key: str | None) -> int:
    async with DiskStore(directory, read_only=True) as store:
        if key is not None:
            return 0 if await describe(store, key, print) else 1
        await list_rooms(store, print)
        return 0


async def _export_room(directory: Path, key: str, file: Path) -> int:
    async with DiskStore(directory, read_only=True) as store:
        content = await export(store, key)
    try:
        _write(file, content)
    except OSError as error:
        msg = f"cannot write {file}: {error.strerror or error}"
        raise _FailedError(msg) from error
    print(f"wrote room {key} to {file}: {len(content):,} bytes")
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


async def _import_room(directory: Path, file: Path, key: str | None, replace: bool) -> int:
    try:
        exported = read_export(await trio.Path(file).read_bytes())
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror or error}"
        raise _FailedError(msg) from error
    except ExportError as error:
        msg = f"{file} cannot be imported: {error}"
        raise _FailedError(msg) from error
    target = exported.key if key is None else key
    async with DiskStore(directory) as store:
        generation = await restore(store, exported, target, replace=replace)
    print(f"wrote {file} into room {target}: version {exported.version}, generation {generation:,}")
    return 0
