from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from cactus_mesh.errors import StateMalformed
from cactus_mesh.net import dht, open_network
from cactus_mesh.net.addresses import Scope
from cactus_mesh.net.dht import LEASE_SECONDS, MAX_PROVIDERS, Leases, record_key
from tests.net.peers import PATIENCE_SECONDS, hello, identity, listening

if TYPE_CHECKING:
    from pathlib import Path

    from cactus_mesh.net.network import MeshNetwork
    from tests.net.peers import SocketMesh


def peer(number: int) -> ID:
    return ID.from_base58(identity(number).peer_id)


# --- leases, pure ------------------------------------------------------------------------------------------------


def test_a_lease_runs_out_and_can_be_renewed() -> None:
    leases = Leases()
    leases.grant(b"key", peer(1), [b"a"], now=0.0)
    leases.grant(b"key", peer(2), [b"b"], now=100.0)
    assert leases.holders(b"key", now=LEASE_SECONDS - 1) == [(peer(2), [b"b"]), (peer(1), [b"a"])]
    assert leases.holders(b"key", now=LEASE_SECONDS) == [(peer(2), [b"b"])]
    leases.grant(b"key", peer(2), [b"c"], now=LEASE_SECONDS)
    assert leases.holders(b"key", now=LEASE_SECONDS + 200) == [(peer(2), [b"c"])]


def test_leases_are_bounded_and_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht, "MAX_KEYS", 3)
    leases = Leases()
    for number in range(MAX_PROVIDERS + 5):
        leases.grant(b"key", peer(number), [], now=float(number))
    assert len(leases.holders(b"key", now=100.0)) == MAX_PROVIDERS
    for number in range(5):
        leases.grant(b"%d" % number, peer(1), [], now=200.0)
    assert leases.holders(b"0", now=200.0) == []
    assert leases.holders(b"4", now=200.0) != []


@given(st.text(max_size=300), st.text(max_size=300))
def test_keys_are_short_and_networks_do_not_share_them(network: str, key: str) -> None:
    assert len(record_key(network, key)) <= 50
    assert record_key(network, key) != record_key(network + "2", key)


# --- over sockets ------------------------------------------------------------------------------------------------


async def test_peers_find_each_other_through_one_bootstrap_peer(sockets: SocketMesh) -> None:
    await sockets.join(0, "bootstrap")
    with trio.fail_after(PATIENCE_SECONDS):
        provider, seeker = await sockets.join(1, "orchestrator"), await sockets.join(2, "client")
        await provider.provide("model/abc")
        await found(seeker, "model/abc", provider)
        provider.serve("echo", echo, at_once=1)
        assert await seeker.ask(provider.peer_id, "echo", b"found you") == b"found you"


async def echo(call) -> None:
    await call.send(call.payload)


async def found(seeker: MeshNetwork, key: str, provider: MeshNetwork) -> None:
    while provider.peer_id not in await seeker.providers(key):  # noqa: ASYNC110 - a DHT tells nobody
        await trio.sleep(0.05)


async def test_a_record_made_while_alone_is_stored_as_soon_as_somebody_comes(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        lonely = await sockets.join(1, "router")
        await lonely.provide("role/router")
        late = await sockets.join(2, "client")
        await found(late, "role/router", lonely)
        record = record_key("test", "role/router")
        while not late._running.dht.leases.holders(record, time.time()):  # noqa: ASYNC110 - it is refreshed soon
            await trio.sleep(0.05)


async def test_a_peer_that_provides_a_key_itself_finds_the_others(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        one, other = await sockets.join(1, "router"), await sockets.join(2, "router")
        await one.provide("role/router")
        await other.provide("role/router")
        await found(one, "role/router", other)
        assert one.peer_id not in await one.providers("role/router")


async def test_networks_that_share_a_machine_do_not_meet(sockets: SocketMesh) -> None:
    one = await sockets.join(1, settings=listening(), said=hello("router", network="alpha"))
    with trio.fail_after(PATIENCE_SECONDS):
        settings = listening(bootstrap=tuple(one.addresses()))
        other = await sockets.join(2, settings=settings, said=hello("client", network="beta"))
        while not other.status().attempts:  # noqa: ASYNC110 - the status says why
            await trio.sleep(0.01)
    assert "'alpha'" in next(iter(other.status().attempts.values()))
    assert other.status().connected == 0


async def test_a_bootstrap_peer_that_comes_late_is_joined(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap = await sockets.join(0, "bootstrap")
    addresses = tuple(bootstrap.addresses())
    await sockets.kill(bootstrap)
    with trio.fail_after(PATIENCE_SECONDS):
        early = await sockets.join(1, "router", settings=listening(bootstrap=addresses))
        while not early.status().attempts:  # noqa: ASYNC110 - the status says why
            await trio.sleep(0.01)
        assert "connection refused" in early.status().attempts[addresses[0]]
        async with early.watch() as arrivals:
            listen = (addresses[0].partition("/p2p/")[0],)
            await sockets.join(0, "bootstrap", settings=listening(listen=listen))
            assert (await arrivals.receive()).roles == ("bootstrap",)
        assert early.status().attempts == {}


async def test_known_peers_are_found_again_without_a_bootstrap_peer(sockets: SocketMesh, tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    with trio.fail_after(PATIENCE_SECONDS):
        server = await sockets.join(1, "router")
        settings = listening(known_peers_file=file)
        client = await sockets.join(2, "client", settings=settings)
        await client.connect(server.peer_id, server.addresses())
        await sockets.kill(client)
        again = await sockets.join(2, "client", settings=settings)
        while not again.peers():  # noqa: ASYNC110 - it may have arrived before we can watch
            await trio.sleep(0.01)
    assert [peer.peer for peer in again.peers()] == [server.peer_id]


async def test_a_malformed_file_of_known_peers_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_text("not json")
    with pytest.raises(StateMalformed, match="delete it"):
        async with open_network(identity(1), listening(known_peers_file=file), hello("client")):
            pass
    assert file.read_text() == "not json"


async def test_a_client_asks_the_dht_and_does_not_serve_it(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        server = await sockets.join(0, "bootstrap")
        client = await sockets.join(
            1, "client", settings=listening(serve_dht=False, bootstrap=tuple(server.addresses()))
        )
        await client.provide("key")
        await found(server, "key", client)
        assert not server._running.dht.table.peer_in_table(peer(1))


async def test_a_query_takes_its_time_limit_at_most(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht, "QUERY_SECONDS", 0.2)
    with trio.fail_after(PATIENCE_SECONDS):
        one, silent = await sockets.join(1, "router"), await sockets.join(2, "router")
        await one.connect(silent.peer_id, silent.addresses())
        silent._running.host.set_stream_handler(dht.KAD_PROTOCOL, never_answers)
        assert await one.providers("anything") == []


async def never_answers(stream) -> None:
    await trio.sleep_forever()


# --- what the DHT server answers -----------------------------------------------------------------------------------


@pytest.fixture
async def server(sockets: SocketMesh) -> MeshNetwork:
    return await sockets.join(1, "bootstrap")


def add_provider(number: int, key: bytes = b"k" * 34) -> Message:
    message = Message(type=Message.ADD_PROVIDER, key=key)
    provider = message.providerPeers.add(id=peer(number).to_bytes())
    provider.addrs.append(Multiaddr("/ip4/203.0.113.7/tcp/4001").to_bytes())
    return message


async def test_only_peers_of_the_network_store_and_only_for_themselves(server: MeshNetwork) -> None:
    answering = server._running.dht
    with pytest.raises(ValueError, match="only peers of this network"):
        answering._answer(add_provider(2), peer(2), Scope.GLOBAL, greeted=False)
    with pytest.raises(ValueError, match="only speak for itself"):
        answering._answer(add_provider(3), peer(2), Scope.GLOBAL, greeted=True)
    assert answering._answer(add_provider(2), peer(2), Scope.GLOBAL, greeted=True).type == Message.ADD_PROVIDER
    question = Message(type=Message.GET_PROVIDERS, key=b"k" * 34)
    assert [found.id for found in answering._answer(question, peer(3), Scope.GLOBAL, greeted=False).providerPeers] == [
        peer(2).to_bytes()
    ]


@pytest.mark.parametrize(
    "question",
    [
        Message(type=Message.PUT_VALUE, key=b"key"),
        Message(type=Message.GET_VALUE, key=b"key"),
        Message(type=Message.FIND_NODE),
        Message(type=Message.FIND_NODE, key=bytes(51)),
        add_provider(2, bytes(51)),
    ],
)
async def test_values_and_keys_that_are_none_get_no_answer(server: MeshNetwork, question: Message) -> None:
    with pytest.raises(ValueError, match=r"values|key"):
        server._running.dht._answer(question, peer(2), Scope.GLOBAL, greeted=True)
