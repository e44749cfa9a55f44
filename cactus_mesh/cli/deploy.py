"""``deploy``: put the compiled contract onto a chain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.accounts import key_option, signer_at
from cactus_mesh.cli.base import command, json_option, main
from cactus_mesh.errors import PackageMalformed
from cactus_mesh.terminal import print_json, say

if TYPE_CHECKING:
    from cactus_mesh.config import Home


@main.command()
@click.argument("payload", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--ledger", metavar="URL", required=True, help="A full node of the chain.")
@key_option("--key", "The publishing account's key. Default: this home's.")
@click.option("--upgrade", is_flag=True, help="Publish new code over a contract that is there.")
@click.option("--dry-run", is_flag=True, help="Check everything that can be checked without sending anything.")
@json_option
@click.pass_obj
@command
async def deploy(
    home: Home, payload: Path, ledger: str, key: Path | None, upgrade: bool, dry_run: bool, as_json: bool
) -> None:
    """Publish the contract of contracts/ from PAYLOAD.

    \b
    The Aptos CLI compiles it, for the account that will publish (see: cactus-mesh id):
      cd contracts
      aptos move build-publish-payload --named-addresses cactus_mesh=0x<account> \\
        --included-artifacts none --json-output-file payload.json
    Example: cactus-mesh deploy payload.json --ledger https://api.testnet.aptoslabs.com

    The account becomes administrator, arbiter and treasury, and can upgrade the code: use a key of its own.  The
    embedded ledger has the contract built in.  Not verified by the authors on a real network: rehearse on testnet.
    `aptos move publish` does the same.
    """
    from cactus_mesh.ledger.publish import MAX_FILE_BYTES, chain_at, check_package, publish, read_package

    signer = signer_at(home, key)
    data = _bytes_of(payload, MAX_FILE_BYTES)
    package = read_package(data)
    check_package(package, signer.address)
    if dry_run:
        chain_id = await chain_at(ledger)
        found = {"chain_id": chain_id, "contract": signer.address, "modules": len(package.modules)}
        if as_json:
            print_json(found)
        else:
            click.echo(f"{len(package.modules)} modules for {signer.address}\non chain {chain_id}; nothing was sent")
        return
    done = await publish(ledger, signer, package, upgrade=upgrade)
    if as_json:
        print_json({"chain_id": done.chain_id, "contract": done.contract, "transaction": done.transaction})
        return
    say(f"published in {done.transaction}; administrator: {done.governance.admin}")
    say("Write into each node's config.toml:\n")
    click.echo(f'ledger = "{ledger}"\ncontract = "{done.contract}"\nchain_id = {done.chain_id}')
    say("\nHand its offices over:\n  cactus-mesh admin propose | set-arbiter | set-treasury ACCOUNT --admin-key FILE")


def _bytes_of(payload: Path, most: int) -> bytes:
    try:
        with payload.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise PackageMalformed(f"cannot read {payload} ({error.strerror}); name the payload's file") from None
    if len(data) > most:
        raise PackageMalformed(f"{payload} is larger than any package ({most} bytes); name the payload's file")
    return data
