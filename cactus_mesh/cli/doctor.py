"""``doctor``: what keeps a node here from working, a line for each thing, with the one thing to do."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from cactus_mesh import __version__
from cactus_mesh.cli.base import command, json_option, main, network_options
from cactus_mesh.terminal import paint, print_json, printable, quieten_network, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.config import Home
    from cactus_mesh.core.checkup import Finding

EXIT_STATUS: Final = 7
"""When something fails."""
_COLOURS: Final = {"pass": "green", "warn": "yellow", "fail": "red"}
_INDENT: Final = " " * 18


@main.command()
@network_options
@json_option
@click.pass_obj
@command
async def doctor(
    home: Home, bootstrap: tuple[str, ...], network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Check what a node here needs: clock, key, port, names, ledger, peers, NAT, relays, disk, torch.

    Each line says pass, warn or fail, what was measured, and the one thing to do.  Takes up to 20 seconds and changes
    nothing.  Exit status: 0 when nothing fails, else 7.

    \b
    Example: cactus-mesh doctor
    """
    from cactus_mesh.doctor import examine

    flags = {"bootstrap": list(bootstrap) or None, "network": network, "ledger": ledger}
    quieten_network()
    if not as_json and sys.stderr.isatty():
        say("looking around; this takes up to 20 seconds")
    findings = await examine(home, flags, (lambda _: None) if as_json else show)
    counts = {verdict: sum(each.verdict == verdict for each in findings) for verdict in _COLOURS}
    if as_json:
        checks = [asdict(each) for each in findings]
        print_json({"ok": not counts["fail"], "version": __version__, "counts": counts, "checks": checks})
    else:
        click.echo(summary(counts))
    if counts["fail"]:
        sys.exit(EXIT_STATUS)


def show(finding: Finding) -> None:
    for line in lines_of(finding):
        click.echo(line)


def lines_of(finding: Finding) -> Sequence[str]:
    first, *others = printable(finding.measured).splitlines() or [""]
    verdict = paint(finding.verdict, _COLOURS[finding.verdict])
    advice = [f"{_INDENT}{paint('→', 'bold')} {printable(finding.advice)}"] if finding.advice else []
    return [f"{verdict}  {finding.check:12}{first}", *(f"{_INDENT}{line}" for line in others), *advice]


def summary(counts: dict[str, int]) -> str:
    if counts["fail"]:
        things = "thing keeps" if counts["fail"] == 1 else "things keep"
        return f"\n{counts['fail']} {things} a node here from working; begin with the first that fails"
    if counts["warn"]:
        return f"\nnothing keeps a node here from working; {counts['warn']} could be better"
    return "\nall is well"
