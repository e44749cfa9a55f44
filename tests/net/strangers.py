"""Others than ourselves: ordinary py-libp2p hosts, and hostile peers that know our protocols."""

from __future__ import annotations

import hashlib
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr

from cactus_mesh.clock import wall_clock
from cactus_mesh.identity import PeerId, public_key_of
from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.greeting import CallStream
from cactus_mesh.net.hello import seal_hello
from cactus_mesh.net.host import CALLS_PROTOCOL, BoundedPeerStore
from cactus_mesh.net.links import SocketLink
from cactus_mesh.net.noise import MeshNoise
from cactus_mesh.net.rpc import Methods, Session
from cactus_mesh.net.sockets import connect
from cactus_mesh.net.swarm import MeshSwarm
from cactus_mesh.net.yamux import MeshYamux
from tests.net.peers import hello, identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from libp2p.abc import IHost, INetStream

    from cactus_mesh.messages import Hello


def key_pair(number: int) -> KeyPair:
    return create_new_key_pair(identity(number).seed)


def peer_of(address: str) -> PeerId:
    return PeerId(address.rpartition("/")[2])


@asynccontextmanager
async def open_plain_host(number: int, listen: tuple[str, ...] = ()) -> AsyncIterator[IHost]:
    """py-libp2p with its own Noise and Yamux."""
    keys = key_pair(number)
    host = new_host(key_pair=keys, sec_opt={NOISE: Noise(keys, noise_privkey=create_x25519().private_key)})
    async with host.run([Multiaddr(address) for address in listen]):
        try:
            yield host
        finally:
            await _close_connections(host)


@asynccontextmanager
async def open_forged_host(number: int, victim: int) -> AsyncIterator[IHost]:
    """Claims *victim*'s identity over the plaintext transport, knowing only its public key."""
    own, stolen = key_pair(number), key_pair(victim).public_key

    class Forged:
        def __getattr__(self, name: str) -> object:
            return getattr(own.private_key, name)

        def get_public_key(self) -> object:
            return stolen

    insecure = InsecureTransport(KeyPair(Forged(), stolen))
    host = new_host(key_pair=own, sec_opt={PLAINTEXT_PROTOCOL_ID: insecure})
    async with host.run([]):
        try:
            yield host
        finally:
            await _close_connections(host)


async def _close_connections(host: IHost) -> None:
    """The library leaves sockets open when it is stopped."""
    with trio.move_on_after(2, shield=True):
        for conn in host.get_network().get_connections():
            await conn.close()


class LibraryStream:
    """A stream of an ordinary host, as a session wants it."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def read_some(self) -> bytes:
        try:
            return await self._stream.read(65_536)
        except StreamError:
            return b""

    async def write_all(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except StreamError as error:
            raise ConnectionResetError from error


@asynccontextmanager
async def open_foreign_session(
    host: IHost, number: int, address: str, said: Hello | None = None
) -> AsyncIterator[Session]:
    """What another implementation would do: connect, open the stream for calls, say hello."""
    info = info_from_p2p_addr(Multiaddr(address))
    await host.connect(info)
    stream = await host.new_stream(info.peer_id, [CALLS_PROTOCOL])
    peer = peer_of(address)
    key = public_key_of(peer)
    session = Session(LibraryStream(stream), peer, key, Methods(), lambda about: None)
    said = said or hello("client")
    session.machine.greet(seal_hello(said, identity(number), recipient=key, now_ms=wall_clock()))
    session.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, session)
        session.flush()
        yield session
        nursery.cancel_scope.cancel()


async def _run(session: Session) -> None:
    try:
        await session.run()
    except* Exception:
        pass


@asynccontextmanager
async def open_raw_connection(number: int, address: str) -> AsyncIterator[MeshYamux]:
    """Noise and Yamux to *address* and nothing more: what is said next is up to the test."""
    keys = key_pair(number)
    own = ID.from_pubkey(keys.public_key)
    swarm = MeshSwarm(own, keys, BoundedPeerStore(own, keys), max_pending=1)
    link = SocketLink(await connect(parse_address(address)), initiator=True)
    mux = await swarm._upgrade(link, ID.from_string(peer_of(address)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_start, mux)
        await mux.event_started.wait()
        try:
            yield mux
        finally:
            await mux.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_raw_session(number: int, address: str, said: Hello | None = None) -> AsyncIterator[Session]:
    """A peer of our own making that has sent its hello."""
    key = public_key_of(peer_of(address))
    async with open_raw_connection(number, address) as mux, trio.open_nursery() as nursery:
        stream = await mux.open_stream()
        await MultiselectClient().select_one_of([CALLS_PROTOCOL], MultiselectCommunicator(stream))
        session = Session(CallStream(stream), peer_of(address), key, Methods(), lambda about: None)
        said = said or hello("client")
        session.machine.greet(seal_hello(said, identity(number), recipient=key, now_ms=wall_clock()))
        session.accept()
        nursery.start_soon(_run, session)
        session.flush()
        yield session
        nursery.cancel_scope.cancel()


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


@asynccontextmanager
async def open_muxed_pair() -> AsyncIterator[tuple[MeshYamux, MeshYamux]]:
    """Our Yamux over our Noise over a real socket; the first one dialled."""
    one, other = connected_sockets()
    links = SocketLink(one, initiator=True), SocketLink(other, initiator=False)
    sessions: dict[int, object] = {}

    async def secure(end: int) -> None:
        noise = MeshNoise(key_pair(end))
        if end == 0:
            sessions[0] = await noise.secure_outbound(links[0], ID.from_pubkey(key_pair(1).public_key))
        else:
            sessions[1] = await noise.secure_inbound(links[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(secure, 0)
        nursery.start_soon(secure, 1)
    peers = [ID.from_pubkey(key_pair(1 - end).public_key) for end in (0, 1)]
    muxed = tuple(MeshYamux(sessions[end], peers[end], end == 0) for end in (0, 1))
    async with trio.open_nursery() as nursery:
        for mux in muxed:
            nursery.start_soon(_start, mux)
        for mux in muxed:
            await mux.event_started.wait()
        yield muxed
        for mux in muxed:
            await mux.close()
        nursery.cancel_scope.cancel()


async def _start(mux: MeshYamux) -> None:
    try:
        await mux.start()
    except* Exception:
        pass


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
