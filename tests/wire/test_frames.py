from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import attrs
import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as WsprotoPing
from wsproto.events import Pong as WsprotoPong
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode, ParseFailed

from trio_rooms._wire import frames
from trio_rooms._wire.close_codes import CloseCode, is_close_code
from trio_rooms._wire.frames import (
    Close,
    Partial,
    Ping,
    Pong,
    Received,
    Violation,
    decode_close,
    decode_message,
    encode_binary,
    encode_close,
    encode_message,
    encode_ping,
    encode_pong,
    encode_text,
    parse,
    parse_one,
)

NO_LIMIT = 1 << 63
KEY = b"\x12\x9a\x00\xff"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x00, 0x01, 0x02, 0x08, 0x09, 0x0A
FIN = 0x80


def frame(first: int, payload: bytes = b"", *, key: bytes | None = KEY, length: bytes | None = None) -> bytes:
    """Make a client's frame, byte by byte from RFC 6455 section 5.2.

    ``length`` is the second byte without its mask bit, and the extended length after it.
    """
    size = len(payload)
    if length is None:
        if size < 126:
            length = bytes([size])
        elif size < 65536:
            length = b"\x7e" + size.to_bytes(2)
        else:
            length = b"\x7f" + size.to_bytes(8)
    if key is None:
        return bytes([first]) + length + payload
    masked = bytes(a ^ b for a, b in zip(payload, itertools.cycle(key), strict=False))
    return bytes([first, length[0] | 0x80]) + length[1:] + key + masked


def pieces(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Cut a stream into pieces of these sizes, over and over; no sizes: all in one piece."""
    if not sizes:
        return [stream]
    cut: list[bytes] = []
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(stream):
            return cut
        cut.append(stream[at : at + size])
        at += size
    raise AssertionError("sizes never end")


def same(partial: Partial | None) -> Partial | None:
    """Leave the state between two reads alone."""
    return partial


def written_and_read_back(partial: Partial | None) -> Partial | None:
    """Give the state between two reads to another process, as CBOR."""
    if partial is None:
        return None
    fields: dict[str, object] = cbor2.loads(cbor2.dumps(attrs.asdict(partial)))
    read_back = Partial(**fields)  # type: ignore[arg-type]
    assert attrs.asdict(read_back) == attrs.asdict(partial)
    assert isinstance(read_back.payload, bytearray), "payload is not copied with each piece"
    return read_back


def feed(
    stream: bytes,
    sizes: Sequence[int] = (),
    limit: int = NO_LIMIT,
    between: Callable[[Partial | None], Partial | None] = same,
) -> tuple[list[Received], Partial | None]:
    """Parse a stream in pieces, until it ends or a close or a violation ends it."""
    received: list[Received] = []
    partial: Partial | None = None
    for piece in pieces(stream, sizes):
        new, partial = parse(piece, between(partial), limit)
        received += new
        if received and isinstance(received[-1], Close | Violation):
            assert partial is None
            break
    return received, partial


def codes(received: list[Received]) -> list[Received]:
    """Forget the reasons of violations, which each implementation words in its own way."""
    return [Violation(item.code, "") if isinstance(item, Violation) else item for item in received]


class Oracle(FrameProtocol):
    """wsproto on the server's side, with what it does not follow put right."""

    def __init__(self) -> None:
        super().__init__(client=False, extensions=[])

    def _process_close(self, frame: Frame) -> Frame:
        # 1014 (bad gateway) is in the registry of RFC 6455 section 11.7, but not in wsproto.
        payload = frame.payload
        assert isinstance(payload, bytes)
        if payload[:2] != (1014).to_bytes(2):
            return super()._process_close(frame)
        closed = super()._process_close(frame._replace(payload=(1013).to_bytes(2) + payload[2:]))
        return closed._replace(payload=(1014, str(closed.payload[1])))

    def _surrogate_begun(self) -> bool:
        # Section 8.1: a byte stream that is not valid UTF-8 fails the connection. After ED, A0 to
        # BF make it invalid (RFC 3629 section 4); the decoder in wsproto waits for one byte more.
        decoder = self._message_decoder.decoder
        pending = decoder.getstate()[0] if decoder else b""
        return pending[:1] == b"\xed" and pending[1:] >= b"\xa0"

    def read(self, stream: bytes) -> list[Received]:
        """Give what ``parse`` should find in a stream, but for the words of a violation."""
        received: list[Received] = []
        text, binary = "", b""
        self.receive_bytes(stream)
        try:
            for item in self.received_frames():
                if self._surrogate_begun():
                    received.append(Violation(CloseCode.INVALID_DATA, ""))
                    break
                payload = item.payload
                if isinstance(payload, tuple):
                    received.append(Close(int(payload[0]), payload[1]))
                elif item.opcode is Opcode.PING:
                    received.append(Ping(bytes(payload)))  # type: ignore[arg-type]
                elif item.opcode is Opcode.PONG:
                    received.append(Pong(bytes(payload)))  # type: ignore[arg-type]
                elif isinstance(payload, str):
                    text += payload
                    if item.message_finished:
                        received.append(text)
                        text = ""
                else:
                    binary += payload
                    if item.message_finished:
                        received.append(binary)
                        binary = b""
        except ParseFailed as failed:
            received.append(Violation(int(failed.code), ""))
        return received

    @property
    def between_messages(self) -> bool:
        """Whether nothing is unfinished."""
        decoder = self._frame_decoder
        return not decoder.buffer and decoder.header is None and self._message_decoder.opcode is None


def check_against_wsproto(stream: bytes, sizes: Sequence[int]) -> None:
    """Check that we and wsproto find the same in a stream."""
    received, partial = feed(stream, sizes)
    oracle = Oracle()
    if received and isinstance(received[-1], Violation):
        # Section 7.1.7 leaves it open when a violation is noticed. We notice one as soon as its
        # byte is there, wsproto when the header is whole or a byte of payload has come.
        stream += bytes(14)
        assert oracle.read(stream) == codes(received)
    else:
        assert oracle.read(stream) == received
        if not (received and isinstance(received[-1], Close)):
            assert oracle.between_messages == (partial is None)


# Bytes that are, together and apart, on all sides of the borders of UTF-8.
ODD_BYTES = [
    b"a",
    "é".encode(),
    "€".encode(),
    "😀".encode(),
    *(
        bytes([byte])
        for byte in (0x7F, 0x80, 0x90, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xF5)
    ),
]
keys = st.binary(min_size=4, max_size=4)
odd_text = st.lists(st.sampled_from(ODD_BYTES), max_size=12).map(b"".join)
payloads = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=12).map(str.encode),
    odd_text,
    # Around the borders between the encodings of a length, and the ways to unmask.
    st.builds(
        lambda seed, size: (seed * (size // 3 + 1))[:size],
        st.binary(min_size=3, max_size=3),
        st.sampled_from([124, 125, 126, 127, 128, 511, 512, 513]),
    ),
)
close_bodies = st.one_of(
    st.binary(max_size=3),
    st.builds(
        lambda code, reason: code.to_bytes(2) + reason,
        st.one_of(st.integers(995, 1020), st.sampled_from([0, 2999, 3000, 4999, 5000, 65535])),
        odd_text,
    ),
)
control_frames = st.one_of(
    st.builds(frame, st.sampled_from([FIN | PING, FIN | PONG]), st.binary(max_size=125), key=keys),
    st.builds(frame, st.just(FIN | CLOSE), close_bodies, key=keys),
)
whole_messages = st.builds(frame, st.sampled_from([FIN | TEXT, FIN | BINARY]), payloads, key=keys)


@pytest.fixture(scope="module", params=["c", "python"])
def unmasking(request: pytest.FixtureRequest) -> Iterator[None]:
    """All is the same with what unmasks in C, and without it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(frames, "_unmask", frames.unmask)
        else:
            assert vars(frames)["apply_mask"] is not None, (
                "the tests need websockets: the extra `test` has it"
            )
        yield


@st.composite
def fragmented_messages(draw: st.DrawFn) -> bytes:
    """Draw a message in fragments, cut anywhere, with control frames between them."""
    payload = draw(payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=1, max_size=4)))
    borders = list(itertools.pairwise([0, *cuts, len(payload)]))
    stream = b""
    for i, (start, stop) in enumerate(borders):
        first = draw(st.sampled_from([TEXT, TEXT, BINARY])) if i == 0 else CONTINUATION
        final = FIN if i == len(borders) - 1 else 0
        stream += frame(first | final, payload[start:stop], key=draw(keys))
        if not final and draw(st.integers(0, 3)) == 0:
            stream += draw(control_frames)
    return stream


any_lengths = st.one_of(
    st.none(),
    st.integers(0, 125).map(lambda size: bytes([size])),
    st.integers(0, 300).map(lambda size: b"\x7e" + size.to_bytes(2)),
    st.one_of(st.integers(0, 300), st.integers(65530, 65540), st.integers(2**63 - 2, 2**63 + 2)).map(
        lambda size: b"\x7f" + size.to_bytes(8)
    ),
)
odd_frames = st.builds(
    frame, st.integers(0, 255), payloads, key=st.one_of(keys, keys, st.none()), length=any_lengths
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw what a client might send: mostly right, then something wrong, then perhaps damaged."""
    right = st.one_of(whole_messages, fragmented_messages(), control_frames)
    parts = draw(st.lists(right, max_size=4))
    parts += draw(st.lists(st.one_of(right, odd_frames), max_size=2))
    stream = b"".join(parts)
    damage = draw(st.sampled_from(["none", "none", "cut", "byte"]))
    if damage == "cut":
        stream = stream[: draw(st.integers(0, len(stream)))]
    elif damage == "byte" and stream:
        at = draw(st.integers(0, min(len(stream) - 1, 200)))
        stream = stream[:at] + bytes([draw(st.integers(0, 255))]) + stream[at + 1 :]
    return stream


sizes_of_pieces: st.SearchStrategy[list[int]] = st.one_of(
    st.just([]),
    st.just([1]),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.lists(st.integers(1, 500), min_size=1, max_size=3),
)


@pytest.mark.usefixtures("unmasking")
@given(streams(), sizes_of_pieces)
@example(frame(TEXT, b"\xed\xa0") + frame(FIN | CONTINUATION, b"\x80"), [])
@example(frame(FIN | CLOSE, (1014).to_bytes(2) + b"gone"), [])
@example(frame(FIN | TEXT, b"", length=b"\x7f" + b"\xff" * 8), [1])
def test_what_is_received_is_what_wsproto_receives(stream: bytes, sizes: list[int]) -> None:
    """Streams of right and wrong frames, however cut, are read as wsproto reads them."""
    check_against_wsproto(stream, sizes)


@pytest.mark.usefixtures("unmasking")
@pytest.mark.parametrize("size", [65535, 65536, 65537])
@pytest.mark.parametrize("first", [TEXT, BINARY, FIN | TEXT, FIN | BINARY])
def test_long_frames_are_read_as_wsproto_reads_them(first: int, size: int) -> None:
    """A frame about as long as needs 64 bits for its length is read whole and in pieces."""
    stream = frame(first, b"a" * size) + frame(CONTINUATION if first < FIN else PING)
    for sizes in ([], [4096, 1], [65536]):
        check_against_wsproto(stream, sizes)


@given(st.binary(max_size=60), sizes_of_pieces)
def test_arbitrary_bytes_are_read_as_wsproto_reads_them(stream: bytes, sizes: list[int]) -> None:
    """Bytes that are nobody's frames are refused at the same place and with the same code."""
    check_against_wsproto(stream, sizes)


@given(streams(), sizes_of_pieces, st.one_of(st.just(NO_LIMIT), st.integers(0, 1000)))
def test_cuts_do_not_matter(stream: bytes, sizes: list[int], limit: int) -> None:
    """A stream gives the same in any pieces as it does whole, reasons and all."""
    whole, rest = feed(stream, (), limit)
    cut, rest_of_cut = feed(stream, sizes, limit)
    assert cut == whole
    assert (rest is None) == (rest_of_cut is None)


@given(streams(), sizes_of_pieces)
def test_what_is_unfinished_can_be_written_down(stream: bytes, sizes: list[int]) -> None:
    """The state between any two reads survives a trip through CBOR."""
    assert feed(stream, sizes, between=written_and_read_back)[0] == feed(stream)[0]


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=300)), max_size=6), st.integers(0, 400), st.data())
def test_the_limit_is_in_bytes_over_all_fragments(
    messages: list[tuple[bool, str]], limit: int, data: st.DataObject
) -> None:
    """Messages up to the limit arrive, and the first beyond it gives 1009, however it is fragmented."""
    stream = b""
    expected: list[Received] = []
    for binary, text in messages:
        payload = text.encode()
        cut = data.draw(st.integers(0, len(payload)))
        opcode = BINARY if binary else TEXT
        if cut:
            stream += frame(opcode, payload[:cut]) + frame(FIN | CONTINUATION, payload[cut:])
        else:
            stream += frame(FIN | opcode, payload)
        expected.append(payload if binary else text)
        if len(payload) > limit:
            expected[-1] = Violation(CloseCode.TOO_BIG, "")
            break
    assert codes(feed(stream, data.draw(sizes_of_pieces), limit)[0]) == expected


@pytest.mark.usefixtures("unmasking")
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 511, 512, 513, 65535, 65536])
@pytest.mark.parametrize("key", [KEY, bytes(4), b"\xff\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0"])
def test_a_message_of_any_length_is_unmasked(size: int, key: bytes) -> None:
    """Every length of every encoding is read, alone, after another frame, and in pieces."""
    payload = bytes(i * 7 % 128 for i in range(size))
    text, binary = frame(FIN | TEXT, payload, key=key), frame(FIN | BINARY, payload, key=key)
    assert parse(text, None, size) == ([payload.decode()], None)
    assert parse(binary, None, size) == ([payload], None)
    assert parse(text + binary, None, size) == ([payload.decode(), payload], None)
    assert feed(text + binary, [1000, 1], size) == ([payload.decode(), payload], None)


@pytest.mark.usefixtures("unmasking")
@given(streams(), st.integers(0, 300))
@example(frame(FIN | TEXT, b""), 0)
@example(frame(FIN | TEXT, b"\xff"), NO_LIMIT)
@example(frame(FIN | BINARY, b"x" * 125), NO_LIMIT)
@example(frame(FIN | BINARY, b"x" * 125), 124)
@example(frame(FIN | BINARY, b"x" * 126), 126)
@example(frame(FIN | BINARY, b"x" * 126), 125)
@example(frame(FIN | BINARY, b"x" * 125, length=b"\x7e\x00\x7d"), NO_LIMIT)
@example(frame(FIN | TEXT, b"x" * 65535), NO_LIMIT)
@example(frame(FIN | TEXT, b"x" * 126)[:-1], NO_LIMIT)
@example(frame(FIN | TEXT, b"x" * 126) + b"\x81", NO_LIMIT)
@example(frame(FIN | TEXT, b"\xff" * 126), NO_LIMIT)
@example(frame(FIN | TEXT, b"x" * 126)[:6], NO_LIMIT)
@example(frame(FIN | BINARY, b"x", key=None), NO_LIMIT)
@example(frame(FIN | TEXT, b"one") + frame(FIN | TEXT, b"two"), NO_LIMIT)
def test_the_fast_way_for_one_message_reads_nothing_else(stream: bytes, limit: int) -> None:
    """What parse_one reads is the one message that parse reads, and it reads every one below 64 KiB."""
    received, partial = parse(stream, None, limit)
    message = parse_one(stream, limit)
    whole = len(received) == 1 and type(received[0]) in (str, bytes) and partial is None
    if message is not None:
        assert whole
        assert received == [message]
        assert type(received[0]) is type(message)
    elif whole:
        assert stream[0] not in (FIN | TEXT, FIN | BINARY)


def test_a_message_of_a_read_is_not_disturbed_by_the_others() -> None:
    """Several frames of all kinds in one read are received in their order."""
    stream = (
        frame(FIN | TEXT, b"one")
        + frame(FIN | PING, b"?")
        + frame(FIN | BINARY, b"two")
        + frame(TEXT, b"th")
        + frame(FIN | PONG)
        + frame(FIN | CONTINUATION, b"ree")
        + frame(FIN | TEXT, b"four")
        + frame(FIN | CLOSE, b"\x03\xe8bye")
        + frame(FIN | TEXT, b"not read")
    )
    expected = ["one", Ping(b"?"), b"two", Pong(b""), "three", "four", Close(1000, "bye")]
    assert parse(stream, None, NO_LIMIT) == (expected, None)


def test_no_bytes_are_nothing() -> None:
    """Parsing no bytes changes nothing, between frames or inside of one."""
    assert parse(b"", None, 10) == ([], None)
    stream = frame(FIN | TEXT, b"abc")
    for at in range(1, len(stream)):
        _, partial = parse(stream[:at], None, 10)
        assert parse(b"", partial, 10) == ([], partial)
        assert parse(stream[at:], partial, 10) == (["abc"], None)


def test_nothing_is_kept_between_messages() -> None:
    """There is a partial inside of frames and fragmented messages, and nowhere else."""
    stream = frame(FIN | TEXT, b"abc") + frame(FIN | PING, b"?") + frame(TEXT) + frame(FIN | CONTINUATION)
    finished = {9, 16, 28}
    partial: Partial | None = None
    for at in range(len(stream)):
        _, partial = parse(stream[at : at + 1], partial, 10)
        assert (partial is None) == (at + 1 in finished)


def test_a_partial_tells_its_size() -> None:
    """The size is what the unfinished message and header hold, and a control frame between fragments."""
    _, partial = parse(frame(TEXT, b"four") + frame(FIN | PING, b"12345")[:-1], None, 10)
    assert partial is not None
    assert partial.size == 4 + 10
    received, partial = parse(
        frame(FIN | PING, b"12345")[-1:] + frame(CONTINUATION, b"six")[:-1], partial, 10
    )
    assert received == [Ping(b"12345")]
    assert partial is not None
    assert partial.size == 6


def test_pieces_are_gathered_without_copying_what_is_there() -> None:
    """A message in many pieces grows in one buffer, so that its cost stays linear."""
    stream = frame(FIN | TEXT, b"a" * 500)
    _, partial = parse(stream[:100], None, 500)
    assert partial is not None
    buffer = partial.payload
    _, partial = parse(stream[100:200], partial, 500)
    assert partial is not None
    assert partial.payload is buffer
    assert partial.checked == len(buffer), "nor is what is known to be UTF-8 looked at again"


def test_empty_fragments_hold_nothing() -> None:
    """A client that sends empty fragments for ever takes up no memory."""
    _, partial = parse(frame(TEXT, b"a") + frame(CONTINUATION) * 1000, None, 10)
    assert partial is not None
    assert partial.size == 1


PROTOCOL_ERRORS = {
    "rsv1": frame(FIN | 0x40 | TEXT, b"a"),
    "rsv2": frame(FIN | 0x20 | BINARY, b"a"),
    "rsv3": frame(FIN | 0x10 | PING),
    **{f"opcode {opcode}": frame(FIN | opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": frame(PING),
    "fragmented close": frame(CLOSE),
    "continuation of nothing": frame(FIN | CONTINUATION, b"a"),
    "text in a message": frame(TEXT, b"a") + frame(FIN | TEXT, b"a"),
    "binary in a message": frame(BINARY, b"a") + frame(BINARY, b"a"),
    "not masked": frame(FIN | TEXT, key=None, length=b"\x05"),
    "not masked, longer": frame(FIN | BINARY, key=None, length=b"\x7e"),
    "long ping": frame(FIN | PING, length=b"\x7e"),
    "long close": frame(FIN | CLOSE, length=b"\x7f"),
    "125 bytes in 16 bits": frame(FIN | TEXT, b"", length=b"\x7e\x00\x7d"),
    "5 bytes in 16 bits, whole": frame(FIN | TEXT, b"12345", length=b"\x7e\x00\x05"),
    "65535 bytes in 64 bits": frame(FIN | BINARY, b"", length=b"\x7f" + (65535).to_bytes(8)),
    "highest bit": frame(FIN | TEXT, b"", length=b"\x7f\x80" + bytes(7)),
    "close with one byte": frame(FIN | CLOSE, b"\x03"),
    "close with a bad code and a bad reason": frame(FIN | CLOSE, b"\x03\xed\xff"),
}


@pytest.mark.parametrize("stream", PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS.keys())
def test_a_frame_against_the_rules_is_a_protocol_error(stream: bytes) -> None:
    """What section 5 of RFC 6455 forbids gives 1002, after what was right before it."""
    before = frame(FIN | TEXT, b"before")
    for sizes in ([], [1]):
        received, partial = feed(before + stream + frame(FIN | TEXT, b"after"), sizes)
        assert codes(received) == ["before", Violation(CloseCode.PROTOCOL_ERROR, "")]
        assert partial is None


@pytest.mark.parametrize(
    ("stream", "needed"),
    [
        (frame(FIN | 0x40 | TEXT), 1),
        (frame(FIN | 0x03), 1),
        (frame(PING), 1),
        (frame(FIN | CONTINUATION), 1),
        (frame(TEXT) + frame(TEXT), 7),
        (frame(FIN | TEXT, key=None, length=b"\x05"), 2),
        (frame(FIN | PING, length=b"\x7e\x00\x7e"), 2),
        (frame(FIN | TEXT, length=b"\x7e\x00\x7d"), 4),
        (frame(FIN | TEXT, length=b"\x7f\x80" + bytes(7)), 10),
    ],
)
def test_a_violation_is_found_by_the_byte_that_makes_it_one(stream: bytes, needed: int) -> None:
    """A header is refused as soon as it can be known to be wrong, and not before."""
    assert parse(stream[: needed - 1], None, NO_LIMIT)[0] == []
    received, partial = parse(stream[:needed], None, NO_LIMIT)
    assert codes(received) == [Violation(CloseCode.PROTOCOL_ERROR, "")]
    assert partial is None


@pytest.mark.parametrize("size", [11, 125, 126, 65535, 65536, 2**63 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [0, FIN])
def test_a_message_beyond_the_limit_is_refused_by_its_header(size: int, opcode: int, fin: int) -> None:
    """The header alone gives 1009; no payload has to come, and none is kept."""
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65536 else None
    header = frame(fin | opcode, length=length or b"\x7f" + size.to_bytes(8))
    assert parse(header[:-1], None, 10)[0] == []
    received, partial = parse(header, None, 10)
    assert codes(received) == [Violation(CloseCode.TOO_BIG, "")]
    assert partial is None
    assert codes(parse(header + b"a" * 50_000, None, 10)[0]) == codes(received)


def test_fragments_beyond_the_limit_are_refused_by_the_header_that_exceeds() -> None:
    """The sum over the fragments counts; exactly the limit is fine."""
    start = frame(TEXT, b"six by") + frame(FIN | PING, b"does not count")
    assert parse(start + frame(FIN | CONTINUATION, b"four"), None, 10)[0][1:] == ["six byfour"]
    received, partial = parse(start + frame(CONTINUATION, length=b"\x05"), None, 10)
    assert codes(received)[1:] == [Violation(CloseCode.TOO_BIG, "")]
    assert partial is None


def test_the_limit_counts_bytes_and_not_characters() -> None:
    """Ten bytes of text are ten, though they are five characters."""
    text = frame(FIN | TEXT, "ééééé".encode())
    assert parse(text, None, 10) == (["ééééé"], None)
    assert codes(parse(text, None, 9)[0]) == [Violation(CloseCode.TOO_BIG, "")]


@pytest.mark.parametrize(
    "bad", [b"\x80", b"\xc0", b"\xf5", b"\xe0\x80", b"\xed\xa0", b"\xf0\x80", b"\xf4\x90", b"\xe2A"]
)
def test_invalid_utf8_is_found_in_the_middle_of_a_frame(bad: bytes) -> None:
    """The byte that makes a text invalid gives 1007, though the frame and the message go on."""
    for first in (TEXT, FIN | TEXT):
        stream = frame(first, "wörld€".encode() + bad + b"a" * 20)[: 6 + 9 + len(bad)]
        for sizes in ([], [1]):
            assert feed(stream[:-1], sizes)[0] == []
            received, partial = feed(stream, sizes)
            assert codes(received) == [Violation(CloseCode.INVALID_DATA, "")]
            assert partial is None


def test_invalid_utf8_is_found_in_a_whole_frame() -> None:
    """Text that is not UTF-8 gives 1007, alone in its read or after others, short or long."""
    for bad in (b"\xff", b"a" * 200 + b"\xff", b"\xe2\x82"):
        assert codes(parse(frame(FIN | TEXT, bad), None, 300)[0]) == [Violation(CloseCode.INVALID_DATA, "")]
        received, partial = parse(frame(FIN | TEXT, b"ok") + frame(FIN | TEXT, bad), None, 300)
        assert codes(received) == ["ok", Violation(CloseCode.INVALID_DATA, "")]
        assert partial is None


def test_a_character_may_be_split_over_fragments() -> None:
    """UTF-8 has to be whole at the end of a message, not of a frame (section 5.6)."""
    stream = frame(TEXT, b"\xf0\x9f") + frame(CONTINUATION) + frame(CONTINUATION, b"\x98")
    assert parse(stream + frame(FIN | CONTINUATION, b"\x80"), None, 10) == (["😀"], None)
    assert codes(parse(stream + frame(FIN | CONTINUATION), None, 10)[0]) == [
        Violation(CloseCode.INVALID_DATA, "")
    ]


def test_binary_messages_need_not_be_utf8() -> None:
    """Any bytes may stand in a binary message, fragments and pieces included."""
    payload = bytes(range(256))
    stream = frame(BINARY, payload) + frame(FIN | CONTINUATION, payload)
    assert feed(stream, [7]) == ([payload * 2], None)


def test_half_a_close_code_is_not_taken_for_a_code() -> None:
    """A close frame of one byte is told so, and not that its code was wrong (section 5.5.1)."""
    (violation,), _ = parse(frame(FIN | CLOSE, b"\x03"), None, 10)
    assert isinstance(violation, Violation)
    assert "one byte" in violation.reason


def test_a_close_frame_without_a_code_is_1005() -> None:
    """Section 7.1.5: no code in the frame is code 1005."""
    assert parse(frame(FIN | CLOSE), None, 10) == ([Close(1005, "")], None)


def test_the_code_of_a_close_frame_may_be_any_that_is_allowed() -> None:
    """A close frame is received with each code that it may have; any other is a protocol error."""
    for code in [*range(5100), 65535]:
        received, _ = parse(frame(FIN | CLOSE, code.to_bytes(2) + "fin€".encode()), None, 10)
        if is_close_code(code):
            assert received == [Close(code, "fin€")]
        else:
            assert codes(received) == [Violation(CloseCode.PROTOCOL_ERROR, "")]


def test_the_reason_of_a_close_frame_must_be_utf8() -> None:
    """A reason that is not UTF-8 gives 1007."""
    for bad in (b"\xff", b"\xe2\x82"):
        received, _ = parse(frame(FIN | CLOSE, b"\x03\xe8" + bad), None, 10)
        assert codes(received) == [Violation(CloseCode.INVALID_DATA, "")]


@pytest.mark.parametrize(
    "stream", [*PROTOCOL_ERRORS.values(), frame(FIN | TEXT, b"\xff"), frame(FIN | TEXT, b"a")]
)
def test_a_violation_says_what_was_wrong_in_a_sentence(stream: bytes) -> None:
    """The reason fits into the close frame that answers, and is not cut there."""
    violation = feed(stream, limit=0 if stream == frame(FIN | TEXT, b"a") else NO_LIMIT)[0][-1]
    assert isinstance(violation, Violation)
    assert violation.reason.endswith(".")
    assert encode_close(violation.code, violation.reason).endswith(violation.reason.encode())


def test_the_largest_limit_fits_into_the_reason() -> None:
    """The limit in the reason for 1009 does not make it too long for a close frame."""
    (violation,), _ = parse(frame(FIN | TEXT, length=b"\x7f" + (2**63 - 1).to_bytes(8)), None, 2**63 - 2)
    assert isinstance(violation, Violation)
    assert len(violation.reason.encode()) <= 123


def received_by_wsproto(encoded: bytes) -> list[object]:
    """Give what wsproto's client finds in what the server sends."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(encoded)
    found: list[object] = []
    for event in client.events():
        match event:
            case TextMessage() | BytesMessage():
                assert event.message_finished
                found.append(event.data if isinstance(event.data, str) else bytes(event.data))
            case WsprotoPing():
                found.append(Ping(bytes(event.payload)))
            case WsprotoPong():
                found.append(Pong(bytes(event.payload)))
            case CloseConnection():
                found.append(Close(int(event.code), event.reason or ""))
    return found


@given(st.one_of(st.text(), payloads))
def test_a_message_is_encoded_for_a_client_and_decoded_again(message: str | bytes) -> None:
    """A client of wsproto receives each message as it was, and so does decode_message."""
    encoded = encode_message(message)
    assert received_by_wsproto(encoded) == [message]
    assert decode_message(encoded) == message
    if isinstance(message, str):
        assert encode_text(message.encode()) == encoded
    else:
        assert encode_binary(message) == encoded


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_length_is_encoded_in_the_fewest_bytes(size: int) -> None:
    """Text and binary of each border length are received by a client that checks."""
    header = 2 if size < 126 else 4 if size < 65536 else 10
    for message in ("x" * size, b"x" * size):
        encoded = encode_message(message)
        assert len(encoded) == header + size
        assert received_by_wsproto(encoded) == [message]
        assert decode_message(encoded) == message


def test_only_the_frames_of_messages_are_decoded() -> None:
    """decode_message refuses what encode_message never makes."""
    for other in (encode_ping(b"?"), encode_close(1000), b"\x01\x01a"):
        with pytest.raises(ValueError, match="text or binary"):
            decode_message(other)


def test_a_lone_surrogate_cannot_be_sent() -> None:
    """Text that UTF-8 cannot say is refused where it is encoded."""
    with pytest.raises(UnicodeEncodeError):
        encode_message("\ud800")


@given(st.binary(max_size=125))
def test_pings_and_pongs_are_encoded(payload: bytes) -> None:
    """A client of wsproto receives pings and pongs with their payload."""
    assert received_by_wsproto(encode_ping(payload) + encode_pong(payload)) == [Ping(payload), Pong(payload)]


def test_a_control_frame_is_125_bytes_at_most() -> None:
    """Longer pings and pongs are refused (section 5.5)."""
    for encode in (encode_ping, encode_pong):
        assert len(encode(bytes(125))) == 127
        with pytest.raises(ValueError, match="125"):
            encode(bytes(126))


long_reasons = st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(1, 40))


@given(st.sampled_from([code for code in range(5000) if is_close_code(code) and code != 1014]), long_reasons)
@example(1000, "x" * 123)
@example(1000, "x" * 124)
@example(1000, "x" + "€" * 41)
def test_a_close_frame_is_encoded_with_what_fits_of_its_reason(code: int, reason: str) -> None:
    """A client of wsproto receives the code, and the longest start of the reason that fits 123 bytes."""
    (closed,) = received_by_wsproto(encode_close(code, reason))
    assert isinstance(closed, Close)
    assert closed.code == code
    assert reason.startswith(closed.reason)
    assert len(closed.reason.encode()) <= 123
    assert decode_close(encode_close(code, reason)) == closed
    if closed.reason != reason:
        assert len(reason[: len(closed.reason) + 1].encode()) > 123


def test_a_close_frame_is_encoded_whatever_its_reason_holds() -> None:
    """A reason that UTF-8 cannot say does not keep a connection from being closed."""
    assert received_by_wsproto(encode_close(CloseCode.INTERNAL_ERROR, "bad \ud800")) == [Close(1011, "bad ?")]


def test_codes_that_stand_for_no_code_make_an_empty_close_frame() -> None:
    """1005 and 1006 are never on the wire (section 7.4.1)."""
    for code in (CloseCode.NO_STATUS, CloseCode.ABNORMAL):
        assert encode_close(code, "not sent") == b"\x88\x00"
        assert decode_close(encode_close(code)) == Close(1005, "")


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1015, 1016, 2999, 5000, 70000])
def test_codes_that_may_not_be_sent_are_refused(code: int) -> None:
    """A close code outside of the registry is the caller's mistake."""
    with pytest.raises(ValueError, match="may not be sent"):
        encode_close(code)
