"""Make the project's virtual environment, ``.venv``, and install the project into it.

``environment.py [EXTRA ...]`` is run by ``environment.sh``, with any Python 3.11 or later. It may be run
twice at once, and it may be killed at any moment: the next run puts right what it finds.

* A lock on ``.venv.lock`` admits one run at a time. pip inherits it, so a pip that outlives its parent still
  keeps others out.
* One stamp for each extra, written when pip has succeeded, says which ``pyproject.toml`` is installed, where
  from and for which Python. A stamp that says otherwise is as good as none.
* A mark that is there while pip runs tells the next run that pip was cut short: packages may then be half
  there, and pip would believe their metadata.

The extra ``lint`` has uv in it, and then that installs the rest: what judges a change takes it ten seconds,
and pip forty. Where it cannot, as it knows nothing of pip's configuration, pip does it all the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / ".trio_rooms"
UNFINISHED = STAMPS / "unfinished"


def main(extras: list[str]) -> None:
    """Return when the project is installed with these extras, or exit with the reason why it cannot be."""
    # Without an extra, any stamp will do: each of them stands for the project itself too.
    if installed(extras):
        return
    lock = os.open(ROOT / ".venv.lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another script that is installing")
        fcntl.flock(lock, fcntl.LOCK_EX)
    if installed(extras):
        return
    make(lock)
    install(extras, lock)


def installed(extras: list[str]) -> bool:
    """Whether a stamp of each of these extras fits the project as it is now."""
    wanted = fingerprint()
    stamped = {stamp.name for stamp in STAMPS.glob("*.stamp") if stamp.read_text() == wanted}
    return {f"{extra}.stamp" for extra in extras or ["project"]} <= stamped


def fingerprint() -> str:
    """What an installation depends on: the metadata, the folder and the version of Python."""
    things = [(ROOT / "pyproject.toml").read_bytes(), os.fsencode(ROOT), repr(version()).encode()]
    return hashlib.sha256(b"\0".join(things)).hexdigest()


def version() -> tuple[int, ...] | None:
    """The version of the environment's Python; None if there is none that runs."""
    try:
        answer = subprocess.run(
            [PYTHON, "-c", "import sys; print(*sys.version_info[:2])"],
            check=True,
            capture_output=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(map(int, answer.stdout.split()))


def make(lock: int) -> None:
    """Make the environment if there is none, mend it if it is broken, and leave it alone if it is good."""
    found = version()
    if found is not None and found < (3, 11):
        sys.exit(f"{VENV} has a Python older than 3.11. Remove it and try again.")
    if found is not None and pip(["--version"], lock, quiet=True):
        return
    if found is not None:
        # Made by a tool that leaves pip out, or cut short before pip was there.
        run([PYTHON, "-m", "ensurepip", "--upgrade"], lock, quiet=True)
        if pip(["--version"], lock, quiet=True):
            return
    say(f"making {VENV} with Python {sys.version_info[0]}.{sys.version_info[1]}")
    if not run([sys.executable, "-m", "venv", "--clear", VENV], lock):
        sys.exit(f"could not make {VENV}")


def install(extras: list[str], lock: int) -> None:
    """Install the project, editable, with these extras, and stamp it."""
    say("installing into .venv (once, and again when pyproject.toml changes)")
    STAMPS.mkdir(exist_ok=True)
    cut_short = UNFINISHED.exists()
    UNFINISHED.touch()
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    arguments = ["install", "-qq", "--disable-pip-version-check", "--no-input"]
    if cut_short:
        arguments.append("--ignore-installed")
    quickly = "lint" in extras and pip([*arguments, uv_requirement()], lock) and uv(target, lock, cut_short)
    if not quickly and not pip([*arguments, "--editable", target], lock):
        sys.exit("could not install the project; what pip said is above")
    wanted = fingerprint()
    for name in ["project", *extras]:
        (STAMPS / f"{name}.stamp").write_text(wanted)
    UNFINISHED.unlink()


def uv_requirement() -> str:
    """Which uv it is that the extra ``lint`` has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra: list[str] = project["optional-dependencies"]["lint"]
    return next(requirement for requirement in extra if requirement.startswith("uv=="))


def uv(target: str, lock: int, cut_short: bool) -> bool:
    """Have uv install the project, compiled as pip leaves it; return whether it succeeded."""
    arguments: list[str | Path] = ["pip", "install", "--quiet", "--python", PYTHON, "--compile-bytecode"]
    if cut_short:
        arguments.append("--reinstall")
    return run([PYTHON.with_name("uv"), *arguments, "--editable", target], lock)


def pip(arguments: list[str], lock: int, *, quiet: bool = False) -> bool:
    """Run the environment's pip; return whether it succeeded."""
    return run([PYTHON, "-m", "pip", *arguments], lock, quiet=quiet)


def run(command: list[str | Path], lock: int, *, quiet: bool = False) -> bool:
    """Run a command that holds the lock as long as it lives; return whether it succeeded."""
    output = subprocess.DEVNULL if quiet else None
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock]
        )
    except OSError:
        return False
    return done.returncode == 0


def say(what: str) -> None:
    """Tell the person who waits."""
    print(f"trio_rooms: {what}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
