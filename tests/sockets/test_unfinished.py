from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._sockets.unfinished import Output
from trio_rooms._wire.frames import encode_binary, encode_close, encode_pong

LIMIT = 2000


def written(output: Output, count: int) -> tuple[bytes, bool]:
    """What a kernel that takes so many bytes gets, and whether that was all."""
    data = b"".join(bytes(piece) for piece in output.next())[:count]
    return data, output.sent(len(data))


def part(output: Output, most: int) -> tuple[bytes, bool]:
    """The same in one part of a frame."""
    data = bytes(output.next_part(most))
    return data, output.sent(len(data))


def split(data: bytes) -> list[bytes]:
    """The frames in what was sent."""
    found = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        found.append(data[: start + size])
        assert len(found[-1]) == start + size
        data = data[start + size :]
    return found


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("message"), st.integers(0, 3000)),
            st.tuples(st.just("pong"), st.integers(0, 125)),
            st.tuples(st.sampled_from(["write", "part"]), st.integers(0, 2500)),
        ),
        max_size=60,
    )
)
def test_whatever_waits_goes_out_whole(steps: list[tuple[str, int]]) -> None:
    """Messages in their order, of the pongs the last, the close frame at the very end; and nothing twice."""
    first = encode_binary(b"first")
    output: Output | None = Output(first, 3)
    out, messages, pongs = first[:3], [first], [b""]
    for number, (step, size) in enumerate(steps):
        if step in ("write", "part"):
            if output is not None:
                data, over = (written if step == "write" else part)(output, max(size, 1))
                out += data
                if over:
                    output = None
            continue
        if step == "message":
            message = encode_binary(b"%d " % number + bytes(size))
            if output is None:
                output = Output(message, 0)
            elif not output.add(message, LIMIT):
                assert output.size > LIMIT - 64 * 60
                continue
            messages.append(message)
        elif output is not None:
            pongs.append(encode_pong(b"%d" % number + bytes(size % 100)))
            output.add_control(pongs[-1])
    close = encode_close(1000)
    if output is None:
        output = Output(close, 0)
    else:
        output.add_control(close)
    over = False
    while not over:
        assert output.size
        data, over = written(output, 1000)
        out += data
    assert output.size == 0
    *got, last = split(out)
    assert last == close
    assert [frame for frame in got if frame[0] == 0x82] == messages
    answered = [pongs.index(frame) for frame in got if frame[0] == 0x8A]
    assert all(one < two for one, two in pairwise(answered))
    assert len(pongs) == 1 or answered[-1] == len(pongs) - 1


def test_what_is_in_flight_is_not_held_against_the_client() -> None:
    """However large it is, the limit is for what waits behind it, what frames cost included."""
    output = Output(bytes(10 * LIMIT), 1)
    count = 0
    while output.add(b"x" * 36, LIMIT):
        count += 1
    assert count == LIMIT // 100 + 1


def test_pings_cost_one_pong() -> None:
    """However many there were; and a pong goes before the messages that have not begun."""
    output = Output(b"half sent", 4)
    output.add(encode_binary(b"message"), LIMIT)
    for number in range(1000):
        output.add_control(encode_pong(b"%d" % number))
    assert output.size == len(b" sent") + 9 + 5
    assert written(output, 100) == (b" sent" + encode_pong(b"999") + encode_binary(b"message"), True)


@pytest.mark.parametrize(
    ("offset", "begun", "kept"), [(0, False, b""), (0, True, b"first"), (2, False, b"rst")]
)
def test_a_cut_leaves_what_has_begun(offset: int, begun: bool, kept: bytes) -> None:
    """Half a frame must be finished, or nothing after it can be read; all else is dropped, a pong too."""
    output = Output(b"first", offset)
    output.add(b"second", LIMIT)
    output.add_control(encode_pong())
    output.cut(begun=begun)
    close = encode_close(1013, "too slow")
    output.add_control(close)
    assert written(output, 100) == (kept + close, True)
