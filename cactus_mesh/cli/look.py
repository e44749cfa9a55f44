"""``status``, ``peers`` and ``ping``: what a running node says of itself, of its peers, and of the path to one."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.base import command, json_option, load, main, network_options
from cactus_mesh.cli.completing import peers as peer_ids
from cactus_mesh.errors import CallTimeout, MeshError, NodeNotRunning, PeerLost, UnreachableError
from cactus_mesh.terminal import ago, paint, print_json, printable, quieten_network, say, short

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cactus_mesh.config import Home

    Ask = Callable[[], Awaitable[dict[str, Any]]]

PING_EVERY_SECONDS: Final = 1.0
COLUMNS: Final = 80
DETAIL_AT: Final = 41
"""The column in which a step's detail begins."""
_STATES: Final = {"works": "green", "failed": "red", "trying": "yellow", "not needed": "bright_black"}
_NETWORK_KEYS: Final = (
    *("reachability", "nat", "port_preserving", "observed", "steps", "relays", "failed_dials", "addresses"),
    *("peer_id", "address", "network", "ledger", "roles", "bootstrap", "started_at", "peers", "peers_known"),
)
"""Shown in lines of their own; everything else that a node says is listed by name."""


# --- status ------------------------------------------------------------------------------------------------------


@main.command()
@json_option
@click.pass_obj
@command
async def status(home: Home, as_json: bool) -> None:
    """Show the running node of this home: who it is, how others reach it, and what it does.

    \b
    Example: cactus-mesh status
    """
    from cactus_mesh.control import ask_home

    found = await ask_home(home, "status")
    if as_json:
        print_json(found)
        return
    for line in status_lines(found, time.time()):
        click.echo(line)


def status_lines(found: dict[str, Any], now: float) -> list[str]:
    rows = [
        ("peer", found["peer_id"]),
        ("account", found["address"]),
        ("network", f"{found['network']} as {', '.join(found['roles'])}, for {ago(now - found['started_at'])}"),
        ("ledger", found["ledger"]),
        ("peers", f"{found['peers']} connected, {found['peers_known']} known"),
        ("reachable", _reachable(found)),
        ("NAT", _nat(found)),
        *(("seen at" if not at else "", address) for at, address in enumerate(found["observed"])),
    ]
    lines = [f"{name:11}{printable(str(value))}" for name, value in rows]
    lines += _ladder(found["steps"])
    lines += [f"{'' if at else 'relays':11}{relay}" for at, relay in enumerate(found["relays"])]
    lines += [f"{'' if at else 'listening':11}{printable(address)}" for at, address in enumerate(found["addresses"])]
    lines += _failed(found["failed_dials"])
    for name, value in found.items():
        if name not in _NETWORK_KEYS and value not in (None, [], {}, 0):
            lines.append(f"{name.replace('_', ' '):20} {printable(_in_words(value))}")
    memory = (found.get("orchestrator") or {}).get("memory")
    if memory is not None:
        lines.append(f"{'in memory':20} {printable(_memory(memory))}")
    return lines


def _memory(memory: dict[str, Any]) -> str:
    loading = f"; loading {memory['loading']}" if memory["loading"] else ""
    taken = f"{memory['used'] / 2**30:,.1f} of {memory['room'] / 2**30:,.1f} GiB"
    return f"{', '.join(memory['loaded']) or 'no model'} ({taken}){loading}"


def _reachable(found: dict[str, Any]) -> str:
    relays = len(found["relays"])
    through = f"through {relays} relay{'' if relays == 1 else 's'}" if relays else "through no relay yet"
    match found["reachability"]:
        case "public":
            return "yes, directly: this machine has a public address"
        case "mapped":
            return "yes, directly: the gateway forwards a port"
        case "private":
            return f"not directly; {through}"
        case _ if any(step["name"] == "public" and step["state"] == "works" for step in found["steps"]):
            return "yes, directly, in this network; nobody outside of it is connected"
        case _:
            return "not known yet: nobody has tried to reach this machine from outside"


def _nat(found: dict[str, Any]) -> str:
    match found["nat"]:
        case "none":
            return "none"
        case "endpoint-independent":
            return "endpoint-independent: holes can be punched" + _port_words(found["port_preserving"])
        case "symmetric":
            return "symmetric: only relays reach in" + _port_words(found["port_preserving"])
        case _:
            return "not known yet: it takes two peers elsewhere who see this machine"


def _port_words(preserving: bool | None) -> str:
    return "" if preserving is None else ("; keeps port numbers" if preserving else "; changes port numbers")


def _ladder(steps: list[dict[str, Any]]) -> list[str]:
    lines = []
    for at, step in enumerate(steps):
        state = paint(f"{step['state']:11}", _STATES.get(step["state"], ""))
        head = f"{'' if at else 'ladder':11}{step['name']:9}{state}{step['seconds']:6.1f} s  "
        first, *others = textwrap.wrap(printable(step["detail"]), COLUMNS - DETAIL_AT) or [""]
        lines += [(head + first).rstrip(), *(" " * DETAIL_AT + other for other in others)]
    return lines


def _failed(dials: dict[str, str]) -> list[str]:
    lines = []
    for at, (address, why) in enumerate(dials.items()):
        lines += [f"{'' if at else 'failed':11}{printable(address)}", f"{'':13}{printable(why)}"]
    return lines


def _in_words(value: object) -> str:
    match value:
        case list():
            return ", ".join(map(str, value))
        case dict():
            flat = {name: each for name, each in value.items() if not isinstance(each, dict)}
            return ", ".join(f"{name.replace('_', ' ')} {each}" for name, each in flat.items())
        case _:
            return str(value)


# --- peers -------------------------------------------------------------------------------------------------------


@main.command()
@json_option
@click.pass_obj
@command
async def peers(home: Home, as_json: bool) -> None:
    """List the peers of the running node: direct or relayed, through whom, how far, since when, why not direct.

    \b
    Example: cactus-mesh peers --json
    """
    from cactus_mesh.control import ask_home

    found: Any = await ask_home(home, "peers")
    if as_json:
        print_json({"peers": found})
        return
    if not found:
        click.echo("connected to nobody; see: cactus-mesh doctor")
    now = time.time()
    for peer in sorted(found, key=lambda peer: (peer["relayed"], peer["rtt_ms"] or 0.0)):
        for line in peer_lines(peer, now):
            click.echo(line)


def peer_lines(peer: dict[str, Any], now: float) -> list[str]:
    lines = [
        f"{paint(peer['peer_id'], 'bold')}  {', '.join(peer['roles'])}",
        f"  {path_words(peer)}  {_rtt(peer['rtt_ms'])}  for {ago(now - peer['since'])}",
    ]
    if peer["relayed"]:
        lines.append(f"           not direct: {printable(peer['why_relayed'] or 'not known yet')}")
    return lines


def path_words(peer: dict[str, Any]) -> str:
    if not peer["relayed"]:
        return f"{paint('direct', 'green')}   {printable(peer['address']).partition('/p2p/')[0]}"
    return f"{paint('relayed', 'yellow')}  via {short(peer['relay'] or '?')}"


def _rtt(milliseconds: float | None) -> str:
    return "not measured yet" if milliseconds is None else f"{milliseconds:.1f} ms"


# --- ping --------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("target", metavar="PEER|ADDRESS", shell_complete=peer_ids)
@click.option("--count", type=click.IntRange(min=1, max=100_000), default=4, show_default=True)
@network_options
@json_option
@click.pass_obj
@command
async def ping(
    home: Home,
    target: str,
    count: int,
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Show the path to a peer, its round trip, and its upgrade from a relay to a direct connection.

    Asks through the running node of this home; without one, joins the network for this time.  PEER is a peer id, or
    the last characters of a connected one's.

    \b
    Example: cactus-mesh ping …V3fyKSUK --count 10
    """
    from cactus_mesh.control import LONG_ANSWER_SECONDS, WHO, ask_home

    try:
        await ask_home(home, WHO)
    except NodeNotRunning:
        await _ping_as_visitor(home, target, bootstrap, network, ledger, count, as_json=as_json)
    else:
        await _ping(lambda: ask_home(home, "ping", target, seconds=LONG_ANSWER_SECONDS), count, as_json=as_json)


async def _ping_as_visitor(
    home: Home,
    target: str,
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    count: int,
    *,
    as_json: bool,
) -> None:
    from cactus_mesh.snapshot import ping
    from cactus_mesh.visit import ANY_PORT, acquaint, open_visitor

    there = (target,) if target.startswith("/") else ()
    config = load(home, bootstrap=[*bootstrap, *there] or None, network=network, ledger=ledger)
    quieten_network()
    if not as_json:
        say("no node runs with this home: joining the network for this ping alone")
    async with open_visitor(config, home, ANY_PORT) as visitor:
        await acquaint(visitor, target)
        await _ping(lambda: ping(visitor, target), count, as_json=as_json)


async def _ping(ask: Ask, count: int, *, as_json: bool) -> None:
    """Ask *count* times, a second apart.  Raises the last failure when there was no answer at all."""
    import trio

    began, answers, failure = trio.current_time(), list[dict[str, Any]](), None
    upgraded: float | None = None
    for number in range(1, count + 1):
        next_at = trio.current_time() + PING_EVERY_SECONDS
        try:
            answer = await ask()
        except (UnreachableError, PeerLost) as error:
            failure = error
            _show_silence(number, error, as_json=as_json)
            if not answers and not isinstance(error, CallTimeout):
                raise  # it says which addresses were tried; a second time would say the same
        else:
            if answers and answers[-1]["relayed"] and not answer["relayed"]:
                upgraded = trio.current_time() - began
            _show_answer(number, answer, upgraded if answers and answers[-1]["relayed"] else None, as_json=as_json)
            answers.append(answer)
        if number < count:
            await trio.sleep_until(next_at)
    if not answers:
        assert failure is not None, "each ping is answered or fails"
        raise failure
    _sum_up(count, answers, upgraded, as_json=as_json)


def _show_silence(number: int, error: MeshError, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "silence", "number": number, "code": error.code, "message": str(error)})
    elif isinstance(error, CallTimeout | PeerLost):
        click.echo(f"{number:>4}  {paint('no answer', 'red')}  {printable(str(error))}")


def _show_answer(number: int, answer: dict[str, Any], upgraded: float | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "answer", "number": number, **answer})
        return
    if number == 1:
        click.echo(f"{answer['peer_id']}  {', '.join(answer['roles'])}")
    note = f"  direct now, after {upgraded:.1f} s" if upgraded is not None else ""
    click.echo(f"{number:>4}  {path_words(answer)}  {_rtt(answer['rtt_ms'])}{note}")


def _sum_up(count: int, answers: list[dict[str, Any]], upgraded: float | None, *, as_json: bool) -> None:
    trips = [answer["rtt_ms"] for answer in answers]
    last = answers[-1]
    summary = {
        "event": "summary",
        "sent": count,
        "answered": len(answers),
        "rtt_ms": {"min": min(trips), "mean": round(sum(trips) / len(trips), 2), "max": max(trips)},
        "relayed": last["relayed"],
        "why_relayed": last["why_relayed"],
        "direct_after_seconds": None if upgraded is None else round(upgraded, 2),
    }
    if as_json:
        print_json(summary)
        return
    least, mean, most = summary["rtt_ms"].values()
    click.echo(
        f"{len(answers)} of {count} answered; round trip {least:.1f} / {mean:.1f} / {most:.1f} ms least, mean, most"
    )
    if last["relayed"]:
        click.echo(f"not direct: {printable(last['why_relayed'] or 'not known yet')}")
