"""``backup`` and ``restore``: a home's key and state in one file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.base import command, json_option, main
from cactus_mesh.terminal import print_json, printable, say

if TYPE_CHECKING:
    from cactus_mesh.backup import Manifest
    from cactus_mesh.config import Home

_passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file whose first line is the passphrase.",
)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--encrypt", is_flag=True, help="Ask for a passphrase and encrypt with it.")
@_passphrase_option
@json_option
@click.pass_obj
@command
async def backup(home: Home, file: Path, encrypt: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Write this home's key and state into FILE (0600), also while a node runs.

    Whoever has the file has the key, and so the money: encrypt it, or keep it where the key may be kept.

    \b
    Example: cactus-mesh backup cactus.backup --encrypt
    """
    from cactus_mesh.backup import back_up

    passphrase = _first_line(passphrase_file)
    if passphrase is None and encrypt:
        passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    manifest = back_up(home, file, passphrase)
    if as_json:
        print_json({"file": str(file), "encrypted": passphrase is not None, **_about(manifest)})
        return
    click.echo(f"{file}: {len(manifest.files)} files of {manifest.peer_id}")
    if passphrase is None:
        say("it is not encrypted: whoever can read it has the key and the money")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Also where there is a key or state already; that is moved aside.")
@_passphrase_option
@json_option
@click.pass_obj
@command
async def restore(home: Home, file: Path, force: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Put a backup's key and state into this home.

    \b
    Never run two nodes with one key: stop the old one for good first.
    Example: cactus-mesh --home ./node restore cactus.backup
    """
    from cactus_mesh import backup as backups

    passphrase = _first_line(passphrase_file)
    if passphrase is None and backups.is_locked(file) and not as_json:
        passphrase = click.prompt("Passphrase", hide_input=True, err=True)
    manifest = backups.open_backup(file, passphrase)
    await backups.refuse_running(home)
    aside = backups.restore(home, manifest, force=force)
    if as_json:
        print_json({"home": str(home.state), "aside": None if aside is None else str(aside), **_about(manifest)})
        return
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.made_at))
    click.echo(f"{home.state}: {len(manifest.files)} files of {printable(manifest.peer_id)}, as of {made}")
    if aside is not None:
        say(f"what was there is in {aside}")
    say("two nodes with one key spoil each other's state and reputation: stop the other one for good")


def _first_line(file: Path | None) -> str | None:
    return None if file is None else file.read_text(encoding="utf-8").partition("\n")[0]


def _about(manifest: Manifest) -> dict[str, object]:
    files = [{"name": each.name, "bytes": len(each.data), "sha256": each.sha256} for each in manifest.files]
    return {"peer_id": manifest.peer_id, "made_at": manifest.made_at, "program": manifest.program, "files": files}
