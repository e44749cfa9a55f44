"""Where a node that was told of no bootstrap peer finds one: in the lists that its network's publisher signs, among
the peers that it remembers, or on its LAN.

Decides which list counts and what a bad one means; what a list must be is `core.peerlist`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cactus_mesh.config import network_folders
from cactus_mesh.core.peerlist import MAX_LIST_BYTES, PeerList, open_list
from cactus_mesh.errors import NoBootstrap, PeerListExpired, PeerListRejected
from cactus_mesh.identity import PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cactus_mesh.config import Config, Home

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundList:
    """A file and either its list or what is wrong with it."""

    path: Path
    peers: PeerList | None
    problem: PeerListRejected | PeerListExpired | None


def lists_of(config: Config, home: Home, now: float) -> list[FoundList]:
    """The lists of the configured network, the newest good one first.  None when the network names no publisher."""
    if not config.publisher:
        return []
    paths = [folder / f"{config.network}.peers.json" for folder in network_folders(home)]
    found = [_read(path, config, now) for path in paths if path.exists()]
    return sorted(found, key=lambda each: -each.peers.issued_at if each.peers else 1)


def with_known_peers(config: Config, home: Home, now: float) -> Config:
    """*config* with the bootstrap peers of its network's list, unless the user has named some.

    A bad list is an error only where there is no other way in: neither a good list, nor peers remembered from before,
    nor a network that begins here.
    """
    if config.bootstrap:
        return config
    found = lists_of(config, home, now)
    for each in found:
        if each.peers is not None:
            return replace(config, bootstrap=tuple(each.peers.addresses))
    for each in found:
        assert each.problem is not None, "a list is good or has a problem"
        if not home.peers_file.exists() and "bootstrap" not in config.roles:
            raise each.problem
        log.warning(
            "a list of known peers is not used; going on with the peers that are remembered",
            extra={"reason": each.problem.message},
        )
    return config


def _read(path: Path, config: Config, now: float) -> FoundList:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
        return FoundList(
            path, open_list(data, network=config.network, publisher=PeerId(config.publisher), now=now), None
        )
    except (PeerListRejected, PeerListExpired) as error:
        return FoundList(path, None, type(error)(f"the list of known peers {path}: {error}; {_ADVICE}"))
    except OSError as error:
        return FoundList(path, None, PeerListRejected(f"cannot read {path} ({error.strerror}); {_ADVICE}"))


_ADVICE = (
    "update cactus-mesh or get a newer list from the network's publisher, or name a peer to join through: "
    "--bootstrap /ip4/…/tcp/…/p2p/…"
)


def require_way_in(config: Config, home: Home) -> None:
    """Raises `NoBootstrap` when nobody is known to join through."""
    if not _knows_way_in(config, home):
        raise _no_way_in(config, "")


async def with_neighbours(config: Config, home: Home, listen: Sequence[str]) -> Config:
    """*config*; when nobody is known to join through, with a peer of the LAN as bootstrap peer.

    Raises `NoBootstrap` when nobody answers there either, or it is not to be asked.
    """
    if _knows_way_in(config, home):
        return config
    if not config.mdns or all(address.startswith(("/ip4/127.", "/ip6/::1/")) for address in listen):
        raise _no_way_in(config, "")
    from cactus_mesh.net.mdns import neighbours

    log.info("no bootstrap peer is known; looking for nodes on the LAN")
    found = await neighbours(config.network)
    if not found:
        raise _no_way_in(config, ", and no node of it answers on this LAN")
    return replace(config, bootstrap=tuple(found))


def _knows_way_in(config: Config, home: Home) -> bool:
    return bool(config.bootstrap) or home.peers_file.exists()


def _no_way_in(config: Config, besides: str) -> NoBootstrap:
    return NoBootstrap(
        f"no bootstrap peer is known for network {config.network!r}{besides}.  To join one, paste the line that one of "
        "its nodes printed, or add --bootstrap /ip4/…/tcp/…/p2p/….  To begin a network of your own, run first: "
        "cactus-mesh run --role bootstrap"
    )
