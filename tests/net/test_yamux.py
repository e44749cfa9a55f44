from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA, TYPE_PING

from cactus_mesh.net import yamux
from cactus_mesh.net.noise import NoiseSession
from cactus_mesh.net.yamux import MeshYamux
from tests.net.peers import PATIENCE_SECONDS
from tests.net.strangers import open_muxed_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.net.yamux import MeshStream

Pair = tuple[MeshYamux, MeshYamux]


@pytest.fixture
async def muxed() -> AsyncIterator[Pair]:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_muxed_pair() as pair:
            yield pair


async def opened(muxed: Pair) -> tuple[MeshStream, MeshStream]:
    ours = await muxed[0].open_stream()
    return ours, await muxed[1].accept_stream()


async def read_exactly(stream: MeshStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    return data


async def echo(mux: MeshYamux) -> None:
    stream = await mux.accept_stream()
    try:
        while True:
            await stream.write(await stream.read())
    except MuxedStreamError:
        return


async def test_more_than_a_window_passes_both_ways_at_once(muxed: Pair, nursery: trio.Nursery) -> None:
    ours, theirs = await opened(muxed)
    up, down = secrets.token_bytes(3_000_000), secrets.token_bytes(2_000_000)
    nursery.start_soon(ours.write, up)
    nursery.start_soon(theirs.write, down)
    assert await read_exactly(theirs, len(up)) == up
    assert await read_exactly(ours, len(down)) == down


async def test_a_cancelled_write_leaves_the_connection_whole(muxed: Pair, nursery: trio.Nursery) -> None:
    for attempt in range(30):
        nursery.start_soon(echo, muxed[1])
        hurt = await muxed[0].open_stream()
        with trio.move_on_after(0.0005 * attempt) as cut:
            await hurt.write(bytes(3_000_000))
        assert cut.cancelled_caught
        await hurt.reset()
        nursery.start_soon(echo, muxed[1])
        sound = await muxed[0].open_stream()
        await sound.write(b"still whole?")
        assert await read_exactly(sound, 12) == b"still whole?"
        await sound.close()


async def test_a_reader_that_sleeps_blocks_its_own_stream_only(muxed: Pair, nursery: trio.Nursery) -> None:
    stuck, _ = await opened(muxed)
    nursery.start_soon(stuck.write, bytes(10_000_000))
    nursery.start_soon(echo, muxed[1])
    other = await muxed[0].open_stream()
    await other.write(bytes(500_000))
    assert len(await read_exactly(other, 500_000)) == 500_000
    nursery.cancel_scope.cancel()


async def test_what_came_before_the_end_is_read_before_it(muxed: Pair) -> None:
    ours, theirs = await opened(muxed)
    await ours.write(b"last words")
    await ours.close()
    assert await theirs.read() == b"last words"
    with pytest.raises(MuxedStreamEOF):
        await theirs.read()
    await theirs.write(b"the other half lives")
    assert await ours.read() == b"the other half lives"


async def test_the_end_of_the_connection_wakes_readers_and_writers(muxed: Pair, nursery: trio.Nursery) -> None:
    (silent, _), (ours, _) = await opened(muxed), await opened(muxed)

    async def reads() -> None:
        with pytest.raises(MuxedStreamReset):
            await silent.read()

    async def writes() -> None:
        with pytest.raises(MuxedStreamError):
            await ours.write(bytes(10_000_000))

    nursery.start_soon(reads)
    nursery.start_soon(writes)
    await trio.testing.wait_all_tasks_blocked()
    await muxed[1].close()


async def test_more_than_the_receive_window_ends_the_connection(muxed: Pair) -> None:
    _, theirs = await opened(muxed)
    for _ in range(5):
        muxed[0].post(TYPE_DATA, 0, theirs.stream_id, 60_000, bytes(60_000))
    await muxed[1].event_closed.wait()


async def test_unread_bytes_are_bounded_over_all_streams(muxed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [await opened(muxed) for _ in range(3)]
    for ours, theirs in pairs:
        await ours.write(bytes(200_000))
        assert len(await read_exactly(theirs, 200_000)) == 200_000
        await ours.write(bytes(200_000))
    await pairs[0][0].close()
    await pairs[0][1].close()
    assert len(await read_exactly(pairs[0][1], 200_000)) == 200_000
    while muxed[1].unread_bytes < 400_000:
        await trio.lowlevel.checkpoint()
    assert muxed[1].unread_bytes == 400_000
    monkeypatch.setattr(yamux, "MAX_UNREAD_BYTES", 500_000)
    await (await muxed[0].open_stream()).write(bytes(200_000))
    await muxed[1].event_closed.wait()


async def test_a_frame_longer_than_any_window_is_refused_by_its_header(muxed: Pair) -> None:
    _, theirs = await opened(muxed)
    muxed[0].post(TYPE_DATA, 0, theirs.stream_id, 2 << 20)
    await muxed[1].event_closed.wait()


async def test_streams_beyond_the_bound_are_reset(muxed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "MAX_STREAMS", 3)
    for _ in range(3):
        await opened(muxed)
    with pytest.raises(MuxedStreamError, match="3 streams"):
        await muxed[0].open_stream()
    muxed[0].post(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, muxed[0].next_stream_id, 0)
    ours, theirs = next(iter(muxed[0]._open.values())), next(iter(muxed[1]._open.values()))
    await ours.write(b"after it")
    assert await theirs.read() == b"after it"
    assert len(muxed[1]._open) == 3


async def test_a_stream_forgets_itself_when_both_sides_are_done(muxed: Pair) -> None:
    for _ in range(600):
        ours, theirs = await opened(muxed)
        await ours.close()
        await theirs.close()
    with pytest.raises(MuxedStreamEOF):
        await ours.read()
    assert not muxed[1]._open


async def test_answers_to_a_peer_that_never_reads_are_bounded(muxed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "MAX_QUEUE_BYTES", 5_000)
    muxed[0]._blocked = True
    for _ in range(1_000):
        muxed[0].post(TYPE_PING, yamux.FLAG_ACK, 0, 1)
    assert muxed[0].is_closed


class Scripted(NoiseSession):
    """Gives what it is told to and swallows what is sent."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def read_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.pieces:
            raise ConnectionClosedError("the script is over")
        return self.pieces.pop(0)

    def post(self, data: bytes) -> bool:
        return True

    async def close(self) -> None:
        pass


HEADERS = st.builds(
    yamux._HEADER.pack,
    st.sampled_from([0, 0, 0, 1]),
    st.integers(0, 4),
    st.integers(0, 15),
    st.integers(0, 4),
    st.sampled_from([0, 1, 5, 2**31]),
)


@given(st.lists(st.one_of(HEADERS, st.binary(max_size=30)), max_size=40))
def test_any_bytes_end_the_connection_and_raise_nothing_else(pieces: list[bytes]) -> None:
    async def feed() -> None:
        mux = MeshYamux(Scripted(pieces), ID(b"somebody"), True)
        with pytest.raises(ConnectionClosedError):
            await mux.start()
        assert mux.is_closed

    trio.run(feed)
