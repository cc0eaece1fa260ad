from __future__ import annotations

from trio_rooms._wire.close_codes import CloseCode, is_close_code

VALID_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_close_codes_are_those_of_the_registry() -> None:
    """Section 7.4 and the IANA registry say which codes may be received and sent."""
    assert {code for code in range(70_000) if is_close_code(code)} == VALID_CODES
    assert not is_close_code(-1)


def test_codes_that_are_never_sent() -> None:
    """Of the codes with a name, two are for what was not on the wire."""
    assert {code for code in CloseCode if not is_close_code(code)} == {1005, 1006}
