"""Where something was measured."""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = (
    "trio-rooms",
    "trio",
    "trio-websocket",
    "wsproto",
    "h11",
    "cbor2",
    "attrs",
    "cattrs",
    "websockets",
    "picows",
    "aiohttp",
    "socketify",
    "uvloop",
)
"""What is told with its version, where it is installed."""


def environment() -> dict[str, Any]:
    """The machine, the system, and the versions of what takes part."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _commit(),
        "versions": {**_versions(), "SQLite": sqlite3.sqlite_version},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the working tree, with a plus sign if files differ from it; None outside a repository."""
    try:
        return (
            subprocess.run(
                ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
                check=True,
                capture_output=True,
                text=True,
                timeout=10,
                cwd=Path(__file__).parent,
            ).stdout.strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        return None
