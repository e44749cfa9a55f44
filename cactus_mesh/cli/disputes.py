"""``dispute``: doubt a finished task, answer a doubt, decide it, close it; or prove that one contradicted itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.accounts import (
    account_of,
    admin_at,
    afford,
    content_of,
    hash_of,
    key_of,
    key_option,
    ledger_options,
    open_chain,
    report,
    signer_at,
    task_id_of,
    when,
)
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.errors import LedgerAborted, UsageError
from cactus_mesh.terminal import octas

if TYPE_CHECKING:
    from cactus_mesh.config import Home
    from cactus_mesh.core.settlement import SettlementClaim
    from cactus_mesh.identity import Address, PublicKey
    from cactus_mesh.ports import Chain, DisputeView, Ledger

CLIENT_OPTION = click.option("--client", metavar="PEER|ADDRESS", help="Whose task it is. Default: this account's.")
FILE = click.Path(path_type=Path, dir_okay=False)
_ACTS = {"open": "its owner may contest it until", "contested": "the arbiter may decide it until"}


@main.group()
def dispute() -> None:
    """Doubt a finished task, answer, decide."""


@dispute.command("open")
@click.argument("task_id")
@click.option(
    "--evidence", type=FILE, required=True, help="What shows that the result was no good; only its hash leaves."
)
@CLIENT_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def open_(
    home: Home, task_id: str, evidence: Path, client: str | None, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Doubt a completed task of yours, as its client or its router, and put down the contract's bond.

    The orchestrator's stake is frozen until the decision.  Keep the evidence: an arbiter will ask for it.  The bond
    comes back unless the arbiter dismisses the dispute.

    \b
    Example: cactus-mesh dispute open 3f…9c --evidence transcript.json
    """
    from cactus_mesh.book import open_book
    from cactus_mesh.core.holdings import TaskName

    signer, task, digest = signer_at(home, None), task_id_of(task_id), hash_of(evidence)
    whose = signer.address if client is None else account_of(client)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        bond = (await chain.governance()).params["dispute_bond"]
        await afford(chain, signer, bond, lambda: chain.open_dispute(signer, whose, task, digest))
        with open_book(home.book_file) as book:
            book.disputed(signer.address, TaskName(whose, task))
        view = await _dispute_of(chain, whose, task)
    _report(view, whose, task, f"opened, with a bond of {octas(bond)}", as_json=as_json)


@dispute.command()
@click.argument("task_id")
@click.option("--answer", type=FILE, required=True, help="What shows that the result was good; only its hash leaves.")
@CLIENT_OPTION
@key_option("--owner-key", "The key that owns the stake. Default: this home's.")
@ledger_options
@json_option
@click.pass_obj
@command
async def contest(
    home: Home,
    task_id: str,
    answer: Path,
    client: str | None,
    owner_key: Path | None,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Answer a dispute as the stake's owner, so that the arbiter has to decide.  Uncontested, it is lost.

    \b
    Example: cactus-mesh dispute contest 3f…9c --client 12D3KooW… --answer receipt.json
    """
    from cactus_mesh.book import open_book
    from cactus_mesh.core.holdings import TaskName

    signer, task, digest = signer_at(home, owner_key), task_id_of(task_id), hash_of(answer)
    whose = signer.address if client is None else account_of(client)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await _dispute_of(chain, whose, task)
        await chain.contest_dispute(signer, whose, task, digest)
        with open_book(home.book_file) as book:
            book.disputed(signer.address, TaskName(whose, task))
        view = await _dispute_of(chain, whose, task)
    _report(view, whose, task, "contested", as_json=as_json)


@dispute.command()
@click.argument("task_id")
@click.option(
    "--upheld/--dismissed", default=None, required=True, help="Slash the stake, or give the bond to its owner."
)
@CLIENT_OPTION
@key_option("--arbiter-key", "The arbiter's key. Default: that of this home's embedded ledger.")
@ledger_options
@json_option
@click.pass_obj
@command
async def resolve(
    home: Home,
    task_id: str,
    upheld: bool,
    client: str | None,
    arbiter_key: Path | None,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Decide a contested dispute, as the contract's arbiter.

    \b
    Example: cactus-mesh dispute resolve 3f…9c --client 12D3KooW… --upheld
    """
    signer, task = admin_at(home, arbiter_key, "--arbiter-key"), task_id_of(task_id)
    whose = signer.address if client is None else account_of(client)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await _dispute_of(chain, whose, task)
        await chain.resolve_dispute(signer, whose, task, upheld=upheld)
        view = await _dispute_of(chain, whose, task)
    _report(view, whose, task, view.status, as_json=as_json)


@dispute.command()
@click.argument("task_id")
@CLIENT_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def finalize(
    home: Home, task_id: str, client: str | None, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Close a dispute whose deadline has passed: upheld if nobody contested it, lapsed if the arbiter did not decide.

    \b
    Example: cactus-mesh dispute finalize 3f…9c --client 12D3KooW…
    """
    signer, task = signer_at(home, None), task_id_of(task_id)
    whose = signer.address if client is None else account_of(client)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        view = await _dispute_of(chain, whose, task)
        if view.status in _ACTS and time.time() <= view.act_by:
            raise LedgerAborted(f"it can't be closed yet: {_ACTS[view.status]} {when(view.act_by, time.time())}")
        await chain.finalize_dispute(signer, whose, task)
        view = await _dispute_of(chain, whose, task)
    _report(view, whose, task, view.status, as_json=as_json)


@dispute.command()
@click.argument("task_id")
@CLIENT_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def show(
    home: Home, task_id: str, client: str | None, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Show a dispute.

    \b
    Example: cactus-mesh dispute show 3f…9c --client 12D3KooW…
    """
    task = task_id_of(task_id)
    whose = signer_at(home, None).address if client is None else account_of(client)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        view = await _dispute_of(chain, whose, task)
    _report(view, whose, task, view.status, as_json=as_json)


# --- no court needed -----------------------------------------------------------------------------------------------


@dispute.command()
@click.argument("operator", metavar="PEER")
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@ledger_options
@json_option
@click.pass_obj
@command
async def equivocation(
    home: Home, operator: str, first: Path, second: Path, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Prove that PEER signed two different results for one task.  Its stake is slashed at once.

    Anybody may; the client gets back what it paid.  FIRST and SECOND each hold one claim with its signature:
    {"claim": "0x…", "signature": "0x…"}.  In Python they are `claim` and `claim_signature` of a receipt's body.

    \b
    Example: cactus-mesh dispute equivocation 12D3KooW… first.json second.json
    """
    signer, key = signer_at(home, None), key_of(operator)
    proof = _claim_in(first, key), _claim_in(second, key)
    claim = proof[0][0]
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        _refuse_no_contradiction(chain.chain, claim, proof[1][0])
        before = await chain.orchestrator(claim.orchestrator)
        await chain.report_equivocation(signer, key, *proof)
        after = await chain.orchestrator(claim.orchestrator)
    held = 0 if after is None else after.stake + sum(due.amount for due in after.unbonding)
    had = 0 if before is None else before.stake + sum(due.amount for due in before.unbonding)
    found: dict[str, object] = {
        "task_id": claim.task_id.hex(),
        "client": claim.client,
        "orchestrator": claim.orchestrator,
        "slashed": had - held if after is not None else None,
    }
    # a replaced operator key has no view of its own, but the stake behind it has answered all the same
    text = f"slashed by {octas(had - held)}" if after is not None else "slashed"
    report(found, f"the stake of {operator}\nis {text}, for task {claim.task_id.hex()}", as_json=as_json)


def _claim_in(path: Path, key: PublicKey) -> tuple[SettlementClaim, bytes]:
    """The claim in a file, and its signature, which is *key*'s.  Raises `UsageError` for anything else."""
    from cactus_mesh.core.settlement import SettlementClaim
    from cactus_mesh.identity import address, verify

    try:
        fields = json.loads(content_of(path))
        data, signature = (bytes.fromhex(fields[name].removeprefix("0x")) for name in ("claim", "signature"))
        claim = SettlementClaim.from_bcs(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f'{path} holds no signed claim; it should look like {{"claim": "0x…", "signature": "0x…"}}'
        ) from None
    if claim.orchestrator != address(key) or not verify(key, data, signature):
        raise UsageError(f"the claim in {path} is not signed by that peer, so that it proves nothing against it")
    return claim, signature


def _refuse_no_contradiction(chain: Chain, one: SettlementClaim, other: SettlementClaim) -> None:
    for claim in (one, other):
        if (claim.chain_id, claim.contract) != (chain.chain_id, chain.contract):
            raise UsageError(f"a claim is for contract {claim.contract} on chain {claim.chain_id}, not for this ledger")
    if (one.client, one.router, one.task_id) != (other.client, other.router, other.task_id):
        raise UsageError("the claims are for different tasks; name two for one client, router and task id")
    if one.result_hash == other.result_hash:
        raise UsageError("both claims name the same result, so that they contradict each other in nothing")


async def _dispute_of(chain: Ledger, client: Address, task_id: bytes) -> DisputeView:
    view = await chain.dispute(client, task_id)
    if view is None:
        raise LedgerAborted(
            f"task {task_id.hex()} of {client} is not disputed; check the task id, and name its client with --client"
        )
    return view


def _report(view: DisputeView, client: Address, task_id: bytes, what: str, *, as_json: bool) -> None:
    found: dict[str, object] = {
        "task_id": task_id.hex(),
        "client": client,
        "status": view.status,
        "orchestrator": view.orchestrator,
        "opener": view.opener,
        "bond": view.bond,
        "evidence_hash": view.evidence_hash.hex(),
        "answer_hash": view.answer_hash.hex() or None,
        "act_by": view.act_by,
    }
    lines = [f"dispute about task {task_id.hex()}: {what}", f"client       {client}"]
    lines += [f"orchestrator {view.orchestrator}", f"opener       {view.opener}", f"bond         {octas(view.bond)}"]
    lines += [f"evidence     sha256 {view.evidence_hash.hex()}"]
    lines += [f"answer       sha256 {view.answer_hash.hex()}"] if view.answer_hash else []
    if view.status in _ACTS:
        lines.append(f"{_ACTS[view.status]} {when(view.act_by, time.time())}")
    report(found, "\n".join(lines), as_json=as_json)
