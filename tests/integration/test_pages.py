"""The JavaScript client in a page that is left, loaded again, kept, copied and frozen, in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.integration.conftest import TIMEOUT, Served, chromium

pytestmark = pytest.mark.browser

Serve = Callable[..., Served]
ROOMS = "tests/js/rooms.py:rooms"


class Page:
    """What is shown in the browser's window: programs run in it."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self.address = address
        driver.set_script_timeout(TIMEOUT)
        self.load()

    def load(self) -> None:
        """Load it, once more where it is there."""
        self.driver.get(self.address)

    def run(self, program: str, *arguments: Any) -> Any:
        """What an async function with this body returns; raises what it throws."""
        told = self.driver.execute_async_script(
            "const [body, given, done] = arguments;"
            "const made = new (Object.getPrototypeOf(async () => 0).constructor)('...given', body);"
            "made(...given).then((value) => done({ value }), (error) => done({ error: String(error) }));",
            program,
            arguments,
        )
        assert "error" not in told, told
        return told.get("value")

    def enter(self, path: str, options: str = "{}") -> str:
        """Connect to a room, as ``room``; ``seen`` is what comes. Returns the session's id."""
        told: str = self.run(
            f"""
            window.seen = [];
            window.room = connectRoom({path!r}, {options});
            room.on("sum", ([count]) => seen.push(count));
            room.on("rooms.reset", ({{ reason }}) => seen.push(reason));
            await room.ask("get");
            return room.session;
            """
        )
        return told

    def add(self, path: str) -> None:
        """Add 1 to a room, in a session that ends with that."""
        self.run(
            """
            const other = connectRoom(given[0]);
            await other.ask("add", 1);
            other.close();
            """,
            path,
        )

    def seen(self, count: int) -> list[Any]:
        """What came, once it is so much."""
        told: list[Any] = self.run(
            "while (seen.length < given[0]) await new Promise((go) => setTimeout(go, 10)); return seen;",
            count,
        )
        return told

    def log(self, path: str) -> list[str]:
        """What became of the sessions of a room, as it is told to one more."""
        told: list[str] = self.run(
            """
            const other = connectRoom(given[0]);
            const told = await other.ask("log");
            other.close();
            return told;
            """,
            path,
        )
        return told


@pytest.fixture(scope="module")
def page(
    serve_all: Serve, require: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """A page with the client in it; each test has a room of its own."""
    served = serve_all(ROOMS, "--idle-timeout", "1")
    with chromium(require, tmp_path_factory.mktemp("browser")) as driver:
        yield Page(driver, f"http://127.0.0.1:{served.port}/")


def test_a_page_that_is_refused_says_why(page: Page) -> None:
    """It has a status and a reason, and tries no more."""
    told = """
        const room = connectRoom(given[0], { token: given[1] });
        const error = await room.ask("get").catch((error) => error);
        return [error.code, error.status, error.message, room.state];
    """
    assert page.run(told, "/tally/x", "bad") == ["refused", 401, "refused with 401: who are you?", "closed"]
    assert page.run(told, "/nobody/x", "good")[:2] == ["refused", 404]
    assert page.run(told, "/plain/x", "good")[:2] == ["refused", 400]


def test_a_page_is_left_and_comes_back(page: Page) -> None:
    """Loaded again it is a new session, unless it asked to resume; kept for the back button it goes on."""
    browser = page.driver
    first = page.enter("/tally/left")
    page.load()
    assert page.log("/tally/left")[:2] == ["connect", "disconnect"]  # It ended with its page.
    kept = page.enter("/tally/left", "{ resume: true }")
    assert kept != first
    page.add("/tally/left")
    assert page.seen(1) == [1]
    browser.get(page.address + "healthz")  # While it is not in the room, something happens there.
    page.load()
    page.add("/tally/left")
    assert page.enter("/tally/left", "{ resume: true }") == kept
    assert page.seen(1) == [2]

    # A copy of the tab has a copy of its storage.
    here = browser.current_window_handle
    browser.execute_script("window.open('/', '_blank', '');")
    (other,) = set(browser.window_handles) - {here}
    browser.switch_to.window(other)
    assert page.enter("/tally/left", "{ resume: true }") != kept
    browser.close()
    browser.switch_to.window(here)
    assert page.run("return [room.state, room.session];") == ["open", kept]

    # Kept as it is while another page is shown.
    browser.get(page.address + "healthz")
    browser.back()
    assert page.run("await room.ask('add', 1); return [room.session, seen];") == [kept, [2, 3]]
    page.run("room.close();")


def test_a_page_that_is_frozen_goes_on(page: Page) -> None:
    """What came meanwhile is there when it is thawed."""
    page.load()
    page.enter("/tally/frozen", "{ resume: true }")
    page.run("window.other = connectRoom('/tally/frozen'); await other.ask('get');")
    page.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "frozen"})
    page.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "active"})
    page.run("await other.ask('add', 1);")
    assert page.seen(1) == [1]


def test_a_page_outlives_the_server(page: Page, serve: Serve, tmp_path: Path) -> None:
    """What is asked while the server is gone goes out when it is back."""
    served = serve(ROOMS, "--data", tmp_path / "data")
    page.driver.get(f"http://127.0.0.1:{served.port}/")
    session = page.enter("/tally/outlives", "{ backoff: { first: 50, longest: 200 } }")
    page.run("await room.ask('add', 1);")
    served.process.kill()
    served.process.wait()
    page.run(
        "while (room.state !== 'reconnecting') await new Promise((go) => setTimeout(go, 10));"
        "window.answer = room.ask('add', 1);"
    )
    serve(ROOMS, "--data", tmp_path / "data", "--port", str(served.port))
    assert page.run("return [await answer, room.session, seen];") == [2, session, [1, 2]]
