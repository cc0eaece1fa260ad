"""The dashboard in a real browser, and `trio-rooms top` in a real terminal: they show what /stats tells."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import websocket
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.conftest import TIMEOUT, Served

pytestmark = pytest.mark.browser

NASTY = "<img src=x onerror=\"document.title='broken into'\"><b>bold</b>"
ROOMS = """
from trio_rooms import Room

async def hello(ctx, text):
    pass

rooms = [Room("hall", idle_timeout=3600, connection_idle_timeout=3600), Room("nap", idle_timeout=0.05)]
for one in rooms:
    one.on("hello")(hello)
"""
MOVING = ("hibernation.bytes.", "hibernation.wake_latency_seconds")
"""What is another thing each time that it is asked, or that only some know."""
LATENCIES = (
    "wake_latency_seconds",
    "state_restoration_seconds",
    "hibernation_latency_seconds",
    "hibernation_duration_seconds",
    "delivery_delay_seconds.active",
    "delivery_delay_seconds.hibernated",
    "loop_lag_seconds",
)
HELLO = '{"event": "hello", "data": "you", "id": 1}'


def at(told: Any, path: str) -> Any:
    """What a path leads to in what was told."""
    for name in path.split("."):
        told = told.get(name) if isinstance(told, Mapping) else None
    return told


def is_same(shown: str, told: Any) -> bool:
    """Whether a value in the page is what was told; whole numbers have no point there."""
    return shown == (told or "") if told is None or isinstance(told, str) else float(shown or "nan") == told


class Dashboard:
    """The page in a browser."""

    def __init__(self, driver: webdriver.Chrome, served: Served) -> None:
        self.driver = driver
        self.served = served
        driver.get(f"http://127.0.0.1:{served.port}/dashboard")

    def until(self, what: str, true: Callable[[], bool]) -> None:
        """Wait until something is so."""
        WebDriverWait(self.driver, TIMEOUT, 0.1).until(lambda _: true(), what)

    def text(self, selector: str) -> str:
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def figures(self) -> dict[str, str]:
        """What stands on the page that is one number of the statistics, by its path there."""
        shown: dict[str, str] = self.driver.execute_script(
            "return Object.fromEntries([...document.querySelectorAll('[data-path]')].map("
            "(one) => [one.dataset.path, one.value]));"
        )
        return shown

    def table(self, selector: str) -> list[list[str]]:
        """The texts of a table's rows."""
        rows: list[list[str]] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map("
            "(row) => [...row.children].map((cell) => cell.textContent));",
            selector,
        )
        return rows

    def is_told(self) -> bool:
        """Whether all figures are those that the server tells."""
        told, shown = json.loads(self.served.get("/stats")), self.figures()
        counts = [str(at(told, f"hibernation.{one}.count")) for one in LATENCIES]
        return [row[1] for row in self.table("#latencies tbody tr")] == counts and not any(
            not is_same(value, at(told, path)) for path, value in shown.items() if not path.startswith(MOVING)
        )


class Terminal:
    """A terminal in which commands run, one after the other."""

    def __init__(self, tmux: str, folder: Path, command: str) -> None:
        self._tmux = [tmux, "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self.call("new-session", "-d", "-x", "110", "-y", "40", f"{command}; cat")

    def call(self, *arguments: str) -> str:
        """Ask tmux for something."""
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def shown(self) -> str:
        """What stands in it."""
        return self.call("capture-pane", "-p")

    def until(self, true: Callable[[str], bool]) -> str:
        """Wait until it looks so, and return how it looks then."""
        deadline = time.monotonic() + TIMEOUT
        while not true(shown := self.shown()):
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
        return shown


@pytest.fixture
def terminal(require: Callable[..., str], tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    """``terminal("top")`` runs a command in a terminal, which ends with the test."""
    opened: list[Terminal] = []

    def terminal(command: str) -> Terminal:
        opened.append(Terminal(require("tmux"), tmp_path, command))
        return opened[-1]

    yield terminal
    for one in opened:
        one.call("kill-server")


@pytest.mark.timeout(120)  # It waits for six programs to start.
def test_both_show_what_the_server_tells(
    serve: Callable[..., Served],
    browser: webdriver.Chrome,
    terminal: Callable[[str], Terminal],
    tmp_path: Path,
) -> None:
    """All figures, causes and rooms; a stranger's name for a room is text; and they outlive the server."""
    module = tmp_path / "rooms.py"
    module.write_text(ROOMS)
    served = serve(f"{module}:rooms", "--dashboard")
    top = f"{sys.executable} -m trio_rooms top http://127.0.0.1:{served.port}"
    tell = "echo ended with $?; stty -a | grep -o -e '-*icanon' -e '-*echo '"
    screen = terminal(f"{top}; {tell}; read line; {top}; {tell}")
    with ExitStack() as stack:
        clients: list[Any] = [
            stack.enter_context(closing(websocket.create_connection(f"{served.url}/{path}", timeout=TIMEOUT)))
            for path in (f"hall/{quote(NASTY, safe='')}", "nap/a", "nap/a", "nap/b")
        ]
        for client in clients[:2]:
            client.send(HELLO)
            client.recv()
        served.wait_until("nap/a", "asleep")
        page = Dashboard(browser, served)
        assert_page(page)
        seen = screen.until(lambda seen: " live " in seen and "3 asleep" not in seen and "2 asleep" in seen)
        for part in ("75%", "1 active", "onerror=", "<b>bold</b"):
            assert part in seen, seen
        screen.call("resize-window", "-x", "60", "-y", "15")
        seen = screen.until(lambda seen: " live " in seen and max(map(len, seen.splitlines())) <= 60)
        assert "75%" in seen
        screen.call("resize-window", "-x", "110", "-y", "40")
    served.stop()
    page.until(
        "it does not say that the server is gone", lambda: page.text("#status").startswith("no answer")
    )
    screen.until(lambda seen: " no answer for " in seen)
    served = page.served = serve(f"{module}:rooms", "--dashboard", "--port", str(served.port))
    page.until("it does not see that the server is back", lambda: page.text("#status") == "live")
    page.until("the figures were never those of the new server", page.is_told)
    assert page.table("#wakes li") == [["none yet", "", ""]]
    screen.until(lambda seen: " live " in seen and "0 active" in seen)
    screen.call("send-keys", "q")
    screen.until(lambda seen: "ended with 0" in seen)
    screen.call("send-keys", "Enter")
    screen.until(lambda seen: " live " in seen)
    screen.call("send-keys", "C-c")
    # The terminal is as it was before, both times.
    told = ["ended", "with", "0", "icanon", "echo", "ended", "with", "130", "icanon", "echo"]
    screen.until(lambda seen: seen.replace("^C", "").split() == told)


def assert_page(page: Dashboard) -> None:
    """The page shows what is told, and a room's name is only shown."""
    page.until("the figures were never those of the server", page.is_told)
    browser = page.driver
    assert page.text("#status") == "live"
    tiles = [tile.text.split("\n") for tile in browser.find_elements(By.CSS_SELECTOR, ".tiles li")]
    assert tiles[0] == ["Connections", "4", "3 hibernated, 1 active"]
    assert tiles[1] == ["Hibernated", "75%", "of all connections; wanted: any"]
    assert tiles[2] == ["Rooms awake", "1", "2 asleep"]
    assert page.table("#wakes li") == [["message", "2", ""]]
    assert page.table("#sleeps li") == [["idle", "1", ""]]
    ((key, connections, active, *_),) = page.table("#costliest tbody tr")
    assert (key, connections, active) == (f"hall/{NASTY}", "1", "1")
    assert browser.title == f"trio-rooms 127.0.0.1:{page.served.port}"
    assert page.table("img") == page.table("td b") == []
    drawn = browser.find_elements(By.CSS_SELECTOR, "#chart-connections path")
    assert all(one.get_attribute("d") for one in drawn)
    dark, light = (ground(browser, scheme) for scheme in ("dark", "light"))
    assert sum(dark) < 150
    assert sum(light) > 600
    assert complaints(browser) == []


def ground(browser: webdriver.Chrome, scheme: str) -> list[int]:
    """The colour behind everything, for whoever likes it dark or light."""
    wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    colour: str = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def complaints(browser: Any) -> list[str]:
    """What the browser complains of, such as what the page's policy forbids."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
