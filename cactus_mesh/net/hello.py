"""The hello: who may talk to whom.  Peers of another network, contract or protocol version part here, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import WrongNetwork
from cactus_mesh.messages import Hello, seal, unseal

if TYPE_CHECKING:
    from cactus_mesh.identity import Identity, PublicKey

HELLO_SECONDS: Final = 5.0
"""From a connection being encrypted to both hellos being checked.  Whoever is silent for longer is disconnected."""
HELLO_VALID_MS: Final = 120_000
"""Long enough for clocks that differ by a minute; it is bound to its recipient, so there is nothing to replay."""


def seal_hello(hello: Hello, identity: Identity, *, recipient: PublicKey, now_ms: int) -> bytes:
    return seal(hello, identity, now_ms=now_ms, valid_ms=HELLO_VALID_MS, recipient=recipient).raw


def open_hello(raw: bytes, ours: Hello, *, sender: PublicKey, recipient: PublicKey, now_ms: int) -> Hello:
    """The peer's hello.  Raises a `MessageError`, or `WrongNetwork` naming both networks."""
    theirs = unseal(raw, Hello, now_ms=now_ms, sender=sender, recipient=recipient).body
    difference = difference_between(ours, theirs)
    if difference is not None:
        raise WrongNetwork(difference)
    return theirs


def difference_between(one: Hello, other: Hello) -> str | None:
    """Why these two do not belong together, in words that are true for both; None when they do."""
    if one.network != other.network:
        return (
            f"these two peers are in different networks, {one.network!r} and {other.network!r}; "
            "give both the same --network"
        )
    if one.chain_id != other.chain_id or one.contract != other.contract:
        return (
            f"both peers call their network {one.network!r}, but one settles with contract "
            f"0x{one.contract.hex()} on chain {one.chain_id}, the other with 0x{other.contract.hex()} "
            f"on chain {other.chain_id}; give both the same --ledger and contract"
        )
    if one.version != other.version:
        return (
            f"one peer of network {one.network!r} speaks protocol version {one.version}, the other {other.version}; "
            "the older one should update cactus-mesh"
        )
    return None
