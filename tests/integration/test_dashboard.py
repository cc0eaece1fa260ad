"""The dashboard in a real browser: what it shows is what /stats tells, and nothing else happens in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
HELLO = '{"event": "hello", "data": "you", "id": 1}'


def at(told: Any, path: str) -> Any:
    """What a path leads to in what was told."""
    for name in path.split("."):
        told = told.get(name) if isinstance(told, Mapping) else None
    return told


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
        wrong = {
            path: (value, at(told, path))
            for path, value in shown.items()
            if not path.startswith(MOVING)
            and (value != "" if at(told, path) is None else float(value or "nan") != at(told, path))
        }
        return not wrong


def test_it_shows_what_the_server_tells(
    serve: Callable[..., Served], browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """All figures, causes and rooms; a stranger's name for a room is text; and it outlives the server."""
    module = tmp_path / "rooms.py"
    module.write_text(ROOMS)
    served = serve(f"{module}:rooms", "--dashboard")
    clients: list[Any] = [
        websocket.create_connection(f"{served.url}/{path}", timeout=TIMEOUT)
        for path in (f"hall/{quote(NASTY, safe='')}", "nap/a", "nap/a", "nap/b")
    ]
    for client in clients[:2]:
        client.send(HELLO)
        client.recv()
    served.wait_until("nap/a", "asleep")
    page = Dashboard(browser, served)
    page.until("the figures were never those of the server", page.is_told)
    assert page.text("#status") == "live"
    told = json.loads(served.get("/stats"))
    life = told["hibernation"]
    assert life["connections"] == {"active": 1, "hibernated": 3, "total": 4}
    tiles = [tile.text.split("\n") for tile in browser.find_elements(By.CSS_SELECTOR, ".tiles li")]
    assert tiles[0] == ["Connections", "4", "3 hibernated, 1 active"]
    assert tiles[1] == ["Hibernated", "75%", "of all connections; wanted: any"]
    assert tiles[2] == ["Rooms awake", "1", "2 asleep"]
    assert page.table("#wakes li") == [["message", "2", ""]]
    assert [row[1] for row in page.table("#latencies tbody tr")] == [
        str(at(life, f"{one}.count"))
        for one in (
            "wake_latency_seconds",
            "state_restoration_seconds",
            "hibernation_latency_seconds",
            "hibernation_duration_seconds",
            "delivery_delay_seconds.active",
            "delivery_delay_seconds.hibernated",
            "loop_lag_seconds",
        )
    ]
    ((key, connections, active, *_),) = page.table("#costliest tbody tr")
    assert (key, connections, active) == (f"hall/{NASTY}", "1", "1")
    assert browser.title == f"trio-rooms 127.0.0.1:{served.port}"
    assert page.table("img") == page.table("td b") == []
    drawn = [
        one.get_attribute("d") for one in browser.find_elements(By.CSS_SELECTOR, "#chart-connections path")
    ]
    assert all(drawn)
    dark, light = (ground(browser, scheme) for scheme in ("dark", "light"))
    assert sum(dark) < 150
    assert sum(light) > 600
    assert complaints(browser) == []

    served.stop()
    page.until(
        "it does not say that the server is gone", lambda: page.text("#status").startswith("no answer")
    )
    served = page.served = serve(f"{module}:rooms", "--dashboard", "--port", str(served.port))
    page.until("it does not see that the server is back", lambda: page.text("#status") == "live")
    page.until("the figures were never those of the new server", page.is_told)
    assert page.table("#wakes li") == [["none yet", "", ""]]
    for client in clients:
        client.shutdown()


def ground(browser: webdriver.Chrome, scheme: str) -> list[int]:
    """The colour behind everything, for whoever likes it dark or light."""
    wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    colour: str = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def complaints(browser: Any) -> list[str]:
    """What the browser complains of, such as what the page's policy forbids."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
