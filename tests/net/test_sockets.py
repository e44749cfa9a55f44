from __future__ import annotations

import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.errors import PortInUse
from cactus_mesh.net import sockets
from cactus_mesh.net.addresses import Address, parse_address
from cactus_mesh.net.sockets import can_share_port, connect, listen_on

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not can_share_port(), reason="this system does not let two sockets share a port")


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def own(host: str) -> Iterator[socket.socket]:
    """Listens on every address of this machine."""
    with closing(listen_on(parse_address("/ip6/::/tcp/0" if ":" in host else "/ip4/0.0.0.0/tcp/0"))) as listener:
        yield listener


@pytest.fixture
def other(host: str) -> Iterator[socket.socket]:
    with closing(listen_on(Address("ip6" if ":" in host else "ip4", host, 0))) as listener:
        yield listener


def where(listener: socket.socket, host: str) -> Address:
    return Address("ip6" if ":" in host else "ip4", host, listener.getsockname()[1])


async def test_a_connection_leaves_from_the_port_that_we_listen_on(
    own: socket.socket, other: socket.socket, host: str
) -> None:
    with closing(await connect(where(other, host), [own])) as dialled:
        assert dialled.getsockname()[:2] == (host, own.getsockname()[1])
        accepted, remote = other.accept()
        accepted.close()
        assert remote == dialled.getsockname()


async def test_the_listener_still_accepts_beside_its_outgoing_connections(
    own: socket.socket, other: socket.socket, host: str
) -> None:
    with closing(await connect(where(other, host), [own])), closing(await connect(where(own, host))) as back:
        accepted, remote = own.accept()
        accepted.close()
        assert remote == back.getsockname()


async def test_a_second_connection_to_the_same_place_leaves_from_another_port(
    own: socket.socket, other: socket.socket, host: str
) -> None:
    at = where(other, host)
    with closing(await connect(at, [own])) as first, closing(await connect(at, [own])) as second:
        assert first.getsockname()[1] == own.getsockname()[1] != second.getsockname()[1]


async def test_a_port_is_never_connected_with_itself(own: socket.socket, host: str) -> None:
    with closing(await connect(where(own, host), [own])) as dialled:
        assert dialled.getsockname() != dialled.getpeername()


def test_a_listener_on_the_loopback_is_no_way_to_the_world(other: socket.socket, host: str) -> None:
    world = "2001:db8::1" if ":" in host else "203.0.113.7"
    assert sockets.local_endpoint(world, [other]) is None
    assert sockets.local_endpoint(host, [other]) == other.getsockname()[:2]


async def test_without_the_option_connections_leave_from_any_port(
    own: socket.socket, other: socket.socket, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "can_share_port", lambda: False)
    with closing(await connect(where(other, host), [own])) as dialled:
        assert dialled.getsockname()[1] != own.getsockname()[1]


async def test_a_second_listener_is_refused_while_connections_share_the_port(
    own: socket.socket, other: socket.socket, host: str
) -> None:
    with closing(await connect(where(other, host), [own])):
        for taken in (where(own, host), where(own, "::" if ":" in host else "0.0.0.0")):
            with pytest.raises(PortInUse):
                listen_on(taken)


async def test_another_program_that_listens_on_the_port_is_refused(own: socket.socket, host: str) -> None:
    program = (
        "from cactus_mesh.net.sockets import listen_on;"
        "from cactus_mesh.net.addresses import parse_address;"
        f"listen_on(parse_address({str(where(own, host))!r}))"
    )
    result = await trio.run_process([sys.executable, "-c", program], capture_stderr=True, check=False)
    assert b"PortInUse" in result.stderr


async def test_a_restarted_node_listens_where_its_connections_linger(
    own: socket.socket, other: socket.socket, host: str
) -> None:
    address = where(own, "::" if ":" in host else "0.0.0.0")
    with closing(await connect(where(other, host), [own])):
        own.close()
        with closing(listen_on(address)):
            pass
    with closing(listen_on(address)):  # the connection is in TIME_WAIT now
        pass


async def test_a_connection_whose_first_packet_is_held_back_is_one_like_others(
    own: socket.socket, other: socket.socket, host: str
) -> None:
    local = sockets.local_endpoint(host, [own])
    near = await sockets.connect_from(local, other.family, other.getsockname(), hops=1)
    usual = await connect(where(other, host))
    option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if ":" in host else (socket.IPPROTO_IP, socket.IP_TTL)
    with closing(near), closing(usual):
        assert near.getsockname()[1] == own.getsockname()[1]
        assert near.getsockopt(*option) == usual.getsockopt(*option) > 1
        accepted, remote = other.accept()
        accepted.close()
        assert remote == near.getsockname()


async def test_a_refusal_is_one_also_where_the_first_packet_is_held_back(other: socket.socket, host: str) -> None:
    endpoint = other.getsockname()
    other.close()
    with pytest.raises(ConnectionRefusedError):
        await sockets.connect_from(None, other.family, endpoint, hops=1)
