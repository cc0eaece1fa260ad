"""What the project promises about itself: its metadata, its changelog."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import trio_rooms

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_in_one_place(settings: dict[str, Any]) -> None:
    """The metadata take it from the package, which says it in so many words."""
    assert settings["project"]["dynamic"] == ["version"]
    source = ROOT / settings["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'^__version__ = "(.*)"$', source.read_text(encoding="utf-8"), re.MULTILINE) == [
        trio_rooms.__version__
    ]


def test_the_javascript_client_is_of_this_version() -> None:
    """Its package says the same, and names files that there are."""
    folder = ROOT / "src" / "trio_rooms" / "js"
    package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == trio_rooms.__version__
    named = {package["main"], package["types"], *package["files"]}
    named |= {target.removeprefix("./") for target in package["exports"]["."].values()}
    assert {file.name for file in folder.iterdir()} == {*named, "package.json", "README.md"}


def test_what_users_install_has_a_lower_bound(settings: dict[str, Any]) -> None:
    """Where there is none, the lowest version would be the first that there ever was."""
    project = settings["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["fast"], *extras["prometheus"], *extras["testing"]]:
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", requirement), requirement


def test_each_python_that_is_promised_is_tried(settings: dict[str, Any]) -> None:
    """The classifiers name the Pythons that the workflow runs on, beginning with the oldest allowed."""
    promised = [
        version
        for classifier in settings["project"]["classifiers"]
        if (version := classifier.rpartition(" :: ")[2]).startswith("3.")
    ]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    matrix = re.search(r"python: \[(.*)\]", workflow)
    assert matrix is not None
    assert re.findall(r'"(.*?)"', matrix[1]) == promised
    assert settings["project"]["requires-python"] == f">={promised[0]}"


def test_fragments_of_the_changelog_say_something(settings: dict[str, Any]) -> None:
    """Each is of a known kind and not empty."""
    tool = settings["tool"]["towncrier"]
    kinds = "|".join(kind["directory"] for kind in tool["type"])
    for path in (ROOT / tool["directory"]).iterdir():
        if path.name not in tool["ignore"]:
            assert re.fullmatch(rf"[a-z0-9-]+\.({kinds})\.md", path.name), path.name
            assert path.read_text(encoding="utf-8").strip(), path.name
