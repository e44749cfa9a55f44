"""``id`` and ``keygen``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.base import command, json_option, main
from cactus_mesh.identity import Identity, create_key_file, load_key_file
from cactus_mesh.terminal import print_json

if TYPE_CHECKING:
    from cactus_mesh.config import Home


@main.command("id")
@json_option
@click.pass_obj
@command
async def show_id(home: Home, as_json: bool) -> None:
    """Show who this home's key makes you: peer id, ledger account, public key.

    \b
    Example: cactus-mesh id
    """
    _show_identity(home.key_file, load_key_file(home.key_file), as_json=as_json)


@main.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to. Default: this home's key.")
@json_option
@click.pass_obj
@command
async def keygen(home: Home, out: Path | None, as_json: bool) -> None:
    """Make a new key file (0600).  An existing one is never overwritten.

    \b
    Example: cactus-mesh keygen --out cold.key
    """
    identity = Identity.generate()
    create_key_file(out or home.key_file, identity)
    _show_identity(out or home.key_file, identity, as_json=as_json)


def _show_identity(path: Path, identity: Identity, *, as_json: bool) -> None:
    found = {
        "peer_id": identity.peer_id,
        "address": identity.address,
        "public_key": identity.public_key.hex(),
        "key_file": str(path),
    }
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name:12} {value}")
