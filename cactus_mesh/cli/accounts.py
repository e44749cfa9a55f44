"""What the money commands share: amounts and accounts as people write them, whose key signs, when something is due."""

from __future__ import annotations

import hashlib
import re
import string
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec

import click

from cactus_mesh.cli.base import NETWORK_OPTIONS
from cactus_mesh.errors import AddressMalformed, AmountMalformed, KeyFileMissing, NoFunds, TaskIdMalformed, UsageError
from cactus_mesh.terminal import OCTAS_PER_APT, octas, print_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.config import Config, Home
    from cactus_mesh.identity import Address, Identity, PublicKey
    from cactus_mesh.ports import Ledger

P = ParamSpec("P")

APT_DECIMALS: Final = 8
MAX_OCTAS: Final = 2**64 - 1
FEE_RESERVE_OCTAS: Final = 2_000_000
"""What an account must hold beside the amount for a transaction to be accepted; of it only what is used is taken."""
_AMOUNT: Final = re.compile(r"(\d+|\d{1,3}(?:,\d{3})+)(?:\.(\d+))?\s*(apt|octas?)?", re.IGNORECASE | re.ASCII)
_STEPS: Final = ((86_400, "day", "days"), (3_600, "hour", "hours"), (60, "minute", "minutes"), (1, "second", "seconds"))


def ledger_options(function: Callable[P, None]) -> Callable[P, None]:
    for option in NETWORK_OPTIONS:
        function = option(function)
    return function


def key_option(name: str, whose: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    return click.option(name, metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help=whose)


def open_chain(config: Config) -> AbstractAsyncContextManager[Ledger]:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.client import open_ledger

    return open_ledger(config.ledger, Address(config.contract), config.chain_id)


def report(found: Mapping[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(text)


# --- as people write them ------------------------------------------------------------------------------------------


def amount_of(text: str) -> int:
    """Octas: ``150000000``, ``1.5apt``, ``12,345 octas``.  Exact, or an `AmountMalformed`."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise AmountMalformed(f"{text!r} is no amount; write octas like 150000000, or APT like 1.5apt")
    whole, fraction, unit = found[1].replace(",", ""), found[2] or "", (found[3] or "").lower()
    if fraction and unit != "apt":
        raise AmountMalformed(f"{text!r} is no amount: octas have no fractions; for APT write {found[1]}.{fraction}apt")
    if len(fraction) > APT_DECIMALS:
        raise AmountMalformed(f"{text!r} is finer than an octa; an APT has {APT_DECIMALS} decimals")
    scale = OCTAS_PER_APT if unit == "apt" else 1
    amount = int(whole) * scale + int((fraction or "0").ljust(APT_DECIMALS, "0") if fraction else 0)
    if not 0 < amount <= MAX_OCTAS:
        raise AmountMalformed(f"{text!r} must be more than 0 and fit into the ledger's 64 bits")
    return amount


def account_of(text: str) -> Address:
    """The account that a peer id or an address names.  Raises `AddressMalformed`."""
    from cactus_mesh.identity import Address, address

    digits = text.removeprefix("0x")
    if text.startswith("0x") and 0 < len(digits) <= 64 and all(digit in string.hexdigits for digit in digits):
        return Address(f"0x{digits.lower():0>64}")
    try:
        return address(_key_in(text))
    except ValueError:
        raise AddressMalformed(f"{text!r} is neither a peer id (12D3KooW…) nor an account address (0x…)") from None


def key_of(peer: str) -> PublicKey:
    """The key inside a peer id, which an address does not show.  Raises `AddressMalformed`."""
    try:
        return _key_in(peer)
    except ValueError:
        raise AddressMalformed(f"{peer!r} is no peer id (12D3KooW…); see on its machine: cactus-mesh id") from None


def _key_in(peer: str) -> PublicKey:
    from cactus_mesh.identity import public_key_of

    return public_key_of(peer)


def task_id_of(text: str) -> bytes:
    try:
        task_id = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        task_id = b""
    if len(task_id) != 16:
        raise TaskIdMalformed(f"{text!r} is no task id: it has 32 hex digits, as `cactus-mesh ask --json` shows it")
    return task_id


def hash_of(path: Path) -> bytes:
    """What commits to a file's content."""
    return hashlib.sha256(content_of(path)).digest()


def content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}); name a file that there is") from None


# --- whose key ----------------------------------------------------------------------------------------------------


def signer_at(home: Home, key: Path | None) -> Identity:
    """The key in that file, else this home's."""
    from cactus_mesh.adapters import identity_at
    from cactus_mesh.identity import load_key_file

    return identity_at(home) if key is None else load_key_file(key)


def admin_at(home: Home, key: Path | None, option: str = "--admin-key") -> Identity:
    """The key in that file, else that of this home's embedded ledger."""
    from cactus_mesh.identity import load_key_file

    own = home.devnet / "admin.key"
    if key is None and not own.exists():
        raise KeyFileMissing(
            f"this takes an office's key, and there is none at {own}; name its file with {option}, or the --home of "
            "the embedded ledger"
        )
    return load_key_file(key or own)


async def afford(chain: Ledger, signer: Identity, amount: int, act: Callable[[], Awaitable[None]]) -> None:
    """Do *act*, which costs *amount*; say what is missing instead where the coins do not cover it."""
    coins = await chain.balance(signer.address)
    if coins < amount:
        raise NoFunds(
            f"{signer.address} holds {octas(coins)}; {octas(amount - coins)} are missing, and a little for the fee. "
            f"{_how_to_fund(signer, amount - coins + FEE_RESERVE_OCTAS)}"
        )
    try:
        await act()
    except NoFunds:
        raise NoFunds(
            f"{signer.address} holds {octas(coins)}, which leaves too little for the transaction's fee: keep "
            f"{octas(FEE_RESERVE_OCTAS)} beside the amount. {_how_to_fund(signer, FEE_RESERVE_OCTAS)}"
        ) from None


def _how_to_fund(signer: Identity, amount: int) -> str:
    return f"Send it coins; on the embedded ledger: cactus-mesh fund {amount} --to {signer.address}"


# --- when ----------------------------------------------------------------------------------------------------------


def when(moment: int, now: float) -> str:
    """``Mon 30 Nov 2026 14:05, in 7 days``, in local time."""
    return f"{time.strftime('%a %d %b %Y %H:%M', time.localtime(moment))}, {relative(moment - now)}"


def relative(seconds: float) -> str:
    """``in 7 days``, ``3 minutes ago``; in two units where there are few of the first."""
    left = round(abs(seconds))
    if left > 600:
        left = round(left / 60) * 60
    if left == 0:
        return "now"
    for index, (length, one, many) in enumerate(_STEPS):
        count, rest = divmod(left, length)
        if count:
            if count >= 3:  # a week that began a minute ago is still a week
                count = round(left / length)
            words = f"{count} {one if count == 1 else many}"
            if count < 3 and index + 1 < len(_STEPS) and (smaller := rest // _STEPS[index + 1][0]):
                words += f" {smaller} {_STEPS[index + 1][1 if smaller == 1 else 2]}"
            break
    return f"in {words}" if seconds > 0 else f"{words} ago"
