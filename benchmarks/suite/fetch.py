"""What a contestant needs that is no Python package: found on this machine, or fetched into ``.peers``.

Nothing here fails: what cannot be had is named, with the reason, and that peer is absent.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import attrs

from benchmarks.suite.processes import ROOT

__all__ = ["PEERS", "Found", "apt", "bun", "node", "node_package", "program", "python_package", "wheel"]

PEERS: Final = ROOT / "benchmarks" / "peers"
"""The peers' programs, and what they need of npm."""
_FETCHED: Final = ROOT / "benchmarks" / ".peers"
_PACKAGES: Final = _FETCHED / "node"
"""Where npm's packages are, and a copy of the programs that import them."""
_ERROR: Final = re.compile(r"(npm )?error\b|E: ", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"\w+://\S+")
_LIMIT: Final = 600
"""Seconds that a package manager may take."""


@attrs.frozen
class Found:
    """Something that was looked for."""

    path: Path = Path()
    """Where it is: a program, or a folder."""
    version: str = ""
    absent: str = ""
    """Why it is not there; empty where it is."""


def python_package(name: str, module: str) -> Found:
    """A Python package of the environment that this runs in, of a release that has this module."""
    try:
        found = Found(version=version(name))
    except PackageNotFoundError:
        return Found(absent=f"the Python package {name} is not installed")
    try:
        there = importlib.util.find_spec(module) is not None
    except ImportError:
        there = False
    return found if there else Found(absent=f"{name} {found.version} has no {module}")


@functools.cache
def wheel(requirement: str) -> Found:
    """A Python package that the environment must not have, in a folder of its own: ``NAME==VERSION``."""
    name, _, release = requirement.partition("==")
    folder = _FETCHED / f"{name}-{release}"
    if folder.exists():
        return Found(folder, release)
    # Under another name until it is whole.
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target")
    try:
        _run([sys.executable, *install, str(unfinished), requirement])
    except (OSError, subprocess.SubprocessError) as error:
        return Found(absent=f"pip could not fetch {requirement}: {_reason(error)}")
    unfinished.rename(folder)
    return Found(folder, release)


@functools.cache
def apt(name: str, package: str) -> Found:
    """A program: the one on the PATH, else from a Debian package, where this user may install one."""
    path = shutil.which(name)
    if path is None:
        why = _apt_install(package)
        path = shutil.which(name)
        if path is None:
            return Found(absent=why or f"{name} is not in Debian's package {package}")
    return program(Path(path))


def program(path: Path) -> Found:
    """A program that runs here, and what version of itself it prints."""
    try:
        told = _run([str(path), "--version"], limit=30)
    except (OSError, subprocess.SubprocessError) as error:
        return Found(absent=f"{path.name} does not run here: {_reason(error)}")
    return Found(path, told.removeprefix("v").splitlines()[0] if told else "")


@functools.cache
def node() -> Found:
    """Node itself."""
    return apt("node", "nodejs")


@functools.cache
def node_package(name: str) -> Found:
    """A package of npm that ``peers/package.json`` names; its path is the folder with the peers' programs."""
    fetched = _npm()
    if fetched.absent:
        return fetched
    package = fetched.path / "node_modules" / name / "package.json"
    return Found(fetched.path, json.loads(package.read_text(encoding="utf-8"))["version"])


@functools.cache
def bun() -> Found:
    """Bun: the one that npm has for this machine; its path is the program."""
    fetched = _npm()
    if fetched.absent:
        return fetched
    candidates = sorted((fetched.path / "node_modules" / "@oven").glob("bun-*/bin/bun"))
    for candidate in candidates:
        found = program(candidate)
        if not found.absent:
            return found
    return Found(absent=f"npm has no Bun that runs on {platform.system()} {platform.machine()}")


@functools.cache
def _npm() -> Found:
    """All that ``peers/package-lock.json`` names, in a folder beside a copy of the programs."""
    if node().absent:
        return node()
    npm = apt("npm", "npm")
    if npm.absent:
        return npm
    _PACKAGES.mkdir(parents=True, exist_ok=True)
    for file in (*PEERS.glob("*.mjs"), PEERS / "package.json"):
        copy = _PACKAGES / file.name
        # Left alone where it is the same: another run may be starting it.
        if not copy.exists() or copy.read_bytes() != file.read_bytes():
            shutil.copyfile(file, copy)
    lock = (PEERS / "package-lock.json").read_bytes()
    # Written when npm is done, so that it says which packages are here.
    done = _PACKAGES / "fetched"
    if not (done.exists() and done.read_bytes() == lock):
        done.unlink(missing_ok=True)
        (_PACKAGES / "package-lock.json").write_bytes(lock)
        try:
            # No scripts: nothing that is fetched runs before it is measured, and none of it needs one.
            _run(
                [str(npm.path), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-timeout=60000"],
                folder=_PACKAGES,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return Found(absent=f"npm could not fetch it: {_reason(error)}")
        done.write_bytes(lock)
    return Found(_PACKAGES)


def _apt_install(package: str) -> str:
    """Install a package of Debian's; returns why not."""
    if shutil.which("apt-get") is None:
        return f"{package} is not installed, and there is no apt-get"
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if sudo and shutil.which("sudo") is None:
        return f"{package} is not installed, and only root may install it"
    try:
        install = [*sudo, "apt-get", "install", "--yes", "--no-install-recommends", package]
        try:
            _run(install)
        except subprocess.CalledProcessError:
            # Perhaps nobody has asked for the list of packages yet.
            _run([*sudo, "apt-get", "update"])
            _run(install)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{package} is not installed, and apt-get could not: {_reason(error)}"
    return ""


def _run(command: Sequence[str], *, folder: Path = ROOT, limit: float = _LIMIT) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        encoding="utf-8",
        errors="replace",
        timeout=limit,
    ).stdout.strip()


def _reason(error: Exception) -> str:
    """What a program complained about, in one line, or the error itself."""
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    lines = [line.strip() for line in (error.stderr or error.stdout or "").splitlines() if line.strip()]
    # Of many lines, the first that is a sentence: npm and pip say more after it, about something else.
    told = [line for line in lines if _ERROR.match(line) and len(line.split()) > 5]
    # Which mirror somebody uses, with which password, is not for a table.
    return _ADDRESS.sub("(address)", [*told, *lines[-1:], f"status {error.returncode}"][0])
