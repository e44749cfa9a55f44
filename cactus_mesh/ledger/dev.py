"""What only the embedded development ledger has: its fixed names, a faucet, and an audit of all its money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.errors import LedgerDown, LedgerRejected, UsageError
from cactus_mesh.identity import Address

if TYPE_CHECKING:
    import httpx

DEVNET_CHAIN_ID: Final = 202
"""In no list of public chains; mainnet is 1, testnet 2, a local Aptos node 4."""
PUBLIC_CHAIN_IDS: Final = frozenset({1, 2})
LOCAL_NODE_CHAIN_ID: Final = 4
DEVNET_CONTRACT: Final = Address("0x" + "cac7" * 16)
"""Where every embedded ledger keeps the contract, so that network files can name it."""
DEFAULT_PORT: Final = 8790


@dataclass(frozen=True, slots=True)
class Audit:
    """*minted* is everything the faucet ever gave; *violations* is empty when not one octa was made or lost since."""

    minted: int
    fees: int
    violations: tuple[str, ...]

    @property
    def conserved(self) -> bool:
        return not self.violations


async def fund(url: str, account: Address, amount: int) -> None:
    """Mint *amount* octas for *account*.  Raises `UsageError` at any ledger but an embedded one."""
    await _ask(url, "POST", "fund", {"address": account, "amount": amount})


async def audit(url: str) -> Audit:
    found = await _ask(url, "GET", "audit", None)
    return Audit(int(found["minted"]), int(found["fees"]), tuple(found["violations"]))


async def _ask(url: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    import httpx

    from cactus_mesh.ledger.connect import base_url, http_client

    base = base_url(url)
    try:
        async with http_client(base) as http:
            _refuse_others(base, await http.get(f"{base}/v1"))
            reply = await http.request(method, f"{base}/{path}", json=body)
            found = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        raise LedgerDown(
            f"no ledger answers at {base} ({type(error).__name__}); start the embedded one with: cactus-mesh devnet"
        ) from None
    if reply.status_code != 200:
        raise LedgerRejected(f"the ledger at {base} refused {path}: {found.get('message', found)}")
    return found


def _refuse_others(base: str, reply: httpx.Response) -> None:
    chain_id = reply.json().get("chain_id") if reply.status_code == 200 else None
    if reply.headers.get("x-cactus-devnet") != "1":
        raise UsageError(
            f"{base} (chain id {chain_id}) is not an embedded development ledger; only that one gives coins away and "
            "audits itself. Start it with: cactus-mesh devnet"
        )
