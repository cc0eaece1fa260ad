from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._keys import check_id, make_key, split_key
from trio_rooms.errors import UnknownRoom

IDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256).filter(
    lambda id_: id_ not in {".", ".."}
)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), IDS)
def test_a_key_is_taken_apart_as_it_was_made(name: str, id_: str) -> None:
    """Name and id come back from a key, whatever slashes the id has."""
    assert split_key(make_key(name, id_)) == (name, id_)


@pytest.mark.parametrize("id_", ["", "a" * 257, "a\0", "a\n", "\x7f", "\x9f", "\ud800", None, 5, b"a"])
def test_what_is_no_id_is_refused(id_: Any) -> None:
    """An id that is empty, too long, no text or not printable is an unknown room, alone and in a key."""
    with pytest.raises(UnknownRoom, match="1 to 256 characters"):
        check_id(id_)
    with pytest.raises(UnknownRoom, match="1 to 256 characters"):
        make_key("chat", id_)


@pytest.mark.parametrize("id_", [".", ".."])
def test_what_browsers_take_out_of_a_path_is_no_id(id_: str) -> None:
    """They would ask for another room, however it is encoded."""
    with pytest.raises(UnknownRoom, match="browsers would take it out"):
        make_key("chat", id_)


@pytest.mark.parametrize("id_", ["...", ".a", "a/..", "a", "a" * 256, "a/b", "/", " ", "é", "😀"])
def test_an_id_is_returned_as_it_is(id_: str) -> None:
    """What is an id is neither trimmed nor changed."""
    assert check_id(id_) == id_
