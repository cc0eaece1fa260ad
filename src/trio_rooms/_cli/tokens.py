"""Reading the token that other processes show to a server: a secret in a file of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from trio_rooms._server.admin import check_token

from .failures import CommandFailed, UsageError

__all__ = ["read_token"]

_LONGEST: Final = 4096
"""Bytes of a file that could be one with a token; a head of a request has to have room for it."""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_token(file: Path | None) -> str | None:
    """The token in a file, without the white space around it; None where no file was given.

    The text of no error has anything of it.

    Raises:
        UsageError: others may read or change the file, or what is in it can be no token.
        CommandFailed: it cannot be read.
    """
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            # Of what is open, not of its name, which can be another file's a moment later.
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(_LONGEST + 1)
    except OSError as error:
        msg = f"the token cannot be read: {file}: {error.strerror}"
        raise CommandFailed(msg) from error
    if mode & _OTHERS:
        msg = (
            f"{file} is open to others (its mode is {stat.filemode(mode)}), and with the token one can send "
            f"to everybody: chmod 600 {file}"
        )
        raise UsageError(msg)
    if len(content) > _LONGEST:
        raise UsageError(f"{file} has more than {_LONGEST} bytes: it is not a token")
    try:
        # Whatever is no ASCII becomes what no token has.
        return check_token(f"what is in {file}", content.decode("ascii", "replace").strip())
    except ValueError as error:
        raise UsageError(str(error)) from None
