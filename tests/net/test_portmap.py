from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.net import gateways, pcp, portmap, upnp
from cactus_mesh.net.pcp import MappingFailed
from cactus_mesh.net.portmap import keep_mapping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    Answers = Callable[[bytes], Sequence[bytes]]
    Told = list[tuple[str | None, str]]

PATIENCE_SECONDS = 20
PUBLIC = "11.0.0.21"
NONCE = bytes(range(12))


class Router:
    """Speaks PCP, NAT-PMP or both; *host* is what it believes to be its external address."""

    def __init__(self, *, speaks: str = "PCP NAT-PMP", host: str = PUBLIC, lifetime: int = 3600, silent: bool = False):
        self.speaks = speaks.split()
        self.host = host
        self.lifetime = lifetime
        self.silent = silent
        self.mapped: dict[int, int] = {}
        self.requests: list[bytes] = []
        self.result = 0
        self.epoch = 1_000

    def answer(self, request: bytes) -> list[bytes]:
        self.requests.append(request)
        if request[0] == 2:
            return [self._pcp(request)] if "PCP" in self.speaks else ([] if self.silent else [self._other_version()])
        return [self._pmp(request)] if "NAT-PMP" in self.speaks else []

    def _other_version(self) -> bytes:
        return b"\x00\x81\x00\x01" + self.epoch.to_bytes(4, "big")

    def _map(self, port: int, wanted: int, lifetime: int) -> int:
        if not lifetime:
            self.mapped.pop(port, None)
            return 0
        return self.mapped.setdefault(port, wanted + 1)

    def _pcp(self, request: bytes) -> bytes:
        lifetime, port, wanted = (
            int.from_bytes(request[at], "big") for at in (slice(4, 8), slice(40, 42), slice(42, 44))
        )
        external = self._map(port, wanted, lifetime)
        header = bytes((2, 0x81, 0, self.result)) + self.lifetime.to_bytes(4, "big") + self.epoch.to_bytes(4, "big")
        host = ipaddress.IPv6Address(f"::ffff:{self.host}").packed
        return header + bytes(12) + request[24:42] + external.to_bytes(2, "big") + host

    def _pmp(self, request: bytes) -> bytes:
        head = bytes((0, 0x80 | request[1])) + self.result.to_bytes(2, "big") + self.epoch.to_bytes(4, "big")
        if request[1] == 0:
            return head + ipaddress.IPv4Address(self.host).packed
        port, wanted, lifetime = (int.from_bytes(request[at], "big") for at in (slice(4, 6), slice(6, 8), slice(8, 12)))
        external = self._map(port, wanted, lifetime)
        return head + port.to_bytes(2, "big") + external.to_bytes(2, "big") + self.lifetime.to_bytes(4, "big")


@asynccontextmanager
async def open_router(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A router on the loopback."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        monkeypatch.setattr(pcp, "PORT", sock.getsockname()[1])

        async def serve() -> None:
            while True:
                request, client = await sock.recvfrom(2_000)
                for answer in answers(request):
                    await sock.sendto(answer, client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_mapping(told: Told) -> AsyncIterator[None]:
    """Keeps port 4001 mapped, and *told* filled; begins once something is told."""
    something = trio.Event()

    async def loopback() -> str:
        return "127.0.0.1"

    def hear(endpoint: str | None, detail: str) -> None:
        told.append((endpoint, detail))
        something.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: keep_mapping(4001, hear, gateway=loopback))
        with trio.fail_after(PATIENCE_SECONDS):
            await something.wait()
            yield
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def without_upnp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What runs instead of the UPnP client."""
    script = tmp_path / "upnp.py"
    script.write_text('print(\'{"error": "no router offers it"}\')')
    monkeypatch.setattr(upnp, "__file__", str(script))
    monkeypatch.setattr(pcp, "TRIES_SECONDS", (0.05, 0.05))
    return script


@pytest.mark.parametrize(
    ("router", "how"),
    [
        (Router(), "PCP"),
        (Router(speaks="PCP"), "PCP"),
        (Router(speaks="NAT-PMP"), "NAT-PMP"),
        (Router(speaks="NAT-PMP", silent=True), "NAT-PMP"),
    ],
)
async def test_a_port_is_mapped_and_given_back(router: Router, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = []
    async with open_router(router.answer, monkeypatch):
        async with open_mapping(told):
            assert told == [(f"/ip4/{PUBLIC}/tcp/4002", f"mapped by {how} from 127.0.0.1")]
            assert router.mapped == {4001: 4002}
        with trio.fail_after(PATIENCE_SECONDS):
            while router.mapped:  # noqa: ASYNC110 - the request is under way
                await trio.sleep(0.01)


async def test_a_mapping_is_renewed_and_a_new_address_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = []
    router = Router()
    monkeypatch.setattr(portmap._Pcp, "again_seconds", 0.01)
    async with open_router(router.answer, monkeypatch), open_mapping(told):
        router.host = "11.0.0.22"
        while len(told) < 2:  # noqa: ASYNC110 - the next renewal tells
            await trio.sleep(0.01)
    assert [endpoint for endpoint, _ in told] == [f"/ip4/{PUBLIC}/tcp/4002", "/ip4/11.0.0.22/tcp/4002"]
    assert len({request[24:36] for request in router.requests}) == 1, "one nonce for one mapping"


async def test_a_restarted_router_gets_the_same_request_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: Told = []
    router = Router()
    monkeypatch.setattr(portmap._Pcp, "again_seconds", 0.01)
    with caplog.at_level(logging.INFO, "cactus_mesh.net.portmap"):
        async with open_router(router.answer, monkeypatch), open_mapping(told):
            router.mapped.clear()
            router.epoch = 1
            while "had lost its mappings" not in caplog.text:  # noqa: ASYNC110 - the next renewal tells
                await trio.sleep(0.01)
            assert router.mapped == {4001: 4003}, "the port that it had granted is asked for again"


@pytest.mark.parametrize("host", ["192.168.0.7", "100.64.3.2", "10.0.0.1", "0.0.0.0", "127.0.0.1"])
async def test_behind_a_second_nat_there_is_no_mapping_and_the_reason_is_told(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Told = []
    router = Router(host=host)
    async with open_router(router.answer, monkeypatch), open_mapping(told):
        pass
    assert told[0][0] is None
    assert f"{host}, is not a public one: it stands behind another NAT" in told[0][1]
    assert not router.mapped


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (lambda request: [], "PCP from 127.0.0.1: it does not answer"),
        (lambda request: [b"", b"\xff" * 1_000, request, b"\x02\x81", b"\x02\x81" + bytes(58)] * 4, "nonsense"),
        (lambda request: [b"\x02\x81\x00\x08" + bytes(20) + request[24:]], "no room for another mapping"),
        (lambda request: [b"\x02\x81\x00\x63" + bytes(20) + request[24:]], "PCP result 99"),
        (lambda request: [b"\x02\x81\x00\x00" + bytes(20) + request[24:]], "without a port, or for no time"),
        (lambda request: [b"\x02\x81\x00\x00" + b"\x01" * 20 + request[24:44] + b"\x20" * 16], "not IPv4"),
        (lambda request: [b"\x02\x81\x00\x00" + b"\x01" * 20 + bytes(12) + request[36:]], "nonsense"),
        (Router(speaks="NAT-PMP", lifetime=0).answer, "without a port, or for no time"),
    ],
)
async def test_a_router_that_says_no_or_nonsense_is_named(
    answers: Answers, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Told = []
    async with open_router(answers, monkeypatch), open_mapping(told):
        pass
    assert told[0][0] is None
    assert reason in told[0][1]
    assert told[0][1].endswith("UPnP: no router offers it")


async def test_where_nothing_listens_the_router_is_said_not_to_offer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = []
    async with open_router(lambda request: [], monkeypatch):
        pass
    async with open_mapping(told):
        pass
    assert "it does not" in told[0][1]


def test_an_absurd_lifetime_is_bounded() -> None:
    for said, kept in ((1, 60), (2**32 - 1, 86_400)):
        request = pcp.pcp_request("127.0.0.1", NONCE, 4001, 4001, 3600)
        granted = pcp.read_pcp(Router(lifetime=said).answer(request)[0], NONCE, 4001)
        assert granted is not None
        assert granted.lifetime_seconds == kept


@given(st.binary(max_size=100))
def test_whatever_a_router_sends_is_an_answer_or_a_named_failure(data: bytes) -> None:
    for answer in (data, b"\x02\x81" + data, b"\x00\x80" + data, b"\x00\x82" + data):
        for read in (
            lambda answer: pcp.read_pcp(answer, NONCE, 4001),
            lambda answer: pcp.read_pmp(answer, PUBLIC, 4001),
            pcp.read_pmp_address,
        ):
            with contextlib.suppress(MappingFailed):
                assert read(answer) is None or len(answer) >= 12


async def test_what_others_than_the_router_send_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async def let_somebody_else_answer() -> None:
        while True:
            request, client = await router.recvfrom(2_000)
            await other.sendto(Router().answer(request)[0], client)

    with (
        trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as router,
        trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        await router.bind(("127.0.0.1", 0))
        monkeypatch.setattr(pcp, "PORT", router.getsockname()[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_somebody_else_answer)
            with pytest.raises(pcp.NoAnswer):
                await pcp.ask_pcp("127.0.0.1", NONCE, 4001, 4001, 3600)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('garbage')", "UPnP: it broke off"),
        ("", "UPnP: it broke off"),
        ('print(\'{"host": "11.0.0.21.5", "port": 4001}\')', "UPnP: the router names no external address"),
        ("print('[]')", "UPnP: the router names no external address"),
        ('print(\'{"host": "192.168.0.2", "port": 4001}\')', "it stands behind another NAT"),
        ("while True: pass", "UPnP: not done within"),
    ],
)
async def test_whatever_becomes_of_upnp_is_named_and_bounded(
    script: str, reason: str, without_upnp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Told = []
    await trio.Path(without_upnp).write_text(script)
    monkeypatch.setattr(portmap, "UPNP_SECONDS", 0.5)
    async with open_router(lambda request: [], monkeypatch), open_mapping(told):
        pass
    assert reason in told[0][1]


async def test_upnp_is_used_where_the_router_knows_nothing_else(
    without_upnp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Told = []
    seen = without_upnp.with_suffix(".log")
    await trio.Path(without_upnp).write_text(
        f"import sys; open({str(seen)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n');"
        'print(\'{"host": "11.0.0.21", "port": 4005}\')'
    )
    async with open_router(lambda request: [], monkeypatch), open_mapping(told):
        pass
    assert told == [("/ip4/11.0.0.21/tcp/4005", "mapped by UPnP")]
    assert seen.read_text().splitlines() == ["add 4001 4001 3600", "remove 4001 4005 3600"]


# --- which router it is ----------------------------------------------------------------------------------------------

LINUX = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlan0	00000000	0101A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	FE00A8C0	0003	0	0	100	00000000	0	0	0
tun0	00000000	00000000	0001	0	0	1	00000000	0	0	0
eth0	0000A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
"""
MACOS = """   route to: default
destination: default
       mask: default
    gateway: 192.168.1.1
  interface: en0
      flags: <UP,GATEWAY,DONE,STATIC,PRCLONING,GLOBAL>
"""
WINDOWS = """IPv4-Routentabelle
===========================================================================
Aktive Routen:
     Netzwerkziel    Netzwerkmaske          Gateway    Schnittstelle Metrik
          0.0.0.0          0.0.0.0      192.168.1.1     192.168.1.20     35
          0.0.0.0          0.0.0.0    192.168.178.1     192.168.178.2     25
===========================================================================
Ständige Routen:
  Keine
"""


def test_the_router_is_found_in_what_each_system_says() -> None:
    assert gateways.gateway_in_linux_routes(LINUX) == "192.168.0.254"
    assert gateways.gateway_in_bsd_route(MACOS) == "192.168.1.1"
    assert gateways.gateway_in_windows_routes(WINDOWS) == "192.168.178.1"


@pytest.mark.parametrize("text", ["", "gateway: 999.1.1.1", "    gateway: 999.1.1.1\n", "0.0.0.0 0.0.0.0 9.9 1 x"])
def test_without_a_default_route_no_router_is_found(text: str) -> None:
    assert gateways.gateway_in_linux_routes(text) is None
    assert gateways.gateway_in_bsd_route(text) is None
    assert gateways.gateway_in_windows_routes(text) is None


def test_the_likeliest_router_is_the_first_of_a_private_network() -> None:
    assert gateways.likely_gateway("192.168.178.33") == "192.168.178.1"
    assert gateways.likely_gateway("11.0.0.33") is None
    assert gateways.likely_gateway(None) is None


async def test_asking_this_machine_for_its_router_takes_no_time() -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        found = await gateways.default_gateway()
        assert found is None or ipaddress.IPv4Address(found)
        assert gateways.own_address() is None or ipaddress.IPv4Address(gateways.own_address())
