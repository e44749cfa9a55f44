"""An orchestrator's stake, whose owner may be another, colder key: ``stake``, ``unstake``, ``operator-consent``, …"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.accounts import (
    account_of,
    afford,
    amount_of,
    key_of,
    key_option,
    ledger_options,
    open_chain,
    report,
    signer_at,
    when,
)
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.errors import LedgerAborted, NoOperatorConsent, NotStaked, NotTheOwner, UsageError
from cactus_mesh.terminal import octas

if TYPE_CHECKING:
    from pathlib import Path

    from cactus_mesh.config import Home
    from cactus_mesh.core.settlement import OperatorConsent
    from cactus_mesh.identity import Address, Identity, PublicKey
    from cactus_mesh.ports import Chain, Ledger, OrchestratorView

OPERATOR_OPTION = click.option("--operator", metavar="PEER", help="The orchestrator. Default: this home's.")
OWNER_KEY_OPTION = key_option("--owner-key", "The key that owns the stake and signs. Default: this home's.")
CONSENT_OPTION = click.option(
    "--operator-signature", metavar="HEX", help="What `cactus-mesh operator-consent` printed on the operator's machine."
)


def _operator_at(home: Home, operator: str | None) -> PublicKey:
    """The one named, else this home's key.  An owner's machine has none: there it must be named."""
    from cactus_mesh.identity import load_key_file

    if operator is not None:
        return key_of(operator)
    if not home.key_file.exists():
        raise UsageError("whose stake? name the orchestrator with --operator 12D3KooW…; see there: cactus-mesh id")
    return load_key_file(home.key_file).public_key


@main.command()
@click.argument("amount")
@OPERATOR_OPTION
@CONSENT_OPTION
@OWNER_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def stake(
    home: Home,
    amount: str,
    operator: str | None,
    operator_signature: str | None,
    owner_key: Path | None,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Stake AMOUNT, so that work comes.

    In octas like 150000000, or in APT like 1.5apt.  Registers an orchestrator, or adds to its stake.

    By default this home's key is both the operator, which serves, and the owner, which holds the stake.  With
    --owner-key the stake belongs to another key, which the serving machine need not have: run this where that key is,
    with the peer id of the operator and with its consent, which `cactus-mesh operator-consent` makes there.

    \b
    Example: cactus-mesh stake 100apt
    Example: cactus-mesh stake 100apt --owner-key cold.key --operator 12D3KooW… --operator-signature 0x…
    """
    from cactus_mesh.book import open_book
    from cactus_mesh.identity import address, peer_id

    wanted = amount_of(amount)
    owner = signer_at(home, owner_key)
    key = _operator_at(home, operator)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        view = await chain.orchestrator(address(key))
        if view is None:
            _refuse_below_minimum(chain, wanted)
            consent = _consent_of(home, chain.chain, owner, key, operator_signature)
            await afford(
                chain,
                owner,
                wanted,
                lambda: chain.register_orchestrator(owner, key, wanted, operator_signature=consent),
            )
        else:
            _refuse_others(view, owner, peer_id(key))
            await afford(chain, owner, wanted, lambda: chain.add_stake(owner, address(key), wanted))
        with open_book(home.book_file) as book:
            book.staked(owner.address, address(key))
        after = await chain.orchestrator(address(key))
    held = 0 if after is None else after.stake
    found = {"staked": wanted, "stake": held, "operator": peer_id(key), "owner": owner.address, "new": view is None}
    report(found, f"{octas(held)} at stake for {peer_id(key)},\nowned by {owner.address}", as_json=as_json)


def _refuse_below_minimum(chain: Ledger, wanted: int) -> None:
    least = chain.chain.min_stake
    if wanted < least:
        raise NotStaked(
            f"a first stake is at least {octas(least)}, which is {octas(least - wanted)} more than that; run: "
            f"cactus-mesh stake {least}"
        )


def _refuse_others(view: OrchestratorView, owner: Identity, operator: str) -> None:
    if view.owner != owner.address:
        raise NotTheOwner(
            f"the stake of {operator} is owned by {view.owner}, not by {owner.address}; run this where its key is, "
            f"with --owner-key FILE --operator {operator}"
        )


def _consent_of(home: Home, chain: Chain, owner: Identity, key: PublicKey, given: str | None) -> bytes:
    """The operator's signature: made here where its key is at hand, else the one given, checked."""
    from cactus_mesh.identity import load_key_file, peer_id, verify

    if key == owner.public_key:
        return b""
    consent = _consent(chain.chain_id, chain.contract, owner.address, key).to_bcs()
    if given is None and home.key_file.exists():
        operator = load_key_file(home.key_file)
        if operator.public_key == key:
            return operator.sign(consent)
    try:
        signature = bytes.fromhex((given or "").removeprefix("0x"))
    except ValueError:
        signature = b""
    if not verify(key, consent, signature):
        problem = "is missing" if given is None else "does not hold for this owner, chain and contract"
        raise NoOperatorConsent(
            f"the operator's consent {problem}; run on the machine of {peer_id(key)}: "
            f"cactus-mesh operator-consent {owner.address}"
        )
    return signature


def _consent(chain_id: int, contract: Address, owner: Address, key: PublicKey) -> OperatorConsent:
    from cactus_mesh.core.settlement import OperatorConsent
    from cactus_mesh.identity import address

    return OperatorConsent(chain_id, contract, owner, address(key))


@main.command("operator-consent")
@click.argument("owner", metavar="PEER|ADDRESS")
@ledger_options
@json_option
@click.pass_obj
@command
async def operator_consent(home: Home, owner: str, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Let OWNER stake for this home's key.

    Signs, with this home's key, that it works for OWNER, and prints what OWNER runs.  Needs no ledger.  It lets OWNER
    register this key, or put it into the place of an older one, and nothing else.

    \b
    Example: cactus-mesh operator-consent 0x5f2c…
    """
    from cactus_mesh.identity import Address

    config = load(home, network=network, ledger=ledger)
    identity, account = signer_at(home, None), account_of(owner)
    consent = _consent(config.chain_id, Address(config.contract), account, identity.public_key)
    signature = f"0x{identity.sign(consent.to_bcs()).hex()}"
    found = {
        "operator": identity.peer_id,
        "owner": account,
        "chain_id": config.chain_id,
        "contract": config.contract,
        "operator_signature": signature,
    }
    text = (
        f"{identity.peer_id} will work for {account}\non chain {config.chain_id}. Its owner runs, with its own key:\n\n"
        f"  cactus-mesh stake AMOUNT --owner-key FILE --operator {identity.peer_id} "
        f"--operator-signature {signature}\n\n"
        "or, to put this key into the place of an older one:\n\n"
        f"  cactus-mesh set-operator {identity.peer_id} --owner-key FILE --operator OLD_PEER "
        f"--operator-signature {signature}"
    )
    report(found, text, as_json=as_json)


@main.command("set-operator")
@click.argument("successor", metavar="NEW_PEER")
@OPERATOR_OPTION
@CONSENT_OPTION
@OWNER_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def set_operator(
    home: Home,
    successor: str,
    operator: str | None,
    operator_signature: str | None,
    owner_key: Path | None,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Let NEW_PEER serve on an existing stake.

    It replaces the present operator key, after a theft say.  The old key is worthless at once, also for tasks that it
    has not been paid for yet, and never comes back.

    \b
    Example: cactus-mesh set-operator 12D3KooWnew… --operator 12D3KooWold… --operator-signature 0x… --owner-key cold.key
    """
    from cactus_mesh.book import open_book
    from cactus_mesh.identity import address, peer_id

    owner = signer_at(home, owner_key)
    old, new = _operator_at(home, operator), key_of(successor)
    if old == new:
        raise UsageError(f"{successor} is the operator already; name the old one with --operator")
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        view = await _stake_of(chain, old)
        _refuse_others(view, owner, peer_id(old))
        _refuse_frozen(view)
        consent = _consent_of(home, chain.chain, owner, new, operator_signature)
        await chain.set_operator(owner, address(old), new, operator_signature=consent)
    with open_book(home.book_file) as book:
        book.forget_stake(owner.address, address(old))
        book.staked(owner.address, address(new))
    found = {"operator": peer_id(new), "replaced": peer_id(old), "owner": owner.address, "stake": view.stake}
    report(
        found, f"{peer_id(new)}\nnow serves on {octas(view.stake)}; {peer_id(old)} never will again", as_json=as_json
    )


async def _stake_of(chain: Ledger, key: PublicKey) -> OrchestratorView:
    from cactus_mesh.identity import address, peer_id

    view = await chain.orchestrator(address(key))
    if view is None:
        raise NotStaked(f"no stake is registered for {peer_id(key)}; begin with: cactus-mesh stake AMOUNT")
    return view


def _refuse_frozen(view: OrchestratorView) -> None:
    if view.frozen:
        raise LedgerAborted(
            f"the stake is frozen by open disputes ({view.open_disputes}) until they are decided; see: "
            "cactus-mesh balance"
        )


@main.command()
@click.argument("amount", required=False)
@click.option("--all", "everything", is_flag=True, help="The whole active stake.")
@click.option("--cancel", is_flag=True, help="Make everything that is unbonding active again.")
@OPERATOR_OPTION
@OWNER_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def unstake(
    home: Home,
    amount: str | None,
    everything: bool,
    cancel: bool,
    operator: str | None,
    owner_key: Path | None,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Begin to unbond AMOUNT of the stake.

    In octas like 150000000, or in APT like 1.5apt.

    It stops bringing tasks at once, still answers for past ones, and can be claimed after the contract's unbonding
    time.  A running node whose own key owns the stake claims it by itself.

    \b
    Example: cactus-mesh unstake 50apt
    """
    from cactus_mesh.identity import address, peer_id

    if [amount is not None, everything, cancel].count(True) != 1:
        raise UsageError("say one of: an AMOUNT, --all, or --cancel")
    owner = signer_at(home, owner_key)
    key = _operator_at(home, operator)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        view = await _stake_of(chain, key)
        _refuse_others(view, owner, peer_id(key))
        if cancel:
            await _cancel(chain, owner, key, view, as_json=as_json)
            return
        wanted = view.stake if amount is None else amount_of(amount)
        if not 0 < wanted <= view.stake:
            raise NotStaked(
                f"the active stake is {octas(view.stake)}, less than that; unbonding already are "
                f"{octas(sum(due.amount for due in view.unbonding))}"
            )
        await chain.request_unstake(owner, address(key), wanted)
        after = await _stake_of(chain, key)
    due = after.unbonding[-1].release_at
    found = {"unbonding": wanted, "release_at": due, "stake": after.stake, "owner": owner.address}
    report(found, _unbonding(chain.chain, wanted, due, after), as_json=as_json)


def _unbonding(chain: Chain, amount: int, due: int, view: OrchestratorView) -> str:
    text = f"{octas(amount)} unbond; {octas(view.stake)} stay at stake"
    if view.stake < chain.min_stake:
        text += f"\nthat is below the minimum of {octas(chain.min_stake)}: no new tasks come"
    return (
        f"{text}\nto be claimed from {when(due, time.time())}: the owner's running node does it,\nor: cactus-mesh claim"
    )


async def _cancel(chain: Ledger, owner: Identity, key: PublicKey, view: OrchestratorView, *, as_json: bool) -> None:
    from cactus_mesh.identity import address

    back = sum(due.amount for due in view.unbonding)
    if not back:
        raise NotStaked("no stake is unbonding, so that there is nothing to cancel; see: cactus-mesh balance")
    await chain.cancel_unstake(owner, address(key))
    found: dict[str, object] = {"cancelled": back, "stake": view.stake + back, "owner": owner.address}
    report(found, f"{octas(back)} no longer unbond; {octas(view.stake + back)} are at stake again", as_json=as_json)
