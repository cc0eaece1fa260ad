from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import Room, UnknownRoom
from trio_rooms._server.paths import MalformedPath, Paths

DEFINITIONS = {name: Room[None](name).seal() for name in ("chat", "a.b-c_1")}
ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256).filter(
    lambda id_: id_ not in {".", ".."}
)
templates = st.sampled_from(["/{room}/{id}", "/{id}/of/{room}", "/v1/{room}:{id}", "/(x|y)/{room}/{id}/"])
prefixes = st.sampled_from(["", "/ws", "/a+b/c.d", "/[0-9]"])


@given(st.sampled_from([*DEFINITIONS]), ids, templates, prefixes)
def test_a_path_leads_to_the_room_that_it_was_made_for(
    name: str, id_: str, template: str, prefix: str
) -> None:
    """Whatever the id, where it is percent-encoded; what else is in prefix and template stands for itself."""
    paths = Paths(DEFINITIONS, prefix, template)
    path = paths.form.replace("{room}", quote(name, safe="")).replace("{id}", quote(id_, safe=""))
    assert paths.room(path) == (DEFINITIONS[name], f"{name}/{id_}")
    for other in (path + "/", path + "\n", "/x" + path, path.replace("/", "//", 1), path[1:]):
        with pytest.raises(UnknownRoom):
            paths.room(other)


@pytest.mark.parametrize("path", ["/chat/%FF", "/chat/%0A", "/chat/%ED%A0%80", "/chat/" + "x" * 257])
def test_an_id_that_no_room_may_have_is_a_malformed_path(path: str) -> None:
    """The path is that of a room by its form, and the client is told what is wrong with it."""
    with pytest.raises(MalformedPath):
        Paths(DEFINITIONS, "", "/{room}/{id}").room(path)


@pytest.mark.parametrize("template", ["/{room}-{id}-x", "/{id}-{room}-x", "/{room}-{id}/"])
def test_a_path_that_leads_nowhere_is_soon_seen(template: str) -> None:
    """Not each of 16,000 places where one placeholder might end is tried with each where the other might."""
    paths = Paths(DEFINITIONS, "", template)
    began = time.process_time()
    for path in ("/" + "-" * 16_000, "/chat-" + "-" * 3_000):
        for _ in range(10):
            with pytest.raises(UnknownRoom):
                paths.room(path)
    assert time.process_time() - began < 5  # It took 30.


@pytest.mark.parametrize("path", ["/", "/chat", "/chat/", "/nobody/x", "/chat/x/y", "/chat/" + "x" * 4000])
def test_a_path_that_leads_nowhere_is_no_malformed_one(path: str) -> None:
    """There is nothing there, and nothing is wrong with it."""
    with pytest.raises(UnknownRoom) as caught:
        Paths(DEFINITIONS, "", "/{room}/{id}").room(path)
    assert not isinstance(caught.value, MalformedPath)
