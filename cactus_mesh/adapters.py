"""The adapters that a configuration asks for, opened: key, ledger, engine, network; and where a node listens.

They are imported where they are opened: libp2p and aptos_sdk take a second that `cactus-mesh --help` should not.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh import __version__
from cactus_mesh.backup import refuse_unfinished
from cactus_mesh.errors import KeyFileExists, NoBootstrap
from cactus_mesh.identity import Address, Identity, create_key_file, load_key_file
from cactus_mesh.messages import VERSION, Hello

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.config import Config, Home
    from cactus_mesh.messages import Role
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.observability.meter import Meter
    from cactus_mesh.ports import Engine, Ledger

DEFAULT_PORT: Final = 4101
"""Tried first when the user names no address: a port that stays the same is easier to reach and to remember."""
_ANYWHERE: Final = ("/ip4/0.0.0.0", "/ip6/::")
JOIN_SECONDS: Final = 10.0
"""How long a client waits for its first connection before it says that nobody answers."""

log = logging.getLogger(__name__)
created = logging.getLogger("cactus_mesh.created")
"""What a user should know of once; `terminal` shows it as a sentence."""


def identity_at(home: Home) -> Identity:
    """The key of this home; a new one on first use, but never in the place of one that is on its way back."""
    refuse_unfinished(home)
    if not home.key_file.exists():
        with suppress(KeyFileExists):  # another process of this home was first
            create_key_file(home.key_file, Identity.generate())
            words = "made this home's key, which is the account and its money: back it up. Settings go into"
            created.info(words, extra={"path": str(home.key_file), "settings": str(home.config_file)})
    return load_key_file(home.key_file)


def open_chain(config: Config, meter: Meter | None = None) -> AbstractAsyncContextManager[Ledger]:
    from cactus_mesh.ledger.client import open_ledger

    observed = None if meter is None else meter.ledger_answered
    return open_ledger(config.ledger, Address(config.contract), config.chain_id, observed)


def open_models(config: Config, home: Home) -> AbstractAsyncContextManager[Engine]:
    chosen = config.engine
    if chosen.kind == "openai":
        from cactus_mesh.engine.upstream import open_upstream

        return open_upstream(config.models, chosen.url, key=chosen.key, slots=chosen.slots)
    from cactus_mesh.engine import EngineSettings, open_engine
    from cactus_mesh.engine.library import Library

    words, expected = Library(home.models_file).words(config.models, chosen.dtype)
    settings = EngineSettings(
        slots=chosen.slots,
        threads=chosen.threads,
        device=chosen.device,
        dtype=chosen.dtype,
        memory_mib=chosen.memory_mib,
        cache_mib=chosen.cache_mib,
        expected=expected,
        allow_download=chosen.allow_download,
    )
    return open_engine(words, settings)


def open_mesh(
    identity: Identity, config: Config, home: Home, roles: Sequence[Role], listen: Sequence[str]
) -> AbstractAsyncContextManager[MeshNetwork]:
    from cactus_mesh.net import NetworkSettings, open_network

    serves = tuple(roles) != ("client",)  # nobody looks for a client
    settings = NetworkSettings(
        listen=tuple(listen),
        bootstrap=config.bootstrap,
        known_peers_file=home.peers_file,
        serve_dht=serves,
        serve_relay="relay" in roles,
        relays=config.relays if serves or listen else "never",
        mdns=config.mdns and serves,
    )
    hello = Hello(
        network=config.network,
        chain_id=config.chain_id,
        contract=bytes.fromhex(config.contract.removeprefix("0x")),
        version=VERSION,
        roles=list(roles),
        agent=f"cactus-mesh/{__version__}",
    )
    return open_network(identity, settings, hello)


def default_listen(port: int = DEFAULT_PORT) -> tuple[str, ...]:
    """The usual port, or any free one when another program has it; the same for IPv6, where there is any."""
    found = [address for address in _ANYWHERE if _bindable(address, 0)]
    if not all(_bindable(address, port) for address in found):
        port = next((_bindable(address, 0) for address in found), 0)
    return tuple(f"{address}/tcp/{port}" for address in found)


def client_listen() -> tuple[str, ...]:
    """Any port, for those who meet us half way when both stand behind NATs; nowhere on Windows, which would ask its
    user about it and does not let us dial from there."""
    return default_listen(0) if os.name == "posix" else ()


def _bindable(address: str, port: int) -> int:
    """*port*, or any free one for 0, if a program can listen there now; else 0."""
    _, family, host = address.split("/")
    try:
        with socket.socket(socket.AF_INET6 if family == "ip6" else socket.AF_INET) as probe:
            if family == "ip6":
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError:
        return 0


async def first_connection(network: MeshNetwork) -> None:
    """Wait until somebody answers, and say who was tried when nobody does."""
    with trio.move_on_after(JOIN_SECONDS):
        async with network.watch() as arrivals:
            if not network.peers():
                await arrivals.receive()
            return
    tried = "; ".join(f"{address}: {why}" for address, why in network.status().attempts.items())
    raise NoBootstrap(f"no bootstrap peer answers ({tried or 'none was known'}); check that it runs and its address")
