"""``network``: which networks this program knows, and the signed list of peers with which a publisher opens one."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.terminal import print_json, printable

if TYPE_CHECKING:
    from cactus_mesh.config import Home

DAY_SECONDS: Final = 86_400
DEFAULT_DAYS: Final = 180


@main.group()
def network() -> None:
    """Networks and their signed lists of known peers.

    \b
    Example: cactus-mesh network show
    """


@network.command()
@click.argument("addresses", type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True))
@click.option("--network", "name", required=True, metavar="NAME", help="The network that the list is for.")
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="The publisher's. Default: this home's.")
@click.option("--days", type=click.IntRange(1, 400), default=DEFAULT_DAYS, show_default=True, help="Until it expires.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: NAME.peers.json here.")
@json_option
@click.pass_obj
@command
async def sign(
    home: Home, addresses: Path, name: str, key: Path | None, days: int, out: Path | None, as_json: bool
) -> None:
    """Sign the bootstrap peers in ADDRESSES, a multiaddr with /p2p/ a line, as the publisher of a network.

    \b
    Example: cactus-mesh network sign peers.txt --network garden --key publisher.key
    """
    from cactus_mesh.core.peerlist import sign_list
    from cactus_mesh.identity import load_key_file

    publisher = load_key_file(key or home.key_file)
    peers = _addresses(_read(addresses))
    now = int(time.time())
    data = sign_list(publisher, name, peers, issued_at=now, expires_at=now + days * DAY_SECONDS)
    path = out or Path(f"{name}.peers.json")
    _write(path, data)
    if as_json:
        print_json({"file": str(path), "addresses": peers, "publisher": publisher.peer_id, "days": days})
        return
    click.echo(f"{path}: {len(peers)} addresses, valid for {days} days")
    click.echo(f'nodes believe it when {name}.toml beside it has: publisher = "{publisher.peer_id}"')


def _read(path: Path) -> str:
    return sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")


def _addresses(text: str) -> list[str]:
    """One a line; what follows a # is a remark.  Raises `AddressMalformed` for one that no node could join through."""
    from cactus_mesh.errors import AddressMalformed
    from cactus_mesh.net.addresses import parse_address

    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [line for line in lines if line]
    for line in found:
        address = parse_address(line)
        if address.peer is None:
            raise AddressMalformed(f"the address {line!r} must say who is there: add /p2p/ and its peer id")
        if address.loopback or address.wildcard or address.port == 0:
            raise AddressMalformed(f"nobody on another machine can reach {line!r}; give the address that they see")
    return found


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from None


@network.command()
@click.argument("name", required=False)
@json_option
@click.pass_obj
@command
async def show(home: Home, name: str | None, as_json: bool) -> None:
    """Show what network NAME is, and whether its list of known peers can be believed.

    \b
    Example: cactus-mesh network show local
    """
    from cactus_mesh.known import lists_of

    config = load(home, network=name)
    lists = [
        {
            "file": str(each.path),
            "problem": None if each.problem is None else each.problem.message,
            "expires_at": None if each.peers is None else each.peers.expires_at,
            "addresses": [] if each.peers is None else each.peers.addresses,
        }
        for each in lists_of(config, home, time.time())
    ]
    found: dict[str, Any] = {
        "network": config.network,
        "ledger": config.ledger,
        "contract": config.contract,
        "chain_id": config.chain_id,
        "publisher": config.publisher or None,
        "bootstrap": list(config.bootstrap),
        "lists": lists,
    }
    if as_json:
        print_json(found)
        return
    for key in ("network", "ledger", "contract", "chain_id", "publisher"):
        click.echo(f"{key:10} {found[key] or 'none: this network has no signed list of peers'}")
    for address in config.bootstrap:
        click.echo(f"bootstrap  {printable(address)}")
    for each in lists:
        _show_list(each)


def _show_list(found: dict[str, Any]) -> None:
    if found["problem"] is not None:
        click.echo(f"list       not usable: {printable(found['problem'])}")
        return
    until = time.strftime("%Y-%m-%d", time.gmtime(found["expires_at"]))
    click.echo(f"list       {found['file']}, signed by the publisher, valid until {until}")
    for address in found["addresses"]:
        click.echo(f"  peer     {printable(address)}")
