"""The pages of the examples in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.conftest import TIMEOUT, Served

pytestmark = pytest.mark.browser

Serve = Callable[..., Served]
NASTY = "<img src=x onerror=\"document.title='broken into'\"><b>bold</b>"


class Window:
    """One window with the page in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._handle = driver.current_window_handle

    def show(self) -> webdriver.Chrome:
        """The browser, with this window in front."""
        if self._driver.current_window_handle != self._handle:
            self._driver.switch_to.window(self._handle)
        return self._driver

    def close(self) -> None:
        """Close it, and have another in front."""
        self.show().close()
        self._driver.switch_to.window(self._driver.window_handles[0])

    def find(self, selector: str) -> WebElement:
        return self.show().find_element(By.CSS_SELECTOR, selector)

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until an element has a text in it."""
        driver = self.show()
        WebDriverWait(driver, TIMEOUT, 0.05, ignored_exceptions=()).until(
            lambda _: text in (self.find(selector).text), f"{selector} never said {text!r}"
        )

    def enter(self, name: str) -> None:
        self.find("#name").send_keys(name, Keys.ENTER)
        self.wait_for("#connection", "connected")

    def say(self, text: str) -> None:
        self.find("#text").send_keys(text, Keys.ENTER)
        self.wait_for("#lines", text)

    def lines(self) -> list[str]:
        return [item.text for item in self.show().find_elements(By.CSS_SELECTOR, "#lines .text")]


def two_windows(driver: webdriver.Chrome, address: str) -> tuple[Window, Window]:
    """Ada and Bob, each in a window of their own."""
    driver.get(address)
    ada = Window(driver)
    ada.enter("Ada")
    driver.switch_to.new_window("window")
    driver.get(address)
    bob = Window(driver)
    bob.enter("Bob")
    return ada, bob


def assert_no_complaints(browser: Any) -> None:
    """A lost connection is all that the browser may complain about."""
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [one for one in complaints if "ERR_CONNECTION_REFUSED" not in one] == []


def test_chat(serve: Serve, browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Messages cross; the room sleeps and wakes; history is there after a reload and after a restart."""
    data = tmp_path / "data"
    served = serve("examples/chat.py", "--data", data, "--idle-timeout", "1")
    ada, bob = two_windows(browser, f"http://127.0.0.1:{served.port}/")

    ada.say("Is anybody here?")
    bob.wait_for("#lines", "Is anybody here?")
    bob.say("I am.")
    ada.wait_for("#lines", "I am.")

    ada.wait_for("#stage", "asleep, 2 connections")
    served.wait_until("chat/lobby", "asleep")
    ada.say("And awake?")
    bob.wait_for("#lines", "And awake?")
    bob.say(NASTY)
    ada.wait_for("#lines", "onerror")
    said = ["Is anybody here?", "I am.", "And awake?", NASTY]
    assert ada.lines() == said

    ada.show().refresh()
    ada.wait_for("#connection", "connected")
    ada.wait_for("#lines", "And awake?")
    assert ada.lines() == said
    assert "broken into" not in ada.show().title
    assert not ada.show().find_elements(By.CSS_SELECTOR, "#lines img, #lines b")

    assert served.stop() == 0
    ada.wait_for("#connection", "lost")
    served = serve("examples/chat.py", "--data", data, "--idle-timeout", "1", "--port", str(served.port))
    for window in (ada, bob):
        window.wait_for("#connection", "connected")
        window.wait_for("#lines", "And awake?")
        assert window.lines() == said
    bob.say("Back again.")
    ada.wait_for("#lines", "Back again.")
    assert_no_complaints(browser)


def test_other_room(serve: Serve, browser: webdriver.Chrome) -> None:
    """What is behind the # names the room; changing it changes the room."""
    served = serve("examples/chat.py")
    ada, bob = two_windows(browser, f"http://127.0.0.1:{served.port}/#gr%C3%BCn%2F1")
    assert bob.find("#room").text == "grün/1"
    bob.say("Here it is green.")
    ada.wait_for("#lines", "Here it is green.")
    ada.show().execute_script("location.hash = 'elsewhere'")
    ada.wait_for("#room", "elsewhere")
    ada.wait_for("#stage", "1 connection")
    assert ada.lines() == []
    ada.say("Nobody here.")
    bob.wait_for("#stage", "1 connection")
    assert bob.lines() == ["Here it is green."]


def test_counter(serve: Serve, browser: webdriver.Chrome) -> None:
    """Two windows count together."""
    served = serve("examples/counter.py")
    browser.get(f"http://127.0.0.1:{served.port}/")
    first = Window(browser)
    first.wait_for("#value", "0")
    browser.switch_to.new_window("window")
    browser.get(f"http://127.0.0.1:{served.port}/")
    second = Window(browser)
    second.wait_for("#value", "0")
    second.find("button[data-amount='10']").click()
    first.wait_for("#value", "10")
    first.find("button[data-amount='-1']").click()
    second.wait_for("#value", "9")


def test_presence(serve: Serve, browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Who is here, where they point, who writes; and what is written to who is not there waits for her."""
    data = tmp_path / "data"
    served = serve("examples/presence.py", "--data", data)
    address = f"http://127.0.0.1:{served.port}"

    def come(name: str, device: str) -> Window:
        if "http" in browser.current_url:
            browser.switch_to.new_window("window")
        browser.get(f"{address}/?user={name}&device={device}#garden")
        window = Window(browser)
        window.wait_for("#state", "connected")
        return window

    def whisper(window: Window, to: str, text: str) -> None:
        field = window.find("#to")
        field.clear()
        field.send_keys(to)
        window.say(text)
        window.wait_for("#lines li:last-child", "waits for them")

    ana, bob, cat = come("ana", "laptop"), come("bob", "desk"), come("cat", "tablet")
    for window in (ana, bob, cat):
        window.wait_for("#count", "3 people")
        window.wait_for("#people", "tablet: online")
    ana.find("#status").send_keys("busy")
    bob.wait_for("#people", "laptop: busy")

    ana.show()
    webdriver.ActionChains(browser).move_to_element(ana.find("#board")).perform()
    bob.wait_for("#board", "ana")
    ana.find("#text").send_keys("Hel")
    cat.wait_for("#people", "is writing")
    ana.find("#text").send_keys("lo.", Keys.ENTER)
    bob.wait_for("#lines", "Hello.")
    cat.wait_for("#lines", "Hello.")
    assert "is writing" not in cat.find("#people").text

    cat.close()
    ana.wait_for("#count", "2 people")
    ana.wait_for("#people", "not here")
    whisper(ana, "cat", "When you are back,")
    whisper(ana, "cat", "call me.")

    served.process.kill()
    served.process.wait(TIMEOUT)
    ana.wait_for("#state", "lost")
    ana.find("#to").clear()
    ana.say("Where did it go?")
    ana.wait_for("#lines", "waits for the connection")
    served = serve("examples/presence.py", "--data", data, "--port", str(served.port))
    for window in (ana, bob):
        window.wait_for("#state", "connected")
        window.wait_for("#count", "2 people")
    bob.wait_for("#lines", "Where did it go?")
    ana.wait_for("#lines li:last-child", "said")
    bob.wait_for("#people", "laptop: busy")
    whisper(bob, "cat", NASTY)

    cat = come("cat", "tablet")
    cat.wait_for("#lines", "onerror")
    assert cat.lines() == ["When you are back,", "call me.", NASTY]
    assert not cat.show().find_elements(By.CSS_SELECTOR, "#lines img, #lines b")
    for window in (ana, bob):
        window.wait_for("#count", "3 people")
    cat.show().refresh()  # What came was acknowledged as the page went, and so it was delivered.
    cat.wait_for("#count", "3 people")
    ana.say("Good.")
    cat.wait_for("#lines", "Good.")
    assert cat.lines() == ["Good."]
    assert_no_complaints(browser)


GUARDED = """
from trio_rooms import Refused, Room
room = Room("guarded", page="<p>", subprotocols=["mqtt"])
@room.authenticate
async def who(request):
    raise Refused(403, "not you", close=4403 if "close" in request.query else None)
@room.on_message
async def message(ctx, message): pass
"""


def test_a_page_sees_why_it_was_refused(serve: Serve, browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Of a close code, which a clean close carries; of an HTTP status it sees nothing."""
    program = tmp_path / "guarded.py"
    program.write_text(GUARDED)
    browser.get(f"http://127.0.0.1:{serve(program).port}/")
    connect = """
        const [query, done] = arguments;
        const socket = new WebSocket(`ws://${location.host}/guarded/x${query}`, "mqtt");
        socket.onclose = (event) => done([event.code, event.reason, event.wasClean, socket.protocol]);
    """
    assert browser.execute_async_script(connect, "?close") == [4403, "not you", True, "mqtt"]
    assert browser.execute_async_script(connect, "") == [1006, "", False, ""]


def test_ledger(serve: Serve, browser: webdriver.Chrome, tmp_path: Path) -> None:
    """The page shows the balance; what is added while the server is gone waits, and is added once."""
    data = tmp_path / "data"
    served = serve("examples/ledger.py", "--data", data)
    browser.get(f"http://127.0.0.1:{served.port}/#savings")
    first = Window(browser)
    first.wait_for("#state", "connected")
    assert first.find("#room").text == "savings"
    browser.switch_to.new_window("window")
    browser.get(f"http://127.0.0.1:{served.port}/#savings")
    second = Window(browser)
    second.wait_for("#state", "connected")
    second.wait_for("#balance", "0")

    def add(window: Window, amount: int) -> None:
        field = window.find("#amount")
        field.clear()
        field.send_keys(str(amount), Keys.ENTER)

    add(second, 20)
    second.wait_for("#adds", "saved, 20")
    first.wait_for("#balance", "20")
    first.wait_for("#count", "1 entry")

    served.process.kill()
    served.process.wait(TIMEOUT)
    first.wait_for("#state", "reconnecting")
    add(first, 1)
    add(first, 2)
    first.wait_for("#waits", "2 waiting")
    assert [
        item.get_attribute("class") for item in first.show().find_elements(By.CSS_SELECTOR, "#adds li")
    ] == [
        "waiting",
        "waiting",
    ]
    served = serve("examples/ledger.py", "--data", data, "--port", str(served.port))
    first.wait_for("#waits", "nothing waits")
    first.wait_for("#adds", "saved, 23")
    for window in (first, second):
        window.wait_for("#balance", "23")
        window.wait_for("#count", "3 entries")
        window.wait_for("#state", "connected")
    assert_no_complaints(browser)
