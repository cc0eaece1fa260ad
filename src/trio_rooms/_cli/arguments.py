"""What the text of an argument stands for, each for argparse: ArgumentTypeError where it is nothing."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Final

from trio_rooms import _arguments

__all__ = [
    "count",
    "file",
    "folder",
    "host",
    "kept",
    "lease",
    "memory",
    "node",
    "number",
    "port",
    "ratio",
    "seconds",
]


def host(text: str) -> str:
    """An address to listen on."""
    if not text:
        msg = "it is empty; for all addresses of this machine give 0.0.0.0 (or :: for IPv6)"
        raise argparse.ArgumentTypeError(msg)
    return text


def folder(text: str) -> Path:
    """A folder."""
    if not text:
        msg = "it is empty; for the current folder give ."
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def kept(text: str) -> Path | str:
    """Where rooms are kept: a folder, or the URL of an engine."""
    return text if "://" in text else folder(text)


def file(text: str) -> Path:
    """A file."""
    if not text:
        msg = "it is empty; give the path of a file"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def port(text: str) -> int:
    """A port, or 0 for a free one."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > 65535:
        msg = f"a port is a whole number from 0 (any free one) to 65535, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def seconds(text: str) -> float:
    """Seconds from 0 on, or infinity."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        msg = f"it takes a number of seconds from 0 on, such as 0.5, or inf for never, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def lease(text: str) -> float:
    """Seconds of a lease."""
    lease = seconds(text)
    try:
        return _arguments.lease(lease)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def node(text: str) -> str:
    """The name of a node."""
    try:
        return _arguments.node(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def ratio(text: str) -> float:
    """A share from 0 to 1."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 <= ratio <= 1:
        msg = f"it takes a share from 0 (for any) to 1, such as 0.8, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return ratio


_LEAST_MEMORY: Final = 1_000_000
"""Bytes that no process gets by with: who says less has left out a unit, or a %."""
_UNITS: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}


def memory(text: str) -> float:
    """Bytes, as an int; or a share, as a float."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(%|(?:[kmg]i?)?b?)", text, re.IGNORECASE)
    number = float(match[1]) if match else 0.0
    if match and match[2] == "%" and 0 < number <= 100:
        return number / 100
    if match and match[2] != "%" and (size := _bytes(number, match[2])) >= _LEAST_MEMORY:
        return size
    msg = f"it takes bytes, such as 140MB, or a share of the memory, such as 80%, not {text!r}"
    raise argparse.ArgumentTypeError(msg)


def _bytes(number: float, unit: str) -> int:
    return int(number * _UNITS[unit.upper().rstrip("B")])


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < 1:
        msg = f"it takes a whole number from 1 on, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def number(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch("[0-9]{1,18}", text):
        msg = f"it takes a whole number from 0 on, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)
