"""The command line of ``trio-rooms``: its options, and the exit status."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from trio_rooms import __version__
from trio_rooms.errors import RoomsError

from . import arguments
from .advise import advise
from .drain import drain
from .failures import CommandFailed, UsageError
from .inspect import inspect
from .nodes import nodes
from .record import record
from .report import report
from .send import send
from .serve import serve
from .top import top
from .why import why

__all__ = ["main"]

_USAGE: Final = 2
"""The exit status for a command line that cannot be carried out by anybody."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, 1 for what failed, 2 for what was asked wrongly, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except UsageError as error:
        return _complain(str(error), _USAGE)
    except (RoomsError, CommandFailed) as error:
        return _complain(str(error), 1)
    except BrokenPipeError:
        # Who reads what we print has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _complain(message: str, status: int) -> int:
    """Write one line to the standard error; returns the status, for the caller to return."""
    print(f"trio-rooms: {message}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line; argparse hides that line below the usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        self.exit(_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trio-rooms", description="Rooms that many WebSockets share.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"trio-rooms {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_serve(commands)
    _add_send(commands)
    _add_advise(commands)
    _add_record(commands)
    _add_inspect(commands)
    _add_report(commands)
    _add_why(commands)
    _add_top(commands)
    _add_nodes(commands)
    _add_drain(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve the rooms of a module",
        description="Serve the rooms of a module until SIGTERM or SIGINT. A second signal stops at once.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=serve)
    parser.add_argument(
        "target",
        metavar="MODULE:ATTR",
        help="a module (package.module, looked for in the current folder first) or a .py file, and in it a "
        "Room or a list of Rooms; ':room' may be left out",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", type=arguments.host, help="the address to listen on (%(default)s)"
    )
    parser.add_argument(
        "--port", default=8000, type=arguments.port, help="the port; 0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--data", metavar="DIR", type=arguments.folder, help="where to keep rooms (default: in memory)"
    )
    _add_engine(parser)
    parser.add_argument(
        "--idle-timeout",
        metavar="S",
        type=arguments.seconds,
        help="seconds without mail after which a room sleeps",
    )
    parser.add_argument(
        "--snapshot-interval",
        metavar="S",
        type=arguments.seconds,
        help="seconds until a change is saved at the latest",
    )
    parser.add_argument(
        "--connection-idle-timeout",
        metavar="S",
        type=arguments.seconds,
        help="seconds without use after which a connection hibernates",
    )
    parser.add_argument(
        "--flush-after",
        metavar="S",
        type=arguments.seconds,
        help="seconds that a message of low priority waits for a hibernated connection at the latest",
    )
    parser.add_argument(
        "--policy",
        choices=("default", "classic"),
        help="when rooms and connections sleep, whatever they say themselves",
    )
    parser.add_argument(
        "--hibernation-ratio",
        metavar="R",
        type=arguments.ratio,
        help="share of the connections that is to be hibernated, such as 0.8; 0 for any",
    )
    parser.add_argument(
        "--max-active", metavar="N", type=arguments.count, help="connections that may be active at once"
    )
    parser.add_argument(
        "--max-awake", metavar="N", type=arguments.count, help="rooms that may be awake at once"
    )
    parser.add_argument(
        "--memory-limit",
        metavar="BYTES",
        type=arguments.memory,
        help="resident memory from which on rooms are put to sleep, such as 140MB, or a share such as 80%%",
    )
    parser.add_argument(
        "--max-message-size",
        metavar="BYTES",
        type=arguments.count,
        default=1024 * 1024,
        help="bytes of the largest message that is taken (%(default)s)",
    )
    parser.add_argument(
        "--ping-interval",
        metavar="S",
        type=arguments.seconds,
        default=0.0,
        help="seconds in which each client is sent a ping; 0 for no pings (%(default)s)",
    )
    parser.add_argument(
        "--admin-token-file",
        metavar="FILE",
        type=arguments.file,
        help="let other processes send over HTTP that have the token in this file, of 32 characters or more",
    )
    parser.add_argument(
        "--dashboard",
        action="store_true",
        help="let anybody open /dashboard, which shows the rooms that are in use",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="how the log is written: lines for people, or an object of JSON in each line (%(default)s)",
    )


def _add_engine(parser: _Parser) -> None:
    parser.add_argument(
        "--engine",
        metavar="URL",
        help="be one of several nodes that keep their rooms there together, as valkey://HOST:PORT",
    )
    parser.add_argument(
        "--node",
        metavar="NAME",
        type=arguments.node,
        help="with --engine: the name of this node, which no other has (default: one that is drawn)",
    )
    parser.add_argument(
        "--lease",
        metavar="S",
        type=arguments.lease,
        help="with --engine: seconds after which others take over from this node if it is dead (10)",
    )
    parser.add_argument(
        "--engine-durability",
        choices=("always", "everysec"),
        help="with --engine: what the engine has to do before something counts as kept: write it to its disk "
        "(always), or be about to, so that a power failure may cost the last second (everysec)",
    )
    parser.add_argument(
        "--engine-replicas",
        metavar="N",
        type=arguments.number,
        help="with --engine: how many of its replicas have to have what is kept, too (0)",
    )


def _add_send(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "send",
        help="send an event to a user or a room of a running server",
        description="Send an event to a user or to a room, through a server that was given the same token. "
        "Prints what has become of it.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=send, fail=parser.error)
    _add_url(parser)
    parser.add_argument("event", metavar="EVENT", help="the event's name")
    parser.add_argument(
        "data", metavar="DATA", nargs="?", default="null", help="what it says, in JSON (null)"
    )
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", metavar="NAME", help="to a user, wherever she is; waits where she is not")
    whom.add_argument("--room", metavar="ROOM/ID", help="to all connections of a room, as chat/lobby")
    parser.add_argument("--channel", metavar="NAME", help="with --room: only to those in this channel")
    parser.add_argument(
        "--reliable", action="store_true", help="with --room: until each client has acknowledged it"
    )
    parser.add_argument(
        "--priority",
        choices=("high", "normal", "low"),
        help="with --user: what waits, and what wakes (normal)",
    )
    parser.add_argument(
        "--ttl", metavar="S", type=arguments.seconds, help="with --user: seconds for which it waits (86400)"
    )
    parser.add_argument("--volatile", action="store_true", help="only to who is there and not slow")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=arguments.file,
        required=True,
        help="what serve has as --admin-token-file",
    )


def _add_inspect(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "inspect",
        help="look into a data folder, or an engine",
        description="List the rooms of a data folder, or of an engine, or show one. Works beside a running "
        "server.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=inspect, fail=parser.error)
    parser.add_argument(
        "where", metavar="DIR", type=arguments.kept, help="what serve was given as --data, or as --engine"
    )
    parser.add_argument("key", metavar="KEY", nargs="?", help="one room, like chat/lobby")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--export", metavar="FILE", type=Path, help="write the room into a .cbor file")
    action.add_argument(
        "--import",
        metavar="FILE",
        type=Path,
        dest="import_",
        help="write a room from such a file there, where no server may have the rooms; KEY renames it",
    )
    parser.add_argument("--replace", action="store_true", help="let --import replace a room that is there")


def _add_advise(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "advise",
        help="say what would let rooms sleep better",
        description="Print what a running server recommends; or what hibernation would bring to the life of "
        "rooms, of this or another system, that was recorded in a file.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=advise, fail=parser.error)
    parser.add_argument("url", metavar="URL", nargs="?", help="where the server is, as http://127.0.0.1:8000")
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=arguments.file,
        help="a life: CSV with the header time,room,connection,bytes, or what record has written",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=arguments.file,
        help="with --trace: draw savings and added wakes over the idle timeout into a .png, .svg or .pdf",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=arguments.file,
        help="with URL: what serve has as --admin-token-file; without it no rooms are named",
    )


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "report",
        help="what a running server promises of hibernation, beside what it has measured",
        description="Print what a running server promises of hibernation, beside what it has measured since "
        "it was started, and whether that holds.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=report)
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON document, as it is at /report")


def _add_why(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "why",
        help="say what keeps a room of a running server awake",
        description="Say what keeps a room of a running server awake, for how long it has done so, and what "
        "will let the room sleep. Asking wakes nobody.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=why)
    _add_url(parser)
    parser.add_argument("key", metavar="KEY", help="the room, like chat/lobby")
    parser.add_argument("--json", action="store_true", help="print what the server answers, as JSON")


def _add_top(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "top",
        help="show live what a running server does",
        description="Show in the terminal what the dashboard shows in a browser, until q or Ctrl-C.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=top)
    _add_url(parser)
    _add_token_file(parser)
    parser.add_argument("--once", action="store_true", help="print it once, and without charts")


def _add_nodes(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "nodes",
        help="list the nodes that share an engine",
        description="List the nodes that live and share an engine, and what each has; any of them tells.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=nodes)
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON document, as it is at /nodes")


def _add_drain(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "drain",
        help="have a node give its rooms and clients to the others",
        description="Have a node give all its rooms to the others and close its connections with 1012, so "
        "that clients go on elsewhere; and wait until it has. Nothing is lost. The node can be stopped then.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=drain)
    _add_url(parser)
    parser.add_argument("node", metavar="NODE", type=arguments.node, help="its name")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=arguments.file,
        help="what serve has as --admin-token-file; not needed from the machine of a server without one",
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=arguments.seconds,
        default=60.0,
        help="seconds to wait until all has left it (%(default)s)",
    )


def _add_record(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "record",
        help="record what clients send to a running server, for advise --trace",
        description="Record which connection of which room sends something when, and how many bytes, but not "
        "what; until Ctrl-C, or for some seconds.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=record)
    _add_url(parser)
    parser.add_argument(
        "--seconds", metavar="S", type=arguments.seconds, default=math.inf, help="for how long (until Ctrl-C)"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=arguments.file, help="where to write it (default: standard output)"
    )
    _add_token_file(parser)


def _add_url(parser: _Parser) -> None:
    parser.add_argument("url", metavar="URL", help="where the server is, as http://127.0.0.1:8000")


def _add_token_file(parser: _Parser) -> None:
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=arguments.file,
        help="what serve has as --admin-token-file; not needed where it has --dashboard",
    )
