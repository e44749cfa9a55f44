from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.errors import BY_CODE, MeshError, NoFunds, PeerError, PeerFailed, ProtocolViolation, UsageError
from cactus_mesh.net.frames import (
    ITEM,
    MAX_BODY_BYTES,
    About,
    FrameDecoder,
    decode_about,
    decode_error,
    decode_items,
    decode_open,
    encode_about,
    encode_error,
    encode_frame,
    encode_items,
    encode_open,
)

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=20)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=30))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(frames, cuts) -> None:
    decoder = FrameDecoder()
    stream = b"".join(encode_frame(*frame) for frame in frames)
    assert [frame for piece in cut(stream, cuts) for frame in decoder.feed(piece)] == frames


@given(st.lists(st.binary(max_size=2_000), max_size=10))
def test_any_bytes_are_frames_or_a_protocol_violation(pieces) -> None:
    decoder = FrameDecoder()
    try:
        for piece in pieces:
            decoder.feed(piece)
    except ProtocolViolation:
        return


def test_a_frame_longer_than_allowed_is_refused_by_its_header() -> None:
    header = encode_frame(ITEM, 1, bytes(MAX_BODY_BYTES))[:9]
    assert FrameDecoder().feed(header) == []
    with pytest.raises(ProtocolViolation, match="bytes"):
        FrameDecoder().feed((MAX_BODY_BYTES + 6).to_bytes(4, "big") + bytes(5))


def test_a_large_frame_in_single_bytes_is_not_copied_again_and_again() -> None:
    decoder = FrameDecoder()
    frame = encode_frame(ITEM, 1, bytes(300_000))
    got = [out for at in range(len(frame)) for out in decoder.feed(frame[at : at + 1])]
    assert len(got) == 1  # quadratic work would take minutes


KINDS = sorted(BY_CODE.values(), key=lambda kind: kind.code)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not issubclass(kind, UsageError)])
def test_every_error_crosses_the_wire_as_its_class(kind: type[MeshError]) -> None:
    back = decode_error(encode_error(kind("try again tomorrow")))
    assert type(back) is kind
    assert back.message == "try again tomorrow"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, UsageError)])
def test_a_peer_cannot_blame_our_own_files_and_options(kind: type[MeshError]) -> None:
    back = decode_error(encode_error(kind("delete your key file")))
    assert type(back) is PeerFailed
    assert "delete" not in back.message


@pytest.mark.parametrize(("retry", "kind"), [(True, PeerFailed), (False, PeerError)])
def test_an_error_of_a_newer_version_keeps_its_text_and_whether_to_retry(retry: bool, kind: type[MeshError]) -> None:
    newer = type("Newer", (NoFunds,), {"code": "from.the_future", "retry": retry})
    back = decode_error(encode_error(newer("more of it")))
    assert type(back) is kind
    assert "more of it" in back.message
    assert "from.the_future" in back.message


def test_an_error_text_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in decode_error(encode_error(NoFunds("\x1b[2Jall is well\r\n"))).message


@given(st.binary(max_size=200))
def test_malformed_bodies_are_protocol_violations(body: bytes) -> None:
    for decode in (decode_error, decode_items, decode_about, decode_open):
        try:
            decode(body)
        except ProtocolViolation:
            continue


def test_bodies_come_back() -> None:
    about = About(["/ip4/127.0.0.1/tcp/1"], dht=True, relay=False, observed="/ip4/127.0.0.1/tcp/2")
    assert decode_about(encode_about(about)) == about
    assert decode_items(encode_items([b"", b"a"])) == [b"", b"a"]
    assert decode_open(encode_open("task.run", b"payload")) == ("task.run", b"payload")
