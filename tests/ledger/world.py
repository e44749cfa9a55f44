"""A contract with everybody in it, and short ways to sign what they sign."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cactus_mesh.core.settlement import NOBODY, OperatorConsent, Settlement, SettlementClaim, TaskConsent
from cactus_mesh.identity import Address, Identity
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.client import batch_columns
from cactus_mesh.ledger.rules import Abort, Event, State, Tx

if TYPE_CHECKING:
    from cactus_mesh.ledger.rules.codes import Code

NOW = 1_800_000_000
COIN = 10**8
CONTRACT = Address("0x" + "cac7" * 16)
CHAIN_ID = 203


def person(name: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(name.encode()).digest())


ADMIN, ROUTER, OTHER_ROUTER = person("admin"), person("router"), person("other router")
ORCHESTRATOR, DELEGATE, CLIENT, STRANGER = map(person, ("orchestrator", "delegate", "client", "stranger"))
EVERYBODY = (ADMIN, ROUTER, OTHER_ROUTER, ORCHESTRATOR, DELEGATE, CLIENT, STRANGER)


def task_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def consent_for(number: int = 1, **changes: Any) -> TaskConsent:
    consent = TaskConsent(
        CHAIN_ID, CONTRACT, CLIENT.address, ROUTER.address, task_id(number), number, 10_000, NOW + 10**6
    )
    return replace(consent, **changes)


def claim_for(number: int = 1, **changes: Any) -> SettlementClaim:
    claim = SettlementClaim(
        CHAIN_ID, CONTRACT, CLIENT.address, ROUTER.address, ORCHESTRATOR.address, NOBODY, 0, task_id(number),
        b"m" * 32, 5_000_000, 1_500, 5_000, b"r" * 32,
    )  # fmt: skip
    return replace(claim, **changes)


def signed(
    consent: TaskConsent,
    claim: SettlementClaim,
    *,
    client: Identity = CLIENT,
    orchestrator: Identity = ORCHESTRATOR,
    quality_ppm: int = 1_000_000,
) -> Settlement:
    return Settlement(consent, client.sign(consent.to_bcs()), claim, orchestrator.sign(claim.to_bcs()), quality_ppm)


def settlement(
    number: int = 1, *, consent: dict[str, Any] | None = None, claim: dict[str, Any] | None = None
) -> Settlement:
    return signed(consent_for(number, **(consent or {})), claim_for(number, **(claim or {})))


@dataclass
class World:
    """Everybody has 100 coins; the router is authorised, both orchestrators staked, the client has deposited 10."""

    state: State = field(default_factory=lambda: rules.init(CHAIN_ID, CONTRACT, ADMIN.address))
    now: int = NOW

    def do(self, signer: Identity, entry: str, *arguments: Any) -> list[Event]:
        events = rules.ENTRIES[entry](self.state, Tx(signer.address, self.now), *arguments)
        assert list(rules.violations(self.state)) == []
        return events

    def refuses(self, signer: Identity, entry: str, *arguments: Any) -> Code:
        """The code with which it aborts, having left no trace."""
        before = self.snapshot()
        try:
            self.do(signer, entry, *arguments)
        except Abort as abort:
            assert self.snapshot() == before
            return abort.code
        raise AssertionError(f"{entry} was not refused")

    def snapshot(self) -> dict[str, dict[Any, Any]]:
        return {name: dict(getattr(self.state, name)) for name in rules.state.TABLES}

    def coins(self, who: Identity) -> int:
        return self.state.coins.get(who.address, 0)

    # shorthands

    def create(self, number: int = 1, *, signer: Identity = ROUTER, **changes: Any) -> list[Event]:
        return self.do(signer, "create_task", *self.create_arguments(number, **changes))

    def create_arguments(self, number: int = 1, **changes: Any) -> tuple[Any, ...]:
        """*changes* are of the consent, or of orchestrator, accept_by, done_by, signature."""
        orchestrator = changes.pop("orchestrator", ORCHESTRATOR.address)
        accept_by = changes.pop("accept_by", self.now + 60)
        done_by = changes.pop("done_by", self.now + 600)
        signature = changes.pop("signature", None)
        consent = consent_for(number, **changes)
        return (
            consent.client, consent.task_id, consent.nonce, consent.max_price, consent.expires_at,
            signature or CLIENT.sign(consent.to_bcs()), orchestrator, accept_by, done_by,
        )  # fmt: skip

    def complete_arguments(self, number: int = 1, **changes: Any) -> tuple[Any, ...]:
        quality, signature = changes.pop("quality_ppm", 1_000_000), changes.pop("signature", None)
        signer = changes.pop("signer", ORCHESTRATOR)
        claim = claim_for(number, **changes)
        return (
            claim.client, claim.task_id, claim.delegate, claim.delegate_bps, claim.model_digest, claim.complexity,
            claim.compute_ms, claim.price, claim.result_hash, signature or signer.sign(claim.to_bcs()), quality,
        )  # fmt: skip

    def settle(self, *items: Settlement, signer: Identity = ROUTER) -> list[Event]:
        return self.do(signer, "settle_batch", *batch_columns(items))

    def skips(self, item: Settlement, signer: Identity = ROUTER) -> Code:
        """Why a batch skips *item*, having left no trace."""
        before = self.snapshot()
        (event,) = self.settle(item, signer=signer)
        assert isinstance(event, rules.events.SettlementSkipped)
        assert self.snapshot() == before
        return rules.CODES[event.reason]


def new_world() -> World:
    world = World()
    furnish(world)
    return world


def furnish(world: World) -> None:
    for each in EVERYBODY:
        rules.mint(world.state, each.address, 100 * COIN)
    for router in (ROUTER, OTHER_ROUTER):
        world.do(router, "register_server")
        world.do(ADMIN, "authorize_server", router.address, NOW + 10**6, COIN)
    for each in (ORCHESTRATOR, DELEGATE):
        world.do(each, "register_orchestrator", each.public_key, b"", COIN)
    world.do(CLIENT, "deposit", CLIENT.public_key, 10 * COIN)


def contradiction(operator: Identity, *claims: SettlementClaim) -> tuple[Any, ...]:
    """The arguments of report_equivocation for claims of one task."""
    first = claims[0]
    rows = [
        (c.delegate, c.delegate_bps, c.model_digest, c.complexity, c.compute_ms, c.price, c.result_hash,
         operator.sign(c.to_bcs()))
        for c in claims
    ]  # fmt: skip
    return first.client, first.router, operator.public_key, first.task_id, *map(list, zip(*rows, strict=True))


def operator_signature(operator: Identity, owner: Identity) -> bytes:
    return operator.sign(OperatorConsent(CHAIN_ID, CONTRACT, owner.address, operator.address).to_bcs())
